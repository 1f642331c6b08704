"""Gradient clipping by the global norm."""

from __future__ import annotations

from xpnet.backend import Array, array_module
from xpnet.utils.arguments import real
from xpnet.workspace import Workspace

EPSILON = 1e-6
"""Added to the norm, as by `torch.nn.utils.clip_grad_norm_`: keeps the division finite."""


class ClipNorm:
    """`g ← g · min(1, C / (‖g‖₂ + 1e-6))`, the norm over all parameters of a network together.

    `limit`: `C`, above 0. `gradients`: the flat store, `(P,)`, changed in place; the factor is
    computed and applied on the device, without synchronisation. A gradient that is not finite is
    not changed to a finite one. Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent
    neural networks", ICML 2013, algorithm 1; the 1e-6 is PyTorch's.

    Raises `ConfigError` for another `limit`.
    """

    def __init__(self, limit: float) -> None:
        self.limit = real("clip_norm", limit, low_is_allowed=False)
        self.workspace = Workspace()

    def __call__(self, gradients: Array) -> None:
        """Scale `gradients` `(P,)` down if their norm is larger than `limit`."""
        xp = array_module(gradients)
        factor = self.workspace.array(xp, "factor", (), gradients.dtype)
        xp.dot(gradients, gradients, out=factor)
        xp.sqrt(factor, out=factor)
        xp.add(factor, EPSILON, out=factor)
        xp.divide(self.limit, factor, out=factor)
        xp.minimum(factor, 1, out=factor)
        xp.multiply(gradients, factor, out=gradients)
