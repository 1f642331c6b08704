"""Threads that work beside the caller's, kept from one step to the next."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TypeAlias

Call: TypeAlias = Callable[[], object]


class Helper:
    """A thread that makes calls, one after the other; a call raises nothing."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="xpnet helper", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # the arrays that it holds are not kept while this thread waits

    def put(self, call: Call) -> None:
        """Give it a call; one that it has not begun was for work done meanwhile, and is dropped."""
        given: Call | None = call
        with suppress(Empty):
            while given is not None:
                given = given if self._calls.get_nowait() is not None else None
        self._calls.put(given)

    def end(self) -> None:
        """End the thread, after the call that it is making."""
        self._calls.put(None)
        self._thread.join()


class _Helpers:
    """The helpers of this process: those that nobody has at present are kept for the next one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: list[Helper] = []
        self.all: list[Helper] = []
        self.has_ended = False

    def take(self) -> Helper | None:
        """One that nobody has; None if no thread can be made, or at the end of the interpreter."""
        if self.has_ended:
            return None
        if not self.free:
            try:
                self.free.append(Helper())
            except RuntimeError:
                return None
            self.all.append(self.free[-1])
        return self.free.pop()


_helpers = _Helpers()


@contextmanager
def helpers(count: int) -> Iterator[list[Helper]]:
    """In the block, at most `count` helpers that nobody else has."""
    pool = _helpers
    lent: list[Helper] = []
    try:
        with pool.lock:
            while len(lent) < count and (helper := pool.take()) is not None:
                lent.append(helper)
        yield lent
    finally:
        with pool.lock:
            pool.free += lent


def _start_anew() -> None:
    """In a forked child there is only the thread that has forked."""
    global _helpers
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


@atexit.register
def _end() -> None:
    with _helpers.lock:
        _helpers.has_ended = True
        ended, _helpers.all = _helpers.all, []
    for helper in ended:
        helper.end()
