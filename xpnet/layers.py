"""Layers beside activations: `Linear`; `Dropout`, `GaussianNoise`; `BatchNorm`, `LayerNorm`.

Shapes: `x`, `dx`: `(N, in)`; `y`, `dy`: `(N, out)`; float32 or float64. `1` is a vector of
ones, so `1ᵀ A` sums the rows of `A` and is one matrix-vector product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from xpnet import random, twins
from xpnet.arguments import real, whole
from xpnet.backend import Array, Backend, array_module
from xpnet.errors import ConfigError, shown
from xpnet.initializers import HeNormal, Initializer, Ones, Zeros
from xpnet.layer import Layer, Parameter, require_features


@dataclass(eq=False)
class Linear(Layer):
    """Affine map `Y = X Wᵀ + 1 bᵀ`, with `W: (out, in)` and `b: (out,)`.

    In components `y_nj = Σ_i x_ni w_ji + b_j`. The loss sees `w_ji` through `y_nj` of every
    sample, so `∂L/∂w_ji = Σ_n dy_nj x_ni`, that is `dW = dYᵀ X`, or `dWᵀ = Xᵀ dY`; likewise
    `db = 1ᵀ dY`, and `dx_ni = Σ_j dy_nj w_ji`, that is `dX = dY W`. With `dY` of the mean loss,
    the sums over `n` are means already. Rumelhart, Hinton, Williams, "Learning representations
    by back-propagating errors", Nature 1986.

    Raises `ConfigError` for sizes below 1.
    """

    in_features: int
    out_features: int
    weight_initializer: Initializer = field(default_factory=HeNormal)
    bias_initializer: Initializer = field(default_factory=Zeros)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_features = whole("in_features of Linear", self.in_features)
        self.out_features = whole("out_features of Linear", self.out_features)
        for name in ("weight_initializer", "bias_initializer"):
            draw = getattr(self, name)
            if isinstance(draw, type) or not callable(draw):
                raise ConfigError(
                    f"{name} of Linear must be an initializer such as HeNormal(), found "
                    f"{shown(draw)}"
                )

    def parameters(self) -> dict[str, Parameter]:
        """`weight: (out, in)` and `bias: (out,)`."""
        shape = (self.out_features, self.in_features)
        # With `Wᵀ` lying row by row, the products of a small step take 15 to 25 % less.
        weight = Parameter(shape, self.weight_initializer, decays=True, order="F")
        return {"weight": weight, "bias": Parameter((self.out_features,), self.bias_initializer)}

    def get_config(self) -> dict[str, Any]:
        """`in_features` and `out_features`."""
        return {"in_features": self.in_features, "out_features": self.out_features}

    def output_features(self, features: int | None) -> int:
        """`out_features`."""
        require_features(self, self.in_features, features)
        return self.out_features

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, in) -> (N, out)`."""
        weight = self.values["weight"]
        xp = array_module(x, weight)
        self.x = x
        y = self.workspace.array(xp, "y", (len(x), self.out_features), weight.dtype)
        xp.dot(x, weight.T, out=y)
        return xp.add(y, self.values["bias"], out=y)

    def backward(self, dy: Array) -> Array:
        """`(N, out) -> (N, in)`; writes the gradients of `weight` and `bias`."""
        self.backward_parameters(dy)
        xp = array_module(dy)
        return xp.dot(dy, self.values["weight"], out=self.like(self.x, "dx"))

    def backward_parameters(self, dy: Array) -> None:
        """Only `dW` and `db`: saves the largest product of the first layer."""
        xp = array_module(dy, self.x)
        xp.dot(self.x.T, dy, out=self.gradients["weight"].T)
        ones = self.workspace.ones(xp, len(dy), dy.dtype)
        xp.dot(ones, dy, out=self.gradients["bias"])


@dataclass(eq=False)
class _Drawing(Layer):
    """What `Dropout` and `GaussianNoise` share: random bits for each training sample and unit.

    They are a pure function of (seed, layer, number of the training sample, unit): see
    `xpnet.random`. So they are the same on every backend, and however samples are cut into
    batches.
    """

    purpose: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seed(0, 0)

    def seed(self, seed: int, position: int | str) -> None:
        """Draws follow from the network's seed and the layer's position in it."""
        self._seed, self._purpose = seed, f"{self.purpose} {position}"
        self.seek(0)

    def seek(self, samples: int) -> None:
        """The next row is that of training sample number `samples` since the start."""
        self._samples = samples
        self._counters: Array | None = None
        self._units: Array = ()

    def _bits(self, x: Array, units: int) -> Array:
        """32 random bits for each row of `x` and each unit; moves on to the next `N` samples."""
        xp, count, workspace = array_module(x), len(x), self.workspace
        self._place(x, units)
        rows = random.sample_words(workspace, self._counters, count).reshape(count, 1)
        bits = workspace.array(xp, "bits", (count, units), xp.uint32)
        spare = workspace.array(xp, "spare", (count, units), xp.uint32)
        return random.hash_bits(rows, self._units, out=bits, scratch=spare)

    def _place(self, x: Array, units: int) -> None:
        """Upload what the draws start from: the counter of the next row, a word per unit."""
        if self._counters is not None and len(self._units) == units:
            return
        backend = Backend.of(x)
        start = random.first_counter(self._seed, self._purpose, self._samples)
        self._counters = backend.asarray([start], dtype=backend.xp.uint64)
        words = random.unit_keys(self._seed, f"{self._purpose} units", units)
        self._units = backend.asarray(words)


