"""How many threads of the BLAS take the forward pass: one, where more would cost the update.

A product on two cores leaves half of the weights in the other core's cache, and the update,
which one core makes, has to fetch them back. With few rows that costs more than the second
core saves: for 784-128-64-10 and batches of 16, 30 µs of a step against 15.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy
import threadpoolctl

from xpnet.backend import Array, listener_of

FEW_ROWS = 32
FEW_WEIGHTS = 2**18
"""Weights beyond this fill more than one core's cache whatever is done."""

_lock = Lock()
_numbers: list[int] = []
"""What the blocks of `kept` that are under way leave behind: the same number, once for each."""


@contextmanager
def kept() -> Iterator[None]:
    """Leave the number of threads as it was, however the block ends.

    A block may begin while one in another thread is in a forward pass: it takes the number
    from that one.
    """
    pool = _pool()
    if pool is None:
        yield
        return
    with _lock:
        threads = _numbers[0] if _numbers else pool.get_num_threads()
        _numbers.append(threads)
    try:
        yield
    finally:
        with _lock:
            _numbers.pop()
            pool.set_num_threads(threads)


@contextmanager
def of_forward_pass(x: Array, weights: Array) -> Iterator[None]:
    """Within the block, the number of threads for a batch `x` `(N, F)` and these `weights`."""
    is_small = len(x) <= FEW_ROWS and weights.size <= FEW_WEIGHTS
    pool = _pool() if is_small and isinstance(x, numpy.ndarray) else None
    threads = pool.get_num_threads() if pool else 1
    if pool is None or threads == 1:
        yield
        return
    _run(partial(pool.set_num_threads, 1))
    try:
        yield
    finally:
        _run(partial(pool.set_num_threads, threads))


def _run(call: partial[Any]) -> None:
    listener = listener_of(numpy)
    if listener is None:
        call()
    else:
        listener.keep(call)


@cache
def _pool() -> Any:
    """NumPy's own BLAS, as threadpoolctl sees it; None where it sees none."""
    pools = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    home = str(Path(numpy.__file__).parent)
    own = [pool for pool in pools if pool.filepath.startswith(home)]
    return (own or pools or [None])[0]
