"""Matrix products by SciPy's BLAS in a tape: layouts, degenerate sizes, the number of threads."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from xpnet.accel.cpu import blas

SIZES = [(1, 1, 1), (5, 3, 7), (1, 9, 4), (9, 1, 4), (4, 6, 1), (3, 4, 0), (64, 10, 128)]


def matrix(rng: Any, rows: int, columns: int, dtype: str, by_columns: bool) -> np.ndarray:
    shape = (columns, rows + 3) if by_columns else (rows, columns + 5)
    whole = rng.standard_normal(shape).astype(dtype)
    part: np.ndarray = whole[:, :rows].T if by_columns else whole[:, :columns]
    return part


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("kind", range(8))
def test_products_of_every_layout(kind: int, add: bool, dtype: str) -> None:
    rng = np.random.default_rng(kind)
    for rows, columns, k in SIZES:
        a = matrix(rng, rows, k, dtype, by_columns=bool(kind & 1))
        b = matrix(rng, k, columns, dtype, by_columns=bool(kind & 2))
        c = matrix(rng, rows, columns, dtype, by_columns=bool(kind & 4))
        whole = c.base
        assert whole is not None
        before, around = c.astype(np.longdouble), whole.copy()
        exact = a.astype(np.longdouble) @ b.astype(np.longdouble) + add * before
        # In any order, k + 1 terms: gamma of k + 2 roundings (Higham, section 3.1).
        unit = np.finfo(dtype).eps / 2
        sizes = abs(a).astype(np.longdouble) @ abs(b).astype(np.longdouble) + add * abs(before)
        block = blas.product_block(a, b, c, add)
        pointer = block.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
        blas.product().ctypes(pointer, 0)
        bound = (k + 2) * unit / (1 - (k + 2) * unit) * sizes
        assert (abs(c - exact) <= bound).all(), (rows, columns, k)
        c[:] = before.astype(dtype)
        np.testing.assert_array_equal(whole, around)


def pools() -> dict[str, int]:
    return {p["filepath"]: p["num_threads"] for p in threadpoolctl.threadpool_info()}


def test_one_thread_is_for_scipy_s_library_alone_and_restored() -> None:
    pool = blas._pool()
    before = pools()
    assert "scipy" in pool.filepath
    pool.set_num_threads(2)
    expected = {**before, pool.filepath: 2}
    with blas.one_thread():
        assert pools() == {**expected, pool.filepath: 1}
        with blas.one_thread():
            pass
        assert pool.get_num_threads() == 1
    assert pools() == expected
    pool.set_num_threads(before[pool.filepath])


def test_the_last_of_two_threads_restores_the_number() -> None:
    pool = blas._pool()
    before = pool.get_num_threads()
    pool.set_num_threads(2)
    with blas.one_thread():
        # It enters later and leaves earlier.
        thread = threading.Thread(target=enter_and_leave)
        thread.start()
        thread.join()
        assert pool.get_num_threads() == 1
    assert pool.get_num_threads() == 2
    pool.set_num_threads(before)


def enter_and_leave() -> None:
    with blas.one_thread():
        pass


def test_without_a_library_that_threadpoolctl_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_pool", lambda: None)
    with blas.one_thread():
        pass
