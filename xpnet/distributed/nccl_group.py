"""`NcclGroup`: ranks that add arrays of GPUs by NCCL, where each rank has a GPU of its own.

The launcher's MPI starts the ranks, carries everything else and detects failures: see `MPIGroup`.
NCCL is called through `cupy.cuda.nccl`, on the current stream and in place, so an `all_reduce` is
part of a step's CUDA graph. NCCL refuses two ranks on one GPU: ranks that share one add on the
host.

Precision: an array is added in its own dtype, float32 or float64. The order of the additions is
NCCL's own, and depends on the number of ranks and how they are connected; it is one order for all
ranks, which so get the same bits.

Not yet run on a GPU. Tested without one on a double of `cupy.cuda.nccl` between MPI processes
(`tests/support/nccl_double.py`), with arrays of the CuPy double and of CuPy on a pretended device.
"""

from __future__ import annotations

import importlib
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy

from xpnet.backend import Array, Backend, HostArray
from xpnet.backend.device_errors import first_line
from xpnet.distributed.group import Group
from xpnet.errors import BackendUnavailable, ConfigError, RankError
from xpnet.utils.quiet import without_warnings

_TYPES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64"}
_NOT_READY = 600  # cudaErrorNotReady: CuPy has no name for it
_SECONDS = 1.0
"""How long after an error of NCCL the message of a rank that has failed may take."""


class Request(Protocol):
    """Something to wait for, as mpi4py's requests are."""

    def Test(self) -> bool:
        """Whether it is done."""


