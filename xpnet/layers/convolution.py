"""The convolution, `Conv2d`, as products of gathered windows with the weights.

Shapes: `x`, `dx`: `(N, H, W, C)`; `y`, `dy`: `(N, oh, ow, O)`; float32 or float64. `1` is a vector
of ones, so `1ᵀ A` sums the rows of `A`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, Backend, array_module, strided
from xpnet.errors import ConfigError, ShapeError, short_repr
from xpnet.initializers import HeNormal, Initializer, Zeros, require_initializer
from xpnet.layers.base import Parameter
from xpnet.layers.images import ImageLayer, Numbers, Pair, Windows, as_one, pair_of
from xpnet.layers.shapes import Shape
from xpnet.utils.arguments import whole
from xpnet.workspace import Workspace

COLUMNS = 2**18
"""Entries of gathered windows at a time on a CPU, 1 MiB of float32: they should fit into the L2
cache of a core, with the weights and what is computed from them."""


@dataclass(eq=False)
class Conv2d(ImageLayer):
    """Convolution: `y_npqo = b_o + Σ_ijc x_n,(p·s+i·d−pad),(q·s+j·d−pad),c · w_ocij`.

    `out_channels`: the number O of output channels. `kernel_size`, `stride` (s), `padding` (zeros
    around the image), `dilation` (d): whole numbers, or pairs (height, width). `padding="same"`
    keeps height and width: `d (k − 1) / 2` pixels on each side, which needs a stride of 1 and an
    even `d (k − 1)`. `"valid"` is no padding. `groups`: input and output channels are divided into
    this many groups, and an output channel depends only on the input channels of its group, over
    which `c` runs (as many groups as channels: a depthwise convolution). `bias`: whether to add
    `b`. `in_channels`: the number C of input channels, by default that of the layer before.
    `weight_initializer`, `bias_initializer`: see `xpnet.initializers`. (Strictly a
    cross-correlation, as in other libraries.)

    `oh = ⌊(H + 2·pad − d·(kh − 1) − 1) / s⌋ + 1`, and `ow` likewise.

    **As a product.** Let the rows of `X` be the windows, one for each output pixel: `(N·oh·ow,
    kh·kw·C)`. Then `Y = X W + 1 bᵀ` with `W: (kh·kw·C, O)`, as for `Linear`, so `dW = Xᵀ dY` and
    `db = 1ᵀ dY`. `dX = dY Wᵀ` is the gradient of every entry of every window; a pixel that several
    windows contain affects the loss through all of these entries, so its gradient is their sum:
    `dx_n,h,w,c = Σ_ij dX_(n,p,q),(i,j,c)` over the `(p, q)` with `p·s+i·d−pad = h` and
    `q·s+j·d−pad = w`. This is one addition of a shifted image for each `(i, j)`. With groups there
    is one such product for each. LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied
    to document recognition", 1998, section II; Chellapilla, Puri, Simard, "High performance
    convolutional neural networks for document processing", 2006 (as a product).

    On a CPU `X` is computed for a few images at a time (at least one; about `COLUMNS` = 2^18
    numbers), and again in the backward pass. If it fits for all images at once, it is kept. On a
    GPU it is stored for all images.

    Raises `ConfigError` for numbers out of range, and `ShapeError`, when the layer joins a network,
    for rows of features, images that are too small, or channels that do not fit.
    """

    out_channels: int
    kernel_size: int | Pair
    stride: int | Pair = 1
    padding: int | Pair | str = 0
    dilation: int | Pair = 1
    groups: int = 1
    bias: bool = True
    in_channels: int | None = None
    weight_initializer: Initializer = field(default_factory=HeNormal)
    bias_initializer: Initializer = field(default_factory=Zeros)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.out_channels = whole("out_channels of Conv2d", self.out_channels)
        for name, least in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
            value = getattr(self, name)
            if name == "padding" and isinstance(value, str):
                value = self._named_padding(value)
            setattr(self, name, as_one(pair_of(f"{name} of Conv2d", value, least=least)))
        self.groups = whole("groups of Conv2d", self.groups)
        if not isinstance(self.bias, bool):
            raise ConfigError(
                f"bias of Conv2d must be True or False, found {short_repr(self.bias)}"
            )
        if self.in_channels is not None:
            self.in_channels = whole("in_channels of Conv2d", self.in_channels, or_else=" or None")
        self._has_in_channels = self.in_channels is not None
        for name, count in (("out", self.out_channels), ("in", self.in_channels)):
            if count is not None and count % self.groups:
                raise ConfigError(
                    f"{name}_channels of Conv2d must be a multiple of groups, found {count} and "
                    f"{self.groups}"
                )
        for name in ("weight_initializer", "bias_initializer"):
            require_initializer(f"{name} of Conv2d", getattr(self, name))

    def _named_padding(self, name: str) -> Pair:
        """The padding `"same"` or `"valid"` in pixels."""
        if name == "valid":
            return 0, 0
        if name != "same":
            raise ConfigError(
                f'padding of Conv2d must be a whole number, two of them, "same" or "valid", found '
                f"{short_repr(name)}"
            )
        if pair_of("stride", self.stride, least=1) != (1, 1):
            raise ConfigError(
                f'padding="same" of Conv2d needs a stride of 1, found {self.stride}: give padding '
                f"in pixels"
            )
        kernel = pair_of("kernel_size", self.kernel_size, least=1)
        dilation = pair_of("dilation", self.dilation, least=1)
        extents = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        if any(extent % 2 for extent in extents):
            raise ConfigError(
                f'padding="same" of Conv2d would need different padding on opposite sides for a '
                f"kernel of {self.kernel_size} and a dilation of {self.dilation}: use an odd "
                f"kernel_size, or give padding in pixels"
            )
        return extents[0] // 2, extents[1] // 2

    @property
    def windows(self) -> Windows:
        """The windows of this layer."""
        names = ("kernel_size", "stride", "padding", "dilation")
        return Windows(*(pair_of(name, getattr(self, name), least=0) for name in names))

    def parameters(self) -> dict[str, Parameter]:
        """`weight: (out_channels, in_channels / groups, kh, kw)`, and `bias: (out_channels,)`.

        Raises `ConfigError` while `in_channels` is not known.
        """
        if self.in_channels is None:
            raise ConfigError(
                f"in_channels of {self} are not known before the layer joins a network: give "
                f"in_channels"
            )
        shape = (self.out_channels, self.in_channels // self.groups, *self.windows.kernel_size)
        # `W` of the product is then a view: `(kh·kw·C/groups, O)`, row-major.
        weight = Parameter(shape, self.weight_initializer, decays=True, order=(2, 3, 1, 0))
        if not self.bias:
            return {"weight": weight}
        return {"weight": weight, "bias": Parameter((self.out_channels,), self.bias_initializer)}

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """`(oh, ow, out_channels)`; sets `in_channels` if not known. Raises `ShapeError`."""
        if shape is None:
            return None
        channels = self.require_image(shape)[2]
        if channels % self.groups:
            raise ShapeError(
                f"{self} has {self.groups} groups and is given {channels} channels, which is not a "
                f"multiple of {self.groups}: change groups, or the layer before it"
            )
        size = self.windows.output_size(self, shape)
        if not (self._has_in_channels or self.is_bound):
            self.in_channels = channels
        if self.in_channels != channels:
            raise ShapeError(
                f"{self} takes {self.in_channels} channels and is given {channels}: leave "
                f"in_channels out, or change the layer before it"
            )
        return (*size, self.out_channels)

    def multiply_adds(self, shape: Shape) -> int:
        """Each weight is used once for each pixel of the output."""
        return super().multiply_adds(shape) * math.prod(self.windows.output_size(self, shape))

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, oh, ow, O)`."""
        weight = self.values["weight"]
        xp = array_module(x, weight)
        size = self.windows.output_size(self, x.shape[1:])
        self.x = x
        y = self.workspace.array(xp, "y", (len(x), *size, self.out_channels), x.dtype)
        factors = _by_group(weight, self.groups)
        for images in self._blocks(y):
            self._product(xp, self._gathered(images, y), factors, y[images])
        if self.bias:
            rows = y.reshape(-1, self.out_channels)
            xp.add(rows, self.values["bias"], out=rows)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, oh, ow, O) -> (N, H, W, C)`; writes the gradients of `weight` and `bias`."""
        self.backward_parameters(dy)
        xp, groups, numbers = array_module(dy), self.groups, self.windows.numbers()
        dx = self.like(self.x, "dx")
        size, (rows, columns) = dy.shape[1:3], self.windows.kernel_size
        own = dx.shape[3] // groups
        # For each entry (i, j) and each group the matrix (O / groups, C / groups).
        factors = self.values["weight"].transpose(2, 3, 1, 0)
        factors = factors.reshape(rows * columns, own, groups, self.out_channels // groups)
        factors = factors.transpose(0, 2, 3, 1)
        for images in self._blocks(dy):
            part = dy[images]
            pixels = len(part) * size[0] * size[1]
            gradients = part.reshape(pixels, groups, -1).transpose(1, 0, 2)
            shape = rows * columns, groups, pixels, own
            entries = self.workspace.array(xp, "entries", shape, dy.dtype)
            xp.matmul(gradients, factors, out=entries)
            by_pixel = entries.reshape(rows * columns, groups, len(part), *size, own)
            add_entries(xp, by_pixel, numbers, dx[images], workspace=self.workspace)
        return dx

    def backward_parameters(self, dy: Array) -> None:
        """Write the gradients of `weight` and `bias` only; `dy`: `(N, oh, ow, O)`."""
        xp = array_module(dy, self.x)
        if len(dy) != len(self.x):
            raise ShapeError(
                f"dy has {len(dy)} samples, and the last forward pass of {self} had {len(self.x)}"
            )
        gradient = _by_group(self.gradients["weight"], self.groups)
        part = self.workspace.array(xp, "part", gradient.shape, dy.dtype)
        blocks = self._blocks(dy)
        for images in blocks:
            # Of a single block, the windows are still there from the forward pass.
            columns = self._gathered(images, dy, again=len(blocks) > 1)
            rows = dy[images].reshape(columns.shape[1], self.groups, -1)
            is_first = images.start == 0
            if self.groups == 1:
                out = gradient[0] if is_first else part[0]
                xp.dot(columns[0].T, rows[:, 0], out=out)
            else:
                xp.matmul(columns.transpose(0, 2, 1), rows.transpose(1, 0, 2), out=part)
                if is_first:
                    xp.copyto(gradient, part)
            if not is_first:
                xp.add(gradient, part, out=gradient)
        if self.bias:
            rows = dy.reshape(-1, self.out_channels)
            ones = self.workspace.ones(xp, len(rows), dy.dtype)
            xp.dot(ones, rows, out=self.gradients["bias"])

    def _blocks(self, y: Array) -> list[slice]:
        """The images whose windows are gathered at a time: on a GPU all of them."""
        count, down, across, _ = y.shape
        if Backend.of(y).device != "cpu":
            return [slice(0, count)]
        rows, columns = self.windows.kernel_size
        entries = down * across * rows * columns * self.x.shape[3]
        size = max(1, COLUMNS // entries)
        return [slice(start, start + size) for start in range(0, count, size)]

    def _gathered(self, images: slice, y: Array, *, again: bool = True) -> Array:
        """The windows of `images`: `(groups, windows, kh·kw·C/groups)`, `X` of the formula.

        `y`: an array with the shape of the output. Unless `again`, they are those gathered last.
        """
        x = self.x[images]
        xp, (_, down, across, _) = array_module(x), y.shape
        size, entries = (len(x), down, across), self.windows.kernel_size
        by_entry, own = x.shape[3] == 1, x.shape[3] // self.groups
        axes = (*entries, *size) if by_entry else (*size, *entries)
        gathered = self.workspace.array(xp, "columns", (self.groups, *axes, own), x.dtype)
        if again:
            numbers = self.windows.numbers()
            gather_windows(xp, x, numbers, by_entry, gathered, workspace=self.workspace)
        if by_entry:
            return gathered.reshape(1, entries[0] * entries[1], -1).transpose(0, 2, 1)
        return gathered.reshape(self.groups, size[0] * down * across, -1)

    def _product(self, xp: Any, columns: Array, factors: Array, y: Array) -> None:
        """`Y = X W` for each group."""
        if self.groups == 1:
            xp.dot(columns[0], factors[0], out=y.reshape(-1, self.out_channels))
            return
        shape = (*columns.shape[:2], factors.shape[2])
        products = self.workspace.array(xp, "products", shape, y.dtype)
        xp.matmul(columns, factors, out=products)
        xp.copyto(y.reshape(shape[1], self.groups, -1), products.transpose(1, 0, 2))

    def __str__(self) -> str:
        shown = [] if self.in_channels is None else [f"in_channels={self.in_channels}"]
        defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True}
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ] + shown
        return f"Conv2d({', '.join([f'{self.out_channels}, {self.kernel_size!r}', *shown])})"


def _by_group(weight: Array, groups: int) -> Array:
    """`(O, C/groups, kh, kw)` as `(groups, kh·kw·C/groups, O/groups)`: a view of its memory."""
    matrix = weight.transpose(2, 3, 1, 0)
    matrix = matrix.reshape(-1, groups, len(weight) // groups)
    return matrix.transpose(1, 0, 2)


@accelerated
def gather_windows(
    xp: Any,
    x: Array,
    numbers: Numbers,
    by_entry: bool,
    columns: Array,
    *,
    workspace: Workspace,
) -> None:
    """The windows of the images `x` `(N, H, W, C)`, whose border is 0, in `columns`.

    `columns`: `(groups, N, oh, ow, kh, kw, C/groups)`; with `by_entry`, for one channel,
    `(1, kh, kw, N, oh, ow, 1)`, whose innermost axis is a row of pixels and not the few of one
    window.
    """
    windows = Windows.of(numbers)
    x = windows.pad(xp, x, 0, workspace)
    (by_image, by_row, by_column, itemsize), own = x.strides, columns.shape[6]
    step = by_image, by_row * windows.stride[0], by_column * windows.stride[1]
    entry = by_row * windows.dilation[0], by_column * windows.dilation[1]
    axes = (*entry, *step) if by_entry else (*step, *entry)
    strides = (own * itemsize, *axes, itemsize)
    xp.copyto(columns, strided(x, columns.shape, strides))


@accelerated
def add_entries(
    xp: Any,
    entries: Array,
    numbers: Numbers,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx_n,h,w,c = Σ_ij dX_(n,p,q),(i,j,c)`: every pixel's sum over the windows it lies in.

    `entries`: `(kh·kw, groups, N, oh, ow, C/groups)`; `dx`: `(N, H, W, C)`.
    """
    windows = Windows.of(numbers)
    _, groups, count, down, across, own = entries.shape
    if groups == 1:
        windows.sum_of_entries(xp, entries[:, 0], dx, workspace)
        return
    shape = count, down, across, groups, own
    part = workspace.array(xp, "part of dx", shape, dx.dtype)

    def gradients() -> Iterator[Array]:
        for one in entries:
            xp.copyto(part, one.transpose(1, 2, 3, 0, 4))
            yield part.reshape(count, down, across, groups * own)

    windows.sum_of_entries(xp, gradients(), dx, workspace)
