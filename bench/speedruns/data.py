"""What both programs read: the settings, and MNIST's files."""

from __future__ import annotations

import gzip
import tomllib
from pathlib import Path
from typing import Any

import numpy


def read_settings(path: str) -> dict[str, Any]:
    """The settings of `python -m xpnet.train`. Raises `ValueError` for others than are known."""
    found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    kinds = {"optimizer": "adamw", "schedule": "one_cycle", "batch_norm": True, "dropout": 0.0}
    wrong = [name for name, value in kinds.items() if found.get(name) != value]
    if wrong or found.get("normalise", "unit") != "unit":
        raise ValueError(f"{path}: another {', '.join(wrong or ['normalise'])} than this trains by")
    return found


def read(folder: str, kind: str) -> tuple[Any, Any]:
    """Pixels `(N, 784)` uint8 and labels `(N,)` int64; `kind`: `train` or `t10k`."""
    with gzip.open(Path(folder, f"{kind}-images-idx3-ubyte.gz")) as file:
        x = numpy.frombuffer(file.read(), numpy.uint8, offset=16).reshape(-1, 784)
    with gzip.open(Path(folder, f"{kind}-labels-idx1-ubyte.gz")) as file:
        labels = numpy.frombuffer(file.read(), numpy.uint8, offset=8).astype(numpy.int64)
    return x, labels
