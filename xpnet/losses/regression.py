"""Losses of regression: squares, absolute values, Huber's mixture, counts, quantiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from xpnet.backend import Array, HostArray, array_module
from xpnet.errors import ConfigError, ShapeError, short_repr
from xpnet.losses.base import (
    Loss,
    per_sample,
    require_same_shape,
    require_targets,
    require_values,
    scale_rows,
)
from xpnet.utils.arguments import real


class _OfValues(Loss):
    """A loss of outputs and targets of one shape, which are any finite numbers."""

    prediction: ClassVar[str | None] = "values"

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Finite numbers, `(N, outputs)`; of one output also `(N,)`."""
        require_targets(self, target, outputs, name)
        require_finite(self, target, name)


class MeanSquaredError(_OfValues):
    """Mean of `(z − t)²` over samples and outputs.

    `logits` (here simply the network's outputs), `target`: `(N, K)` or `(N,)` float;
    `weights: (N,)` or None. `ℓ_n = (1/K) Σ_k (z_nk − t_nk)²`, so
    `∂ℓ_n/∂z_nk = 2 (z_nk − t_nk) / K`, and of the mean `2 (z − t) / (N K)`. Example with two
    samples and one output: `z = (1, 3)`, `t = (0, 1)` gives 2.5, gradient `(1, 2)`.

    Raises `ShapeError` when outputs and target differ in shape (NumPy would silently broadcast
    `(N, 1)` and `(N,)` to `(N, N)`).
    """

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target` of one shape."""
        xp = array_module(logits, target)
        require_same_shape(self, logits, target)
        self.difference = self.workspace.array(xp, "difference", logits.shape, logits.dtype)
        squares = self.workspace.array(xp, "squares", logits.shape, logits.dtype)
        xp.subtract(logits, target, out=self.difference)
        xp.multiply(self.difference, self.difference, out=squares)
        return self._mean(per_sample(self.workspace, squares), weights)

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · 2 (z − t) / (N K)`, or `scale · 2 w (z − t) / (K Σw)`: as the outputs."""
        self._require_forward("difference")
        xp = array_module(self.difference)
        doutputs = self.workspace.array(
            xp, "doutputs", self.difference.shape, self.difference.dtype
        )
        xp.multiply(self.difference, 2, out=doutputs)
        return scale_rows(doutputs, self.weights, scale)


class MeanAbsoluteError(_OfValues):
    """Mean of `|z − t|` over samples and outputs: its minimum is the median of the targets.

    Shapes, and what is raised, as for `MeanSquaredError`; outliers count less than with squared
    errors. `ℓ_n = (1/K) Σ_k |z_nk − t_nk|`, and `d|u|/du = sign(u)` for `u ≠ 0`, so of the mean
    `sign(z − t) / (N K)`. At `z = t` each number from −1 to 1 is a subgradient; it is 0 here, as in
    PyTorch's `L1Loss`. Example with two samples and one output: `z = (1, 3)`, `t = (0, 5)` gives
    1.5, gradient `(½, −½)`.

    Bloomfield, Steiger, "Least absolute deviations", 1983, section 1.1.
    """

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target` of one shape."""
        xp = array_module(logits, target)
        require_same_shape(self, logits, target)
        self.difference = self.workspace.array(xp, "difference", logits.shape, logits.dtype)
        elements = self.workspace.array(xp, "elements", logits.shape, logits.dtype)
        xp.subtract(logits, target, out=self.difference)
        xp.absolute(self.difference, out=elements)
        return self._mean(per_sample(self.workspace, elements), weights)

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · sign(z − t) / (N K)`, or `scale · w sign(z − t) / (K Σw)`: as the outputs."""
        self._require_forward("difference")
        xp, difference = array_module(self.difference), self.difference
        doutputs = self.workspace.array(xp, "doutputs", difference.shape, difference.dtype)
        xp.sign(difference, out=doutputs)
        return scale_rows(doutputs, self.weights, scale)


class Huber(_OfValues):
    """Squares for errors up to `delta`, absolute values beyond; mean over samples and outputs.

    Shapes, and what is raised, as for `MeanSquaredError`. With `d = z − t`, `ℓ = ½ d²` where
    `|d| ≤ δ`, else `δ (|d| − ½ δ)`. Both are `c (d − ½ c)` with `c = max(−δ, min(δ, d))`: within,
    `c` is `d`; beyond, it is `δ sign(d)`, and `δ sign(d) (d − ½ δ sign(d)) = δ |d| − ½ δ²`.

    Gradient: within, `∂ℓ/∂z = d = c`; beyond, `c` is constant, so `∂ℓ/∂z = c`; both agree at
    `|d| = δ`. Of the mean, `c / (N K)`. Example: `δ = 1`, two samples and one output: `z = (½, 3)`,
    `t = (0, 0)` gives `(⅛ + 2½) / 2 = 1.3125`, gradient `(¼, ½)`.

    `delta`: above 0, in the units of the targets. It is the loss of PyTorch's `HuberLoss`, and for
    `delta=1` of `SmoothL1Loss`. Raises `ConfigError` for another `delta`.

    Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = real("delta", delta, low_is_allowed=False)

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target` of one shape."""
        xp = array_module(logits, target)
        require_same_shape(self, logits, target)
        self.clipped = self.workspace.array(xp, "clipped", logits.shape, logits.dtype)
        difference = self.workspace.array(xp, "difference", logits.shape, logits.dtype)
        elements = self.workspace.array(xp, "elements", logits.shape, logits.dtype)
        xp.subtract(logits, target, out=difference)
        xp.minimum(difference, self.delta, out=self.clipped)
        xp.maximum(self.clipped, -self.delta, out=self.clipped)
        xp.multiply(self.clipped, 0.5, out=elements)
        xp.subtract(difference, elements, out=elements)
        xp.multiply(elements, self.clipped, out=elements)
        return self._mean(per_sample(self.workspace, elements), weights)

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · c / (N K)`, or `scale · w c / (K Σw)`: as the outputs."""
        self._require_forward("clipped")
        xp = array_module(self.clipped)
        doutputs = self.workspace.array(xp, "doutputs", self.clipped.shape, self.clipped.dtype)
        xp.copyto(doutputs, self.clipped)
        return scale_rows(doutputs, self.weights, scale)


