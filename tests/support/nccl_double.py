"""A double of `cupy.cuda.nccl` between MPI processes: NCCL's rules, on arrays of the host.

Arrays are those of the strict CuPy double, or of CuPy on the pretended device; there is no GPU.
What NCCL leaves undefined is an error here: other counts, dtypes or calls than the other ranks
make, calls in another order, on another device or stream than the current one, a `send` outside of
a group. As on a GPU a call returns even if other ranks never make theirs: after `patience` seconds
the device waits for ever (`Event.unreached`), and what it was to compute is NaN. A first call of
NCCL may wait instead, until `abort()`: then `patience` is large.
"""

from __future__ import annotations

import os
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import strict_cupy
from strict_graphs import Event, _current

TYPES = {7: "float32", 8: "float64"}


class NcclError(RuntimeError):
    """As `cupy.cuda.nccl.NcclError`."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__({5: "NCCL_ERROR_INVALID_USAGE", 6: "NCCL_ERROR_REMOTE_ERROR"}[status])


class OnStrictCupy:
    """How the double reads and writes arrays of the strict CuPy double, and knows its state."""

    def stream(self) -> int:
        return _current[-1].ptr

    def device(self) -> int:
        return strict_cupy.current[-1]

    def read(self, address: int, count: int, dtype: str) -> Any:
        return self._at(address, count, dtype).copy()

    def write(self, address: int, values: Any) -> None:
        self._at(address, len(values), values.dtype.name)[...] = values

    def _at(self, address: int, count: int, dtype: str) -> Any:
        kind = np.ctypeslib.as_ctypes_type(np.dtype(dtype))
        return np.ctypeslib.as_array((kind * count).from_address(address))

    def now_or_later(self, name: str, call: Callable[[], None]) -> None:
        if strict_cupy.capture.calls is None:
            call()
        else:
            strict_cupy.capture.keep(name, call, self)

    def require_no_capture(self, name: str) -> None:
        strict_cupy.capture.refuse("sync", name)


class OnCupy:
    """The same for CuPy on the pretended device, where its calls cannot be captured."""

    def __init__(self, cupy: Any) -> None:
        self.cuda = cupy.cuda

    def stream(self) -> int:
        return self.cuda.get_current_stream().ptr

    def device(self) -> int:
        return self.cuda.runtime.getDevice()

    def read(self, address: int, count: int, dtype: str) -> Any:
        self.cuda.get_current_stream().synchronize()
        values = np.empty(count, dtype)
        kind = self.cuda.runtime.memcpyDeviceToHost
        self.cuda.runtime.memcpy(values.ctypes.data, address, values.nbytes, kind)
        return values

    def write(self, address: int, values: Any) -> None:
        kind = self.cuda.runtime.memcpyHostToDevice
        self.cuda.runtime.memcpy(address, values.ctypes.data, values.nbytes, kind)

    def now_or_later(self, name: str, call: Callable[[], None]) -> None:
        self.require_no_capture(name)
        call()

    def require_no_capture(self, name: str) -> None:
        stream = self.cuda.get_current_stream()
        assert not stream.is_capturing(), f"{name}: the double of NCCL cannot be captured on CuPy"


class Nccl(types.ModuleType):
    """The module; `on`: the arrays that it works on."""

    available = True
    NcclError = NcclError
    NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 7, 8

    def __init__(self, on: OnStrictCupy | OnCupy, patience: float = 60.0) -> None:
        super().__init__("cupy.cuda.nccl")
        self.on, self.patience = on, patience
        self.calls: Counter[str] = Counter()
        """How often the device has executed each function."""
        self.status = 0
        """What `check_async_error` raises, if not 0."""
        self.group: list[tuple[str, Any, tuple[int, ...]]] | None = None
        self.grouping = 0
        self.kept: list[Any] = []
        nccl = self

        class NcclCommunicator:
            """A communicator of all ranks of `MPI.COMM_WORLD`."""

            def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
                assert type(commId) is bytes, "a tuple before CuPy 14"
                assert len(commId) == 128
                nccl.on.require_no_capture("NcclCommunicator")
                from mpi4py import MPI  # which starts MPI in this process

                self._MPI = MPI
                assert nccl.group is None
                self._comm: Any = MPI.COMM_WORLD.Dup()
                assert (ndev, rank) == (self._comm.size, self._comm.rank)
                self._device = nccl.on.device()
                assert len(set(self._comm.allgather(commId))) == 1, "ids of several communicators"
                self.number = 0

            def allReduce(
                self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int
            ) -> None:
                about = self._checked(count, datatype, stream, op)
                assert nccl.group is None, "the double groups only send and recv"

                def call() -> None:
                    own = nccl.on.read(sendbuf, count, TYPES[datatype])
                    if self._agree(about):
                        request = self._comm.Iallreduce(self._MPI.IN_PLACE, own)
                        if self._is_done([request], own):
                            nccl.calls["allReduce"] += 1
                            nccl.on.write(recvbuf, own)
                            return
                    nccl.on.write(recvbuf, np.full_like(own, np.nan))

                nccl.on.now_or_later("allReduce", call)

            def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
                self._grouped("send", sendbuf, count, datatype, peer, stream)

            def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
                self._grouped("recv", recvbuf, count, datatype, peer, stream)

            def abort(self) -> None:
                self._comm = None
                Event.unreached.clear()

            def destroy(self) -> None:
                assert not Event.unreached, "destroy() would wait for ever: abort()"
                self._comm = None

            def check_async_error(self) -> None:
                assert self._comm is not None
                if nccl.status:
                    raise NcclError(nccl.status)

            def _checked(
                self, count: int, datatype: int, stream: int, last: int
            ) -> tuple[int, ...]:
                assert self._comm is not None, "aborted or destroyed"
                assert datatype in TYPES
                assert count > 0
                assert last == nccl.NCCL_SUM or nccl.group is not None
                assert self._device == nccl.on.device(), "another device than the communicator's"
                assert stream == nccl.on.stream(), "not on the current stream"
                return count, datatype, last

            def _grouped(
                self, name: str, buffer: int, count: int, datatype: int, peer: int, stream: int
            ) -> None:
                assert nccl.group is not None, f"{name} outside of a group waits for the other rank"
                assert peer != self._comm.rank
                about = self._checked(count, datatype, stream, peer)
                nccl.group.append((name, self, (buffer, *about)))

            def _agree(self, about: tuple[int, ...]) -> bool:
                """Whether all ranks came; raises if one of them adds something else."""
                self.number += 1
                own = np.array([self.number, *about], np.int64)
                found = np.empty((self._comm.size, len(own)), np.int64)
                if not self._is_done([self._comm.Iallgather(own, found)], own, found):
                    return False
                assert (found == own).all(), f"ranks add something else: {found.tolist()}"
                return True

            def _exchange(self, calls: list[tuple[str, tuple[int, ...]]]) -> None:
                """The `send` and `recv` of a group; a header of each goes first."""
                requests, received, kept = [], [], []
                for name, (buffer, count, datatype, peer) in calls:
                    header = np.array([count, datatype], np.int64)
                    values = nccl.on.read(buffer, count, TYPES[datatype])
                    if name == "send":
                        requests += [self._comm.Isend(part, peer) for part in (header, values)]
                    else:
                        head, values = np.empty_like(header), np.empty_like(values)
                        requests += [self._comm.Irecv(part, peer) for part in (head, values)]
                        received.append((buffer, head, header, values))
                    kept += [header, values]
                done = self._is_done(requests, kept, received)
                for buffer, head, header, values in received:
                    assert not done or (head == header).all(), f"sent {head}, expected {header}"
                    nccl.on.write(buffer, values if done else np.full_like(values, np.nan))
                nccl.calls.update(name for name, _ in calls if done)

            def _is_done(self, requests: list[Any], *buffers: Any) -> bool:
                """Whether the other ranks come within `patience`; else the device waits."""
                end = time.monotonic() + (0 if Event.unreached else nccl.patience)
                while self._comm is not None and not self._MPI.Request.Testall(requests):
                    if time.monotonic() > end:
                        Event.unreached.append("a sum without the other ranks")
                        nccl.kept += [requests, buffers]  # MPI may still write into them
                        return False
                    time.sleep(1e-4)
                return self._comm is not None

        self.NcclCommunicator = NcclCommunicator

    def get_unique_id(self) -> bytes:
        return os.urandom(128)

    def groupStart(self) -> None:
        assert self.group is None
        self.group, self.grouping = [], threading.get_ident()

    def groupEnd(self) -> None:
        assert self.group
        assert self.grouping == threading.get_ident(), "a group is of one thread"
        calls, self.group = self.group, None
        communicator = calls[0][1]
        found = [(name, about) for name, own, about in calls if own is communicator]
        assert len(found) == len(calls)
        self.on.now_or_later("groupEnd", lambda: communicator._exchange(found))
