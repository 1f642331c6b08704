"""Reads the folder of a run: its settings, history and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xpnet._files import reading
from xpnet.config import TrainConfig, explain_errors, make_config
from xpnet.errors import ConfigError, DataError
from xpnet.runs.run_folder import METRICS
from xpnet.training.history import History
from xpnet.utils.toml import read_toml

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Share = Annotated[float, Field(ge=0, le=1)]


class Samples(BaseModel):
    """The number of samples of each part of the data."""

    train: Annotated[int, Field(ge=1, lt=2**63)]
    validation: _Count
    test: _Count


class Digests(BaseModel):
    """The digest of the samples of each part: see `xpnet.runs.summary.digest_of`."""

    train: str
    validation: str | None
    test: str


class Origin(BaseModel):
    """The data set of a run."""

    name: str
    sha256: str


class Metrics(BaseModel):
    """The fields of `metrics.json` that are read: see `xpnet.runs.summary`."""

    model_config = ConfigDict(strict=True, frozen=True)

    test_accuracy: _Share
    test_loss: float
    test_calibration_error: _Share | None = None
    train_accuracy: _Share | None
    train_loss: float
    validation_accuracy: _Share | None
    validation_loss: float | None
    epochs: _Count
    kept_epoch: _Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    parameters: _Count
    samples: Samples
    samples_sha256: Digests | None = None
    dataset: Origin
    seed: int
    split_seed: int | None = None
    device: str
    dtype: str
    threads: int | None
    versions: dict[str, str]


@dataclass(frozen=True)
class RunRecord:
    """A run as recorded in its folder; `metrics` is None for a run that is not finished."""

    folder: Path
    config: TrainConfig
    history: History
    metrics: Metrics | None


def read_run(folder: str | Path) -> RunRecord:
    """The run in `folder`. Raises `ConfigError` and `DataError`, naming the folder or the file."""
    folder = Path(folder)
    settings, history, metrics = (folder / n for n in ("config.toml", "history.csv", METRICS))
    if not settings.exists():
        raise ConfigError(
            f"{folder}: is not the folder of a run (it has no config.toml): give folders that "
            f"python -m xpnet.train made"
        )
    return RunRecord(
        folder,
        make_config(read_toml(settings), source=f"{settings}: "),
        # Both are written at the end: a run that is training, or was killed, has none.
        History.from_csv(history) if history.exists() else History(),
        read_metrics(metrics) if metrics.exists() else None,
    )


def read_metrics(path: Path) -> Metrics:
    """The metrics of a finished run. Raises `DataError`, naming the file and the field."""
    with reading(path):
        content = path.read_bytes()
    try:
        return Metrics.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{path}: {explain_errors(error)}") from None
