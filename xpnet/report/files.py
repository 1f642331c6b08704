"""The files of a run's report: figures and `report.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xpnet._files import lock, write_atomically
from xpnet.backend import HostArray
from xpnet.config import TrainConfig
from xpnet.data.dataset import Dataset
from xpnet.errors import CheckpointError, ConfigError, DataError, short_repr
from xpnet.figures import plots
from xpnet.metrics import ConfusedPairs
from xpnet.network import Sequential
from xpnet.report.html import run_page
from xpnet.runs.factory import build_augmentation, read_splits, to_device
from xpnet.runs.model import Model
from xpnet.runs.run_folder import MODEL, REPORT, resume_command
from xpnet.runs.run_reader import read_run
from xpnet.runs.test_set import PredictedTestSet, predict_test_set
from xpnet.training import evaluate
from xpnet.training.augmentation import Augmentation
from xpnet.training.history import History
from xpnet.utils.channels import as_images

AUGMENTED_ROWS, AUGMENTED_VERSIONS = 6, 9
"""Training samples, and augmented versions of each, in `augmented_samples.png`."""
DRAWN_SAMPLES = 25
"""Test samples in `sample_predictions.png`."""


def draw(
    folder: Path,
    network: Sequential,
    history: History,
    predicted: PredictedTestSet,
    train: Dataset,
    augmentation: Augmentation | None,
) -> None:
    """Write the figures of a run: curves, confusion matrix, sample predictions, first weights.

    With an `augmentation`, also augmented training samples. The weights of the channels of an
    image, or of the input of a convolution, are shown as their mean.
    """
    plots.training_metrics(history, folder / "training_metrics.png")
    data, predictions, confusion = predicted.data, predicted.predictions, predicted.tested.confusion
    if not isinstance(confusion, ConfusedPairs):
        plots.confusion_matrix(confusion, data.classes, folder / "confusion_matrix.png")
    if data.image_shape is None or data.labels is None:
        return
    chosen = plots.choose_predictions(predictions, data.labels, DRAWN_SAMPLES, network.seed)
    plots.sample_predictions(
        as_images(data.x[chosen], data.image_shape),
        predictions.table(chosen, data.labels, len(data.classes)),
        data.labels[chosen],
        data.classes,
        folder / "sample_predictions.png",
    )
    first = next(name for name in network.parameters() if name.endswith(".weight"))
    weight = network.backend.to_host(network.parameters()[first])
    if weight.ndim == 4:  # the kernels of a convolution, their mean over the input channels
        shape = (weight.shape[2], weight.shape[3])
        weight = weight.mean(axis=1).reshape(len(weight), -1)
        plots.first_layer_weights(weight, shape, folder / "weights.png", "filters")
    else:
        height, width, *channels = data.image_shape
        if channels:
            weight = weight.reshape(len(weight), channels[0], -1).mean(axis=1)
        plots.first_layer_weights(weight, (height, width), folder / "weights.png")
    if augmentation is not None:
        plots.augmented_samples(
            *_augmented(augmentation, train, network), folder / "augmented_samples.png"
        )


def _augmented(
    augmentation: Augmentation, data: Dataset, network: Sequential
) -> tuple[HostArray, HostArray]:
    """Training samples `(n, H, W)`, and `k` augmented versions of each `(n, k, H, W)`."""
    assert data.image_shape is not None
    backend, (height, width) = network.backend, data.image_shape
    shape = height, width
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
    """Write `report.html` and the figures of a finished run, from its files and its data.

    They are written again, or for the first time after `--no-report`, and computed on the CPU.
    Returns the path of `report.html`. Raises `ConfigError` where the folder is not that of a
    finished run, `DataError` and `CheckpointError` for data or files that are damaged, missing or
    not those of the run.
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
    augmentation = build_augmentation(run.config, splits.train)
    with lock(folder):
        about = run.metrics.model_dump()
        draw(folder, model.network, run.history, predicted, splits.train, augmentation)
        return write_report(folder, run.config, run.history, about, model.network, predicted)
