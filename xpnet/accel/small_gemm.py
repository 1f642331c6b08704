"""Small batches: one BLAS thread, and products small enough that OpenBLAS does not pack matrices.

After a product on two cores, half of the weights are in the other core's cache, and the update,
which runs on one core, has to load them again. With few rows that costs more than the second core
saves: a step of 784-128-64-10 in batches of 16 takes 166 µs on two cores, 137 on one, and when data
pass slowly from core to core 396 and 139 (`bench/NOTES.md`).

OpenBLAS copies both matrices of a product into an order of its own before it multiplies them;
for 16 rows that is a quarter of the time. It leaves that out for a product of at most a million
multiplications (on x86-64 with AVX-512: `kernel/x86_64/sgemm_small_kernel_permit_skylakex.c`),
so a larger one is cut into pieces. Other BLAS libraries compute the pieces like any product.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, TypeAlias

import numpy
import threadpoolctl

from xpnet.accel.program import Op, factors, is_executed, operation, replaced, run_op
from xpnet.backend import Array

FEW_ROWS = 32
FEW_PRODUCTS = 4_500_000
"""Multiplications of a forward pass, rows times weights, beyond which two cores are faster."""

PIECE = 1_000_000
"""Multiplications up to which a product is not packed."""

_STEP = 16
"""Rows or columns of a piece come in multiples of a float32 vector."""


_Key: TypeAlias = tuple[int, object]


class _Blocks:
    """The running blocks of this process in which each product uses one thread.

    `single`: a key for each, which begins with its thread; `usual`: the number of threads that is
    restored when the last one has ended.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.single: set[_Key] = set()
        self.usual = 1


_blocks = _Blocks()


@contextmanager
def kept() -> Iterator[None]:
    """At the end of the block, however it ends, the number of BLAS threads is as usual again.

    Recorded steps in it begin and end blocks on one thread. If Ctrl-C comes between the two, the
    block is ended here.
    """
    if _pool() is None:
        yield
        return
    blocks, me = _blocks, get_ident()
    outer = blocks.single.copy()
    try:
        yield
    finally:
        with blocks.lock:
            for key in blocks.single - outer:
                if key[0] == me:
                    _end(key)


@contextmanager
def on_one_thread() -> Iterator[int]:
    """In the block each product uses one thread, also if other threads leave such a block.

    The block is given the number of threads that is restored when all have left; 1 if it is not
    known.
    """
    blocks, key = _blocks, (get_ident(), object())
    if _pool() is None:
        yield 1
        return
    with kept():  # if Ctrl-C comes in `finally`
        try:
            with blocks.lock:
                _begin(key, blas_threads() or 1)
                threads = blocks.usual
            yield threads
        finally:
            with blocks.lock:
                _end(key)


def _begin_single(mark: object) -> None:
    """Begin a block of this thread in which each product uses one thread, if that is a change."""
    blocks = _blocks
    with blocks.lock:
        number = blas_threads() or 1
        if blocks.single or number != 1:
            _begin((get_ident(), mark), number)


def _end_single(mark: object) -> None:
    blocks, key = _blocks, (get_ident(), mark)
    if key in blocks.single:
        with blocks.lock:
            _end(key)


def _begin(key: _Key, number: int) -> None:
    """Begin a block on one thread; the caller has the lock of the blocks.

    `number`: of threads, at present.
    """
    blocks = _blocks
    # Another part of the program may have changed it since the first block began.
    if not blocks.single or number > 1:
        blocks.usual = number
    blocks.single.add(key)
    if number > 1:
        _set_threads(1)


def _end(key: _Key) -> None:
    """End a block, if it has begun, and restore the number of threads if no other one runs.

    A number that another part of the program has set meanwhile is left as it is. The caller has the
    lock of the blocks.
    """
    blocks = _blocks
    if blocks.single == {key} and blocks.usual > 1 and blas_threads() == 1:
        _set_threads(blocks.usual)
    blocks.single.discard(key)


