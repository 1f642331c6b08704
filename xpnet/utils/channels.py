"""Pictures with channels: `(N, height, width, channels)`, not the channels first."""

from __future__ import annotations

import math

from xpnet.backend import Array
from xpnet.errors import ShapeError

_MOST_CHANNELS = 4
"""Of a picture: red, green, blue and transparency."""


def require_channels_last(shape: tuple[int, ...], image: tuple[int, ...] | None, name: str) -> None:
    """Raise `ShapeError` for pictures of `shape` that the network does not take as they are.

    `shape`: `(N, H, W)` or `(N, H, W, C)`; `image`: `(H, W, C)` as the network takes it. If that is
    None, unknown, at most 4 channels in the second place count as channels first.
    """
    found = shape[1:] if len(shape) == 4 else (*shape[1:], 1)
    is_first = len(shape) == 4 and shape[1] <= _MOST_CHANNELS < shape[3]
    if image is not None:
        is_first = found == (image[2], image[0], image[1]) != image
    if is_first:
        raise ShapeError(
            f"{name} has the shape {shape}, which is (N, channels, height, width): pictures are "
            f"(N, height, width, channels), x.transpose(0, 2, 3, 1); or give rows, "
            f"x.reshape(len(x), -1)"
        )
    if image is not None and found != image:
        raise ShapeError(
            f"{name} has the shape {shape}, and the network takes images (N, {image[0]}, "
            f"{image[1]}, {image[2]}), or rows (N, {math.prod(image)}) in the order channels, "
            f"height, width"
        )


def as_rows(array: Array, image: tuple[int, ...] | None, name: str) -> Array:
    """Pictures `(N, H, W)` or `(N, H, W, C)` as rows; any other array unchanged.

    Raises `ShapeError` for pictures `(N, C, H, W)`, and for others than `image`, if it is known.
    """
    shape = tuple(array.shape)
    if array.ndim in (3, 4):
        require_channels_last(shape, image, name)
    if array.ndim == 4:
        array = array.transpose(0, 3, 1, 2)
    return array.reshape(len(array), math.prod(shape[1:])) if array.ndim in (3, 4) else array
