"""What goes wrong with a GPU, said in one line: not usable, out of memory, lost.

CuPy and CUDA raise a dozen kinds of error from deep inside; they are told apart here by their
names and status numbers, so that nothing is imported for whoever computes on the CPU.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xpnet.errors import BackendUnavailable, OutOfDeviceMemory, XpnetError, truncate

if TYPE_CHECKING:
    from xpnet.losses import Loss
    from xpnet.network import Sequential
    from xpnet.training.device_data import DeviceData

_NO_CODE = 209  # cudaErrorNoKernelImageForDevice
_OF_CUDA = {"CUDARuntimeError", "CUDADriverError", "CUBLASError", "cuBLASError", "NVRTCError"}
_SPARE = 0.9
"""Of the free memory; some is lost between arrays."""
_TRIALS = (256, 512)
"""Rows of two small batches; more than classes, since some buffers have room for either."""


def unusable(cupy: Any, number: int, error: Exception) -> BackendUnavailable:
    """Why the first computation on device `number` failed, and what to do."""
    why = _said(error)
    if isinstance(error, MemoryError):
        return BackendUnavailable(
            f"device cuda:{number} has no memory left ({why}): end what else runs there "
            f"(nvidia-smi shows it), choose another with --device cuda:N, or use --device cpu"
        )
    is_too_old = getattr(error, "status", None) == _NO_CODE or "gpu-architecture" in str(error)
    if is_too_old:
        capability = str(cupy.cuda.Device(number).compute_capability)
        return BackendUnavailable(
            f"device cuda:{number} has compute capability {capability[:-1]}.{capability[-1]}, for "
            f"which this CuPy {cupy.__version__} makes no code ({why}): pip install "
            f"'cupy-cuda12x[ctk]' in its place, which knows older devices, or use --device cpu"
        )
    return BackendUnavailable(
        f"device cuda:{number} is there, but CuPy {cupy.__version__} cannot compute on it ({why}): "
        f"CuPy, its CUDA libraries and the driver do not fit together: pip install "
        f"'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' for a CUDA 12 driver), or use --device cpu"
    )


def explained(error: BaseException, device: str | None = None) -> XpnetError | None:
    """`error` in one line, if CUDA raised it in the middle of work; else None.

    `device`: None for the one that is this thread's current one.
    """
    if type(error).__name__ not in _OF_CUDA:
        return None
    return BackendUnavailable(
        f"device {device or _current_device()} failed in the middle of work ({_said(error)}): what "
        f"was saved is kept; see nvidia-smi and the kernel's log (Xid), then begin anew or go on "
        f"from a checkpoint"
    )


@contextmanager
def in_training(
    network: Sequential, loss: Loss, data: DeviceData, batch_size: int
) -> Iterator[None]:
    """Within the block, errors of the GPU are told in one line.

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
        if (plain := explained(error, network.backend.device)) is None:
            raise
        raise plain from error


def _too_large(
    network: Sequential, loss: Loss, data: DeviceData, batch_size: int, error: MemoryError
) -> OutOfDeviceMemory:
    xp, device = network.backend.xp, network.backend.device
    try:
        fits = _fitting(network, loss, data)
        total = xp.cuda.runtime.memGetInfo()[1] / 2**30
    # It was to be a help, and whatever prevents it is not what went wrong.
    except Exception:
        return OutOfDeviceMemory(
            f"a batch of {batch_size:,} does not fit into the memory of device {device} "
            f"({_said(error)}): use a smaller batch_size"
        )
    advice = f"a batch_size of about {fits:,} fits" if fits else "not even one sample fits"
    remedy = "" if fits else ": use smaller layers or less data, or --device cpu"
    return OutOfDeviceMemory(
        f"a batch of {batch_size:,} does not fit into the {total:.1f} GiB of device {device} "
        f"beside the data and the network: {advice}{remedy}"
    )


def _fitting(network: Sequential, loss: Loss, data: DeviceData) -> int:
    """About how many samples a batch can have, by what is free beside data and network."""
    xp = network.backend.xp
    pool = xp.get_default_memory_pool()
    of_steps = _held(network, loss, data)
    free = xp.cuda.runtime.memGetInfo()[0] + pool.total_bytes() - pool.used_bytes() + of_steps
    fits = int(_SPARE * free / bytes_per_sample(network, loss, data))
    return fits - fits % 64 if fits > 64 else fits


def bytes_per_sample(network: Sequential, loss: Loss, data: DeviceData) -> int:
    """What each sample of a batch takes in a training step, measured on small ones on the CPU."""
    from xpnet.network import Sequential
    from xpnet.training.device_data import DeviceData
    from xpnet.workspace import Workspace

    dtype = str(network.dtype)
    like = Sequential([layer.without_arrays() for layer in network.layers], dtype=dtype)
    own = copy.copy(loss)
    own.workspace = Workspace()
    taken = []
    for rows in _TRIALS:
        x = like.backend.xp.zeros((rows, data.x.shape[1]), str(data.x.dtype))
        target = like.backend.xp.zeros((rows, *data.target.shape[1:]), str(data.target.dtype))
        small = DeviceData(
            x, target, backend=like.backend, dtype=dtype, normalisation=data.normalisation
        )
        batch, wanted = small.batch(like.backend.xp.arange(rows))
        own.forward(like.forward(batch, training=True), wanted)
        like.backward(own.backward())
        taken.append(_held(like, own, small))
    return (taken[1] - taken[0]) // (_TRIALS[1] - _TRIALS[0])


def _held(network: Sequential, loss: Loss, data: DeviceData) -> int:
    """Bytes of the buffers that a training step has made."""
    owners: list[Any] = [*network.layers, network, loss, data]
    return sum(owner.workspace.nbytes for owner in owners)


def _current_device() -> str:
    try:
        number = sys.modules["cupy"].cuda.runtime.getDevice()
    except Exception:  # what went wrong first is what is to be told
        number = 0
    return f"cuda:{number}" if number else "cuda"


def _said(error: BaseException) -> str:
    """The first line of what `error` says, without the dot at its end."""
    text = str(error).strip() or type(error).__name__
    return truncate(text.splitlines()[0].rstrip("."), 200)
