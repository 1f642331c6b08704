"""`mpiexec -n P python nccl_program.py WHERE OUT CASE ...`: cases of `test_ranks.py` by NCCL.

WHERE: `double`, the strict CuPy double with graphs, or `cupy`, CuPy on the pretended device, both
with the double of NCCL; `nccl`: GPUs and NCCL itself. `CASE@M`: with M reproducible parts. The
results go to OUT. Or one CASE that goes wrong in the last step of an epoch: `raises`, `stops` on
rank 1, `reports`, `other` on rank 0; or `stops at once`, in the first step. Or `rules`: what the
double of NCCL refuses; or `command` and the arguments of `python -m xpnet.train`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import strict_cupy
import test_ranks
from nccl_double import Nccl, OnCupy, OnStrictCupy
from strict_graphs import Event, Stream, graphs_on_the_double, log

import xpnet as xn
import xpnet.backend
import xpnet.train
from xpnet.backend import Backend
from xpnet.backend.context import change
from xpnet.distributed import mpi_group, nccl_group

STEPS = 11
"""Of an epoch of `test_ranks.CASES`."""


@contextmanager
def devices(where: str) -> Iterator[tuple[Backend, Any]]:
    """The device of this rank, and NCCL or its double, then in place of `cupy.cuda.nccl`."""
    if where == "double":
        with graphs_on_the_double():
            nccl = sys.modules["cupy.cuda.nccl"] = Nccl(OnStrictCupy())
            xpnet.backend._import_cupy = lambda number: strict_cupy.xp
            nccl_group.gpus_here = lambda: [str(os.getpid())]
            yield Backend.of(strict_cupy.xp), nccl
        return
    if where == "nccl":
        backend = Backend(xn.distributed.mpi().own_gpu())
        with backend.current():
            yield backend, importlib.import_module("cupy.cuda.nccl")
        return
    backend = Backend("cuda")
    nccl = sys.modules["cupy.cuda.nccl"] = Nccl(OnCupy(backend.xp))
    # The one device that all ranks see stands for a device of each.
    nccl_group._uuid = lambda runtime, number: f"{os.getpid()} {number}"
    change(graphs_enabled=False)
    yield backend, nccl


def go_wrong(case: str, group: Any, nccl: Nccl) -> None:
    """From now on something is wrong in the sum of the last step of epoch 3, or in the first."""
    add, calls = group._sum, iter(range(10**6))
    wrong = 0 if case == "stops at once" else 3 * STEPS - 1
    signal.alarm(100)  # a wait without a bound fails the test, and leaves no process behind

    def add_or_not(array: Any) -> None:
        if next(calls) == wrong:
            nccl.patience = 0.5 if wrong else 1e6
            if case.startswith("stops"):
                mpi_group.ASK_SECONDS, mpi_group.ANSWER_SECONDS = 1.0, 2.0
            if case == "raises" and group.rank == 1:
                raise ZeroDivisionError("on this rank")
            if case.startswith("stops") and group.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            if case == "reports" and group.rank == 0:
                nccl.status = 6
            if case == "other" and group.rank == 0:
                array = array[1:]
        add(array)

    group._sum = add_or_not


def check_rules(group: Any, nccl: Nccl) -> None:
    """Each call that NCCL leaves undefined is refused, and does not harm the next one."""
    group.connect(Backend.of(strict_cupy.xp))
    made, kind, rank, other = group._communicator, nccl.NCCL_FLOAT32, group.rank, 1 - group.rank
    array = strict_cupy.xp.full(4, 2.0 + rank, "float32")
    place, stream = array.data.ptr, nccl.on.stream()

    def refused(what: str, call: Callable[..., Any], *arguments: Any) -> None:
        with pytest.raises((AssertionError, RuntimeError), match=what):
            call(*arguments)

    refused("stream", made.allReduce, place, place, 4, kind, 0, stream + 7)
    with strict_cupy.Device(1):
        refused("another device", made.allReduce, place, place, 4, kind, 0, stream)
    refused("outside of a group", made.send, place, 4, kind, other, stream)
    refused("differ|something else", made.allReduce, place, place, 3 + rank, kind, 0, stream)
    own = Stream(non_blocking=True)
    with own:
        own.begin_capture()
        refused("not permitted", nccl.NcclCommunicator, 2, bytes(128), rank)
        with pytest.raises(RuntimeError, match="Invalidated"):
            own.end_capture()
    nccl.groupStart()
    made.send(place, 3 + rank, kind, other, stream)
    made.recv(place, 4 - rank, kind, other, stream)
    nccl.groupEnd()  # 3 are sent and expected, 4 are sent and expected
    nccl.groupStart()
    made.send(place, 4, kind, other, stream)
    made.recv(place, 4, kind + rank, other, stream)
    if rank:
        refused("expected", nccl.groupEnd)
    else:
        nccl.groupEnd()
    group._disconnect()
    refused("aborted or destroyed", made.allReduce, place, place, 4, kind, 0, stream)


def wrapped(add: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Sums that neither wait nor move arrays to the host."""

    def add_on_the_device(group: Any, array: Any) -> None:
        with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
            add(group, array)

    return add_on_the_device


def main(where: str, out: str, *cases: str) -> None:
    found: dict[str, Any] = {}
    nccl_group.NcclGroup._sum = wrapped(nccl_group.NcclGroup._sum)
    with devices(where) as (backend, nccl):
        if cases[0] == "command":
            code = xpnet.train.main([*cases[1:]])
            assert xn.distributed.mpi().is_recorded
            sys.exit(code)
        group = xn.distributed.mpi()
        if cases[0] in ("raises", "stops", "stops at once", "reports", "other"):
            go_wrong(cases[0], group, nccl)
            # Without recording each sum comes by `add_or_not`.
            change(recording_enabled=False)
            try:
                test_ranks.train(group, backend=backend, epochs=50)
            finally:
                # On a GPU the process could not end otherwise.
                is_aborted = group._communicator is None and not Event.unreached
                print(f"rank {group.rank} has aborted: {is_aborted}", flush=True)
        if cases[0] == "rules":
            check_rules(group, nccl)
            return
        calls = getattr(nccl, "calls", Counter())
        for case in cases:
            log.clear()
            calls.clear()
            name, _, parts = case.partition("@")
            how = test_ranks.CASES[name] | ({"dtype": "float32"} if name == "plain" else {})
            network, history = test_ranks.train(group, int(parts or 0), backend=backend, **how)
            weights = backend.to_host(network.flat_parameters)
            assert len(set(group.all_gather(weights.tobytes().hex()))) == 1
            found[f"{case} weights"] = weights
            found[f"{case} losses"] = [record.loss for record in history.records]
            found[f"{case} sums"] = [calls[key] for key in ("allReduce", "send", "recv")]
            found[f"{case} launches"] = log.count("launch")
        if group.rank == 0:
            np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
