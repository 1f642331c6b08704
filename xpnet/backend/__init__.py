"""The `xp` dispatch: `array_module`, and the few functions in which NumPy and CuPy differ.

Every formula in xpnet is written once on a module called `xp`. On the CPU `xp` is NumPy, on
an NVIDIA GPU it is CuPy. CuPy is imported only if a CUDA device is requested.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy
from numpy.typing import NDArray

from xpnet.backend.context import changed, current
from xpnet.backend.device_errors import unusable
from xpnet.errors import BackendUnavailable, ConfigError, DataError, DeviceMismatch, short_repr

Array: TypeAlias = Any
"""An array of whichever module computes: `numpy.ndarray` or `cupy.ndarray`."""

HostArray: TypeAlias = NDArray[Any]
"""An array in the host's memory: always NumPy's."""

P = ParamSpec("P")
R = TypeVar("R")

_ALIGNMENT = 64
_HERE = nullcontext()
_NO_DEVICE = 100  # cudaErrorNoDevice: CuPy has no name for it
_HOST_MEMORY = (1, 3, 11)  # DLPack's kDLCPU, kDLCUDAHost, kDLROCMHost
_modules: dict[type, Any] = {numpy.ndarray: numpy}


def add_array_module(array_type: type, module: Any) -> None:
    """Register `module` as the array module of `array_type`."""
    _modules[array_type] = module


def array_module(*arrays: Array) -> Any:
    """The module (NumPy or CuPy) that all `arrays` belong to.

    Raises `DeviceMismatch`, naming both, if they belong to different modules, and `TypeError` if
    one of them is not an array.
    """
    module = _modules.get(type(arrays[0])) or _module_of(arrays[0])
    for array in arrays[1:]:
        other = _modules.get(type(array)) or _module_of(array)
        if other is not module:
            raise DeviceMismatch(
                f"arrays of {module.__name__} and of {other.__name__} were used in one operation: "
                f"move one of them with Backend.asarray() or Backend.to_host()"
            )
    substitute = current().substitute
    return module if substitute is None or substitute != module else substitute


def shared(array: Any, xp: Any = numpy) -> Any:
    """An array of another library (PyTorch, JAX, ...) as a NumPy or CuPy array of the same memory.

    It uses DLPack: an array in host memory becomes a NumPy array, one on a GPU an array of `xp`,
    without a copy. Objects without DLPack, and NumPy and CuPy arrays, are returned unchanged.
    Raises `DeviceMismatch` for memory that `xp` cannot read, and `DataError` for arrays that cannot
    be exported, such as a tensor that requires a gradient.
    """
    if type(array) in _modules or not hasattr(array, "__dlpack__"):
        return array
    if isinstance(array, tuple(_modules)):
        return array
    library = type(array).__module__.partition(".")[0]
    name = f"{library}.{type(array).__name__}"
    try:
        kind, number = array.__dlpack_device__()
        if kind in _HOST_MEMORY:
            return numpy.from_dlpack(array)
        if xp is not numpy:
            return xp.from_dlpack(array)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        why = str(error).rstrip(".")
        raise DataError(
            f"a {name} does not share its memory ({why}): give a dense one that requires no "
            f"gradient (PyTorch: tensor.detach()), of a dtype that NumPy has"
        ) from None
    raise DeviceMismatch(
        f"a {name} is on {getattr(array, 'device', f'device {kind}:{number}')}, where NumPy "
        f"cannot read it: move it to the host first (PyTorch: tensor.cpu())"
    )


def substitute_of(module: Any) -> Any:
    """The replacement for `module` in this thread, such as a recorder, or None."""
    substitute = current().substitute
    return substitute if substitute == module else None


def not_substituted(xp: Any) -> Any:
    """The array module that `xp` is, or that it replaces: arrays made with it are not recorded."""
    return next((module for module in list(_modules.values()) if module == xp), xp)


def substituted(module: Any) -> AbstractContextManager[None]:
    """Within the block `array_module` returns `module` in place of the one that it equals.

    For this thread only. `module` computes as the array module `xp` does, and does something
    else besides: see `xpnet.accel`.
    """
    return changed(substitute=module)


def _module_of(array: Array) -> Any:
    for array_type, module in list(_modules.items()):
        if isinstance(array, array_type):
            _modules[type(array)] = module
            return module
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        add_array_module(cupy.ndarray, cupy)
        return cupy
    raise TypeError(
        f"expected a NumPy or CuPy array, found {type(array).__name__}: "
        f"convert it with Backend.asarray()"
    )


class Backend:
    """A device: `"cpu"`, `"cuda"`, `"cuda:1"`, or `"auto"`.

    `auto` chooses the first CUDA device that works, else the CPU; the attribute `device` names the
    choice. `.xp` is the array module. Raises `BackendUnavailable` where CUDA was asked for and
    CuPy, the driver or the device is missing, and `ConfigError` for any other word.
    """

    def __init__(self, device: str = "cpu") -> None:
        if not isinstance(device, str):
            raise ConfigError(
                f"device must be cpu, cuda, cuda:N or auto, found {short_repr(device)}"
            )
        if device == "auto":
            try:
                _import_cupy(0)
                device = "cuda"
            except BackendUnavailable:
                device = "cpu"
        self.device = device
        kind, _, number = device.partition(":")
        if device == "cpu":
            self.xp: Any = numpy
        elif kind == "cuda" and (number.isdecimal() or device == "cuda"):
            self.xp = _import_cupy(int(number or 0))
        else:
            raise ConfigError(f"unknown device {device!r}: use cpu, cuda, cuda:N or auto")

    @classmethod
    def of(cls, array_or_module: Any) -> Backend:
        """The backend that an array lives on, or that an array module in use computes on."""
        module = array_or_module
        if not any(module is known for known in _modules.values()):
            module = _module_of(array_or_module)
        backend = cls()
        if module is not numpy:
            number = getattr(getattr(array_or_module, "device", None), "id", 0)
            backend.device = f"cuda:{number}" if number else "cuda"
            backend.xp = module
        return backend

    def __repr__(self) -> str:
        return f"Backend({self.device!r})"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """`array` (host array, sequence or number) on this device: the transfer host → device.

        Arrays that are already on this device are not copied, nor those of other libraries: see
        `shared`.
        """
        with self.current():
            return self.xp.asarray(shared(array, self.xp), dtype=dtype)

    def to_host(self, array: Array) -> HostArray:
        """`array` as a NumPy array: the transfer device → host, which waits for the device."""
        return array if isinstance(array, numpy.ndarray) else numpy.asarray(array.get())

    def zeros(self, size: int, dtype: Any) -> Array:
        """A vector of `size` zeros that begins at an address divisible by 64."""
        with self.current():
            return zeros(self.xp, size, dtype)

    def current(self) -> AbstractContextManager[Any]:
        """Within the block this thread computes on this device.

        CUDA has one current device per thread (at first device 0); memory is allocated and kernels
        are launched there, even if the arrays are on another device.
        """
        if self.xp is numpy:
            return _HERE
        device: AbstractContextManager[Any] = self.xp.cuda.Device(self.number)
        return device

    @property
    def number(self) -> int:
        """The CUDA device number; 0 for the CPU."""
        return int(self.device.partition(":")[2] or 0)

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        if self.xp is not numpy:
            with self.current():
                self.xp.cuda.get_current_stream().synchronize()


def on_its_device(function: Callable[P, R]) -> Callable[P, R]:
    """`function` within `current()` of the backend that its first argument, a network, has.

    Raises `ConfigError` for an argument that has none.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        network: Any = args[0] if args else kwargs.get("network")
        backend = getattr(network, "backend", None)
        if not isinstance(backend, Backend):
            if not args and "network" not in kwargs:
                return function(*args, **kwargs)  # Python says what is missing
            found = (
                f"the class {network.__name__}"
                if isinstance(network, type)
                else short_repr(network)
            )
            raise ConfigError(f"network must be a Sequential, found {found}")
        with backend.current():
            return function(*args, **kwargs)

    return call


