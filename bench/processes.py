"""Whole processes: their time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.timing import ROOT, environment
from bench.worker import THREADS, pin
from xpnet.errors import XpnetError


class Failed(XpnetError):
    """A process failed; the message is its last line."""


@dataclass(frozen=True)
class Done:
    """A process from start to exit."""

    seconds: float
    output: str


def run(
    argv: Sequence[str], threads: int = THREADS, variables: Mapping[str, str] | None = None
) -> Done:
    """Python with `argv` until it exits, and with more environment variables. Raises `Failed`."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(threads) | dict(variables or {}),
        # For libraries that count processors instead of reading the variables.
        preexec_fn=pin if os.name == "posix" else None,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(f"{' '.join(argv[:3])} ...: {(words or ['no message'])[-1]}")
    return Done(seconds, done.stdout)


def memory(what: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the most so far) of this process in bytes; 0 where unknown.

    Not `getrusage`: that counts what the parent had before this program was loaded.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), 0)
