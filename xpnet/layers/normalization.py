"""Normalisation over the batch or over the features: `BatchNorm`, `BatchNorm2d`, `LayerNorm`.

Shapes: `x`, `y`, `dx`, `dy`: `(N, F)`, of `BatchNorm2d` `(N, H, W, C)`; float32 or float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from xpnet.accel.dispatch import formula
from xpnet.backend import Array, array_module
from xpnet.distributed.group import batch_share
from xpnet.errors import ConfigError, ShapeError
from xpnet.initializers import Ones, Zeros
from xpnet.layers.base import Layer, Parameter
from xpnet.layers.images import ImageLayer
from xpnet.layers.normalization_formulas import (
    backward_parameters,
    batch_norm,
    batch_norm_backward,
    layer_norm,
    layer_norm_backward,
    normalise,
)
from xpnet.layers.shapes import Shape, require_features
from xpnet.utils.arguments import real, whole


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

    The running variance of a constant feature decays to a subnormal number and stays there. It is
    not set to 0, because it costs only one slow multiplication per feature and step, and prediction
    adds ε to it first, which gives the same bits as 0 would.

    **Several processes** (`fit(distributed=...)`): the statistics are those of the whole batch,
    summed over all ranks, and so are `dβ` and `dγ` in the formula of `dx`.

    **Frozen** (`trainable = False`), it uses the running statistics in training too and does not
    update them: `μ` and `s` are constants, and `dx = γ s dy`.

    Raises `ConfigError` at construction, and for a training batch of one row, for which the
    variance is meaningless.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = True
    _one_row: ClassVar[str] = (
        "BatchNorm cannot train on a batch of 1 row: use a larger batch_size, one that leaves no "
        "single row over, or LayerNorm"
    )

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
        return self._forward(x, training=training, pixels=1)

    def _forward(self, x: Array, *, training: bool, pixels: int) -> Array:
        """`forward`, where `pixels` rows belong to each sample."""
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
        group, count = batch_share(len(x), pixels)
        if count < 2:
            raise ConfigError(self._one_row)
        arguments = xp, x, *values, epsilon, momentum, *running, *out
        if group.size == 1:
            batch_norm(*arguments, workspace=self.workspace)
        else:
            self.count = count
            formula(batch_norm)(*arguments, workspace=self.workspace, group=group, count=count)
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
        arguments = xp, dy, self.normal, self.scale, weight, *gradients, dx
        group, _ = batch_share(len(dy))
        if group.size == 1:
            batch_norm_backward(*arguments, workspace=workspace)
        else:
            count = self.count
            formula(batch_norm_backward)(*arguments, workspace=workspace, group=group, count=count)
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

    _one_row: ClassVar[str] = (
        "BatchNorm2d cannot train on one image of one pixel: use a larger batch_size"
    )
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
        height, width, _ = self.require_image(x.shape[1:])
        rows, pixels = x.reshape(-1, self.features), height * width
        return self._forward(rows, training=training, pixels=pixels).reshape(x.shape)

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

    Raises `ConfigError` for arguments out of range, and `ShapeError`, when the layer joins a
    network, for images or another number of features.
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