def is_same(one: Array, other: Array) -> bool:
    """Whether two contiguous arrays of one size and dtype are the same memory."""
    if type(one) is not type(other) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one is other or _address(one) == _address(other)


def _address(array: Array) -> int:
    return int(array.ctypes.data if isinstance(array, numpy.ndarray) else array.data.ptr)


def zeros(xp: Any, size: int, dtype: Any) -> Array:
    """A vector of `size` zeros that begins at an address divisible by 64.

    NumPy does not align to 64 bytes; vector instructions that cross cache lines take up to twice as
    long. While a step is recorded, this is no operation of it.
    """
    module = not_substituted(xp)
    if module is not numpy:
        return module.zeros(size, dtype=dtype)
    itemsize = numpy.dtype(dtype).itemsize
    raw = numpy.zeros(size * itemsize + _ALIGNMENT, dtype=numpy.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size * itemsize].view(dtype)


def strided(array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """A view of the memory of `array` with another shape and other strides, in bytes.

    `as_strided` of NumPy or CuPy; here, because a step that is recorded knows the functions of the
    module `xp` alone. Nothing checks that the view lies within the array.
    """
    module = _modules.get(type(array)) or _module_of(array)
    return module.lib.stride_tricks.as_strided(array, shape, strides)


def gather(source: Array, indices: Array, out: Array) -> Array:
    """Rows `source[indices]` written into `out`: NumPy and CuPy differ here.

    NumPy's default mode copies `out` to be able to undo an error; `clip` does not. CuPy has
    no modes. Neither reports an index that is out of range, so indices must be valid.
    """
    xp = array_module(source, indices, out)
    if not isinstance(out, numpy.ndarray):
        return xp.take(source, indices, axis=0, out=out)
    host = xp  # NumPy or its substitute
    return host.take(source, indices, axis=0, out=out, mode="clip")


def argmax(rows: Array, out: Array | None = None, workspace: Any = None) -> Array:
    """The column of the largest number of each row `(N, C)`: `(N,)` int64.

    The first of several. A NaN counts as larger than any number, so that a row with some gives the
    first NaN. CuPy's own `argmax` gives any of them: NumPy and CuPy differ here. With `out` and a
    `Workspace` nothing is allocated in a steady state.
    """
    xp = array_module(rows)
    if isinstance(rows, numpy.ndarray):
        # Of one row, the method takes a fifth of the time of the function.
        return rows.argmax(axis=1) if out is None else xp.argmax(rows, axis=1, out=out)

    def array(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        if workspace is None:
            return xp.empty(shape, dtype=dtype)
        return workspace.array(xp, name, shape, dtype)

    if out is None:
        out = xp.empty(len(rows), dtype=xp.int64)
    is_nan, has_nan = array("is nan", rows.shape, bool), array("has nan", out.shape, bool)
    first = array("first nan", out.shape, xp.int64)
    xp.isnan(rows, out=is_nan)
    xp.any(is_nan, axis=1, out=has_nan)
    xp.argmax(is_nan, axis=1, out=first)
    xp.argmax(rows, axis=1, out=out)
    xp.copyto(out, first, where=has_nan)
    return out


def _import_cupy(number: int) -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(
            f"device cuda needs CuPy, which cannot be imported here ({error}): "
            f"pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' for a CUDA 12 driver)"
        ) from error
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == _NO_DEVICE:
            count = 0
        else:
            raise BackendUnavailable(
                f"device cuda needs an NVIDIA driver, and CuPy found none that it can use "
                f"({error}): install or update the NVIDIA driver, or use --device cpu"
            ) from error
    if number >= count:
        raise BackendUnavailable(
            f"device cuda:{number} does not exist, this machine shows {count} CUDA device(s): "
            f"check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
        )
    try:
        cupy.cuda.Device(number).use()
        _try_out(cupy)
    except Exception as error:
        raise unusable(cupy, number, error) from error
    add_array_module(cupy.ndarray, cupy)
    _be_exact()
    return cupy


def _be_exact() -> None:
    """CuPy's products are float32, whatever CUPY_TF32 says; see `xpnet.accel.cublas` for others."""
    from cupy._core._routines_linalg import COMPUTE_TYPE_FP32, set_compute_type

    set_compute_type("float32", COMPUTE_TYPE_FP32)


def _try_out(cupy: Any) -> None:
    """Run a kernel and a product, so that an incompatible installation fails here, not in training.

    Of matrices: CuPy computes the product of two vectors without cuBLAS.
    """
    ones = cupy.ones((2, 2), dtype="float32")
    float(cupy.dot(ones, ones)[0, 0])
