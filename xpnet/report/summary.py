"""The results of a run: printed text, `metrics.json`, figures, and the HTML page."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy

from xpnet._files import lock, write_atomically
from xpnet.backend import Backend, HostArray
from xpnet.config import TrainConfig
from xpnet.data.dataset import Dataset, Source, Splits
from xpnet.data.mapped import MappedRows
from xpnet.errors import CheckpointError, ConfigError, DataError, printable, short_repr
from xpnet.figures import plots
from xpnet.figures.calibration import reliability
from xpnet.figures.style import percent
from xpnet.metrics import MOST_CLASSES, ConfusedPairs, class_scores
from xpnet.network import Sequential
from xpnet.report.html import run_page
from xpnet.report.test_set import PredictedTestSet, predict_test_set
from xpnet.runs.factory import read_splits, to_device
from xpnet.runs.model import Model
from xpnet.runs.run_folder import METRICS, MODEL, resume_command
from xpnet.runs.run_reader import read_run
from xpnet.training import Evaluation, evaluate
from xpnet.training.augmentation import Augmentation
from xpnet.training.history import History, Record, loss_text

REPORT = "report.html"
"""The file name of the HTML page of a run."""
AUGMENTED_ROWS, AUGMENTED_VERSIONS = 6, 9
"""Training samples, and augmented versions of each, in `augmented_samples.png`."""
DRAWN_SAMPLES = 25
"""Test samples in `sample_predictions.png`."""
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
    shape = f" ({data.image_shape[0]}×{data.image_shape[1]})" if data.image_shape else ""
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


def draw(
    folder: Path,
    network: Sequential,
    history: History,
    predicted: PredictedTestSet,
    train: Dataset,
    augmentation: Augmentation | None,
) -> None:
    """Write the figures of a run: curves, confusion matrix, sample predictions, first weights.

    With an `augmentation`, also augmented training samples.
    """
    plots.training_metrics(history, folder / "training_metrics.png")
    data, predictions, confusion = predicted.data, predicted.predictions, predicted.tested.confusion
    if not isinstance(confusion, ConfusedPairs):
        plots.confusion_matrix(confusion, data.classes, folder / "confusion_matrix.png")
    if data.image_shape is None or data.labels is None:
        return
    chosen = plots.choose_predictions(predictions, data.labels, DRAWN_SAMPLES, network.seed)
    plots.sample_predictions(
        data.x[chosen].reshape(-1, *data.image_shape),
        predictions.table(chosen, data.labels, len(data.classes)),
        data.labels[chosen],
        data.classes,
        folder / "sample_predictions.png",
    )
    first = next(name for name in network.parameters() if name.endswith(".weight"))
    weight = network.backend.to_host(network.parameters()[first])
    plots.first_layer_weights(weight, data.image_shape, folder / "weights.png")
    if augmentation is not None:
        plots.augmented_samples(
            *_augmented(augmentation, train, network), folder / "augmented_samples.png"
        )


def _augmented(
    augmentation: Augmentation, data: Dataset, network: Sequential
) -> tuple[HostArray, HostArray]:
    """Training samples `(n, H, W)`, and `k` augmented versions of each `(n, k, H, W)`."""
    assert data.image_shape is not None
    backend, shape = network.backend, data.image_shape
    some = data.x[:: max(len(data) // AUGMENTED_ROWS, 1)][:AUGMENTED_ROWS]
    augmentation.begin(shape, network.seed)
    many = backend.asarray(some.repeat(AUGMENTED_VERSIONS, axis=0), dtype=network.dtype)
    seen = backend.to_host(augmentation.apply(many, out=many))
    return some.reshape(-1, *shape), seen.reshape(len(some), AUGMENTED_VERSIONS, *shape)


def write_report(
    folder: Path,
    config: TrainConfig,
    history: History,
    about: dict[str, Any],
    network: Sequential,
    predicted: PredictedTestSet | None = None,
    ended: str = "",
    diverged: bool = False,
) -> Path:
    """Write `report.html` to the folder of a run: see `xpnet.report.html`. Returns its path."""
    path = folder / REPORT
    page = run_page(folder, config, history, about, network, predicted, ended, diverged)
    write_atomically(path, page)
    return path


def report_again(folder: str | Path) -> Path:
    """Write the `report.html` of a finished run again, from its files and its data, on the CPU.

    Returns its path. Raises `ConfigError` where the folder is not that of a finished run,
    `DataError` and `CheckpointError` for data or files that are damaged, missing or not those of
    the run.
    """
    folder = Path(folder)
    run = read_run(folder)
    if run.metrics is None:
        raise ConfigError(
            f"{folder}: the run is not finished, so there is no report to write: "
            f"{resume_command(run.config, folder)}"
        )
    source, splits = read_splits(run.config)
    if source.sha256 != run.metrics.dataset.sha256:
        raise DataError(
            f"{run.config.dataset} is not the data of the run {folder}: its SHA-256 is "
            f"{source.sha256}, "
            f"the run has {short_repr(run.metrics.dataset.sha256, 80)}"
        )
    model, data = Model.load(folder / MODEL), splits.test
    if model.classes != data.classes or model.network.in_features != data.features:
        path = folder / MODEL
        raise CheckpointError(
            f"{path}: the classes or features of the model are not those of the data of the run"
        )
    tested = evaluate(model.network, to_device(model.network, data, model.normalisation))
    predicted = predict_test_set(model.network, tested, data, model.normalisation)
    with lock(folder):
        about = run.metrics.model_dump()
        return write_report(folder, run.config, run.history, about, model.network, predicted)
