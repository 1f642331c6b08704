"""Images with channels: `(N, height, width, channels)`, not the channels first."""

from __future__ import annotations

import math

import numpy

from xpnet.backend import Array, HostArray
from xpnet.errors import ShapeError

MOST_CHANNELS = 4
"""Of an image: red, green, blue and transparency."""


def require_channels_last(shape: tuple[int, ...], image: tuple[int, ...] | None, name: str) -> None:
    """Raise `ShapeError` for images of `shape` that the network does not take as they are.

    `shape`: `(N, H, W)` or `(N, H, W, C)`; `image`: `(H, W, C)` as the network takes it. If that is
    None, unknown, at most 4 channels in the second place count as channels first.
    """
    found = shape[1:] if len(shape) == 4 else (*shape[1:], 1)
    is_first = len(shape) == 4 and shape[1] <= MOST_CHANNELS < shape[3]
    if image is not None:
        is_first = found == (image[2], image[0], image[1]) != image
    if is_first:
        raise ShapeError(
            f"{name} has the shape {shape}, which is (N, channels, height, width): images must be "
            f"(N, height, width, channels): give x.transpose(0, 2, 3, 1), or rows, "
            f"x.reshape(len(x), -1)"
        )
    if image is not None and found != image:
        raise ShapeError(
            f"{name} has the shape {shape}, and the network takes images (N, {image[0]}, "
            f"{image[1]}, {image[2]}), or rows (N, {math.prod(image)}) in the order channels, "
            f"height, width"
        )


def as_rows(array: Array, image: tuple[int, ...] | None, name: str) -> Array:
    """Images `(N, H, W)` or `(N, H, W, C)` as rows; any other array unchanged.

    Raises `ShapeError` for images `(N, C, H, W)`, and for others than `image`, if it is known.
    """
    shape = tuple(array.shape)
    if array.ndim in (3, 4):
        require_channels_last(shape, image, name)
    if array.ndim == 4:
        array = array.transpose(0, 3, 1, 2)
    return array.reshape(len(array), math.prod(shape[1:])) if array.ndim in (3, 4) else array


def as_images(rows: HostArray, image: tuple[int, ...]) -> HostArray:
    """`rows` `(N, features)` in the order channels, height, width, as images: a view.

    `image`: `(H, W)`, which gives `(N, H, W)`, or `(H, W, C)`, which gives `(N, H, W, C)`.
    """
    height, width, *channels = image
    images = rows.reshape(len(rows), *channels, height, width)
    return numpy.moveaxis(images, 1, -1) if channels else images


def visible(images: HostArray) -> HostArray:
    """Images `(…, H, W, C)` as they can be shown: grey `(…, H, W)` or RGB `(…, H, W, 3)`.

    Two channels are shown as their mean; of four, the fourth, which may be transparency, is left
    out.
    """
    if images.shape[-1] < 3:
        mean: HostArray = images.mean(axis=-1, dtype=numpy.float64)
        return mean.astype(images.dtype)
    return images[..., :3]


def shape_text(image: tuple[int, ...]) -> str:
    """`(28, 28)` as `28 x 28 pixels`, `(32, 32, 3)` as `32 x 32 pixels of 3 channels`."""
    height, width, *channels = image
    return f"{height} x {width} pixels" + "".join(f" of {count} channels" for count in channels)
