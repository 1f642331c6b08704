"""A competitor's own process: one JSON request a line comes in, one JSON answer goes out.

Libraries' thread pools do not meet here, and a pool that will not rest is found out: every
answer tells how much processor time went by since the one before it.
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


class Desk:
    """What this process can be asked for: `prepare`, `gate`, `repeat`."""

    def __init__(self, name: str, device: str) -> None:
        from bench.peers import BY_NAME

        self.competitor, self.device = BY_NAME[name], device

    def prepare(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Make a workload ready; answers what of it is done, and a note."""
        from dataclasses import asdict

        from bench.workloads import Workload

        self.peer: Any = None
        kind = self.competitor.load()
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
        """What is compared with xpnet's: losses of a few steps, or some probabilities."""
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
        """The answer, or why there is none: `missing` (not installed), `unsupported`, `error`."""
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
            words = (str(error).strip().splitlines() or ["without a word"])[0]
            return {"error": f"{type(error).__name__}: {words}"}


def main() -> int:
    """Serve until the input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    desk = Desk(*sys.argv[1:])
    rested, used = time.perf_counter(), time.process_time()
    for line in sys.stdin:
        idle = {"wall": time.perf_counter() - rested, "cpu": time.process_time() - used}
        answer = desk.answer(json.loads(line))
        print(json.dumps(answer | {"idle": idle}), file=answers, flush=True)
        rested, used = time.perf_counter(), time.process_time()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
