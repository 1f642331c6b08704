"""`MPIGroup`: ranks that mpiexec has started, which communicate by MPI.

A rank that fails notifies the others, and every wait in a training has a limit: MPI itself would
let them wait for ever. So each collective call is a non-blocking one, and a waiting rank looks for
its completion, for failures of other ranks, and at the clock; after a while it asks whether the
others still run, which a thread of each rank answers.
"""

from __future__ import annotations

import atexit
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy

from xpnet.backend import HostArray
from xpnet.distributed.group import ALONE, Group
from xpnet.distributed.launcher import Launched, launched, refuse
from xpnet.distributed.nccl_group import NcclGroup, Request
from xpnet.distributed.watch import killed_after
from xpnet.errors import ConfigError, RankError, exit_code

T = TypeVar("T")

START_SECONDS = 300.0
"""How long the processes wait for each other when MPI starts."""

ASK_SECONDS = 12.0
"""How long a rank waits for the others before it asks whether they still run."""

ANSWER_SECONDS = 6.0
"""How long a rank that runs may take to answer."""

MOST_SECONDS = 1800.0
"""The longest that a rank waits for others that run, but do not come to the same point."""

GRACE = 3.0
"""Seconds between the error of a rank and the end of all ranks."""

_FAILED, _QUESTION, _ANSWER = 1, 2, 3
_SPINS = 200
_PAUSE = 5e-5


_INSTALL = "mpi4py mpich"
"""As the extra `mpi`: not `xpnet[mpi]`, since xpnet is on no package index."""


@cache
def mpi() -> Group:
    """The group of all ranks that mpiexec has started; a group of one rank without mpiexec.

    Raises `ConfigError` where mpi4py (extra `mpi`) is not installed, or its MPI cannot be used.
    """
    if find_spec("mpi4py") is None:
        raise ConfigError(f"distributed: mpi4py is not installed: run pip install {_INSTALL}")
    found = launched()
    try:
        with _bounded_start(found):
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"distributed: mpi4py cannot load an MPI library ({error}): run pip install {_INSTALL}"
        ) from None
    size = int(MPI.COMM_WORLD.size)
    if found is not None and found.by != "torchrun" and size == 1 < found.size:
        raise ConfigError(
            f"distributed: {found.by} has started {found.size} processes, and mpi4py sees one, "
            f"since its MPI library is not that of {found.by}: use the mpiexec of this Python "
            f"environment, or with srun the option --mpi that your library needs"
        )
    if size > 1 and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise ConfigError(
            "distributed: this MPI library does not let several threads call it "
            f"(MPI_THREAD_MULTIPLE): use another one, such as that of pip install {_INSTALL}"
        )
    return Group() if size == 1 else MPIGroup(MPI)


def _bounded_start(found: Launched | None) -> AbstractContextManager[None]:
    """A limit for the start of MPI, which waits until all processes have started it."""
    if found is None or found.size == 1:
        return nullcontext()
    message = (
        f"xpnet: error: distributed: of the {found.size} processes that {found.by} has started, "
        f"some have not started MPI after {START_SECONDS:g} seconds: look for their errors above, "
        f"and whether Python and xpnet are installed on each machine"
    )
    # The first process whose time is over prints its line, and ends the others.
    return killed_after(START_SECONDS + found.rank, message)


def joined() -> Group:
    """The group of the processes that mpiexec has started, or of this process alone.

    Raises `ConfigError` where this process is one of several that cannot join.
    """
    found = launched()
    if found is None or found.size == 1:
        return ALONE
    if found.by == "torchrun":
        refuse(
            found,
            f"distributed: {found.by} has started {found.size} processes, which xpnet cannot join "
            f"to one training: start them with mpiexec",
        )
    try:
        return mpi()
    except ConfigError as error:
        refuse(found, str(error))


