"""Matrix products with xpnet's own cuBLAS handle, and their precision.

CuPy's own cuBLAS handle cannot be captured in a CUDA graph; it can use TF32, but not bfloat16. So
the products in a CUDA graph (`xpnet.accel.cuda_graph`), and all products of a training with
`fit(precision=)`, are computed here, with NVIDIA's cuBLAS bindings (`nvmath-python`, in the extras
`cuda12` and `cuda13`), in a graph and outside of it alike.

A precision applies to the product of two matrices, which in xpnet are those of `Linear`. cuBLAS
rounds the factors to 10 (`tf32`) or 7 (`bfloat16`) bits of mantissa, multiplies, and accumulates in
float32. Weights, gradients, activations, the optimizer's state, sums over a batch (which are
products with a vector of ones) and every other formula stay float32. So there is no second copy of
the weights, and no loss scaling is needed.

Not yet run on a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy

from xpnet.accel import capture
from xpnet.accel.cublas_bindings import cublas_bindings
from xpnet.accel.program import PRODUCTS, Call, Op, factors, replaced
from xpnet.backend import Array, Backend
from xpnet.backend.context import changed
from xpnet.errors import BackendUnavailable, ConfigError, short_repr

PRECISIONS = {"float32": 68, "tf32": 77, "bfloat16": 75}
"""Of products of float32 matrices: CUBLAS_COMPUTE_32F, then with _FAST_TF32, _FAST_16BF."""

_SINCE = 8
"""The lowest compute capability with tensor cores for the last two."""

_WORKSPACE = {True: 32 * 2**20, False: 4 * 2**20}
"""Bytes of workspace that NVIDIA recommends for cuBLAS: from Hopper on, and before."""

_KINDS = {"float32": (0, PRECISIONS["float32"]), "float64": (1, 70)}
"""CUDA_R_32F and CUBLAS_COMPUTE_32F, without TF32, and the same for 64."""


def require(precision: str, backend: Backend, dtype: object) -> None:
    """Raise `ConfigError` if products on `backend` cannot have this `precision`."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ConfigError(
            f"precision must be one of {', '.join(PRECISIONS)}, found {short_repr(precision)}"
        )
    if precision == "float32":
        return
    leave = "leave precision out"
    if not hasattr(backend.xp, "cuda"):
        raise ConfigError(
            f"precision {precision} needs an NVIDIA GPU, found device {backend.device}: use "
            f"--device cuda, or {leave}"
        )
    if str(dtype) != "float32":
        raise ConfigError(f"precision {precision} is of float32, found dtype {dtype}: {leave}")
    with backend.current():
        capability = str(backend.xp.cuda.Device().compute_capability)
    if int(capability[:-1]) < _SINCE:
        raise ConfigError(
            f"precision {precision} needs compute capability {_SINCE}.0, device {backend.device} "
            f"has {capability[:-1]}.{capability[-1]}: {leave}"
        )


def chosen(precision: str, backend: Backend, dtype: object) -> Products | None:
    """What computes products with `precision`; None if the backend does so itself.

    Raises `ConfigError` if the precision is not supported, and `BackendUnavailable` if the cuBLAS
    bindings are missing.
    """
    require(precision, backend, dtype)
    if precision == "float32":
        return None
    try:
        return Products(backend.xp, backend.xp.cuda.get_current_stream(), precision)
    except RuntimeError as error:
        raise BackendUnavailable(f"precision {precision} cannot be had: {error}") from error


@contextmanager
def used(products: Products | None) -> Iterator[None]:
    """Within the block this thread computes products of two float32 matrices by `products`."""
    if products is None:
        yield
        return
    with changed(precision=products.precision), replaced(products.xp, products.replace):
        yield


def _is_reducible(a: Array, b: Array) -> bool:
    """Whether the precision applies to the product of these arrays."""
    return bool(a.ndim == b.ndim == 2 and a.dtype == b.dtype == "float32")


def workspace_bytes(xp: Any) -> int:
    """Bytes of workspace of each handle on the current device."""
    major = int(str(xp.cuda.Device().compute_capability)[:-1])
    return _WORKSPACE[major >= 9]


