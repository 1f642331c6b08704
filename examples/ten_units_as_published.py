"""The experiment `ten_units_full_batch` with the arithmetic of its source, in plain NumPy.

Samples are columns, everything is float64, and a bias gradient is `np.sum(dZ) / m`, one number
for all units of a layer (for the output layer 0, since the columns of `A2 - Y` sum to 0).
`ten_units_full_batch.toml` sums only over the batch, which is the derivative. `reproduce.py` runs
this file to compare the two.

`python examples/ten_units_as_published.py [DATA.csv] [SEED]`
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import threadpoolctl

from xpnet.cli import console
from xpnet.data import Splits, load_dataset, one_hot, split
from xpnet.random import generator

ITERATIONS, RATE, UNITS = 750, 0.1, 10


def train(parts: Splits, seed: int, iterations: int = ITERATIONS) -> tuple[float, float]:
    """Accuracy on the training and on the test set."""
    assert parts.train.labels is not None
    assert parts.test.labels is not None
    x, m = parts.train.x.T / 255, len(parts.train)
    y = one_hot(parts.train.labels, 10, np.float64).T
    draw = generator(seed, "as published")
    w1, w2 = draw.random((UNITS, len(x))) - 0.5, draw.random((10, UNITS)) - 0.5
    b1, b2 = draw.random((UNITS, 1)) - 0.5, draw.random((10, 1)) - 0.5
    for _ in range(iterations):
        z1 = w1 @ x + b1
        a1 = np.maximum(z1, 0)
        a2 = softmax(w2 @ a1 + b2)
        dz2 = a2 - y
        dz1 = (w2.T @ dz2) * (z1 > 0)
        dw2, db2 = dz2 @ a1.T / m, np.sum(dz2) / m
        dw1, db1 = dz1 @ x.T / m, np.sum(dz1) / m
        w1, b1 = w1 - RATE * dw1, b1 - RATE * db1
        w2, b2 = w2 - RATE * dw2, b2 - RATE * db2

    def accuracy(pixels: np.ndarray, labels: np.ndarray) -> float:
        z2 = w2 @ np.maximum(w1 @ (pixels.T / 255) + b1, 0) + b2
        return float((z2.argmax(axis=0) == labels).mean())

    return (
        accuracy(parts.train.x, parts.train.labels),
        accuracy(parts.test.x, parts.test.labels),
    )


def softmax(z: np.ndarray) -> np.ndarray:
    """Of each column, shifted, so that nothing overflows."""
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def main() -> int:
    """The command."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/kaggle/train.csv")
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    parts = split(load_dataset(path), validation=0, test=1000, seed=seed)
    began = time.perf_counter()
    # As the recipes are run that this is compared with.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        on_train, on_test = train(parts, seed)
    seconds = time.perf_counter() - began
    print(f"train {100 * on_train:.2f} %   test {100 * on_test:.2f} %   {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))
