"""`mpiexec -n P python rank_program.py CASE OUT [DTYPE]`: a case of `test_ranks.py` by MPI.

It makes at least 200 steps. CASE@8: in 8 parts.
Or a CASE that goes wrong on rank 1 while it trains: `raises`, `exits`, `ends`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import test_ranks

import xpnet as xn


class Wrong(xn.Callback):
    """Goes wrong in the third epoch."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_epoch_begin(self, run: xn.training.callbacks.TrainingState) -> None:
        if run.epoch == 3 and self.how == "raises":
            raise ZeroDivisionError("on this rank")
        if run.epoch == 3 and self.how == "exits":
            sys.exit(0)
        if run.epoch == 3:
            os._exit(7)


def main(case: str, out: str, dtype: str = "float64") -> None:
    group = xn.distributed.mpi()
    if case in ("raises", "exits", "ends"):
        checkpoints = xn.Checkpoints(out, every=1)
        callbacks = Wrong(case) if group.rank == 1 else ()
        test_ranks.train(group, 4, epochs=50, callbacks=callbacks, checkpoints=checkpoints)
    name, _, parts = case.partition("@")
    how = test_ranks.long_enough(**test_ranks.CASES[name]) | {"dtype": dtype}
    network, history = test_ranks.train(group, int(parts or 0), **how)
    same = group.all_gather(network.flat_parameters.tobytes().hex())
    assert len(set(same)) == 1
    if group.rank == 0:
        losses = [record.loss for record in history.records]
        np.savez(out, weights=network.flat_parameters, losses=losses)


if __name__ == "__main__":
    main(*sys.argv[1:])
