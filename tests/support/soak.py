"""`python tests/support/soak.py [--epochs N]`: does a long training keep what it should have let
go?

Trains on the embedded digits with `python -m xpnet.train` in a process of its own and, at the
line of each epoch, reads from /proc (Linux) the memory that the process has and the files that
it holds open. After the first fifth, in which buffers are made and libraries loaded, both have to
be flat: the slope of a least-squares line through memory, and the files at the first and the
second half of the lines (one more is open while a checkpoint is written).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy

STEEPEST = 1024
"""Bytes an epoch, over a thousand epochs: a megabyte in all."""

FLAGS = ("--hidden", "64", "--batch-norm", "--augment-shift", "1")
FLAGS += ("--checkpoint-every", "5", "--log-every", "10")
"""Of a network that is soon through an epoch, with all that could keep something.

Every line of the history is kept, and written into each checkpoint, on purpose: some 2 kB a line,
so there are few.
"""

_EPOCH = re.compile(r"epoch +(\d+)/")


@dataclass(frozen=True)
class Soak:
    """What was seen: `epochs`, `memory` (bytes) and `files`, each `(N,)`, one at each line."""

    epochs: numpy.ndarray
    memory: numpy.ndarray
    files: numpy.ndarray

    def settled(self) -> Soak:
        """All but the first fifth."""
        late = self.epochs > self.epochs.max() / 5
        return Soak(self.epochs[late], self.memory[late], self.files[late])

    @property
    def slope(self) -> float:
        """Bytes an epoch, by least squares."""
        return float(numpy.polyfit(self.epochs, self.memory, 1)[0])

    @property
    def more_files(self) -> int:
        """How many more are open in the second half than in the first, by their medians."""
        half = len(self.files) // 2
        return int(numpy.median(self.files[half:]) - numpy.median(self.files[:half]))


def soak(epochs: int, folder: Path, *flags: str) -> Soak:
    """Train for so many epochs with `folder` as the current one. Raises if that fails."""
    argv = [sys.executable, "-m", "xpnet.train", "--epochs", str(epochs), *flags]
    # One arena, so that memory does not depend on which thread asked for it first.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MPLBACKEND": "Agg"}
    seen = []
    with subprocess.Popen(
        argv, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            match = _EPOCH.match(line)
            # After the last one the figures are drawn, which takes memory as well.
            if match and int(match[1]) < epochs:
                seen.append((int(match[1]), *_usage(process.pid)))
    if process.returncode:
        raise RuntimeError(f"training ended with exit code {process.returncode}")
    return Soak(*numpy.array(seen, dtype=numpy.int64).T)


def _usage(process: int) -> tuple[int, int]:
    """Resident bytes and open files of a process."""
    where = Path("/proc") / str(process)
    pages = int((where / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list((where / "fd").iterdir()))


def main() -> int:
    """0 when memory and files stayed flat."""
    parser = argparse.ArgumentParser(prog="python tests/support/soak.py")
    parser.add_argument("--epochs", type=int, default=1000)
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(arguments.epochs, Path(folder), *(flags or FLAGS))
    late = seen.settled()
    flat = late.slope < STEEPEST and late.more_files == 0
    print(
        f"{arguments.epochs} epochs: {seen.memory[0] / 2**20:.1f} MB after the first, "
        f"{late.memory[0] / 2**20:.1f} after a fifth, {late.memory[-1] / 2**20:.1f} at the end; "
        f"slope {late.slope:.0f} bytes an epoch (limit {STEEPEST}); open files "
        f"{late.files.min()} to {late.files.max()}, {late.more_files} more in the second half: "
        f"{'flat' if flat else 'NOT FLAT'}"
    )
    return 0 if flat else 1


if __name__ == "__main__":
    raise SystemExit(main())
