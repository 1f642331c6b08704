"""Ranks that are threads of one process: what `xpnet.distributed` does, without MPI."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np

from xpnet.backend import Backend
from xpnet.distributed.group import Group


class _Shared:
    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=120)
        self.values: list[Any] = [None] * size


class ThreadGroup(Group):
    """A rank among threads; sums are added in the order of the ranks."""

    is_recorded = False

    def __init__(self, shared: _Shared, rank: int) -> None:
        self._shared, self.rank, self.size = shared, rank, shared.size
        self.sums = 0

    def all_gather(self, value):
        found = self._objects(json.dumps(value))
        return [json.loads(text) for text in found]

    def broadcast(self, value):
        return self.all_gather(value)[0]

    def broadcast_arrays(self, arrays):
        return {name: array.copy() for name, array in self._objects(arrays)[0].items()}

    def _objects(self, value):
        shared = self._shared
        shared.values[self.rank] = value
        shared.barrier.wait()
        found = list(shared.values)
        shared.barrier.wait()
        return found

    def _sum(self, array):
        self.sums += 1
        backend = Backend.of(array)
        found = self._objects(backend.to_host(array).copy())
        total = found[0]
        for other in found[1:]:
            total = total + other
        array[...] = backend.asarray(np.asarray(total, found[0].dtype))

    def _exchange(self, array, received, other):
        backend = Backend.of(array)
        received[...] = backend.asarray(self._objects(backend.to_host(array).copy())[other])

    @contextmanager
    def training(self):
        try:
            yield
        except BaseException as error:
            if not getattr(error, "on_all_ranks", False):
                self._shared.barrier.abort()
            raise


def on_ranks(size: int, function: Callable[[Group], Any]) -> list[Any]:
    """`function(group)` on `size` ranks; raises the error of the first rank that has one.

    Errors of ranks that only waited for another come last.
    """
    shared = _Shared(size)
    results: list[Any] = [None] * size
    errors: list[tuple[bool, int, BaseException]] = []

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadGroup(shared, rank))
        except BaseException as error:
            if not getattr(error, "on_all_ranks", False):
                shared.barrier.abort()
            errors.append((isinstance(error, threading.BrokenBarrierError), rank, error))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors, key=lambda found: found[:2])[2]
    return results
