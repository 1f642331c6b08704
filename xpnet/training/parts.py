"""Computes a batch of images in parts, on several threads; the gradient is that of the batch.

A convolution of a few images is a product too small for several cores, and between products the
other cores have nothing to do. So a batch is cut into parts of at least `PART_ROWS` samples, each
computed by copies of the layers with buffers of their own. The loss of the batch is the mean of the
parts' losses, weighted by their shares of the rows, `L = Σ_p (N_p / N) L_p`, so its gradient is the
sum of theirs with the same weights, in the order of the parts. How a batch is cut does not depend
on the number of threads, and each part has one; so neither does the gradient, to the last bit. With
one thread, all parts are computed by the same copies.

Batches of fewer than two parts stay whole, and so do those of networks with `BatchNorm2d`, of a
layer or loss that is not xpnet's own, with sample weights, and on a GPU. Batches of 2,048 rows and
more are cut by `xpnet.training.microbatch` instead.
"""

from __future__ import annotations

from functools import partial

from xpnet.accel import small_gemm
from xpnet.accel.part_threads import part, run_together
from xpnet.accel.program import is_traced
from xpnet.accel.recording import is_replayable
from xpnet.backend import Array, array_module
from xpnet.layers.base import walk
from xpnet.layers.images import ImageLayer
from xpnet.losses import Loss
from xpnet.network import Sequential
from xpnet.network.replicas import Replica
from xpnet.utils.introspection import is_own

PART_ROWS = 16
MOST_PARTS = 16
MOST_GRADIENTS = 2**23
"""Numbers in the gradients of all parts but the first, 32 MiB of float32: they stay allocated, and
one thread adds them in every step."""


def can_split(network: Sequential, loss: Loss, count: int) -> bool:
    """Whether a batch of `count` rows is computed in two parts or more: of images, on a CPU."""
    if number_of_parts(network, count) < 2 or network.backend.device != "cpu":
        return False
    layers = list(walk(network.layers))
    parts = [network, loss, *layers]
    # A user's layer may draw random numbers in the order of the rows.
    return (
        any(isinstance(layer, ImageLayer) for layer in layers)
        and not any(layer.batch_dependent for layer in layers)
        and all(is_own(type(one)) and is_replayable(one) for one in parts)
    )


def number_of_parts(network: Sequential, count: int) -> int:
    """The parts of a batch of `count` rows."""
    affordable = 1 + MOST_GRADIENTS // max(network.count_parameters(), 1)
    return min(count // PART_ROWS, MOST_PARTS, affordable)


def forward_backward(
    network: Sequential, loss: Loss, x: Array, target: Array, scale: float = 1.0
) -> tuple[Array, Array]:
    """Loss `()` and logits `(N, C)` of a training pass over `x` `(N, F)`, and all gradients.

    These are multiplied by `scale`.
    """
    xp, workspace, count = array_module(x, network.flat_parameters), network.workspace, len(x)
    logits = workspace.array(xp, "logits", (count, network.out_features), network.dtype)
    number = number_of_parts(network, count)
    starts = [place * count // number for place in range(number + 1)]
    mean = workspace.array(xp, "mean loss", (), network.dtype)
    gradients = network.flat_gradients

    def compute(replica: Replica, place: int) -> Array:
        """The share that a part has in the mean loss; writes the replica's gradients."""
        rows = slice(starts[place], starts[place + 1])
        share = (rows.stop - rows.start) / count
        own = replica.loss_of(loss)
        outputs = replica.forward(x[rows])
        value = own.forward(outputs, target[rows])
        replica.backward(own.backward(scale * share))
        xp.copyto(logits[rows], outputs)
        return xp.multiply(value, share, out=value)

    if small_gemm.usual_threads() == 1:
        # The same buffers for one part after the other: they stay in the cache.
        (replica,) = network.replicas.first(1)
        total = workspace.array(xp, "sum of parts", gradients.shape, gradients.dtype)
        xp.copyto(mean, 0)
        for place in range(number):
            replica.update(starts[place])
            xp.add(mean, compute(replica, place), out=mean)
            if place == 0:
                xp.copyto(total, gradients)
            else:
                xp.add(total, gradients, out=gradients if place == number - 1 else total)
    else:
        replicas = network.replicas.first(number)
        for replica, start in zip(replicas, starts, strict=False):
            replica.update(start)
        values: dict[int, Array] = {}

        def compute_part(place: int) -> None:
            with part(place):
                values[place] = compute(replicas[place], place)

        calls = [partial(compute_part, place) for place in range(number)]
        if is_traced(network.backend.xp):  # the list of operations has an order
            with small_gemm.on_one_thread():
                for call in calls:
                    call()
        else:
            run_together(calls)
        xp.copyto(mean, 0)
        for place in range(number):
            xp.add(mean, values[place], out=mean)
        for replica in replicas[1:]:
            xp.add(gradients, replica.gradients, out=gradients)
    network.replicas.advance(count)
    network.forget_forward()
    return mean, logits
