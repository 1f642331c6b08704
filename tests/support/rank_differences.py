"""`python rank_differences.py`: how far weights of 2 and 4 MPI ranks are from those of one process.

A line for each case of `distributed/test_ranks.py`, after 200 steps: ‖Δw‖ / ‖w‖ in float64 and,
without BatchNorm, in float32.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

PROGRAM = Path(__file__).with_name("rank_program.py")
MPIEXEC = Path(sysconfig.get_path("scripts"), "mpiexec")
RANKS = (1, 2, 4)


def weights(folder: Path, case: str, ranks: int, dtype: str) -> np.ndarray:
    out = folder / f"{ranks}.npz"
    words = [MPIEXEC, "-n", str(ranks), sys.executable, PROGRAM, case, out, dtype]
    subprocess.run(words, check=True)
    with np.load(out) as found:
        return found["weights"].astype("float64")


def main() -> None:
    sys.path.insert(0, str(PROGRAM.parents[1] / "distributed"))
    import test_ranks

    print("| | float64, p = 2 | p = 4 | float32, p = 2 | p = 4 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for case in test_ranks.CASES:
        cells = []
        for dtype in ("float64", "float32"):
            if dtype == "float32" and case not in test_ranks.WITHOUT_NORM:
                cells += ["–", "–"]
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = [weights(Path(folder), case, ranks, dtype) for ranks in RANKS]
            one = found[0]
            cells += [f"{np.linalg.norm(w - one) / np.linalg.norm(one):.1e}" for w in found[1:]]
        print(f"| {case} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
