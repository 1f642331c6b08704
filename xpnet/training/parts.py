"""A batch of images in parts, which threads compute at the same time: the same gradient.

A convolution of a few images is a product too small for several cores, and between products the
other cores have nothing to do. So a batch is cut into parts of at least `PART_ROWS` samples, each
computed by copies of the layers with buffers of their own. The loss of the batch is the mean of the
parts' losses, weighted by their shares of the rows, `L = Σ_p (N_p / N) L_p`, so its gradient is the
sum of theirs with the same weights, in the order of the parts. How a batch is cut does not depend
on the number of threads; nor do the results.
"""

from __future__ import annotations

from xpnet.accel import small_gemm
from xpnet.accel.part_threads import part
from xpnet.accel.recording import is_replayable
from xpnet.backend import Array, array_module
from xpnet.layers.base import walk
from xpnet.layers.images import ImageLayer
from xpnet.losses import Loss
from xpnet.network import Sequential
from xpnet.utils.introspection import is_own

PART_ROWS = 16
MOST_PARTS = 16


def can_split(network: Sequential, loss: Loss, count: int) -> bool:
    """Whether a batch of `count` rows is computed in two parts or more: of images, on a CPU."""
    if count < 2 * PART_ROWS or network.backend.device != "cpu":
        return False
    layers = list(walk(network.layers))
    parts = [network, loss, *layers]
    # A layer of a user may have random numbers of its own, in the order of the rows.
    return (
        any(isinstance(layer, ImageLayer) for layer in layers)
        and not any(layer.batch_dependent for layer in layers)
        and all(is_own(type(one)) and is_replayable(one) for one in parts)
    )


def forward_backward(
    network: Sequential, loss: Loss, x: Array, target: Array
) -> tuple[Array, Array]:
    """Loss `()` and logits `(N, C)` of a training pass over `x` `(N, F)`, and all gradients."""
    xp, workspace, count = array_module(x, network.flat_parameters), network.workspace, len(x)
    logits = workspace.array(xp, "logits", (count, network.out_features), network.dtype)
    number = min(count // PART_ROWS, MOST_PARTS)
    replicas = network.replicas.first(number)
    starts = [place * count // number for place in range(number + 1)]
    values = []
    with small_gemm.on_one_thread():
        for replica, start in zip(replicas, starts, strict=False):
            replica.update(start)
        for place, replica in enumerate(replicas):
            rows = slice(starts[place], starts[place + 1])
            share = (rows.stop - rows.start) / count
            with part(place):
                own = replica.loss_of(loss)
                outputs = replica.forward(x[rows])
                values.append(own.forward(outputs, target[rows]))
                replica.backward(own.backward(share))
                xp.copyto(logits[rows], outputs)
                xp.multiply(values[-1], share, out=values[-1])
    network.replicas.advance(count)
    mean = workspace.array(xp, "mean loss", (), network.dtype)
    xp.copyto(mean, values[0])
    for value, replica in zip(values[1:], replicas[1:], strict=True):
        xp.add(mean, value, out=mean)
        xp.add(network.flat_gradients, replica.gradients, out=network.flat_gradients)
    return mean, logits
