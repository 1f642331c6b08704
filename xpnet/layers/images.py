"""What all layers of images share: the shape of a sample, and windows that move over an image.

Within a network an image is `(height, width, channels)` and a batch `(N, height, width, channels)`,
"NHWC": there a convolution with windows of one pixel is a matrix product, `BatchNorm2d` is
`BatchNorm` of rows, and every elementwise operation runs over contiguous channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xpnet.backend import Array
from xpnet.errors import ConfigError, ShapeError, short_repr
from xpnet.layers.base import Layer
from xpnet.layers.shapes import Shape
from xpnet.utils.arguments import is_whole
from xpnet.workspace import Workspace

Pair = tuple[int, int]
Numbers = tuple[int, int, int, int, int, int, int, int]


@dataclass(eq=False)
class ImageLayer(Layer):
    """Base of the layers whose samples are images."""

    def require_image(self, shape: Shape) -> tuple[int, int, int]:
        """`shape` as `(height, width, channels)`. Raises `ShapeError` for rows of features."""
        if len(shape) != 3:
            raise ShapeError(
                f"{self} takes images and is given {shape[0]} features: begin the network with "
                f"the size of the images, as in Sequential((28, 28), …), or put "
                f"Unflatten((height, width, channels)) before the layer"
            )
        height, width, channels = shape
        return height, width, channels


def pair_of(name: str, value: Any, *, least: int = 1) -> Pair:
    """`value`, a whole number or two of them (height, width), as two. Raises `ConfigError`."""
    numbers = value if isinstance(value, tuple | list) else (value, value)
    if len(numbers) != 2 or not all(is_whole(n) and n >= least for n in numbers):
        span = "above 0" if least == 1 else f"of {least} or more"
        raise ConfigError(
            f"{name} must be a whole number {span}, or two (height, width), found "
            f"{short_repr(value)}"
        )
    height, width = numbers
    return int(height), int(width)


def as_one(pair: Pair) -> int | Pair:
    """Two equal numbers as one."""
    return pair[0] if pair[0] == pair[1] else pair


@dataclass(frozen=True)
class Windows:
    """Windows of `kernel_size` pixels that move by `stride` over an image with a border `padding`.

    Entry `(i, j)` of a window lies `(i, j) · dilation` from its upper left corner.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @classmethod
    def of(cls, numbers: Numbers) -> Windows:
        """The windows with these `numbers()`."""
        return cls(numbers[:2], numbers[2:4], numbers[4:6], numbers[6:])

    def output_size(self, layer: ImageLayer, shape: Shape) -> Pair:
        """The number of windows, down and across. Raises `ShapeError` where none fits.

        `shape`: `(H, W, C)`.
        """
        layer.require_image(shape)
        extents = [(k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        padded = [n + 2 * p for n, p in zip(shape, self.padding, strict=False)]
        if extents[0] > padded[0] or extents[1] > padded[1]:
            border = f" with a border of {as_one(self.padding)}" if any(self.padding) else ""
            raise ShapeError(
                f"{layer} has windows of {extents[0]} x {extents[1]} pixels, which do not fit into "
                f"images of {shape[0]} x {shape[1]}{border}: take a smaller kernel_size, or a "
                f"larger padding"
            )
        down, across = (
            (size - extent) // step + 1
            for size, extent, step in zip(padded, extents, self.stride, strict=True)
        )
        return down, across

    def offsets(self) -> Iterator[Pair]:
        """The entries `(i, j)` of a window, row by row."""
        rows, columns = self.kernel_size
        return ((i, j) for i in range(rows) for j in range(columns))

    def pixels_at(self, padded: Array, entry: Pair, size: Pair) -> Array:
        """The pixels of `(N, H, W, C)` at entry `(i, j)` of all `size` windows: a view."""
        rows, columns = (
            slice(at * d, at * d + s * (count - 1) + 1, s)
            for at, d, s, count in zip(entry, self.dilation, self.stride, size, strict=True)
        )
        return padded[:, rows, columns]

    def numbers(self) -> Numbers:
        """`(kh, kw, *stride, *padding, *dilation)`, as formulas with kernels take them."""
        return (*self.kernel_size, *self.stride, *self.padding, *self.dilation)

    def padded(self, shape: Shape) -> Shape:
        """The shape of images `(N, H, W, C)` with their borders."""
        (count, height, width, channels), (down, across) = shape, self.padding
        return count, height + 2 * down, width + 2 * across, channels

    def pad(self, xp: Any, x: Array, value: float, workspace: Workspace) -> Array:
        """`x` `(N, H, W, C)` with a border of `value`; `x` itself where there is no border."""
        down, across = self.padding
        if not (down or across):
            return x
        padded = workspace.array(xp, "padded", self.padded(x.shape), x.dtype)
        xp.copyto(self.unpadded(padded), x)
        height, width = x.shape[1:3]
        borders = padded[:, :down], padded[:, down + height :]
        rows = padded[:, down : down + height]
        for border in (*borders, rows[:, :, :across], rows[:, :, across + width :]):
            if border.size:
                xp.copyto(border, value)
        return padded

    def unpadded(self, padded: Array) -> Array:
        """The images within their borders: a view."""
        (down, across), (_, height, width, _) = self.padding, padded.shape
        return padded[:, down : height - down, across : width - across]

    def sum_of_entries(
        self, xp: Any, gradients: Iterable[Array], dx: Array, workspace: Workspace
    ) -> None:
        """`dx_h,w = Σ_ij g_ij,p,q` over the windows `(p, q)` whose entry `(i, j)` is the pixel.

        `gradients`: for each entry what all windows give it, `(N, oh, ow, C)`; `dx`:
        `(N, H, W, C)`.
        """
        whole = dx
        if any(self.padding):
            whole = workspace.array(xp, "dpadded", self.padded(dx.shape), dx.dtype)
        xp.copyto(whole, 0)
        for entry, gradient in zip(self.offsets(), gradients, strict=True):
            pixels = self.pixels_at(whole, entry, gradient.shape[1:3])
            xp.add(pixels, gradient, out=pixels)
        if whole is not dx:
            xp.copyto(dx, self.unpadded(whole))
