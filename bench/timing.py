"""Interleaved timing: each competitor in its own process, which runs one repeat per request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.peers import Competitor
from bench.worker import THREADS
from bench.workloads import NEVER, Workload
from xpnet.errors import XpnetError

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.05
"""Seconds between repeats: longer than a thread pool spins (OpenBLAS 26 ms) before it sleeps."""
TOLERANCE = 1e-4
"""How far, relatively, a competitor's loss in any step of the gate may be from xpnet's."""


def environment(threads: int = THREADS) -> dict[str, str]:
    """Environment variables that set the threads of BLAS and OpenMP."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    # JAX would allocate most of a GPU's memory in advance, and leave none for the others.
    return (
        os.environ | dict.fromkeys(names, str(threads)) | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    )


class Refused(Exception):
    """A worker has no result; `kind` is `missing`, `unsupported` or `error`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Worker:
    """A competitor's process."""

    def __init__(self, competitor: Competitor, device: str, threads: int = THREADS) -> None:
        self.competitor = competitor
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", competitor.name, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=environment(threads),
        )
        self.idle = {"wall": 0.0, "cpu": 0.0}

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to one request. Raises `Refused`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Refused("error", f"its process ended ({self.last_line()})")
        answer: dict[str, Any] = json.loads(line)
        for what, seconds in answer.pop("idle").items():
            self.idle[what] += seconds
        for kind in ("missing", "unsupported", "error"):
            if kind in answer:
                raise Refused(kind, answer[kind])
        return answer

    def last_line(self) -> str:
        """The last line that the process wrote to stderr."""
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or ["no message"])[-1]

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()


class Workers:
    """All competitors' processes, in the order of the table."""

    def __init__(
        self, competitors: Iterable[Competitor], device: str, threads: int = THREADS
    ) -> None:
        self.all = {c.name: Worker(c, device, threads) for c in competitors}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self.all.values():
            worker.close()


@dataclass
class Measured:
    """Results of a workload: seconds per step of every repeat, by competitor.

    `left_out`: why a competitor was not timed; `wrong`: those that failed the gate.
    """

    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def measure(
    workers: Mapping[str, Worker],
    workload: Workload,
    repeats: int,
    say: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Gate all competitors, then time them in turn, `repeats` times.

    Raises `XpnetError` where xpnet itself cannot run.
    """
    found = Measured(workload)
    ready = prepare_and_gate(workers, workload, found, say)
    order = list(ready)
    for turn in range(repeats):
        # Each round begins with another competitor, so that none always follows the same one.
        start = turn % len(order)
        for name in order[start:] + order[:start]:
            try:
                seconds = workers[name].ask("repeat")["seconds"]
            except Refused as error:
                found.left_out[name] = str(error)
                found.seconds.pop(name, None)
                continue
            found.seconds.setdefault(name, []).append(seconds)
            time.sleep(PAUSE)
    return found


def prepare_and_gate(
    workers: Mapping[str, Worker],
    workload: Workload,
    found: Measured,
    say: Callable[[str], None],
) -> list[str]:
    """Names of the competitors that pass the gate; why others do not goes into `found`."""
    references: dict[Workload, list[float]] = {}

    def reference(of: Workload) -> list[float]:
        if of not in references:
            workers["xpnet"].ask("prepare", workload=asdict(of))
            references[of] = workers["xpnet"].ask("gate")["values"]
        return references[of]

    ready = []
    for name, worker in workers.items():
        say(f"{workload.name}: gate {name}")
        try:
            answer = worker.ask("prepare", workload=asdict(workload))
            adapted = Workload.of(answer["workload"])
            if answer["gated"]:
                found.deviations[name] = gate(worker, adapted, reference)
        except Refused as error:
            if name == "xpnet":
                raise XpnetError(f"xpnet itself cannot run {workload.name}: {error}") from None
            (found.missing if error.kind == "missing" else found.left_out)[name] = str(error)
            continue
        except Wrong as error:
            if name == "xpnet":
                raise XpnetError(
                    f"xpnet itself fails the gate of {workload.name}: {error}"
                ) from None
            found.left_out[name] = str(error)
            found.wrong.append(name)
            continue
        if answer["note"]:
            found.notes[name] = answer["note"]
        found.about[name] = answer["about"]
        found.versions |= answer["versions"]
        ready.append(name)
    # xpnet may have prepared a competitor's variant of the workload last.
    workers["xpnet"].ask("prepare", workload=asdict(workload))
    return ready


class Wrong(Exception):
    """The losses of a competitor differ from xpnet's."""


def gate(worker: Worker, workload: Workload, reference: Callable[[Workload], list[float]]) -> float:
    """The largest relative deviation from xpnet's losses. Raises `Wrong` if it is too large.

    Masks of two libraries never agree. So dropout is gated with a rate so small that it drops
    nothing, and then checked to drop with the real rate.
    """
    never = replace(workload, dropout=NEVER) if workload.dropout else workload
    ours = reference(never)
    worker.ask("prepare", workload=asdict(never))
    values = worker.ask("gate")["values"]
    deviation = compare(values, ours)
    if workload.dropout:
        worker.ask("prepare", workload=asdict(workload))
        dropped = worker.ask("gate")["values"]
        if not TOLERANCE < abs(dropped[0] - values[0]) / values[0] < 0.5:
            raise Wrong(f"dropout moves its first loss from {values[0]:.4f} to {dropped[0]:.4f}")
    return deviation


def compare(values: list[float], ours: list[float]) -> float:
    """The largest relative deviation. Raises `Wrong` if it is above `TOLERANCE`, or not a number.

    Values below 0.01 (probabilities) are compared as if they were 0.01.
    """
    if len(values) != len(ours):
        raise Wrong(f"it gave {len(values)} values where xpnet gives {len(ours)}")
    worst = 0.0
    for place, (value, own) in enumerate(zip(values, ours, strict=True)):
        deviation = abs(value - own) / max(abs(own), 0.01)
        if not deviation <= TOLERANCE:
            raise Wrong(f"value {place + 1} of the gate is {value:.6f}, xpnet's is {own:.6f}")
        worst = max(worst, deviation)
    return worst
