"""Matrix products by SciPy's BLAS, for any processor, in float32 and float64.

`scipy.linalg.cython_blas` gives the address of its `sgemm` and `dgemm`, which numba's `np.dot`
calls too. It is another library than NumPy's BLAS, with a number of threads of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from numba.extending import get_cython_function_address

from xpnet.accel.cpu.blocks import pattern
from xpnet.accel.cpu.compiled import compiled
from xpnet.accel.cpu.llvm import call_integers
from xpnet.backend import HostArray

_NAMES = {"float32": "sgemm", "float64": "dgemm"}
_POINTERS = 13
"""Arguments of `gemm`, a function of Fortran: each is the address of a value."""


def _product(p, step):
    call_integers(
        p[0], (p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13])
    )


@cache
def product() -> Any:
    """C (+)= A B for a block of `product_block`, compiled."""
    return compiled(_product)


def product_block(a: HostArray, b: HostArray, c: HostArray, add: bool = False) -> HostArray:
    """The arguments of a product `c = a b` or, with `add`, `c += a b`.

    Each of the three has its rows or its columns side by side. The block contains addresses in
    itself, so it must not be copied. `c` overlaps neither `a` nor `b`.
    """
    if not _is_by_rows(c):
        a, b, c = b.T, a.T, c.T
    (rows, columns), inner = c.shape, a.shape[1]
    # Fortran's matrices lie by columns: its C is ours transposed, Cᵀ = Bᵀ Aᵀ.
    letters = [ord("N" if _is_by_rows(x) else "T") for x in (b, a)]
    numbers = [pattern(x, c.dtype) for x in (1.0, float(add))]
    b_step, a_step, c_step = (_step(x) for x in (b, a, c))
    values = [*letters, columns, rows, inner, numbers[0], b_step, a_step, numbers[1], c_step]
    block = np.zeros(1 + _POINTERS + len(values), np.int64)
    block[1 + _POINTERS :] = values
    start = block.ctypes.data + 8 * (1 + _POINTERS)
    at = [start + 8 * i for i in range(len(values))]
    pointers = [*at[:6], b.ctypes.data, at[6], a.ctypes.data, at[7], at[8], c.ctypes.data, at[9]]
    block[0], block[1 : 1 + _POINTERS] = _address(c.dtype.name), pointers
    return block


def _is_by_rows(x: HostArray) -> bool:
    return x.strides[1] == x.itemsize or x.shape[1] <= 1


def _step(x: HostArray) -> int:
    """Numbers from row to row, or from column to column, at least as many as BLAS wants."""
    across = 0 if _is_by_rows(x) else 1
    return int(max(x.strides[across] // x.itemsize, x.shape[1 - across], 1))


@cache
def _address(dtype: str) -> int:
    function: Any = get_cython_function_address
    return int(function("scipy.linalg.cython_blas", _NAMES[dtype]))


@cache
def _pool() -> Any:
    """SciPy's BLAS, as threadpoolctl sees it; None where it sees none."""
    import scipy

    _address("float32")  # loads the library
    pools = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    home = str(Path(scipy.__file__).parent)
    # A wheel has its libraries in `scipy.libs`, beside `scipy`, or in it.
    own = [pool for pool in pools if pool.filepath.startswith(home)]
    return (own or pools or [None])[0]


_lock = threading.Lock()
_before: list[int] = []
"""The number of threads to restore, once for each block of `one_thread` that runs."""


@contextmanager
def one_thread() -> Iterator[None]:
    """In the block, SciPy's BLAS computes each product on the thread that calls it."""
    pool = _pool()
    if pool is None:
        yield
        return
    with _lock:
        _before.append(_before[0] if _before else pool.get_num_threads())
        pool.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            threads = _before.pop()
            if not _before:
                pool.set_num_threads(threads)