def _set_threads(count: int) -> None:
    """Set the number of threads of NumPy's BLAS; the caller has the lock of the blocks."""
    pool = _pool()
    (_of_openblas(pool) or pool.set_num_threads)(count)


@cache
def _of_openblas(pool: Any) -> Callable[[int], object] | None:
    """OpenBLAS's own function that sets the number, if `pool` is OpenBLAS with its own threads.

    In threadpoolctl only the first thread that has set the number may set it again, until it gives
    up this right: another training, or a limit of another thread that ends, would have no effect.
    """
    if getattr(pool, "threading_layer", None) != "pthreads":
        return None
    names = (f"{p}openblas_set_num_threads{s}" for p in ("scipy_", "") for s in ("64_", "_64", ""))
    return next((f for name in names if (f := getattr(pool.dynlib, name, None))), None)


def _start_anew() -> None:
    """In a forked child no block of another thread runs, and none of them holds the lock."""
    blocks, me = _blocks, get_ident()
    blocks.lock = Lock()
    for key in blocks.single.copy():
        if key[0] != me:
            _end(key)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def blas_threads() -> int | None:
    """The number of threads of NumPy's BLAS, or None if it is not known."""
    pool = _pool()
    return None if pool is None else int(pool.get_num_threads())


def usual_threads() -> int | None:
    """The number of threads of NumPy's BLAS where no block on one thread runs, or None.

    Another thread may be in such a block: what is chosen for a whole training must not depend on
    that.
    """
    blocks = _blocks
    with blocks.lock:
        number = blas_threads()
        return max(number, blocks.usual) if number and blocks.single else number


@contextmanager
def if_few(x: Array, weights: Array) -> Iterator[None]:
    """In the block, a forward and backward pass of `x` `(N, F)` uses one core if that is faster.

    `weights`: `(P,)`, all parameters of the network; their number decides.
    """
    rows = len(x)
    is_small = rows <= FEW_ROWS and rows * weights.size <= FEW_PRODUCTS
    # Steps that are only listed are for compiled loops, which cut their products themselves.
    is_small = is_small and isinstance(weights, numpy.ndarray) and is_executed(numpy)
    if not is_small or _pool() is None:
        yield
        return
    with kept():
        mark = object()
        # Also where the number is 1 now: another thread may have set it for a moment.
        _run(1, partial(_begin_single, mark))
        try:
            with replaced(numpy, in_pieces):
                yield
        finally:
            _run(usual_threads() or 1, partial(_end_single, mark))


def in_pieces(op: Op) -> Sequence[Op]:
    """The operations that compute `op`, a product of NumPy's arrays, in pieces."""
    matrices, out = factors(op), op.output
    if op.name != "dot" or out is None or matrices is None:
        return (op,)
    a, b = matrices
    if a.size * b.shape[1] <= PIECE:
        return (op,)
    (rows, inner), columns = a.shape, b.shape[1]
    longer, shorter = max(rows, columns), min(rows, columns)
    step = PIECE // (inner * shorter) // _STEP * _STEP or longer
    parts = (slice(start, start + step) for start in range(0, longer, step))
    if rows == longer:
        pieces = [((a[part], b), out[part]) for part in parts]
    else:
        pieces = [((a, b[:, part]), out[:, part]) for part in parts]
    return [operation(numpy, "matmul", inputs, {"out": output}) for inputs, output in pieces]


def _run(threads: int, call: Callable[[], None]) -> None:
    run_op(numpy, Op("set_num_threads", (threads,), None, call))


@cache
def _pool() -> Any:
    """NumPy's own BLAS, as threadpoolctl sees it; None where it sees none."""
    pools = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    home = str(Path(numpy.__file__).parent)
    own = [pool for pool in pools if pool.filepath.startswith(home)]
    return (own or pools or [None])[0]
