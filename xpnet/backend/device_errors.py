"""One-line explanations of GPU errors.

CuPy and CUDA raise a dozen kinds of error; they are distinguished here by their names and status
numbers, so that nothing is imported on a machine that computes on the CPU.
"""

from __future__ import annotations

import sys
from typing import Any

from xpnet.errors import BackendUnavailable, XpnetError, truncate

_NO_CODE = 209  # cudaErrorNoKernelImageForDevice
_OF_CUDA = {"CUDARuntimeError", "CUDADriverError", "CUBLASError", "cuBLASError", "NVRTCError"}


def unusable(cupy: Any, number: int, error: Exception) -> BackendUnavailable:
    """Why the first computation on device `number` failed, and what to do."""
    why = first_line(error)
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
        f"device {device or _current_device()} failed in the middle of work ({first_line(error)}): "
        f"what was saved is kept; see nvidia-smi and the kernel's log (Xid), then start again or "
        f"resume from a checkpoint"
    )


def _current_device() -> str:
    try:
        number = sys.modules["cupy"].cuda.runtime.getDevice()
    except Exception:  # the first error is the one to report
        number = 0
    return f"cuda:{number}" if number else "cuda"


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, without a final full stop."""
    text = str(error).strip() or type(error).__name__
    return truncate(text.splitlines()[0].rstrip("."), 200)
