"""A trained network as a web page to draw on: `html_page`.

The page is one HTML file that needs no server and no internet connection: its HTML, CSS and
JavaScript lie in `xpnet/web_demo/`, and the weights are part of it. It prepares a drawing as
`xpnet.data.images` prepares an image, and its forward pass equals that of xpnet to 1e-5.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from string import Template
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.errors import CheckpointError, ConfigError
from xpnet.layers import Conv2d, Linear, Residual
from xpnet.layers.base import Layer
from xpnet.layers.shapes import Shape
from xpnet.network import Sequential
from xpnet.runs.model import Model
from xpnet.utils.html import part, policy
from xpnet.utils.introspection import is_own

KNOWN: tuple[str, ...] = ("Linear", "ReLU", "LeakyReLU", "Sigmoid", "Tanh", "GELU", "Softmax")
KNOWN += ("BatchNorm", "LayerNorm", "Dropout", "GaussianNoise", "Residual")
KNOWN += ("Unflatten", "Conv2d", "MaxPool2d", "AveragePool2d", "GlobalAveragePool2d")
KNOWN += ("BatchNorm2d", "Dropout2d", "Flatten")
"""The layers whose forward pass is in `layers.js`."""

SCRIPTS = ("layers.js", "prepare.js", "pad.js", "show.js", "page.js")
"""The page's JavaScript, in the order in which it becomes one script."""

_PAD = 280
"""The width of the drawing pad in pixels: ten times that of an MNIST image."""


def html_page(model: Model) -> str:
    """The page for `model`, one HTML document; the same text for the same network.

    Weights are kept in float32, whatever the network's dtype: float16 would move probabilities
    by up to 5e-4. Raises `ConfigError` where the network is not made for square images of whole
    pixels with one channel, has no probabilities, or has a layer that the page does not know,
    `CheckpointError` for weights that are not finite numbers.
    """
    network, side = model.network, _side(model)
    content = {
        "side": side,
        **model.normalisation.to_metadata(),
        "classes": model.classes,
        "layers": list(_layers(network, network.layers, (network.in_features,))),
        "probabilities": network.probabilities_by(),
    }
    style = part("base.css") + part("page.css", "web_demo")
    script = "\n".join(part(name, "web_demo") for name in SCRIPTS)
    return Template(part("page.html", "web_demo")).substitute(
        policy=policy(style, script),
        style=style,
        script=script,
        # A class name may contain </script>.
        model=json.dumps(content, separators=(",", ":")).replace("<", r"\u003c"),
        network=_sizes(network),
        parameters=f"{network.count_parameters():,}",
        side=side,
        # A drawing of the network's own size would be no drawing to `xpnet.data.images`.
        pad=max(_PAD, 2 * side),
    )


def _side(model: Model) -> int:
    # A network of Linear layers does not know the channels of its images.
    image = model.network.image_shape or model.image_shape
    if image is not None and len(image) == 3 and image[2] > 1:
        raise ConfigError(
            f"the model takes images of {image[2]} channels, and a drawing has one: export one "
            f"that takes images of one channel"
        )
    if model.image_shape is None:
        raise ConfigError(
            "the model was not trained on images (it has no image_shape), so there is nothing "
            "to draw: export one that was"
        )
    height, width = model.image_shape[:2]
    if height != width:
        raise ConfigError(
            f"the model takes images of {height} x {width} pixels, and the page's pad is "
            f"square: export one that takes square images"
        )
    if model.pixels is False:
        raise ConfigError(
            "the model was trained on numbers with a fraction, and a drawing gives whole pixels "
            "0..255: export one that was trained on pixels"
        )
    return height


def _sizes(network: Sequential) -> str:
    """The inputs and the layers with weights: `28 × 28 → 16 maps → 10 units`."""
    image = network.image_shape
    sizes = [f"{network.in_features}" if image is None else f"{image[0]} × {image[1]}"]
    end = "" if image is not None else " units"
    for layer, _ in _flat(network.layers):
        if isinstance(layer, Conv2d):
            maps = layer.out_channels
            sizes.append("1 map" if maps == 1 else f"{maps} maps")
            end = ""
        elif isinstance(layer, Linear):
            sizes.append(f"{layer.out_features}")
            end = " units"
    return " → ".join(sizes) + end


def _flat(layers: Sequence[Layer], within: str = "") -> Iterator[tuple[Layer, str]]:
    """The layers with their positions; the layers of a network within stand for it."""
    for number, layer in enumerate(layers):
        position = f"{within}{number}"
        if type(layer) is Sequential:
            yield from _flat(layer.layers, f"{position}.")
        else:
            yield layer, position


def _layers(
    network: Sequential, layers: Sequence[Layer], shape: Shape | None, within: str = ""
) -> Iterator[dict[str, Any]]:
    """Each layer as plain data: `{type, in_shape, out_shape, settings, arrays, layers}`.

    `shape`: that of a sample before `layers`; `in_shape` and `out_shape` are those before and after
    a layer. An array is base64 of float32; `layers` are those of a `Residual`.
    """
    state = network.state_dict()
    for layer, position in _flat(layers, within):
        kind = type(layer).__name__
        if kind not in KNOWN or not is_own(type(layer)):
            raise ConfigError(
                f"layer {position} is a {kind}, which the page cannot compute: it knows "
                f"{', '.join(KNOWN)}"
            )
        before, shape = shape, layer.output_shape(shape)
        entry: dict[str, Any] = {"type": kind, "in_shape": before, "out_shape": shape}
        if isinstance(layer, Residual):
            inside = list(_layers(network, layer.layers, before, f"{position}."))
            yield entry | {"settings": {}, "arrays": {}, "layers": inside}
            continue
        arrays = {}
        for name in layer.parameters() | layer.buffers():
            value = network.backend.to_host(state[f"{position}.{name}"])
            arrays[name] = _base64(value, f"{position}.{name}")
        yield entry | {"settings": layer.get_config(), "arrays": arrays}


def _base64(value: HostArray, name: str) -> str:
    with numpy.errstate(over="ignore"):
        single = numpy.ascontiguousarray(value, dtype="<f4")
    if not numpy.isfinite(single).all():
        raise CheckpointError(f"{name} holds values that are no finite float32: train it again")
    return base64.b64encode(single.tobytes()).decode("ascii")
