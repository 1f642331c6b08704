"""`L2Penalty`: L2 regularisation as a term of the loss."""

from __future__ import annotations

from xpnet.backend import Array, array_module
from xpnet.utils.arguments import real
from xpnet.workspace import Workspace


class L2Penalty:
    """`P = λ / (2 N) · Σ W²` over the matrices of a network, `N` the number of training samples.

    `∂P/∂W = λ / N · W`, which `backward` adds to the gradients that are already there. Biases are
    not included. `values`, `gradients`: the flat matrices, `(P,)`. This is L2 regularisation in the
    loss; for decoupled weight decay see `weight_decay` of the optimizers.
    """

    def __init__(self, strength: float, samples: int) -> None:
        self.factor = real("l2", strength) / samples
        self.workspace = Workspace()

    def forward(self, values: Array) -> Array:
        """The penalty, a 0-d array: `(P,) -> ()`."""
        xp = array_module(values)
        penalty = self.workspace.array(xp, "penalty", (), values.dtype)
        xp.dot(values, values, out=penalty)
        xp.multiply(penalty, self.factor / 2, out=penalty)
        return penalty

    def backward(self, values: Array, gradients: Array) -> None:
        """Add `λ / N · W` to `gradients`."""
        xp = array_module(values, gradients)
        term = self.workspace.array(xp, "term", values.shape, values.dtype)
        xp.multiply(values, self.factor, out=term)
        xp.add(gradients, term, out=gradients)
