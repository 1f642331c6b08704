"""What both programs read: the settings, and MNIST's files."""

from __future__ import annotations

import gzip
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy

FIXED = {"dataset": "mnist", "validation": 0, "dropout": 0.0, "report": False}
FIXED |= {"optimizer": "adamw", "schedule": "cosine"}
"""Settings that the programs have in their code."""
USED = {"hidden", "label_smoothing", "learning_rate", "weight_decay", "beta1", "beta2"}
USED |= {"warm_up", "epochs", "batch_size"}
"""Settings that they read; they know no others."""


def read_settings(path: str, optional: Collection[str] = ()) -> dict[str, Any]:
    """The settings of `python -m xpnet.train`, `None` for those of `optional` that are not there.

    Raises `ValueError` for others than are known.
    """
    found = dict.fromkeys(optional) | tomllib.loads(Path(path).read_text(encoding="utf-8"))
    wrong = [name for name, value in FIXED.items() if found.get(name) != value]
    wrong += sorted({*found} ^ {*FIXED, *USED, *optional})
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} as these programs do not know it")
    return found


def rates(settings: dict[str, Any], steps: int) -> Any:
    """`(steps,)` float32: a rise over the share `warm_up` of the steps, then half a cosine."""
    rising = round(settings["warm_up"] * steps)
    step, falling = numpy.arange(steps), steps - rising
    down = (1 + numpy.cos(numpy.pi * (step - rising) / falling)) / 2
    factor = numpy.where(step < rising, (step + 1) / (rising + 1), down)
    return (settings["learning_rate"] * factor).astype(numpy.float32)


def read(folder: str, kind: str) -> tuple[Any, Any]:
    """Pixels `(N, 784)` uint8 and labels `(N,)` int64; `kind`: `train` or `t10k`."""
    with gzip.open(Path(folder, f"{kind}-images-idx3-ubyte.gz")) as file:
        x = numpy.frombuffer(file.read(), numpy.uint8, offset=16).reshape(-1, 784)
    with gzip.open(Path(folder, f"{kind}-labels-idx1-ubyte.gz")) as file:
        labels = numpy.frombuffer(file.read(), numpy.uint8, offset=8).astype(numpy.int64)
    return x, labels
