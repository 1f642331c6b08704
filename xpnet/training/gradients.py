"""Loss and gradients of one batch: as a whole, in microbatches, or in parts on several threads."""

from __future__ import annotations

from xpnet.accel import small_gemm
from xpnet.backend import Array, array_module
from xpnet.losses import Loss
from xpnet.losses.base import as_mean
from xpnet.network import Sequential
from xpnet.training import microbatch, parts
from xpnet.utils.introspection import is_own


def forward_backward(
    network: Sequential,
    loss: Loss,
    x: Array,
    target: Array,
    weights: Array | None = None,
    scale: float = 1.0,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """A training pass over `x` `(N, F)`; writes the gradients of `scale · factor · loss`.

    Returns `(loss (), logits (N, C))`, the loss itself. `weights`: `(N,)`, sample weights for the
    mean loss; None: equal weights. `factor`: `()`, given with `weights` only; None stands for 1.
    """
    if weights is None and microbatch.can_split(network, loss, len(x)):
        value, logits = microbatch.forward_backward(network, loss, x, target, scale)
    elif weights is None and parts.can_split(network, loss, len(x)):
        value, logits = parts.forward_backward(network, loss, x, target, scale)
    else:
        with small_gemm.if_few(x, network.flat_parameters):
            logits = network.forward(x, training=True)
            value = loss.forward(logits, target, weights)
            network.backward(_scaled(loss, scale, factor))
    return as_mean(loss, value, network.backend, network.dtype), logits


def _scaled(loss: Loss, scale: float, factor: Array | None) -> Array:
    """The gradient of the logits, times `scale` and `factor`."""
    if scale != 1 and is_own(type(loss)):
        gradient, scale = loss.backward(scale), 1.0
    else:
        gradient = loss.backward()  # a user's may take no scale
    if scale != 1 or factor is not None:
        xp = array_module(gradient)
        xp.multiply(gradient, scale if factor is None else factor, out=gradient)
    return gradient