class NcclGroup(Group):
    """A group whose ranks may each have a GPU of their own; the base of `MPIGroup`."""

    def __init__(self) -> None:
        self._gpus: list[str | None] = []
        self._backend = Backend()
        self._nccl: Any = None
        self._communicator: Any = None
        self._called: set[tuple[int, ...]] = set()

    def own_gpu(self) -> str:
        """`cuda`, `cuda:1` ...: a GPU that this rank sees, and that no other rank is given.

        Ranks of one machine that see the same GPUs get them in their order. Raises
        `BackendUnavailable` on all ranks where there are too few.
        """
        found = self.all_gather((platform.node(), gpus_here()))
        if not found[self.rank][1]:
            Backend("cuda")  # its error says what is missing
        taken: dict[int, str] = {}
        # Those that see one GPU alone are first.
        for rank, (node, gpus) in sorted(enumerate(found), key=lambda one: len(one[1][1])):
            free = [gpu for gpu in gpus if gpu not in taken.values()]
            if not free:
                ranks = sum(gpus == other for _, other in found)
                raise BackendUnavailable(
                    f"device cuda: {ranks} ranks on {node} have {len(gpus)} GPU(s) between them, "
                    f"and each rank needs one of its own (rank {rank} has none): start fewer "
                    f"ranks, or use --device cuda:0, which they then share (slower: their "
                    f"gradients are added on the host)"
                )
            taken[rank] = free[0]
        number = found[self.rank][1].index(taken[self.rank])
        return f"cuda:{number}" if number else "cuda"

    def connect(self, backend: Backend) -> None:
        """Arrays of `backend` are added from now on: by NCCL if each rank has another GPU.

        Raises `BackendUnavailable` where NCCL is missing, `RankError` where it cannot connect.
        """
        found = self.all_gather(_gpu_of(backend))
        if found == self._gpus:
            return
        self._disconnect()
        if None not in found and len(set(found)) == self.size:
            self._nccl, self._backend = _import_nccl(self.size), backend
            number = list(self._nccl.get_unique_id()) if self.rank == 0 else None
            unique_id = bytes(self.broadcast(number) or ())

            def create() -> Any:
                return self._nccl.NcclCommunicator(self.size, unique_id, self.rank)

            with self._explained():
                self._communicator = self._in_a_thread(create)
        self._gpus, self.is_recorded = found, self._communicator is not None

    def wait_for_device(self) -> None:
        """Wait until the arrays of the current stream can be read on the host.

        A sum does not end unless all ranks take part, and CUDA itself would wait for ever.
        """
        if self._communicator is not None:
            runtime = self._backend.xp.cuda.runtime
            event = self._backend.xp.cuda.get_current_stream().record()
            with self._explained():
                self._wait(_Reached(runtime, event, self._communicator))

    def _sum(self, array: Array) -> None:
        if isinstance(array, numpy.ndarray):
            self._sum_on_host(array)
        elif self._communicator is not None:
            address, *about = self._described(array)
            given = address, address, *about, self._nccl.NCCL_SUM, self._stream()
            self._call((*about,), partial(self._communicator.allReduce, *given))
        else:
            backend = Backend.of(array)
            host = backend.to_host(array)
            self._sum_on_host(host)
            array[...] = backend.asarray(host)

    def _exchange(self, array: Array, received: Array, other: int) -> None:
        if isinstance(array, numpy.ndarray):
            self._exchange_on_host(array, received, other)
        elif self._communicator is not None:
            communicator, stream = self._communicator, self._stream()
            sent, wanted = self._described(array), self._described(received)

            def call() -> None:
                # One after the other would wait for the other rank, which does the same.
                self._nccl.groupStart()
                communicator.send(*sent, other, stream)
                communicator.recv(*wanted, other, stream)
                self._nccl.groupEnd()

            self._call((other, *sent[1:]), call)
        else:
            backend = Backend.of(array)
            host = backend.to_host(array)
            copy = numpy.empty_like(host)
            self._exchange_on_host(host, copy, other)
            received[...] = backend.asarray(copy)

    def _described(self, array: Array) -> tuple[int, int, int]:
        """Address, number of elements and dtype as NCCL takes them."""
        name = str(array.dtype)
        if name not in _TYPES or not array.flags.c_contiguous:
            kind = "a contiguous" if array.flags.c_contiguous else "not a contiguous"
            raise ConfigError(
                f"distributed: arrays of a GPU that ranks add must be contiguous, and float32 or "
                f"float64, found {kind} array of {name}: copy or convert it first"
            )
        return int(array.data.ptr), int(array.size), getattr(self._nccl, _TYPES[name])

    def _stream(self) -> int:
        return int(self._backend.xp.cuda.get_current_stream().ptr)

    def _call(self, kind: tuple[int, ...], call: Callable[[], None]) -> None:
        """`call()`; the first one of a `kind` connects to other ranks, and may wait for them.

        It is not part of a capture, since a step is run before it is captured.
        """
        with self._explained():
            if kind in self._called:
                call()
            else:
                self._in_a_thread(call)
                self._called.add(kind)

    def _in_a_thread(self, call: Callable[[], Any]) -> Any:
        """`call()` that waits for other ranks, so that it ends here if one of them fails."""
        thread = _Thread(call, self._backend)
        self._wait(thread)
        return thread.result()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of NCCL as `RankError`: that of a rank that has failed, if there is one."""
        try:
            yield
        except self._nccl.NcclError as error:
            self._raise_failure(_SECONDS)
            raise RankError(
                f"NCCL reports {first_line(error)}: another rank, or the connection between GPUs, "
                f"has failed; NCCL_DEBUG=INFO in the environment says more"
            ) from error

    def _raise_failure(self, seconds: float = 0.0) -> None:
        """Raise `RankError` if another rank has failed."""
        if found := self.failure(seconds):
            rank, code, text = found
            raise RankError(f"rank {rank} failed: {text}", reported=True, exit_code=code)

    def _abort(self) -> None:
        """End what the GPU waits for, after an error: nothing is added any more."""
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.abort()

    def _disconnect(self) -> None:
        """Give up the communicator; all ranks call it together."""
        communicator, self._communicator = self._communicator, None
        self._called.clear()
        if communicator is not None:
            communicator.destroy()

    def _wait(self, *requests: Request) -> None:
        """Wait until all requests are done. Raises `RankError`."""
        raise NotImplementedError

    def _sum_on_host(self, array: HostArray) -> None:
        """`all_reduce` of an array of the host."""
        raise NotImplementedError

    def _exchange_on_host(self, array: HostArray, received: HostArray, other: int) -> None:
        """Send an array of the host to a rank, and receive its array."""
        raise NotImplementedError


class _Reached:
    """The moment when a stream reaches an event; errors of the communicator are raised."""

    def __init__(self, runtime: Any, event: Any, communicator: Any) -> None:
        self._runtime, self._event, self._communicator = runtime, event, communicator

    def Test(self) -> bool:
        self._communicator.check_async_error()
        # An error of CUDA also ends the wait; the next read of an array raises it.
        return bool(self._runtime.eventQuery(self._event.ptr) != _NOT_READY)


class _Thread(threading.Thread):
    """A call in a thread of its own, on the device of `backend`."""

    def __init__(self, call: Callable[[], Any], backend: Backend) -> None:
        super().__init__(daemon=True)
        self._call, self._backend = call, backend
        self._made: Any = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._backend.current():
                self._made = self._call()
        except Exception as error:
            self._error = error

    def Test(self) -> bool:
        return not self.is_alive()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._made


def gpus_here() -> list[str]:
    """The GPUs that this process sees, in the order of their numbers, by their UUIDs."""
    try:
        import cupy

        runtime = cupy.cuda.runtime
        return [_uuid(runtime, number) for number in range(runtime.getDeviceCount())]
    except (ImportError, RuntimeError):
        return []


def _gpu_of(backend: Backend) -> str | None:
    """The GPU of a backend by its UUID; None for the CPU."""
    return None if backend.xp is numpy else _uuid(backend.xp.cuda.runtime, backend.number)


def _uuid(runtime: Any, number: int) -> str:
    return bytes(runtime.getDeviceProperties(number)["uuid"]).hex()


def _import_nccl(ranks: int) -> Any:
    # CuPy warns where the library is missing, and gives a module without functions.
    with without_warnings():
        nccl = importlib.import_module("cupy.cuda.nccl")
    if not nccl.available:
        raise BackendUnavailable(
            f"distributed: {ranks} ranks, each with a GPU of its own, need NCCL, which CuPy cannot "
            f"load here: pip install nvidia-nccl-cu13 (or nvidia-nccl-cu12 for a CUDA 12 driver); "
            f"ranks that share a GPU (--device cuda:0) need none, and add on the host"
        )
    return nccl
