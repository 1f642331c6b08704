"""What the convolutions of a network make of one picture, for the report."""

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
_ACROSS = 360
"""Pixels of a row of maps."""
_GAP = 255


def feature_map_values(network: Sequential, data: Dataset) -> list[dict[str, Any]]:
    """The feature maps of the first sample of `data`; none for a network without convolutions.

    One item for each convolution, with the layers up to the next one: `layers` by name, `shape`
    `(height, width, channels)` of the maps, `shown`: how many, and `image`, a `data:` URI, with all
    maps on one scale, black the smallest and white the largest value. Large maps are left out.
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
            "shown": min(shape[2], MOST_MAPS),
            "image": image_uri(_mosaic(network.backend.to_host(network[:end].forward(x))[0])),
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


def _mosaic(maps: HostArray) -> HostArray:
    """The maps `(height, width, channels)` side by side, with gaps: uint8 of grey levels."""
    maps = maps[..., :MOST_MAPS].astype(numpy.float64)
    low, high = float(maps.min()), float(maps.max())
    levels = numpy.zeros(maps.shape)
    if math.isfinite(high - low) and high > low:
        levels = (maps - low) * (255 / (high - low))
    height, width, count = maps.shape
    columns = min(count, max(1, _ACROSS // (width + 1)))
    rows = -(-count // columns)
    field = numpy.full((rows * (height + 1) - 1, columns * (width + 1) - 1), _GAP, numpy.uint8)
    for number in range(count):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        field[top : top + height, left : left + width] = levels[..., number]
    return field