@dataclass(eq=False)
class Dropout(_Drawing):
    """Inverted dropout: in training each unit is 0 with probability `rate`, else `x / (1 − rate)`.

    `y = x · m` with `m = [kept] / (1 − rate)`, so `E[y] = x` and prediction needs no change; for a
    given mask the layer is linear, `dx = dy · m`. Srivastava, Hinton, Krizhevsky, Sutskever,
    Salakhutdinov, "Dropout", JMLR 2014, section 10 (the inverted form).

    Raises `ConfigError` for a rate outside of `[0, 1)`.
    """

    rate: float = 0.5
    purpose = "dropout"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rate = real("rate of Dropout", self.rate, 0, 1)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`; the identity unless `training`."""
        if not training:
            return x
        xp, units = array_module(x), x.shape[1]
        self.mask, y = self.like(x, "mask"), self.like(x, "y")
        threshold, scale = min(round(self.rate * 2**32), 2**32 - 1), 1 / (1 - self.rate)
        self._place(x, units)
        if twins.did("dropout", x, self._counters, self._units, threshold, scale, self.mask, y):
            return y
        bits = self._bits(x, units)
        kept = self.workspace.array(xp, "kept", x.shape, bool)
        xp.greater_equal(bits, threshold, out=kept)
        xp.multiply(kept, scale, out=self.mask, dtype=x.dtype)
        return xp.multiply(x, self.mask, out=y)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`, through the mask of the last forward pass."""
        xp = array_module(dy, self.mask)
        return xp.multiply(dy, self.mask, out=self.like(dy, "dx"))


@dataclass(eq=False)
class GaussianNoise(_Drawing):
    """In training adds to each value a normal draw: `y = x + σ n`, `n ~ N(0, 1)`; `dx = dy`.

    At the input and after each `BatchNorm`, whose outputs have deviation 1 to begin with, a
    `std` σ of 0.1 to 0.3 takes the place of dropout: Rasmus, Valpola, Honkala, Berglund,
    Raiko, "Semi-supervised learning with ladder networks", NeurIPS 2015, table 1, the baseline.

    Two draws from one 32-bit word, by Box and Muller ("A note on the generation of random normal
    deviates", 1958): its upper half gives `u` in (0, 1], its lower half an angle `a`, and
    `√(−2 log u) cos a` and `√(−2 log u) sin a` are independent and normal (none beyond 4.7).

    Raises `ConfigError` for a `std` below 0, or of 1e19 or more.
    """

    std: float = 0.1
    purpose = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        # Its square is taken.
        self.std = real("std of GaussianNoise", self.std, 0, 1e19)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`; the identity unless `training`."""
        if not training:
            return x
        xp, (count, features) = array_module(x), x.shape
        half, y = (features + 1) // 2, self.like(x, "y")
        self._place(x, half)
        factor = -2 * float(self.std) ** 2
        if twins.did("gaussian_noise", x, self._counters, self._units, factor, y):
            return y
        bits = self._bits(x, half)
        radius = self.workspace.array(xp, "radius", (count, half), x.dtype)
        angle = self.workspace.array(xp, "angle", (count, half), x.dtype)
        upper = self.workspace.array(xp, "upper", (count, half), xp.uint32)
        xp.right_shift(bits, 16, out=upper)
        xp.bitwise_and(bits, 2**16 - 1, out=bits)
        xp.multiply(bits, math.tau / 2**16, out=angle, dtype=x.dtype)
        xp.add(upper, 1, out=upper)
        xp.multiply(upper, 2**-16, out=radius, dtype=x.dtype)
        xp.log(radius, out=radius)
        xp.multiply(radius, factor, out=radius)
        xp.sqrt(radius, out=radius)
        wave = self.workspace.array(xp, "wave", (count, half), x.dtype)
        xp.cos(angle, out=wave)
        xp.multiply(wave, radius, out=wave)
        xp.copyto(y[:, :half], wave)
        xp.sin(angle, out=wave)
        xp.multiply(wave, radius, out=wave)
        xp.copyto(y[:, half:], wave[:, : features - half])
        return xp.add(y, x, out=y)

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`: `dy` itself."""
        return dy


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
    mixes_rows: ClassVar[bool] = True

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
        return twins.did("batch_norm", x, *values, *how, *running, normal, scale, y)

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
        if twins.did("batch_norm_backward", dy, *kept, *gradients, dx):
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
        if twins.did("layer_norm", x, *values, float(self.epsilon), centred, variance, y):
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
        if twins.did("layer_norm_backward", dy, *kept, dx):
            return dx
        xp.multiply(dy, self.values["weight"], out=dx)
        xp.multiply(dx, self.normal, out=part)
        xp.mean(part, axis=1, keepdims=True, out=mean)
        xp.multiply(self.normal, mean, out=part)
        xp.mean(dx, axis=1, keepdims=True, out=mean)
        xp.subtract(dx, mean, out=dx)
        xp.subtract(dx, part, out=dx)
        return xp.multiply(dx, self.scale, out=dx)
