"""`MeanSquaredError`."""

from __future__ import annotations

from typing import ClassVar

from xpnet.backend import Array, HostArray, array_module
from xpnet.losses.base import (
    Loss,
    per_sample,
    require_same_shape,
    require_targets,
    require_values,
    scale_rows,
)


class MeanSquaredError(Loss):
    """Mean of `(z − t)²` over samples and outputs.

    `logits` (here simply the network's outputs), `target`: `(N, K)` or `(N,)` float;
    `weights: (N,)` or None. `ℓ_n = (1/K) Σ_k (z_nk − t_nk)²`, so
    `∂ℓ_n/∂z_nk = 2 (z_nk − t_nk) / K`, and of the mean `2 (z − t) / (N K)`. Example with two
    samples and one output: `z = (1, 3)`, `t = (0, 1)` gives 2.5, gradient `(1, 2)`.

    Raises `ShapeError` when outputs and target differ in shape (NumPy would silently broadcast
    `(N, 1)` and `(N,)` to `(N, N)`).
    """

    prediction: ClassVar[str | None] = "values"

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """Mean loss, `()`, from outputs and `target` of one shape."""
        xp = array_module(logits, target)
        require_same_shape(self, logits, target)
        self.difference = self.workspace.array(xp, "difference", logits.shape, logits.dtype)
        squares = self.workspace.array(xp, "squares", logits.shape, logits.dtype)
        xp.subtract(logits, target, out=self.difference)
        xp.multiply(self.difference, self.difference, out=squares)
        return self._mean(per_sample(self.workspace, squares), weights)

    def require_targets(self, target: HostArray, outputs: int, name: str) -> None:
        """Finite numbers, `(N, outputs)`; of one output also `(N,)`."""
        require_targets(self, target, outputs, name)
        is_finite = array_module(target).isfinite(target)
        require_values(self, target, is_finite, name, "finite numbers")

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · 2 (z − t) / (N K)`, or `scale · 2 w (z − t) / (K Σw)`: as the outputs."""
        self._require_forward("difference")
        xp = array_module(self.difference)
        doutputs = self.workspace.array(
            xp, "doutputs", self.difference.shape, self.difference.dtype
        )
        xp.multiply(self.difference, 2, out=doutputs)
        return scale_rows(doutputs, self.weights, scale)
