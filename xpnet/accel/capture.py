"""What must not happen while a stream is captured: garbage collection, and the freeing of handles.

`cublasDestroy` and `cudaFree` wait for the whole device. While a stream of it is captured CUDA
refuses to wait, and the capture fails. Python frees an object at any moment: here when another
thread ends its training, or when the garbage collector finds an old one.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# Reentrant: a finaliser may run in the thread that holds it.
_lock = threading.RLock()
_running = 0
_gc_was_enabled = False
_postponed: list[Callable[[], Any]] = []


@contextmanager
def undisturbed() -> Iterator[None]:
    """For the time of a capture nothing is collected, and what `free_with` frees has to wait."""
    global _running, _gc_was_enabled
    gc.collect()
    with _lock:
        if _running == 0:
            _gc_was_enabled = gc.isenabled()
            gc.disable()
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                if _gc_was_enabled:
                    gc.enable()
                while _postponed:
                    # On a device that is lost nothing can be freed, and nothing needs to be.
                    with suppress(Exception):
                        _postponed.pop()()


def free_with(owner: object, free: Callable[..., Any], *arguments: Any) -> None:
    """Call `free(*arguments)` once `owner` is gone and nothing is being captured."""
    weakref.finalize(owner, _free, free, *arguments).atexit = False


def _free(free: Callable[..., Any], *arguments: Any) -> None:
    with _lock:
        if _running:
            _postponed.append(lambda: free(*arguments))
        else:
            free(*arguments)
