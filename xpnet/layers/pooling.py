"""Pooling: `MaxPool2d`, `AveragePool2d` and `GlobalAveragePool2d`.

Shapes: `x`, `dx`: `(N, H, W, C)`; `y`, `dy`: `(N, oh, ow, C)`; float32 or float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError
from xpnet.layers.images import ImageLayer, Numbers, Pair, Windows, as_one, pair_of
from xpnet.layers.shapes import Shape
from xpnet.workspace import Workspace


@dataclass(eq=False)
class _Pool2d(ImageLayer):
    """Common base of the pooling layers: the windows."""

    kernel_size: int | Pair
    stride: int | Pair | None = None
    padding: int | Pair = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        kernel = pair_of(f"kernel_size of {name}", self.kernel_size)
        padding = pair_of(f"padding of {name}", self.padding, least=0)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise ConfigError(
                f"padding of {name} must be at most half of kernel_size, found {as_one(padding)} "
                f"and {as_one(kernel)}"
            )
        stride = kernel if self.stride is None else pair_of(f"stride of {name}", self.stride)
        self.kernel_size, self.padding, self.stride = (
            as_one(kernel),
            as_one(padding),
            as_one(stride),
        )

    @property
    def windows(self) -> Windows:
        """The windows of this layer."""
        names = ("kernel_size", "stride", "padding")
        return Windows(*(pair_of(name, getattr(self, name), least=0) for name in names))

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """`(oh, ow, C)`. Raises `ShapeError`."""
        if shape is None:
            return None
        channels = self.require_image(shape)[2]
        return (*self.windows.output_size(self, shape), channels)

    def _outputs(self, x: Array) -> Array:
        size = self.windows.output_size(self, x.shape[1:])
        shape = len(x), *size, x.shape[3]
        return self.workspace.array(array_module(x), "y", shape, x.dtype)

    def __str__(self) -> str:
        shown = [repr(self.kernel_size)]
        shown += [] if self.stride == self.kernel_size else [f"stride={self.stride!r}"]
        shown += [f"padding={self.padding!r}"] if self.padding else []
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(eq=False)
class MaxPool2d(_Pool2d):
    """The largest value of each window: `y_npqc = max_ij x_n,(p·s+i−pad),(q·s+j−pad),c`.

    `kernel_size`, `stride` (s, by default `kernel_size`), `padding` (at most half of
    `kernel_size`; padded pixels are never the largest): whole numbers, or pairs (height, width).

    `oh = ⌊(H + 2·pad − kh) / s⌋ + 1`, and `ow` likewise. `y` depends only on the largest entry of
    its window, so `dy` goes to that pixel: `dx_h,w = Σ dy_pq` over the windows whose largest entry
    is `(h, w)`. If several entries are equal, the first of them, row by row, is chosen, as in
    PyTorch. A window with a NaN gives NaN. Zhou, Chellappa, "Computation of optical flow
    using a neural network", ICNN 1988.

    Raises `ConfigError` for numbers out of range, and `ShapeError`, when the layer joins a network,
    for rows of features or images that are too small.
    """

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, oh, ow, C)`."""
        xp, self.shape = array_module(x), x.shape
        y = self._outputs(x)
        self.chosen = self.workspace.array(xp, "chosen", y.shape, xp.int32)
        numbers = self.windows.numbers()
        max_pool(xp, x, numbers, self.chosen, y, workspace=self.workspace)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, oh, ow, C) -> (N, H, W, C)`."""
        xp, numbers = array_module(dy, self.chosen), self.windows.numbers()
        dx = self.workspace.array(xp, "dx", self.shape, dy.dtype)
        max_pool_backward(xp, dy, self.chosen, numbers, dx, workspace=self.workspace)
        return dx


@dataclass(eq=False)
class AveragePool2d(_Pool2d):
    """The mean of each window: `y_npqc = 1/(kh·kw) Σ_ij x_n,(p·s+i−pad),(q·s+j−pad),c`.

    `kernel_size`, `stride` (s, by default `kernel_size`), `padding` (zeros, which count
    in the mean, as in PyTorch; at most half of `kernel_size`): whole numbers, or pairs.

    `oh = ⌊(H + 2·pad − kh) / s⌋ + 1`, and `ow` likewise. Every entry of a window has the weight
    `1/(kh·kw)`, so `dx_h,w = 1/(kh·kw) Σ dy_pq` over the windows that contain the pixel. LeCun et
    al., "Gradient-based learning applied to document recognition", 1998, section II (subsampling).

    Raises `ConfigError` for numbers out of range, and `ShapeError`, when the layer joins a network,
    for rows of features or images that are too small.
    """

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, oh, ow, C)`."""
        self.shape, y = x.shape, self._outputs(x)
        average_pool(array_module(x), x, self.windows.numbers(), y, workspace=self.workspace)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, oh, ow, C) -> (N, H, W, C)`."""
        xp, numbers = array_module(dy), self.windows.numbers()
        dx = self.workspace.array(xp, "dx", self.shape, dy.dtype)
        average_pool_backward(xp, dy, numbers, dx, workspace=self.workspace)
        return dx