class Products:
    """Matrix products by a cuBLAS handle of its own, on `stream` alone.

    Raises `RuntimeError` where the bindings are missing, and whatever cuBLAS raises.
    """

    def __init__(self, xp: Any, stream: Any, precision: str = "float32") -> None:
        try:
            cublas = cublas_bindings()
        except ImportError as error:
            raise RuntimeError(
                f"the cuBLAS bindings cannot be imported ({error}): pip install nvmath-python"
            ) from error
        self.xp, self.precision, self._cublas = xp, precision, cublas
        self._handle = cublas.create()
        capture.free_with(self, cublas.destroy, self._handle)
        self._workspace = xp.empty(workspace_bytes(xp), dtype=xp.uint8)
        # In this order: a new stream brings the workspace of all streams back.
        cublas.set_stream(self._handle, stream.ptr)
        cublas.set_workspace(self._handle, self._workspace.data.ptr, self._workspace.nbytes)
        self._factors = {name: numpy.array([1, 0], name) for name in _KINDS}

    def replace(self, op: Op) -> Sequence[Op]:
        """`op`, a product, computed by this handle if it is one of two float32 matrices."""
        matrices = factors(op)
        if matrices is None or not _is_reducible(*matrices):
            return (op,)
        return (dataclasses.replace(op, call=partial(self._matrices, *matrices, op.output)),)

    def _matrices(self, a: Array, b: Array, out: Array | None) -> Array:
        if out is None:
            out = self.xp.empty((len(a), b.shape[1]), dtype=a.dtype)
        try:
            call = self.product(a, b, out)
        except TypeError:  # CuPy copies such arrays too
            call = self.product(a.copy(), b.copy(), out)
        call()
        return out

    def call_of(self, op: Op) -> Call:
        """The call of `op`; of a product of `xp`, the same product by this handle."""
        if op.name not in PRODUCTS or len(op.inputs) != 2 or op.options:
            return op.call
        a, b = op.inputs
        if op.name == "dot" and b.ndim > 2:
            raise TypeError("a dot product with several matrices")  # it is not a product of each
        return self.product(a, b, op.output)

    def product(self, a: Array, b: Array, out: Array) -> Call:
        """`out = a b`, of vectors, matrices or stacks of matrices: a call without arguments.

        Raises `TypeError` for other dtypes and for arrays that are neither C- nor F-contiguous.
        """
        cublas, dtype = self._cublas, str(out.dtype)
        if not (a.dtype == b.dtype == out.dtype and dtype in _KINDS):
            raise TypeError(f"a product of {a.dtype} and {b.dtype} into {out.dtype}")
        if not out.flags.c_contiguous or max(a.ndim, b.ndim) > 3 or a.ndim < b.ndim - 1:
            raise TypeError(f"a product of {a.shape} and {b.shape} into {out.shape}")
        if a.ndim == b.ndim == 1:
            return partial(self._dot, a, b, out)
        count = len(b) if b.ndim == 3 else 1
        inner, columns = (*b.shape, 1)[:2] if b.ndim < 3 else b.shape[1:]
        rows = out.size // (count * columns)
        kind, compute = _KINDS[dtype]
        if _is_reducible(a, b):
            compute = PRECISIONS[self.precision]
        # cuBLAS is column-major: for it, `out` is `outᵀ = bᵀ aᵀ`.
        (turn_b, step_b), (turn_a, step_a) = _lies(b, inner, columns), _lies(a, rows, inner)
        one = self._factors[dtype].ctypes.data
        zero = one + out.itemsize
        head = (self._handle, turn_b, turn_a, columns, rows, inner)
        first, second = (b.data.ptr, kind, step_b), (a.data.ptr, kind, step_a)
        third, tail = (out.data.ptr, kind, columns), (compute, -1)  # CUBLAS_GEMM_DEFAULT
        if count == 1:
            return partial(cublas.gemm_ex, *head, one, *first, *second, zero, *third, *tail)
        apart = inner * columns, rows * inner if a.ndim == 3 else 0, rows * columns
        return partial(
            cublas.gemm_strided_batched_ex,
            *(*head, one, *first, apart[0], *second, apart[1]),
            *(zero, *third, apart[2], count, *tail),
        )

    def _dot(self, a: Array, b: Array, out: Array) -> None:
        """Of two vectors, with the result on the device: cuBLAS needs the pointer mode."""
        kind = _KINDS[str(out.dtype)][0]
        cublas, handle = self._cublas, self._handle
        cublas.set_pointer_mode(handle, 1)
        try:
            one, other = (a.data.ptr, kind, 1), (b.data.ptr, kind, 1)
            cublas.dot_ex(handle, a.size, *one, *other, out.data.ptr, kind, kind)
        finally:
            cublas.set_pointer_mode(handle, 0)


def _lies(array: Array, rows: int, columns: int) -> tuple[int, int]:
    """How cuBLAS is to take the transpose of `array` `(rows, columns)`: turned or not, its step."""
    if array.flags.c_contiguous:
        return 0, columns
    if array.flags.f_contiguous and array.ndim == 2:
        return 1, rows
    raise TypeError("a product of an array that lies neither row by row nor column by column")
