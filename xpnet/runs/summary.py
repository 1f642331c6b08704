"""The results of a run as printed text and as the content of `metrics.json`."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy

from xpnet.backend import Backend
from xpnet.config import TrainConfig
from xpnet.data.dataset import Dataset, Source, Splits
from xpnet.data.mapped import MappedRows
from xpnet.errors import printable
from xpnet.figures.calibration import reliability
from xpnet.metrics import MOST_CLASSES, ConfusedPairs, class_scores
from xpnet.network import Sequential
from xpnet.runs.run_folder import METRICS
from xpnet.runs.test_set import PredictedTestSet
from xpnet.training import Evaluation
from xpnet.training.history import History, Record, loss_text
from xpnet.utils.text import percent

MOST_COLUMNS = 20
"""With more classes, only the smallest and the largest count are printed."""

_HASHED_BYTES = 2**28
_ROWS_AT_ONCE = 4096


def describe_data(source: Source, splits: Splits) -> str:
    """A description of the data: name, sizes, shapes, and the number of samples of each class."""
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    data, some = splits.train, splits.train.x
    # For a file that may be larger than memory, finding them would take as long as an epoch.
    values = "" if isinstance(some, MappedRows) else f", values {some.min():g} to {some.max():g}"
    shape = f" ({'×'.join(map(str, data.image_shape))})" if data.image_shape else ""
    names = [printable(name) for name in data.classes]
    lines = [
        f"data      {printable(source.name)}: {data.features} features{shape} {some.dtype}{values}"
        f", {len(data.classes)} classes"
        + (f", label: {printable(source.label)}" if source.label else ""),
    ]
    few = len(data.classes) <= MOST_COLUMNS
    wide = max(6, *map(len, names))
    if few:
        lines.append(f"{'class':<10}{'':>8}  " + " ".join(f"{c:>{wide}}" for c in names))
    for name, part in parts.items():
        if part is not None and part.labels is not None:
            counts = numpy.bincount(part.labels, minlength=len(data.classes))
            row = " ".join(f"{count:>{wide},}" for count in counts)
            row = row if few else f"{counts.min():,} to {counts.max():,} of a class"
            lines.append(f"{name:<10}{len(part):>8,}  {row}")
    return "\n".join(lines)


def describe_test(tested: Evaluation, classes: tuple[str, ...]) -> str:
    """The test accuracy and a line for each class; `–` is a score that is not defined."""
    names = [printable(name) for name in classes]
    wide = max(5, *map(len, names))
    lines = [f"test accuracy {100 * tested.accuracy:.2f} %   test loss {loss_text(tested.loss)}"]
    if len(classes) > MOST_CLASSES:
        lines.append(f"{len(classes):,} classes: the scores of each are in {METRICS}")
        return "\n".join(lines)
    lines.append(f"{'class':>{wide}}  precision  recall      F1  samples")
    for name, score in zip(names, class_scores(tested.confusion), strict=True):
        precision, recall = percent(score.precision, 2), percent(score.recall, 1)
        f1 = "–" if score.f1 is None else f"{score.f1:6.4f}"
        lines.append(f"{name:>{wide}}  {precision:>9}  {recall:>7}  {f1:>6}  {score.support:7,}")
    return "\n".join(lines)


def collect_facts(
    config: TrainConfig, backend: Backend, source: Source, splits: Splits, network: Sequential
) -> dict[str, Any]:
    """The part of `metrics.json` that is known before training."""
    return {
        "parameters": network.count_parameters(),
        "samples": {
            "train": len(splits.train),
            "validation": len(splits.validation) if splits.validation is not None else 0,
            "test": len(splits.test),
        },
        "samples_sha256": {
            "train": digest_of(splits.train),
            "validation": digest_of(splits.validation),
            "test": digest_of(splits.test),
        },
        "dataset": {"name": source.name, "sha256": source.sha256},
        "seed": config.seed,
        "split_seed": config.seed_of_split,
        "device": backend.device,
        "dtype": config.dtype,
        "precision": config.precision,
        "threads": config.threads,
        "versions": versions(),
    }


def digest_of(part: Dataset | None) -> str | None:
    """SHA-256 of the samples and labels of a part of the data, to recognise equal parts.

    For more than 256 MiB of samples, only rows at equal distances are hashed, and all labels.
    """
    if part is None:
        return None
    x = part.x
    digest = hashlib.sha256(repr((x.shape, x.dtype.str)).encode())
    if part.labels is not None:
        digest.update(numpy.ascontiguousarray(part.labels).data)
    stride = -(-x.size * x.dtype.itemsize // _HASHED_BYTES)
    for start in range(0, len(x), _ROWS_AT_ONCE * stride):
        rows = x[start : start + _ROWS_AT_ONCE * stride : stride]
        digest.update(numpy.ascontiguousarray(rows).data)
    return digest.hexdigest()


def collect_metrics(
    facts: dict[str, Any], history: History, kept: Record, predicted: PredictedTestSet
) -> dict[str, Any]:
    """The content of `metrics.json`; accuracies are fractions.

    `kept`: the record of the epoch whose weights were saved; its metrics are those of the model.
    """
    last, tested, data = history.records[-1], predicted.tested, predicted.data
    assert data.labels is not None
    named = zip(data.classes, class_scores(tested.confusion), strict=True)
    confusion = tested.confusion
    return {
        "test_accuracy": tested.accuracy,
        "test_loss": tested.loss,
        "test_calibration_error": reliability(predicted.predictions, data.labels).error,
        "train_accuracy": kept.accuracy,
        "train_loss": kept.loss,
        "validation_accuracy": kept.val_accuracy,
        "validation_loss": kept.val_loss,
        "classes": {name: vars(score) for name, score in named},
        "confusion": None if isinstance(confusion, ConfusedPairs) else confusion.tolist(),
        "epochs": last.epoch,
        "steps": last.step,
        "kept_epoch": kept.epoch,
        "seconds": sum(history.column("seconds")),
        **facts,
    }


def versions() -> dict[str, str]:
    """The versions of Python, of the platform and of the installed packages that compute."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("xpnet", "numpy", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
