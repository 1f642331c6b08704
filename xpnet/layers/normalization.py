"""Normalisation over the batch or over the features: `BatchNorm` and `LayerNorm`.

Shapes: `x`, `y`, `dx`, `dy`: `(N, F)`; float32 or float64. `1` is a vector of ones, so `1ᵀ A` sums
the rows of `A` and is one matrix-vector product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError, ShapeError
from xpnet.initializers import Ones, Zeros
from xpnet.layers.base import Layer, Parameter
from xpnet.layers.images import ImageLayer
from xpnet.layers.shapes import Shape, require_features
from xpnet.utils.arguments import real, whole
from xpnet.workspace import Workspace


@dataclass(eq=False)
class _Normalising(Layer):
    """Common base of `BatchNorm` and `LayerNorm`: the parameters γ and β."""

    features: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.features = whole(f"features of {type(self).__name__}", self.features)

    def parameters(self) -> dict[str, Parameter]:
        """`weight` (γ) and `bias` (β): `(features,)`, initialised to 1 and 0."""
        shape = (self.features,)
        return {"weight": Parameter(shape, Ones()), "bias": Parameter(shape, Zeros())}

    def output_shape(self, shape: Shape | None) -> Shape:
        """`(features,)`. Raises `ShapeError`."""
        require_features(self, self.features, shape)
        return (self.features,)


@dataclass(eq=False)
class BatchNorm(_Normalising):
    """Normalises each feature over the batch: `y = γ x̂ + β`, `x̂ = (x − μ) / √(σ² + ε)`.

    In training `μ_j`, `σ²_j` are the mean and the (biased) variance of feature `j` over the `N`
    rows; the running statistics used in prediction are updated by
    `running ← (1 − momentum) · running + momentum · batch`, where the batch variance is the
    unbiased one (factor `N / (N − 1)`), as in PyTorch. Ioffe, Szegedy, "Batch normalization", ICML
    2015, algorithm 1.

    Gradient, per feature, with `s = 1 / √(σ² + ε)` and `g = dy · γ`:
    `dγ = Σ_n dy_n x̂_n`, `dβ = Σ_n dy_n`. `x̂_n` depends on `x_m` directly (`s [n = m]`), through
    `μ` (`−s / N`) and through `σ²` (`−s x̂_n x̂_m / N`, as `∂σ²/∂x_m = 2 (x_m − μ) / N`). Summing
    over `n`: `dx_m = s (g_m − mean(g) − x̂_m mean(g x̂))`, the means over the batch. As
    `mean(g) = γ dβ / N` and `mean(g x̂) = γ dγ / N`, γ can be factored out:
    `dx = γ s (dy − dβ / N − x̂ dγ / N)`.

    The running variance of a feature that is always the same decays to a subnormal number and stays
    there. It is left so: it costs one slow multiplication per feature and step, not per weight, and
    prediction adds ε to it first, which gives the same bits as 0 would.

    **Frozen** (`trainable = False`), it uses the running statistics in training too and does not
    update them: `μ` and `s` are constants, and `dx = γ s dy`.

    Raises `ConfigError` at construction, and for a training batch of one row, for which the
    variance is meaningless.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        self.momentum = real(f"momentum of {name}", self.momentum, low=-math.inf)
        if not 0 < self.momentum <= 1:
            raise ConfigError(f"momentum of {name} must lie in (0, 1], found {self.momentum!r}")
        self.epsilon = real(f"epsilon of {name}", self.epsilon, low_is_allowed=False)

    @property
    def needs_two(self) -> bool:
        """Whether a training batch needs two samples or more: one has no variance."""
        return True

    def output_shape(self, shape: Shape | None) -> Shape:
        """`(features,)`. Raises `ShapeError`."""
        if shape is not None and len(shape) == 3:
            raise ShapeError(
                f"{self} takes rows of features and is given images {shape}: take "
                f"BatchNorm2d({shape[2]}), which normalises images, or put Flatten() before it"
            )
        return super().output_shape(shape)

    def buffers(self) -> dict[str, Parameter]:
        """`running_mean` and `running_var`: `(features,)`, initialised to 0 and 1."""
        shape = (self.features,)
        return {"running_mean": Parameter(shape, Zeros()), "running_var": Parameter(shape, Ones())}

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`, with the batch statistics in training, else with the running
        statistics.

        A frozen layer uses the running statistics in training too.
        """
        values = self.values["weight"], self.values["bias"]
        running = self.statistics["running_mean"], self.statistics["running_var"]
        xp = array_module(x, values[0])
        self.scale = scale = self.workspace.array(xp, "variance", (self.features,), x.dtype)
        self.normal, y = self.like(x, "centred"), self.like(x, "y")
        epsilon, momentum = float(self.epsilon), float(self.momentum)
        out = self.normal, scale, y
        if not (training and self.trainable):
            xp.subtract(x, running[0], out=self.normal)
            xp.copyto(scale, running[1])
            normalise(xp, *values, epsilon, *out)
            return y
        if len(x) < 2:
            raise ConfigError(
                "BatchNorm cannot train on a batch of 1 row: use a larger batch_size, one "
                "that leaves no single row over, or LayerNorm"
            )
        batch_norm(xp, x, *values, epsilon, momentum, *running, *out, workspace=self.workspace)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`; writes the gradients of `weight` and `bias`."""
        xp, weight = array_module(dy, self.normal), self.values["weight"]
        dx, workspace = self.like(dy, "dx"), self.workspace
        if not self.trainable:
            mean = workspace.array(xp, "mean", (self.features,), dy.dtype)
            xp.multiply(weight, self.scale, out=mean)
            return xp.multiply(dy, mean, out=dx)
        gradients = self.gradients["weight"], self.gradients["bias"]
        kept = self.normal, self.scale, weight
        batch_norm_backward(xp, dy, *kept, *gradients, dx, workspace=workspace)
        return dx


@dataclass(eq=False)
class BatchNorm2d(ImageLayer, BatchNorm):
    """`BatchNorm` of each channel of images, over the batch and all pixels.

    `features`: the number of channels. The formulas and the gradient are those of `BatchNorm` for
    the rows `(N·H·W, C)`, whose statistics are over `N·H·W` values. Shapes: `x`, `y`:
    `(N, H, W, C)`. Ioffe, Szegedy, "Batch normalization", ICML 2015, section 3.2.

    Raises `ConfigError` for arguments out of range, and for a training batch with `N·H·W = 1`;
    `ShapeError`, when the layer joins a network, for rows of features or other channels.
    """

    _pixels: int = field(default=1, init=False, repr=False)

    @property
    def needs_two(self) -> bool:
        """Whether a training batch needs two images, since each has a single pixel."""
        return self._pixels == 1

    def output_shape(self, shape: Shape | None) -> Shape | None:  # type: ignore[override]
        """The shape of the image. Raises `ShapeError`."""
        if shape is not None:
            height, width, _ = self.require_image(shape)
            self._pixels = height * width
        if shape is not None and shape[2] != self.features:
            raise ShapeError(
                f"{self} takes {self.features} channels and is given {shape[2]}: make it "
                f"BatchNorm2d({shape[2]}, …) or change the layer before it"
            )
        return shape

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, H, W, C) -> (N, H, W, C)`, as `BatchNorm` does for rows."""
        rows = x.reshape(-1, self.features)
        if training and self.trainable and len(rows) < 2:
            raise ConfigError(
                "BatchNorm2d cannot train on one image of one pixel: use a larger batch_size"
            )
        return super().forward(rows, training=training).reshape(x.shape)

    def backward(self, dy: Array) -> Array:
        """`(N, H, W, C) -> (N, H, W, C)`; writes the gradients of `weight` and `bias`."""
        return super().backward(dy.reshape(-1, self.features)).reshape(dy.shape)


