"""Blocks without warnings, in which several threads may be at a time."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FILTERS_OF_THREADS = bool(getattr(sys.flags, "context_aware_warnings", False))
"""Whether each thread has filters of its own: a setting of Python 3.14 and later."""


class _Blocks:
    """The running blocks of this process, by a key for each, and what restores the filters."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: set[object] = set()
        self.filters: warnings.catch_warnings[None] | None = None

    def begin(self, key: object) -> None:
        with self.lock:
            if self.filters is None:
                self.filters = warnings.catch_warnings(action="ignore")
                self.filters.__enter__()
            self.running.add(key)

    def end(self, key: object) -> None:
        with self.lock:
            self.running.discard(key)
            if self.filters is not None and not self.running:
                filters, self.filters = self.filters, None
                filters.__exit__(None, None, None)


_blocks = _Blocks()


@contextmanager
def without_warnings() -> Iterator[None]:
    """In the block no warning is shown, nor made an error.

    `warnings.catch_warnings` changes the filters of the process. Where such blocks of two threads
    overlap, the one that began second restores the filters of the first, and no warning would be
    shown any more. Here the first one to begin changes the filters, and the last one to end
    restores them.
    """
    if _FILTERS_OF_THREADS:
        with warnings.catch_warnings(action="ignore"):
            yield
        return
    key = object()
    try:
        _blocks.begin(key)
        yield
    finally:
        _blocks.end(key)


def _start_anew() -> None:
    """In a forked child no block of another thread runs, and none of them holds the lock."""
    _blocks.lock = threading.Lock()
    _blocks.running.clear()
    _blocks.end(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
