"""What happens while a stream is captured: nothing is collected, and no handle is freed.

On the double, which spoils a capture as CUDA does, and with `--device cuda` on CuPy.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import strict_cupy
import strict_graphs
from strict_graphs import graphs_on_the_double
from test_cuda_graph import trained

from xpnet.accel import capture
from xpnet.accel.cublas import Products
from xpnet.accel.cuda_graph import _GraphStream
from xpnet.backend import Backend


class Old:
    """What an earlier training left to the garbage collector."""

    def __init__(self, xp: Any) -> None:
        self.products = Products(xp, xp.cuda.Stream(non_blocking=True))
        self.pool = _GraphStream(xp)
        self.cycle = self


def in_each_capture(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> list[bool]:
    """From now on `action` is called between two calls of each step that is captured."""
    captured, made = _GraphStream.capture, []

    def capture_with(self: _GraphStream, calls: tuple[Any, ...]) -> Any:
        graph = captured(self, (*calls[:3], action, *calls[3:]))
        made.append(True)
        return graph

    monkeypatch.setattr(_GraphStream, "capture", capture_with)
    return made


def test_a_collection_within_a_capture_spoils_nothing(
    device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning that graphs are left out would be an error here."""
    gc.collect()

    def make_and_collect() -> None:
        # Garbage that the collection before the capture has not seen.
        olds.clear()
        gc.collect()

    olds = [Old(device.xp) for _ in range(2)]
    made = in_each_capture(monkeypatch, make_and_collect)
    trained(device)
    assert made == [True, True], "a graph for each size of batch"
    assert capture._postponed == []
    if device.xp is strict_cupy.xp:
        assert "broken" not in strict_graphs.log


def test_the_double_notices_a_handle_that_is_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail."""
    with graphs_on_the_double() as cublas:
        handle = cublas.create()
        in_each_capture(monkeypatch, lambda: cublas.destroy(handle))
        with pytest.warns(RuntimeWarning, match="Invalidated"):
            trained()
    assert strict_cupy.capture.calls is None


def test_the_collector_is_off_during_a_capture(
    device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    in_each_capture(monkeypatch, lambda: seen.append(gc.isenabled()))
    trained(device)
    assert seen == [False, False]
    assert gc.isenabled()


def test_garbage_is_collected_before_a_capture() -> None:
    freed: list[int] = []

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            freed.append(capture._running)

    Garbage()
    with capture.undisturbed():
        assert freed == [0]


def test_the_collector_is_left_as_it_was() -> None:
    """Also by captures in several threads, of which the last one to end enables it again."""
    with pytest.raises(KeyError), capture.undisturbed():
        raise KeyError
    assert gc.isenabled()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with capture.undisturbed():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with capture.undisturbed():
        thread.start()
        assert inside.wait(60)
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()
    gc.disable()
    try:
        with capture.undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


class Owner:
    """Has something to be freed."""


def test_what_another_thread_frees_waits_for_the_end_of_the_capture() -> None:
    freed: list[str] = []

    def end_a_training() -> None:
        owner = Owner()
        capture.free_with(owner, freed.append, "handle")
        del owner

    with capture.undisturbed():
        thread = threading.Thread(target=end_a_training)
        thread.start()
        thread.join()
        assert freed == []
    assert freed == ["handle"]
    end_a_training()
    assert freed == ["handle", "handle"]


def test_what_cannot_be_freed_does_not_end_a_training() -> None:
    freed: list[str] = []

    def fail() -> None:
        raise RuntimeError("the device is lost")

    with capture.undisturbed():
        for free, arguments in ((freed.append, ("one",)), (fail, ()), (freed.append, ("two",))):
            capture.free_with(Owner(), free, *arguments)
    assert sorted(freed) == ["one", "two"]