@dataclass(eq=False)
class LayerNorm(_Normalising):
    """Normalises each row over its features: `y = γ x̂ + β`, `x̂ = (x − μ) / √(σ² + ε)`.

    `μ_n`, `σ²_n` are the mean and the biased variance of row `n`; training and prediction do
    the same, and a batch of one row is fine. Ba, Kiros, Hinton, "Layer normalization", 2016,
    eq. 4.

    Gradient as in `BatchNorm` with rows and columns exchanged: `dγ_j = Σ_n dy_nj x̂_nj`,
    `dβ_j = Σ_n dy_nj`, and per row, with `g = dy · γ`, `s = 1 / √(σ² + ε)`:
    `dx = s (g − mean(g) − x̂ mean(g x̂))`, the means over the features.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.epsilon = real("epsilon of LayerNorm", self.epsilon, low_is_allowed=False)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        weight, bias = self.values["weight"], self.values["bias"]
        xp, workspace = array_module(x, weight), self.workspace
        self.scale = workspace.array(xp, "variance", (len(x), 1), x.dtype)
        self.normal, y = self.like(x, "centred"), self.like(x, "y")
        arguments = x, weight, bias, float(self.epsilon), self.normal, self.scale, y
        layer_norm(xp, *arguments, workspace=workspace)
        return y

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`; writes the gradients of `weight` and `bias`."""
        xp, workspace = array_module(dy, self.normal), self.workspace
        dx, part = self.like(dy, "dx"), self.like(dy, "part")
        gradients = self.gradients["weight"], self.gradients["bias"]
        backward_parameters(xp, dy, self.normal, *gradients, workspace=workspace, scratch=part)
        kept = self.normal, self.scale, self.values["weight"]
        layer_norm_backward(xp, dy, *kept, dx, workspace=workspace)
        return dx


