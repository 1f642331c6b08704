"""Between rows of features and images: `Unflatten` and `Flatten`.

Rows hold an image in the order channels, height, width, as PyTorch flattens and data files store
it. Within a network images are `(N, height, width, channels)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError, ShapeError, short_repr
from xpnet.layers.base import Layer
from xpnet.layers.shapes import Shape
from xpnet.utils.arguments import is_whole


@dataclass(eq=False)
class Unflatten(Layer):
    """Rows of features as images: `(N, C·H·W) -> (N, H, W, C)`.

    `image_shape`: `(height, width)` for one channel, or `(height, width, channels)`. Rows are in
    the order channels, height, width; `dx` is `dy` in the order of the rows.

    Raises `ConfigError` for another shape.
    """

    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.image_shape
        sizes = tuple(given) if isinstance(given, tuple | list) else ()
        if len(sizes) not in (2, 3) or not all(is_whole(n) and n > 0 for n in sizes):
            raise ConfigError(
                f"image_shape of Unflatten must be (height, width) or (height, width, channels), "
                f"whole numbers above 0, found {short_repr(given)}"
            )
        self.image_shape = tuple(int(n) for n in sizes)

    @property
    def in_features(self) -> int:
        """The number of features of a row."""
        return math.prod(self.image_shape)

    @property
    def _image(self) -> tuple[int, int, int]:
        height, width, *channels = self.image_shape
        return height, width, channels[0] if channels else 1

    def output_shape(self, shape: Shape | None) -> Shape:
        """`(height, width, channels)`. Raises `ShapeError` unless rows hold such images."""
        if shape is not None and shape != (self.in_features,):
            found = f"{shape[0]} features" if len(shape) == 1 else f"images {shape}"
            raise ShapeError(f"{self} takes {self.in_features} features and is given {found}")
        return self._image

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, C·H·W) -> (N, H, W, C)`."""
        height, width, channels = self._image
        if channels == 1:
            return x.reshape(len(x), height, width, 1)
        xp = array_module(x)
        y = self.workspace.array(xp, "y", (len(x), height, width, channels), x.dtype)
        xp.copyto(y, x.reshape(len(x), channels, height, width).transpose(0, 2, 3, 1))
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, H, W, C) -> (N, C·H·W)`."""
        return _as_rows(self, dy, "dx")


@dataclass(eq=False)
class Flatten(Layer):
    """Images as rows of features: `(N, H, W, C) -> (N, C·H·W)`; rows stay as they are.

    In the order channels, height, width, so that the weights of a `Linear` after it are PyTorch's.
    `dx` is `dy` in the order of the images.
    """

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """`(C·H·W,)`."""
        return None if shape is None else (math.prod(shape),)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, C·H·W)`."""
        self.shape = x.shape[1:]
        return _as_rows(self, x, "y")

    def backward(self, dy: Array) -> Array:
        """`(N, C·H·W) -> (N, H, W, C)`."""
        if len(self.shape) == 1:
            return dy
        height, width, channels = self.shape
        xp = array_module(dy)
        dx = self.workspace.array(xp, "dx", (len(dy), height, width, channels), dy.dtype)
        xp.copyto(dx, dy.reshape(len(dy), channels, height, width).transpose(0, 2, 3, 1))
        return dx


def _as_rows(layer: Layer, images: Array, name: str) -> Array:
    """`(N, H, W, C)` as rows `(N, C·H·W)`, in the buffer `name` of `layer` unless C is 1."""
    if images.ndim == 2:
        return images
    count, height, width, channels = images.shape
    if channels == 1:
        return images.reshape(count, height * width)
    xp = array_module(images)
    shape = count, channels, height, width
    rows = layer.workspace.array(xp, name, shape, images.dtype)
    xp.copyto(rows, images.transpose(0, 3, 1, 2))
    return rows.reshape(count, channels * height * width)
