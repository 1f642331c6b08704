"""Warnings are back when the last of several threads has left a block without them."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

import xpnet as xn
from xpnet.utils import quiet
from xpnet.utils.quiet import without_warnings


@pytest.mark.parametrize("first_ends", ["first", "last"])
@pytest.mark.parametrize("of_threads", [False, True])
def test_blocks_that_overlap(
    first_ends: str, of_threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each thread has its own filters, Python's own blocks serve, one within the other."""
    monkeypatch.setattr(quiet, "_FILTERS_OF_THREADS", of_threads)
    before = list(warnings.filters)
    first, second = without_warnings(), without_warnings()
    blocks = [first, second] if first_ends == "first" and not of_threads else [second, first]
    first.__enter__()
    second.__enter__()
    blocks[0].__exit__(None, None, None)
    assert warnings.filters[0][0] == "ignore"
    assert list(warnings.filters) != before
    blocks[1].__exit__(None, None, None)
    assert list(warnings.filters) == before


def test_an_error_in_a_block_ends_it() -> None:
    before = list(warnings.filters)
    with pytest.raises(KeyboardInterrupt), without_warnings():
        raise KeyboardInterrupt
    assert list(warnings.filters) == before


class Slow:
    """Samples that NumPy can convert, after a while."""

    def __init__(self, begun: Event, last: Event) -> None:
        self.begun, self.last = begun, last

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self.begun.set()
        assert self.last.wait(10)
        warnings.warn("not shown", stacklevel=1)
        return np.ones((2, 3), np.float32)


def test_two_threads_that_predict() -> None:
    before = list(warnings.filters)
    network = xn.Sequential(3, 2, seed=0)
    events = [(Event(), Event()) for _ in range(2)]
    found: list[Any] = []

    def predicts(begun: Event, last: Event) -> Callable[[], None]:
        return lambda: found.append(network(Slow(begun, last)))

    threads = [Thread(target=predicts(*pair)) for pair in events]
    for thread, (begun, _) in zip(threads, events, strict=True):
        thread.start()
        assert begun.wait(10)
    for thread, (_, last) in zip(threads, events, strict=True):
        last.set()
        thread.join()
    assert len(found) == 2
    assert list(warnings.filters) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows lacks")
def test_a_child_that_another_thread_forks_in_a_block_has_warnings() -> None:
    program = """
import os, signal, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork and threads
from xpnet.utils import quiet
before, begun, last = list(warnings.filters), threading.Event(), threading.Event()

def other():
    with quiet.without_warnings(), quiet._blocks.lock:
        begun.set()
        last.wait(60)

thread = threading.Thread(target=other)
thread.start()
begun.wait(60)
child = os.fork()
if not child:
    signal.alarm(20)
    assert warnings.filters == before
    with quiet.without_warnings():
        assert warnings.filters != before
    assert warnings.filters == before
    os._exit(0)
last.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
assert warnings.filters == before
print("both")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