@dataclass(eq=False)
class GlobalAveragePool2d(ImageLayer):
    """The mean of each channel over the image: `(N, H, W, C) -> (N, C)`, rows of features.

    `y_nc = 1/(H·W) Σ_hw x_nhwc`, so `dx_nhwc = dy_nc / (H·W)`. Lin, Chen, Yan, "Network in
    network", ICLR 2014, section 3.2.

    Raises `ShapeError`, when the layer joins a network, for rows of features.
    """

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """`(C,)`. Raises `ShapeError`."""
        return None if shape is None else (self.require_image(shape)[2],)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, C)`."""
        xp, self.shape = array_module(x), x.shape
        count, (height, width, channels) = len(x), self.require_image(x.shape[1:])
        y = self.workspace.array(xp, "y", (count, channels), x.dtype)
        return xp.mean(x.reshape(count, height * width, channels), axis=1, out=y)

    def backward(self, dy: Array) -> Array:
        """`(N, C) -> (N, H, W, C)`."""
        xp = array_module(dy)
        count, height, width, channels = self.shape
        share = self.workspace.array(xp, "share", dy.shape, dy.dtype)
        dx = self.workspace.array(xp, "dx", self.shape, dy.dtype)
        xp.multiply(dy, 1 / (height * width), out=share)
        xp.copyto(dx, share.reshape(count, 1, 1, channels))
        return dx


@accelerated
def max_pool(
    xp: Any,
    x: Array,
    numbers: Numbers,
    chosen: Array,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """`y = max_ij x_ij` over the entries of each window, and in `chosen` the number `i·kw + j`.

    `x`: `(N, H, W, C)`, its border −∞; `chosen`: int32, `y`: `(N, oh, ow, C)`. A later entry
    replaces the chosen one unless it is at most the largest so far; with NaN that is never so.
    """
    windows = Windows.of(numbers)
    x = windows.pad(xp, x, -math.inf, workspace)
    larger = workspace.array(xp, "larger", y.shape, bool)
    number = workspace.array(xp, "number", y.shape, chosen.dtype)
    for place, entry in enumerate(windows.offsets()):
        pixels = windows.pixels_at(x, entry, y.shape[1:3])
        if place == 0:
            xp.copyto(y, pixels)
            xp.copyto(chosen, 0)
            continue
        # `not (pixels <= y)`: true for a NaN as well.
        xp.less_equal(pixels, y, out=larger)
        xp.logical_not(larger, out=larger)
        # Numbers rise, so the last one is the largest; `copyto(where=)` takes ten times as long.
        xp.copyto(number, larger)
        xp.multiply(number, place, out=number)
        xp.maximum(chosen, number, out=chosen)
        xp.maximum(y, pixels, out=y)


@accelerated
def max_pool_backward(
    xp: Any,
    dy: Array,
    chosen: Array,
    numbers: Numbers,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx_h,w = Σ dy_pq` over the windows that chose the pixel."""
    windows = Windows.of(numbers)
    is_chosen = workspace.array(xp, "larger", dy.shape, bool)
    part = workspace.array(xp, "part", dy.shape, dy.dtype)

    def gradients() -> Iterator[Array]:
        for place in range(math.prod(windows.kernel_size)):
            xp.equal(chosen, place, out=is_chosen)
            yield xp.multiply(dy, is_chosen, out=part)

    windows.sum_of_entries(xp, gradients(), dx, workspace)


@accelerated
def average_pool(
    xp: Any,
    x: Array,
    numbers: Numbers,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """`y = 1/(kh·kw) Σ_ij x_ij` over the entries of each window; the border of `x` is 0."""
    windows = Windows.of(numbers)
    x = windows.pad(xp, x, 0, workspace)
    xp.copyto(y, 0)
    for entry in windows.offsets():
        xp.add(y, windows.pixels_at(x, entry, y.shape[1:3]), out=y)
    xp.multiply(y, 1 / math.prod(windows.kernel_size), out=y)


@accelerated
def average_pool_backward(
    xp: Any,
    dy: Array,
    numbers: Numbers,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx_h,w = 1/(kh·kw) Σ dy_pq` over the windows that contain the pixel."""
    windows = Windows.of(numbers)
    share = workspace.array(xp, "share", dy.shape, dy.dtype)
    count = math.prod(windows.kernel_size)
    xp.multiply(dy, 1 / count, out=share)
    windows.sum_of_entries(xp, repeat(share, count), dx, workspace)
