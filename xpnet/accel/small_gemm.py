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
    """The running blocks of this process, by a key for each, which begins with its thread.

    `kept`: those of `kept`, and the number of threads that they restore. `single`: those in which
    each product uses one thread; each is within a block of `kept`.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.kept: dict[_Key, int] = {}
        self.single: set[_Key] = set()


_blocks = _Blocks()


@contextmanager
def kept() -> Iterator[int]:
    """Restore the number of BLAS threads at the end of the block, however it ends.

    Where another thread is in such a block already, and may have changed the number, it is the
    number which that block restores. The block is given this number; 1 if it is not known.
    """
    pool = _pool()
    if pool is None:
        yield 1
        return
    blocks, key, threads, outer = _blocks, (get_ident(), object()), 1, set[_Key]()
    try:
        with blocks.lock:
            threads = next(iter(blocks.kept.values()), pool.get_num_threads())
            blocks.kept[key] = threads
            outer = set(blocks.single)
        yield threads
    finally:
        with blocks.lock:
            # A recorded step that was interrupted has not left its block.
            blocks.single -= {one for one in blocks.single - outer if one[0] == key[0]}
            if blocks.kept.pop(key, None) is not None and not blocks.single:
                if pool.get_num_threads() != threads:  # `if_few` may have restored it
                    _set_threads(threads)
                _release(pool)


@contextmanager
def on_one_thread() -> Iterator[int]:
    """In the block each product uses one thread, also if other threads leave such a block.

    The block is given the number of threads that is restored when all have left.
    """
    mark = object()
    with kept() as threads:
        # More than `threads` where the program has changed the number during a training.
        is_one = max(threads, blas_threads() or 1) == 1
        try:
            if not is_one:
                _begin_single(mark)
            yield threads
        finally:
            if not is_one:
                _end_single(mark, threads)


def _begin_single(mark: object) -> None:
    """Begin a block of this thread in which each product uses one thread."""
    blocks = _blocks
    with blocks.lock:
        blocks.single.add((get_ident(), mark))
        _set_threads(1)


def _end_single(mark: object, threads: int) -> None:
    """End it: the number of threads is `threads` again once no such block is left."""
    blocks = _blocks
    with blocks.lock:
        blocks.single.discard((get_ident(), mark))
        _set_threads(threads)


def _set_threads(count: int) -> None:
    """Set the number of threads of NumPy's BLAS; 1 while a block of `single` runs.

    Called with the lock of the blocks: else another thread may begin such a block meanwhile.
    """
    pool, count = _pool(), 1 if _blocks.single else count
    pool.set_num_threads(count)
    # In threadpoolctl, only the first thread that sets that of OpenBLAS may set it again.
    if pool.get_num_threads() != count:
        _release(pool)
        pool.set_num_threads(count)


def _release(pool: Any) -> None:
    """Let any thread set the number of threads of NumPy's BLAS."""
    release = getattr(pool, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)


def _start_anew() -> None:
    """In a forked child no block of another thread runs, and none of them holds the lock."""
    blocks, me = _blocks, get_ident()
    blocks.lock = Lock()
    threads = next(iter(blocks.kept.values()), None)
    blocks.kept = {key: number for key, number in blocks.kept.items() if key[0] == me}
    blocks.single = {key for key in blocks.single if key[0] == me}
    if threads is not None:
        _set_threads(threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def blas_threads() -> int | None:
    """The number of threads of NumPy's BLAS, or None if it is not known."""
    pool = _pool()
    return None if pool is None else int(pool.get_num_threads())


def usual_threads() -> int | None:
    """The number of threads of NumPy's BLAS outside of all blocks of `kept`; None if not known.

    Another training may be in such a block, and have set the number to 1 for a moment. What a
    recorded step contains, and how many threads run it, must not depend on that.
    """
    blocks = _blocks
    with blocks.lock:
        return next(iter(blocks.kept.values()), blas_threads())


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
    with kept() as threads:
        mark = object()
        if threads > 1:
            _run(1, partial(_begin_single, mark))
        try:
            with replaced(numpy, in_pieces):
                yield
        finally:
            if threads > 1:
                _run(threads, partial(_end_single, mark, threads))


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
