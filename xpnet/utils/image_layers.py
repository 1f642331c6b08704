"""Layers of images in brief, for settings: `16k5,pool,32k5,pool`.

`16k5` is a convolution with 16 output channels and a 5 x 5 kernel, with the activation after it, or
after a `pool` that follows; `16k5s2p1` has stride 2 and padding 1, `16k3g4` 4 groups. `pool` is max
pooling over 2 x 2 pixels, `pool3` over 3 x 3, `pool3s2` with stride 2; `average` is the same with
the mean, and `global` is the mean of each whole channel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from xpnet.errors import ConfigError, short_repr

_CONVOLUTION = re.compile(
    r"(?P<channels>\d+)k(?P<kernel>\d+)(s(?P<stride>\d+))?(p(?P<padding>\d+))?(g(?P<groups>\d+))?"
)
_POOLING = re.compile(r"(?P<kind>pool|average)(?P<kernel>\d+)?(s(?P<stride>\d+))?")
_MOST = 2**20


@dataclass(frozen=True)
class BriefLayer:
    """One layer of images: `kind` is `conv`, `pool`, `average` or `global`."""

    kind: str
    channels: int = 0
    kernel_size: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def __str__(self) -> str:
        if self.kind == "global":
            return self.kind
        if self.kind != "conv":
            size = "" if self.kernel_size == 2 else str(self.kernel_size)
            step = "" if self.stride == self.kernel_size else f"s{self.stride}"
            return f"{self.kind}{size}{step}"
        rest = f"s{self.stride}" * (self.stride != 1) + f"p{self.padding}" * (self.padding != 0)
        return f"{self.channels}k{self.kernel_size}{rest}" + f"g{self.groups}" * (self.groups != 1)


def image_layers(texts: Sequence[str]) -> list[BriefLayer]:
    """The layers that `texts` stand for; `none` alone stands for none. Raises `ConfigError`."""
    if tuple(texts) == ("none",):
        return []
    layers = [image_layer(text) for text in texts]
    if any(layer.kind == "global" for layer in layers[:-1]):
        raise ConfigError("global gives no image, so it comes last")
    return layers


def image_layer(text: str) -> BriefLayer:
    """The layer that `text` stands for. Raises `ConfigError`."""
    if text == "global":
        return BriefLayer("global")
    if found := _CONVOLUTION.fullmatch(text):
        parts = {name: int(value) for name, value in found.groupdict().items() if value}
        layer = BriefLayer(
            "conv",
            parts["channels"],
            parts["kernel"],
            parts.get("stride", 1),
            parts.get("padding", 0),
            parts.get("groups", 1),
        )
        least = min(layer.channels, layer.kernel_size, layer.stride, layer.groups)
        if least > 0 and max(parts.values()) < _MOST and layer.channels % layer.groups == 0:
            return layer
    elif found := _POOLING.fullmatch(text):
        size = int(found["kernel"] or 2)
        layer = BriefLayer(found["kind"], 0, size, int(found["stride"] or size))
        if min(size, layer.stride) > 0 and max(size, layer.stride) < _MOST:
            return layer
    raise ConfigError(
        f"{short_repr(text)} is no layer of images: write 16k5 for 16 output channels and a 5 x 5 "
        f"kernel (16k5s2p1g2: stride 2, padding 1, 2 groups that divide the channels, in this "
        f"order), pool, pool3, pool3s2, average or global"
    )