def normalise(
    xp: Any, weight: Array, bias: Array, epsilon: float, normal: Array, scale: Array, y: Array
) -> None:
    """`s = 1 / √(σ² + ε)`, `x̂ = (x − μ) s`, `y = γ x̂ + β`.

    `normal` holds `x − μ` and `scale` `σ²`; on return they hold `x̂` and `s`.
    """
    xp.add(scale, epsilon, out=scale)
    xp.sqrt(scale, out=scale)
    xp.divide(1, scale, out=scale)
    xp.multiply(normal, scale, out=normal)
    xp.multiply(normal, weight, out=y)
    xp.add(y, bias, out=y)


def backward_parameters(
    xp: Any,
    dy: Array,
    normal: Array,
    dweight: Array,
    dbias: Array,
    *,
    workspace: Workspace,
    scratch: Array,
) -> None:
    """`dγ = Σ_n dy_n x̂_n`, `dβ = Σ_n dy_n`."""
    ones = workspace.ones(xp, len(dy), dy.dtype)
    xp.multiply(dy, normal, out=scratch)
    xp.dot(ones, scratch, out=dweight)
    xp.dot(ones, dy, out=dbias)


@accelerated
def batch_norm(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array,
    epsilon: float,
    momentum: float,
    running_mean: Array,
    running_var: Array,
    normal: Array,
    scale: Array,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """Compute `x̂` in `normal`, `s` in `scale` and `y = γ x̂ + β`; update the running statistics.

    Mean and variance in two passes, for exactness.
    """
    count, mean = len(x), workspace.array(xp, "mean", scale.shape, x.dtype)
    ones = workspace.ones(xp, count, x.dtype)
    xp.dot(ones, x, out=mean)
    xp.divide(mean, count, out=mean)
    xp.subtract(x, mean, out=normal)
    xp.multiply(normal, normal, out=y)
    xp.dot(ones, y, out=scale)
    xp.divide(scale, count, out=scale)
    share = workspace.array(xp, "share", running_mean.shape, running_mean.dtype)
    move(xp, running_mean, mean, momentum, 1.0, share)
    move(xp, running_var, scale, momentum, count / (count - 1), share)
    normalise(xp, weight, bias, epsilon, normal, scale, y)


def move(
    xp: Any, running: Array, batch: Array, momentum: float, factor: float, share: Array
) -> None:
    """`running ← (1 − momentum) · running + momentum · factor · batch`."""
    xp.multiply(running, 1 - momentum, out=running)
    xp.multiply(batch, momentum * factor, out=share)
    xp.add(running, share, out=running)


@accelerated
def batch_norm_backward(
    xp: Any,
    dy: Array,
    normal: Array,
    scale: Array,
    weight: Array,
    dweight: Array,
    dbias: Array,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx = γ s (dy − dβ / N − x̂ dγ / N)`, with `dγ` and `dβ`."""
    backward_parameters(xp, dy, normal, dweight, dbias, workspace=workspace, scratch=dx)
    mean = workspace.array(xp, "mean", scale.shape, dy.dtype)
    xp.divide(dweight, len(dy), out=mean)
    xp.multiply(normal, mean, out=dx)
    xp.subtract(dy, dx, out=dx)
    xp.divide(dbias, len(dy), out=mean)
    xp.subtract(dx, mean, out=dx)
    xp.multiply(weight, scale, out=mean)
    xp.multiply(dx, mean, out=dx)


@accelerated
def layer_norm(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array,
    epsilon: float,
    normal: Array,
    scale: Array,
    y: Array,
    *,
    workspace: Workspace,
) -> None:
    """`x̂` in `normal`, `s` in `scale`, `y = γ x̂ + β`."""
    mean = workspace.array(xp, "mean", (len(x), 1), x.dtype)
    xp.mean(x, axis=1, keepdims=True, out=mean)
    xp.subtract(x, mean, out=normal)
    xp.multiply(normal, normal, out=y)
    xp.mean(y, axis=1, keepdims=True, out=scale)
    normalise(xp, weight, bias, epsilon, normal, scale, y)


@accelerated
def layer_norm_backward(
    xp: Any,
    dy: Array,
    normal: Array,
    scale: Array,
    weight: Array,
    dx: Array,
    *,
    workspace: Workspace,
) -> None:
    """`dx = s (g − mean(g) − x̂ mean(g x̂))`, `g = dy · γ`."""
    mean = workspace.array(xp, "mean", (len(dy), 1), dy.dtype)
    part = workspace.array(xp, "part", dy.shape, dy.dtype)
    xp.multiply(dy, weight, out=dx)
    xp.multiply(dx, normal, out=part)
    xp.mean(part, axis=1, keepdims=True, out=mean)
    xp.multiply(normal, mean, out=part)
    xp.mean(dx, axis=1, keepdims=True, out=mean)
    xp.subtract(dx, mean, out=dx)
    xp.subtract(dx, part, out=dx)
    xp.multiply(dx, scale, out=dx)
