"""What the convolutions of a network make of one image, for the report."""

from __future__ import annotations

import math
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset
from xpnet.data.normalisation import Normalisation
from xpnet.layers import Conv2d, Unflatten
from xpnet.layers.base import Layer, walk
from xpnet.layers.shapes import Shape
from xpnet.network import Sequential
from xpnet.report.rendering import image_uri

MOST_MAPS = 64
"""Channels of a layer that are shown: the first ones."""

_MOST_STAGES = 8
_LARGEST = 128


def feature_map_values(network: Sequential, data: Dataset) -> list[dict[str, Any]]:
    """The feature maps of the first sample of `data`; none for a network without convolutions.

    One item for each convolution, with the layers up to the next one: `layers` by name, `shape`
    `(height, width, channels)` of the maps, and `images`, a `data:` URI for each of the first maps,
    all on one scale, black the smallest and white the largest value. Large maps are left out.
    """
    stages = _stages(network)
    if not stages:
        return []
    about = network.metadata.get("normalisation", {"scale": 1.0, "shift": 0.0})
    normalisation = Normalisation.from_metadata(about, network.in_features)
    x = network.backend.asarray(normalisation.apply(data.x[:1], network.dtype))
    return [
        {
            "layers": ", ".join(str(layer) for layer in network.layers[first:end]),
            "shape": shape,
            "images": _images(network.backend.to_host(network[:end].forward(x))[0]),
        }
        for first, end, shape in stages
    ]


def _stages(network: Sequential) -> list[tuple[int, int, Shape]]:
    """From each convolution up to the layers before the next one: places, and shape at the end."""
    shape: Shape = (network.in_features,)
    stages: list[tuple[int, int, Shape]] = []
    for place, layer in enumerate(network.layers):
        shape = layer.output_shape(shape) or shape
        if len(shape) != 3:
            # Features that became rows: what is before them has been seen.
            if stages:
                break
        elif _convolves(layer):
            stages.append((place, place + 1, shape))
        elif stages and not isinstance(layer, Unflatten):
            stages[-1] = (stages[-1][0], place + 1, shape)
    return [stage for stage in stages if max(stage[2][:2]) <= _LARGEST][:_MOST_STAGES]


def _convolves(layer: Layer) -> bool:
    return any(isinstance(inside, Conv2d) for inside in walk([layer]))


def _images(maps: HostArray) -> list[str]:
    """The first maps of `(height, width, channels)`, as grey images on one scale: URIs."""
    maps = maps[..., :MOST_MAPS].astype(numpy.float64)
    low, high = float(maps.min()), float(maps.max())
    levels = numpy.zeros(maps.shape)
    if math.isfinite(high - low) and high > low:
        levels = (maps - low) * (255 / (high - low))
    return [image_uri(one) for one in numpy.moveaxis(levels, -1, 0).astype(numpy.uint8)]