class MPIGroup(NcclGroup):
    """All ranks of `MPI.COMM_WORLD`, each a process."""

    def __init__(self, MPI: Any) -> None:
        super().__init__()
        self._MPI = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        self._messages = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self._sent: list[Any] = []
        self._is_training = self._has_failed = False
        self._failures: list[tuple[int, int, str]] = []
        self._exit_code = 0
        self._pending: list[Any] = []
        self._ends = threading.Event()
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()
        atexit.register(self._at_exit)  # called before MPI ends, since it is registered later

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        own = numpy.frombuffer(json.dumps(value).encode(), numpy.uint8)
        sizes = numpy.zeros(self.size, numpy.int64)
        self._wait(self._comm.Iallgather(numpy.array([len(own)]), sizes))
        everything = numpy.empty(int(sizes.sum()), numpy.uint8)
        ends = numpy.cumsum(sizes)
        starts = ends - sizes
        received = [everything, sizes, starts, self._MPI.BYTE]
        self._wait(self._comm.Iallgatherv([own, self._MPI.BYTE], received))
        pairs = zip(starts, ends, strict=True)
        return [json.loads(everything[start:end].tobytes()) for start, end in pairs]

    def broadcast(self, value: T) -> T:
        """The value of rank 0."""
        return self.all_gather(value if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def broadcast_arrays(self, arrays: dict[str, HostArray]) -> dict[str, HostArray]:
        """The arrays of rank 0."""
        about = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        found = {}
        for name, dtype, shape in self.broadcast(about):
            array = numpy.empty(shape, dtype)
            if self.rank == 0:
                array[...] = arrays[name]
            self._wait(self._comm.Ibcast([array.reshape(-1).view(numpy.uint8), self._MPI.BYTE], 0))
            found[name] = array
        return found

    def smallest(self, value: int) -> int:
        """The smallest value over the ranks."""
        array = numpy.array([value])
        self._wait(self._comm.Iallreduce(self._MPI.IN_PLACE, array, self._MPI.MIN))
        return int(array[0])

    @contextmanager
    def training(self) -> Iterator[None]:
        """A training by this group: if it fails on this rank, the others are notified.

        After that the group cannot be used, and when the process exits, it ends all ranks. An error
        that all ranks raise alike, such as `DivergenceError`, is no failure of this rank.
        """
        if self._is_training:
            yield
            return
        if self._has_failed:
            raise ConfigError(
                "distributed: a training of these ranks has failed, so they may wait for each "
                "other: start the program again"
            )
        self._is_training = True
        try:
            yield
        except BaseException as error:
            if not getattr(error, "on_all_ranks", False):
                self._fail(error)
            raise
        finally:
            self._is_training = False

    def _fail(self, error: BaseException) -> None:
        # Also `sys.exit(0)` is a failure here: the training is not complete.
        self._has_failed, self._exit_code = True, exit_code(error) or 1
        if not (isinstance(error, RankError) and error.reported):
            text = f"{self._exit_code} {type(error).__name__}: {error}".encode()
            for other in range(self.size):
                if other != self.rank:
                    self._send(text, other, _FAILED)
        self._abort()

    def _at_exit(self) -> None:
        """End all ranks after a failure: MPI would wait for those that wait for this one."""
        if self._has_failed and self._exit_code:
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(GRACE)  # the rank that reports the error may still be about to
            self._MPI.COMM_WORLD.Abort(self._exit_code)
        self._disconnect()
        self._ends.set()
        self._answering.join()

    def failure(self, seconds: float = 0.0) -> tuple[int, int, str] | None:
        """Rank, exit code and error of the lowest rank that is known to have failed, or None.

        Waits up to `seconds` for one that is lower than this one.
        """
        end = time.monotonic() + seconds
        while True:
            status = self._MPI.Status()
            if self._messages.Iprobe(self._MPI.ANY_SOURCE, _FAILED, status):
                received = bytearray(status.Get_count(self._MPI.BYTE))
                self._messages.Recv(received, status.source, _FAILED)
                code, _, text = received.decode(errors="replace").partition(" ")
                self._failures.append((status.source, int(code), text))
                continue
            lowest = min(self._failures, default=None)
            if time.monotonic() >= end or (lowest is not None and lowest[0] < self.rank):
                return lowest
            time.sleep(0.01)

    def _sum_on_host(self, array: HostArray) -> None:
        self._wait(self._comm.Iallreduce(self._MPI.IN_PLACE, array))

    def _exchange_on_host(self, array: HostArray, received: HostArray, other: int) -> None:
        self._wait(self._comm.Irecv(received, other), self._comm.Isend(array, other))

    def _wait(self, *requests: Request) -> None:
        """Wait until all requests are done. Raises `RankError`."""
        waiting, looks, began, asked = list(requests), 0, 0.0, 0.0
        while True:
            while waiting and waiting[-1].Test():
                waiting.pop()
            if not waiting:
                return
            looks += 1
            if looks < _SPINS:
                continue
            now = time.monotonic()
            if looks == _SPINS:
                began = asked = now
            elif looks % 100 == 0:
                self._pending = waiting  # MPI may still write into their buffers
                self._raise_failure()
                if now - began > MOST_SECONDS:
                    raise RankError(
                        f"all ranks run, but some have not reached this step after "
                        f"{MOST_SECONDS:g} seconds"
                    )
                if now - asked > ASK_SECONDS:
                    self._ask()
                    asked = time.monotonic()
            time.sleep(_PAUSE)

    def _ask(self) -> None:
        """Ask the other ranks whether they run. Raises `RankError` that names those that do not."""
        silent, end = set(range(self.size)) - {self.rank}, time.monotonic() + ANSWER_SECONDS
        for other in silent:
            self._send(b"", other, _QUESTION)
        while silent and time.monotonic() < end:
            status = self._MPI.Status()
            if self._messages.Iprobe(self._MPI.ANY_SOURCE, _ANSWER, status):
                self._messages.Recv(bytearray(1), status.source, _ANSWER)
                silent.discard(status.source)
            else:
                time.sleep(0.01)
        self._raise_failure()
        if silent:
            names = ", ".join(map(str, sorted(silent)))
            which = f"rank {names} does" if len(silent) == 1 else f"ranks {names} do"
            raise RankError(
                f"{which} not answer: exited, stopped or unreachable (no answer for "
                f"{ANSWER_SECONDS:g} seconds)"
            )

    def _send(self, text: bytes, other: int, kind: int) -> None:
        # MPI reads the text after this call.
        self._sent = [(request, sent) for request, sent in self._sent if not request.Test()]
        self._sent.append((self._messages.Isend(text, other, kind), text))

    def _answer(self) -> None:
        """Answer the questions of other ranks, in a thread of its own, until the process ends."""
        while not self._ends.wait(0.2):
            status = self._MPI.Status()
            while self._messages.Iprobe(self._MPI.ANY_SOURCE, _QUESTION, status):
                self._messages.Recv(bytearray(1), status.source, _QUESTION)
                self._send(b"", status.source, _ANSWER)
