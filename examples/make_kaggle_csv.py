"""Writes MNIST's first 42,000 training images as a CSV file like that of Kaggle's Digit Recognizer.

`python examples/make_kaggle_csv.py [OUT.csv]` writes `runs/kaggle/train.csv` (76 MB): a header
`label,pixel0,…,pixel783`, then one line per digit. Kaggle's own file holds 42,000 of MNIST's
70,000 digits in another order; to use it in a recipe, give its path with `--dataset`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from xpnet._files import write_atomically
from xpnet.cli import console
from xpnet.data import load_dataset

ROWS = 42_000
DEFAULT = Path("runs/kaggle/train.csv")


def make(out: Path, rows: int = ROWS) -> None:
    """Write the first `rows` training images of MNIST to `out`."""
    data = load_dataset("mnist").train
    assert data.labels is not None
    columns = ["label", *(f"pixel{number}" for number in range(data.features))]
    table = np.column_stack([data.labels[:rows], data.x[:rows]])
    text = pd.DataFrame(table, columns=columns).to_csv(index=False, lineterminator="\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.encode())


def main() -> int:
    """The command."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    make(out)
    print(f"{out}: {ROWS:,} digits")
    return 0


if __name__ == "__main__":
    raise SystemExit(console.run(main))
