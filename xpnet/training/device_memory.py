"""A batch that does not fit into the memory of the GPU, explained with the size that fits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xpnet.accel import cuda_graph
from xpnet.backend.device_errors import explained, first_line
from xpnet.errors import OutOfDeviceMemory
from xpnet.layers.base import walk
from xpnet.losses import Loss
from xpnet.network import Sequential
from xpnet.training.device_data import DeviceData
from xpnet.workspace import Workspace

_SPARE = 0.9
"""Of the free memory; some is lost between arrays."""
_TRIALS = (256, 512)
"""Rows of two small batches; more than classes, since some buffers serve for either."""


@contextmanager
def in_training(
    network: Sequential, loss: Loss, data: DeviceData, batch_size: int
) -> Iterator[None]:
    """Within the block, errors of the GPU are explained in one line.

    Raises `OutOfDeviceMemory`, which names the batch size and what fits, and
    `BackendUnavailable` for a device that is lost.
    """
    try:
        yield
    except MemoryError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        raise _too_large(network, loss, data, batch_size, error) from error
    except Exception as error:
        plain = explained(error, network.backend.device)
        if plain is None:
            raise
        try:
            raise plain from error
        finally:
            # Its traceback has this frame: in a cycle the arrays of the training would stay.
            del plain


def _too_large(
    network: Sequential, loss: Loss, data: DeviceData, batch_size: int, error: MemoryError
) -> OutOfDeviceMemory:
    xp, device = network.backend.xp, network.backend.device
    try:
        fits = _fitting(network, loss, data)
        limit = xp.get_default_memory_pool().get_limit()
        total = xp.cuda.runtime.memGetInfo()[1]
    # An estimate that fails must not hide the error itself.
    except Exception:
        return OutOfDeviceMemory(
            f"a batch of {batch_size:,} does not fit into the memory of device {device} "
            f"({first_line(error)}): use a smaller batch_size"
        )
    advice = f"a batch_size of about {fits:,} fits" if fits else "not even one sample fits"
    remedy = "" if fits else ": use smaller layers or less data, or --device cpu"
    where = f"the {total / 2**30:.1f} GiB of device {device}"
    if 0 < limit < total:
        where = f"the {limit / 2**30:.1f} GiB that CuPy's memory pool may take of device {device}"
    return OutOfDeviceMemory(
        f"a batch of {batch_size:,} does not fit into {where} beside the data and the network: "
        f"{advice}{remedy}"
    )


def _fitting(network: Sequential, loss: Loss, data: DeviceData) -> int:
    """About how many samples a batch can have, by what is free beside data and network.

    CuPy's memory pool keeps the blocks of a failed attempt, and does not free one that is used in
    part. So in the same process fewer may fit, unless `free_all_blocks()` of the pool comes first.
    """
    xp = network.backend.xp
    pool = xp.get_default_memory_pool()
    free = xp.cuda.runtime.memGetInfo()[0] + pool.total_bytes() - pool.used_bytes()
    if pool.get_limit():
        free = min(free, pool.get_limit() - pool.used_bytes())
    free += _held(network, loss, data) - cuda_graph.workspace_bytes(xp)
    if free <= 0:
        return 0
    fits = int(_SPARE * free / bytes_per_sample(network, loss, data))
    return fits - fits % 64 if fits > 64 else fits


def bytes_per_sample(network: Sequential, loss: Loss, data: DeviceData) -> int:
    """What each sample of a batch takes in a training step, measured on small ones on the CPU."""
    dtype = str(network.dtype)
    like = Sequential([layer.without_arrays() for layer in network.layers], dtype=dtype)
    own = copy.copy(loss)
    own.workspace = Workspace()
    taken = []
    for rows in _TRIALS:
        xp = like.backend.xp
        if data.is_sparse:
            x = data.x[xp.arange(rows) % len(data)]
        else:
            x = xp.zeros((rows, data.x.shape[1]), str(data.x.dtype))
        target = xp.zeros((rows, *data.target.shape[1:]), str(data.target.dtype))
        small = DeviceData(
            x, target, backend=like.backend, dtype=dtype, normalisation=data.normalisation
        )
        batch, wanted = small.batch(xp.arange(rows))
        own.forward(like.forward(batch, training=True), wanted)
        like.backward(own.backward())
        taken.append(_held(like, own, small))
    return (taken[1] - taken[0]) // (_TRIALS[1] - _TRIALS[0])


def _held(network: Sequential, loss: Loss, data: DeviceData) -> int:
    """Bytes of the buffers that a training step has made."""
    owners: list[Any] = [*walk(network.layers), network, loss, data]
    return sum(owner.workspace.nbytes for owner in owners)
