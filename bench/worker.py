"""The process of one competitor: it reads JSON requests, one per line, and answers each in a line.

The thread pools of different libraries share no process. Every answer gives the processor time used
since the previous answer, which shows a pool that spins while it should be idle.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

THREADS = 2
"""Threads for everyone, by environment (BLAS, OpenMP) and by CPU affinity (the others)."""


def pin() -> None:
    """Keep this process on the first `THREADS` cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


class Server:
    """The requests of this process: `prepare`, `gate`, `repeat`."""

    def __init__(self, name: str, device: str) -> None:
        from bench.peers import BY_NAME

        self.competitor, self.device = BY_NAME[name], device

    def prepare(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Set up a workload; returns the workload as the library runs it, and a note."""
        from dataclasses import asdict

        from bench.peer import Unsupported
        from bench.workloads import Workload

        self.peer: Any = None
        kind = self.competitor.load()
        if workload["conv"] and not kind.takes_images:
            raise Unsupported("it has no convolution")
        adapted, note = kind.adapt(Workload.of(workload))
        self.peer = kind(adapted, self.device)
        about = {"about": kind.about, "gated": kind.gated, "versions": self._versions()}
        return {"workload": asdict(adapted), "note": note, **about}

    def _versions(self) -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for package in self.competitor.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:  # it was imported: from a folder, not installed
                found[package] = "not installed"
        return found

    def gate(self) -> dict[str, Any]:
        """Values to compare with xpnet's: losses of a few steps, or some probabilities."""
        workload = self.peer.workload
        if not workload.predicts:
            return {"values": self.peer.losses(workload.gate_rows())}
        x, _ = workload.data()
        calls = min(16, workload.rows) if workload.batch == 1 else 1
        found: list[Any] = []
        for start in range(0, calls * workload.batch, workload.batch):
            p = self.peer.probabilities(x[start : start + workload.batch])
            found += p[:16].ravel().tolist()
        return {"values": found}

    def repeat(self) -> dict[str, Any]:
        """Seconds a step of one timed repeat."""
        return {"seconds": self.peer.repeat()}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result, or why there is none: `missing` (not installed), `unsupported`, `error`."""
        from bench.peer import Unsupported

        try:
            found: dict[str, Any] = getattr(self, request.pop("do"))(**request)
            return found
        except ImportError as error:
            return {"missing": f"cannot be imported ({error})"}
        except Unsupported as error:
            return {"unsupported": str(error)}
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip().splitlines() or ["no message"])[0]
            return {"error": f"{type(error).__name__}: {words}"}


def main() -> int:
    """Serve until the input ends."""
    pin()
    # What a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(*sys.argv[1:])
    rested, used = time.perf_counter(), time.process_time()
    for line in sys.stdin:
        idle = {"wall": time.perf_counter() - rested, "cpu": time.process_time() - used}
        answer = server.answer(json.loads(line))
        print(json.dumps(answer | {"idle": idle}), file=answers, flush=True)
        rested, used = time.perf_counter(), time.process_time()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
