"""Threads that run parts of a step beside the caller's, kept from one step to the next."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue


class Helper:
    """A thread that makes calls, one after the other."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        # A daemon: at the end of the interpreter it waits for calls, or nobody wants its result.
        threading.Thread(target=self._work, name="xpnet helper", daemon=True).start()

    def start(self, call: Callable[[], None]) -> None:
        """Make `call`, which raises nothing, after those that it was given before."""
        self._calls.put(call)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            call()
            del call  # what it holds is not kept while this thread waits


class _Helpers:
    """The helpers that nobody has at present."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: list[Helper] = []


@contextmanager
def helpers(count: int) -> Iterator[list[Helper]]:
    """In the block, at most `count` helpers that nobody else has; fewer if no more can be made."""
    pool = _helpers
    lent: list[Helper] = []
    try:
        with pool.lock:
            while len(lent) < count:
                lent.append(pool.free.pop() if pool.free else Helper())
    except RuntimeError:
        pass  # no new thread: too many, or the interpreter ends
    try:
        yield lent
    finally:
        with pool.lock:
            pool.free += lent


_helpers = _Helpers()


def _start_anew() -> None:
    """In a forked child there is only the thread that has forked."""
    global _helpers
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
