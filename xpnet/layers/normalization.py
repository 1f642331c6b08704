"""Normalisation over the batch or over the features: `BatchNorm` and `LayerNorm`.

Shapes: `x`, `dx`: `(N, in)`; `y`, `dy`: `(N, out)`; float32 or float64. `1` is a vector of
ones, so `1ᵀ A` sums the rows of `A` and is one matrix-vector product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xpnet.accel import dispatch
from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError
from xpnet.initializers import Ones, Zeros
from xpnet.layers.base import Layer, Parameter, require_features
from xpnet.utils.arguments import real, whole


@dataclass(eq=False)
class _Normalising(Layer):
    """What `BatchNorm` and `LayerNorm` share: γ and β, and `y = γ x̂ + β` from centred `x`."""

    features: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.features = whole(f"features of {type(self).__name__}", self.features)

    def parameters(self) -> dict[str, Parameter]:
        """`weight` (γ) and `bias` (β): `(features,)`, begun at 1 and 0."""
        shape = (self.features,)
        return {"weight": Parameter(shape, Ones()), "bias": Parameter(shape, Zeros())}

    def output_features(self, features: int | None) -> int:
        """`features`."""
        require_features(self, self.features, features)
        return self.features

    def _normalise(self, centred: Array, variance: Array, epsilon: float, out: Array) -> Array:
        """`γ x̂ + β` in `out`; keeps `centred` as `x̂` and `variance` as `s = 1 / √(σ² + ε)`."""
        xp = array_module(centred, variance)
        xp.add(variance, epsilon, out=variance)
        xp.sqrt(variance, out=variance)
        xp.divide(1, variance, out=variance)
        xp.multiply(centred, variance, out=centred)
        self.normal, self.scale = centred, variance
        xp.multiply(centred, self.values["weight"], out=out)
        return xp.add(out, self.values["bias"], out=out)

    def _backward_parameters(self, dy: Array, scratch: Array) -> None:
        """`dγ = Σ_n dy_n x̂_n`, `dβ = Σ_n dy_n`."""
        xp = array_module(dy, self.normal)
        ones = self.workspace.ones(xp, len(dy), dy.dtype)
        xp.multiply(dy, self.normal, out=scratch)
        xp.dot(ones, scratch, out=self.gradients["weight"])
        xp.dot(ones, dy, out=self.gradients["bias"])


@dataclass(eq=False)
class BatchNorm(_Normalising):
    """Normalises each feature over the batch: `y = γ x̂ + β`, `x̂ = (x − μ) / √(σ² + ε)`.

    In training `μ_j`, `σ²_j` are the mean and the (biased) variance of feature `j` over the `N`
    rows; the running statistics used in prediction move towards them,
    `running ← (1 − momentum) · running + momentum · batch`, the variance there unbiased
    (`N / (N − 1)`), as in PyTorch. Ioffe, Szegedy, "Batch normalization", ICML 2015, algorithm 1.

    Gradient, per feature, with `s = 1 / √(σ² + ε)` and `g = dy · γ`:
    `dγ = Σ_n dy_n x̂_n`, `dβ = Σ_n dy_n`. `x̂_n` depends on `x_m` directly (`s [n = m]`), through
    `μ` (`−s / N`) and through `σ²` (`−s x̂_n x̂_m / N`, as `∂σ²/∂x_m = 2 (x_m − μ) / N`). Summing
    over `n`: `dx_m = s (g_m − mean(g) − x̂_m mean(g x̂))`, the means over the batch. As
    `mean(g) = γ dβ / N` and `mean(g x̂) = γ dγ / N`, γ leaves the bracket:
    `dx = γ s (dy − dβ / N − x̂ dγ / N)`.

    **Frozen** (`trainable = False`), it takes the running statistics in training as well and does
    not move them: `μ` and `s` are constants, and `dx = γ s dy`.

    Raises `ConfigError` at construction, and for a training batch of one row, whose variance
    is no estimate of anything.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.momentum = real("momentum of BatchNorm", self.momentum, low=-math.inf)
        if not 0 < self.momentum <= 1:
            raise ConfigError(f"momentum of BatchNorm must lie in (0, 1], found {self.momentum!r}")
        self.epsilon = real("epsilon of BatchNorm", self.epsilon, low_is_allowed=False)

    def buffers(self) -> dict[str, Parameter]:
        """`running_mean` and `running_var`: `(features,)`, begun at 0 and 1."""
        shape = (self.features,)
        return {"running_mean": Parameter(shape, Zeros()), "running_var": Parameter(shape, Ones())}

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`, by the batch's statistics in training, else by the running ones.

        By the running ones in training as well where the layer is frozen.
        """
        xp = array_module(x, self.values["weight"])
        variance = self.workspace.array(xp, "variance", (self.features,), x.dtype)
        centred, y = self.like(x, "centred"), self.like(x, "y")
        if training and self.trainable:
            if self._did_all(x, centred, variance, y):
                self.normal, self.scale = centred, variance
                return y
            self._measure(x, centred, variance, y)
        else:
            xp.subtract(x, self.statistics["running_mean"], out=centred)
            xp.copyto(variance, self.statistics["running_var"])
        return self._normalise(centred, variance, self.epsilon, out=y)

    def _did_all(self, x: Array, normal: Array, scale: Array, y: Array) -> bool:
        """Whether a twin has done the whole of a forward pass in training."""
        if len(x) < 2:
            raise ConfigError(
                "BatchNorm cannot train on a batch of 1 row: use a larger batch_size, one "
                "that leaves no single row over, or LayerNorm"
            )
        values = self.values["weight"], self.values["bias"]
        running = self.statistics["running_mean"], self.statistics["running_var"]
        how = float(self.epsilon), float(self.momentum)
        return dispatch.did("batch_norm", x, *values, *how, *running, normal, scale, y)

    def _measure(self, x: Array, centred: Array, variance: Array, scratch: Array) -> None:
        """Mean and variance of the batch, in two passes for exactness; moves the running ones."""
        xp, count = array_module(x), len(x)
        ones = self.workspace.ones(xp, count, x.dtype)
        mean = self.workspace.array(xp, "mean", (self.features,), x.dtype)
        xp.dot(ones, x, out=mean)
        xp.divide(mean, count, out=mean)
        xp.subtract(x, mean, out=centred)
        xp.multiply(centred, centred, out=scratch)
        xp.dot(ones, scratch, out=variance)
        xp.divide(variance, count, out=variance)
        self._run("running_mean", mean, 1.0)
        self._run("running_var", variance, count / (count - 1))

    def _run(self, name: str, batch: Array, factor: float) -> None:
        running = self.statistics[name]
        xp = array_module(running, batch)
        share = self.like(running, "share")
        xp.multiply(running, 1 - self.momentum, out=running)
        xp.multiply(batch, self.momentum * factor, out=share)
        xp.add(running, share, out=running)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`; writes the gradients of `weight` and `bias`."""
        xp = array_module(dy, self.normal)
        mean = self.workspace.array(xp, "mean", (self.features,), dy.dtype)
        dx, gradients = self.like(dy, "dx"), (self.gradients["weight"], self.gradients["bias"])
        kept = self.normal, self.scale, self.values["weight"]
        if not self.trainable:
            xp.multiply(self.values["weight"], self.scale, out=mean)
            return xp.multiply(dy, mean, out=dx)
        if dispatch.did("batch_norm_backward", dy, *kept, *gradients, dx):
            return dx
        self._backward_parameters(dy, scratch=dx)
        xp.divide(self.gradients["weight"], len(dy), out=mean)
        xp.multiply(self.normal, mean, out=dx)
        xp.subtract(dy, dx, out=dx)
        xp.divide(self.gradients["bias"], len(dy), out=mean)
        xp.subtract(dx, mean, out=dx)
        xp.multiply(self.values["weight"], self.scale, out=mean)
        return xp.multiply(dx, mean, out=dx)


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
        xp = array_module(x, self.values["weight"])
        mean = self.workspace.array(xp, "mean", (len(x), 1), x.dtype)
        variance = self.workspace.array(xp, "variance", (len(x), 1), x.dtype)
        centred, y = self.like(x, "centred"), self.like(x, "y")
        values = self.values["weight"], self.values["bias"]
        if dispatch.did("layer_norm", x, *values, float(self.epsilon), centred, variance, y):
            self.normal, self.scale = centred, variance
            return y
        xp.mean(x, axis=1, keepdims=True, out=mean)
        xp.subtract(x, mean, out=centred)
        xp.multiply(centred, centred, out=y)
        xp.mean(y, axis=1, keepdims=True, out=variance)
        return self._normalise(centred, variance, self.epsilon, out=y)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`; writes the gradients of `weight` and `bias`."""
        xp = array_module(dy, self.normal)
        mean = self.workspace.array(xp, "mean", (len(dy), 1), dy.dtype)
        dx, part = self.like(dy, "dx"), self.like(dy, "part")
        self._backward_parameters(dy, scratch=part)
        kept = self.normal, self.scale, self.values["weight"]
        if dispatch.did("layer_norm_backward", dy, *kept, dx):
            return dx
        xp.multiply(dy, self.values["weight"], out=dx)
        xp.multiply(dx, self.normal, out=part)
        xp.mean(part, axis=1, keepdims=True, out=mean)
        xp.multiply(self.normal, mean, out=part)
        xp.mean(dx, axis=1, keepdims=True, out=mean)
        xp.subtract(dx, mean, out=dx)
        xp.subtract(dx, part, out=dx)
        return xp.multiply(dx, self.scale, out=dx)