class Poisson(Loss):
    """Negative log-likelihood of counts; the network's outputs are the logarithms of the rates.

    Shapes as for `MeanSquaredError`; targets are counts, or other numbers of 0 or more. With the
    rate `μ = exp(z)`, `P(t) = μᵗ exp(−μ) / t!`, so `−log P(t) = exp(z) − t z + log t!`; the last
    term does not depend on `z` and is left out: `ℓ = exp(z) − t z`, as in PyTorch's
    `PoissonNLLLoss(log_input=True, full=False)`.

    Gradient: `∂ℓ/∂z = exp(z) − t`, of the mean `(exp(z) − t) / (N K)`. Example with two samples and
    one output: `z = (0, log 3)`, `t = (2, 1)` gives `(1 + 3 − log 3) / 2 ≈ 1.451`, gradient
    `(−½, 1)`.

    The output activation `exp` belongs to the loss: after training, `predict` gives the rates, and
    `network(x)`, ONNX files and PyTorch modules give their logarithms.

    McCullagh, Nelder, "Generalized linear models", 1989, section 6.2. Raises `ShapeError` when
    outputs and target differ in shape.
    """

    prediction: ClassVar[str | None] = "rates"

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target` of one shape."""
        xp = array_module(logits, target)
        require_same_shape(self, logits, target)
        self.rates = self.workspace.array(xp, "rates", logits.shape, logits.dtype)
        elements = self.workspace.array(xp, "elements", logits.shape, logits.dtype)
        self.target = target
        xp.exp(logits, out=self.rates)
        xp.multiply(logits, target, out=elements)
        xp.subtract(self.rates, elements, out=elements)
        return self._mean(per_sample(self.workspace, elements), weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Finite numbers of 0 or more, `(N, outputs)`; of one output also `(N,)`."""
        require_targets(self, target, outputs, name)
        is_count = array_module(target).isfinite(target) & (target >= 0)
        require_values(self, target, is_count, name, "finite numbers of 0 or more")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · (exp(z) − t) / (N K)`, or `scale · w (exp(z) − t) / (K Σw)`: as the outputs."""
        self._require_forward("rates")
        xp = array_module(self.rates)
        doutputs = self.workspace.array(xp, "doutputs", self.rates.shape, self.rates.dtype)
        xp.subtract(self.rates, self.target, out=doutputs)
        return scale_rows(doutputs, self.weights, scale)


class Quantile(Loss):
    """The pinball loss: its minimum is the `q`-quantile of the targets, given the inputs.

    `quantile`: one number `q` between 0 and 1, for outputs and targets of one shape, `(N, K)` or
    `(N,)`; or several, each with an output of its own: outputs `(N, Q)` and one target a sample,
    `(N, 1)`. `weights: (N,)` or None. The mean is over samples and outputs.

    With `d = z − t`, `ℓ = max((1 − q) d, −q d)`: an output above the target costs `1 − q` for each
    unit, one below it `q`. Gradient: `1 − q` for `d > 0`, `−q` for `d < 0`, and at `d = 0`, where
    both and all between them are subgradients, their mean `½ − q`, as PyTorch has it for a maximum
    of two equal numbers. So `∂ℓ/∂z = ½ sign(d) + ½ − q`. The expected loss is least where
    `(1 − q) P(t < z) = q P(t > z)`, at the quantile. Example: `q = 0.9`, two samples and one
    output: `z = (1, 3)`, `t = (0, 5)` gives `(0.1 + 1.8) / 2 = 0.95`, gradient `(0.05, −0.45)`.

    Several outputs are trained independently of each other, so that one quantile may come out
    above a higher one where there are few samples.

    Koenker, Bassett, "Regression quantiles", Econometrica 46, 1978. Raises `ConfigError` for
    `quantile` that is not between 0 and 1, `ShapeError` for outputs or targets of another shape.
    """

    prediction: ClassVar[str | None] = "values"

    def __init__(self, quantile: float | Iterable[float] = 0.5) -> None:
        super().__init__()
        self.quantile = _between_0_and_1(quantile)

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target`."""
        xp = array_module(logits, target)
        self._require_shapes(logits, target)
        self.difference = self.workspace.array(xp, "difference", logits.shape, logits.dtype)
        elements = self.workspace.array(xp, "elements", logits.shape, logits.dtype)
        above = self.workspace.array(xp, "above", logits.shape, logits.dtype)
        xp.subtract(logits, target, out=self.difference)
        for q, difference, losses, product in self._by_quantile(self.difference, elements, above):
            xp.multiply(difference, -q, out=losses)
            xp.multiply(difference, 1 - q, out=product)
            xp.maximum(losses, product, out=losses)
        return self._mean(per_sample(self.workspace, elements), weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Finite numbers: as the outputs, or `(N, 1)` or `(N,)` for several quantiles."""
        if isinstance(self.quantile, tuple):
            if outputs != len(self.quantile):
                raise ShapeError(
                    f"Quantile has {len(self.quantile)} quantiles and the network {outputs} "
                    f"outputs: give the network one output for each quantile"
                )
            outputs = 1
        require_targets(self, target, outputs, name)
        require_finite(self, target, name)

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · (½ sign(z − t) + ½ − q) / (N K)`, or `· w / (K Σw)`: as the outputs."""
        self._require_forward("difference")
        xp, difference = array_module(self.difference), self.difference
        doutputs = self.workspace.array(xp, "doutputs", difference.shape, difference.dtype)
        xp.sign(difference, out=doutputs)
        xp.multiply(doutputs, 0.5, out=doutputs)
        for q, slopes in self._by_quantile(doutputs):
            xp.add(slopes, 0.5 - q, out=slopes)
        return scale_rows(doutputs, self.weights, scale)

    def _by_quantile(self, *arrays: Array) -> Iterator[tuple[Any, ...]]:
        """Each quantile with its columns of `arrays`."""
        if not isinstance(self.quantile, tuple):
            yield self.quantile, *arrays
            return
        for column, q in enumerate(self.quantile):
            yield q, *(array[:, column] for array in arrays)

    def _require_shapes(self, logits: Array, target: Array) -> None:
        """Raise `ShapeError` unless the shapes are those of the class."""
        if not isinstance(self.quantile, tuple):
            require_same_shape(self, logits, target)
            return
        count = len(self.quantile)
        if logits.shape[1:] != (count,) or target.shape != (len(logits), 1):
            raise ShapeError(
                f"Quantile of {count} quantiles takes outputs (N, {count}) and targets (N, 1), "
                f"found {logits.shape} and {target.shape}"
            )


def require_finite(loss: Loss, target: HostArray, name: str) -> None:
    """Raise `DataError`, naming the first, for targets that are not finite."""
    is_finite = array_module(target).isfinite(target)
    require_values(loss, target, is_finite, name, "finite numbers")


def _between_0_and_1(quantile: float | Iterable[float]) -> float | tuple[float, ...]:
    is_one = isinstance(quantile, str | dict | set) or getattr(quantile, "ndim", 1) == 0
    if isinstance(quantile, Iterable) and not is_one:
        found = tuple(real("quantile", q, 0, 1, low_is_allowed=False) for q in quantile)
        if not found:
            raise ConfigError(
                f"quantile must be one number between 0 and 1, or several, found "
                f"{short_repr(quantile)}"
            )
        return found
    return real("quantile", quantile, 0, 1, low_is_allowed=False)
