"""Large batches in blocks of rows: the same gradient, with better use of the cache.

The forward pass of 41,000 samples leaves arrays far larger than any cache, and the backward
pass fetches them all from memory again. With one block of rows at a time, the arrays of the forward
pass are still in the cache in the backward pass. The loss of the batch is the mean of the blocks'
losses, weighted by their shares of the rows, `L = Σ_b (N_b / N) L_b`, so its gradient is the sum of
theirs with the same weights; and all layers of xpnet except `BatchNorm` process each row
independently.
"""

from __future__ import annotations

from xpnet.accel.recording import is_replayable
from xpnet.backend import Array, array_module
from xpnet.layers.base import walk
from xpnet.losses import Loss
from xpnet.network import Sequential

MICROBATCH_ROWS = 1024
"""Rows of a block: enough for a matrix product, few enough for the cache."""
_MOST_LOGITS = 2**22
"""Of a block of an evaluation, so that tens of thousands of classes do not fill the memory."""


def prediction_rows(network: Sequential) -> int:
    """Rows per block of an evaluation."""
    return max(1, min(network.prediction_rows, _MOST_LOGITS // network.out_features))


def can_split(network: Sequential, loss: Loss, count: int) -> bool:
    """Whether a batch of `count` rows may be cut, and has two blocks or more.

    On a GPU it stays whole: there a product is the faster the larger it is.
    """
    if count < 2 * MICROBATCH_ROWS or network.backend.xp.__name__ == "cupy":
        return False
    return (
        is_replayable(network)
        and is_replayable(loss)
        and all(
            is_replayable(layer) and not layer.batch_dependent for layer in walk(network.layers)
        )
    )


def forward_backward(
    network: Sequential, loss: Loss, x: Array, target: Array, scale: float = 1.0
) -> tuple[Array, Array]:
    """Loss `()` and logits `(N, C)` of a training pass over `x` `(N, F)`, and all gradients.

    These are multiplied by `scale`.
    """
    xp, workspace, count = array_module(network.flat_parameters), network.workspace, len(x)
    logits = workspace.array(xp, "logits", (count, network.out_features), network.dtype)
    summed = workspace.array(xp, "summed", network.flat_gradients.shape, network.dtype)
    mean = workspace.array(xp, "mean loss", (), network.dtype)
    for start in range(0, count, MICROBATCH_ROWS):
        rows = slice(start, start + MICROBATCH_ROWS)
        share = len(x[rows]) / count
        of_block = network.forward(x[rows], training=True)
        value = loss.forward(of_block, target[rows])
        network.backward(loss.backward(scale * share))
        xp.copyto(logits[rows], of_block)
        xp.multiply(value, share, out=value)
        if start == 0:
            xp.copyto(mean, value)
            xp.copyto(summed, network.flat_gradients)
        else:
            xp.add(mean, value, out=mean)
            xp.add(summed, network.flat_gradients, out=summed)
    xp.copyto(network.flat_gradients, summed)
    return mean, logits
