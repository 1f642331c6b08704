"""`report.html`: a run as one page about its training, its results and its mistakes.

This module collects plain values from the files of the run and from the predictions on the test
set; the text of the page is in `templates/run.html` and the templates that it includes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpnet.config import TrainConfig
from xpnet.errors import truncate
from xpnet.figures.calibration import reliability
from xpnet.figures.curves import Curve, drawable_points
from xpnet.figures.plots import horizontal
from xpnet.figures.reliability import reliability_svg
from xpnet.metrics import MOST_CLASSES, class_scores
from xpnet.network import Sequential
from xpnet.report.confusion import MISTAKES_PER_PAIR, confusion_values, mistake_values, sample_uri
from xpnet.report.diagrams import Diagram, curves_diagram
from xpnet.report.feature_maps import feature_map_values
from xpnet.report.rendering import render
from xpnet.report.timing import duration_text, timing_values
from xpnet.runs.run_folder import MODEL, absolute_path_flags, resume_command
from xpnet.runs.test_set import PredictedTestSet
from xpnet.training.history import History
from xpnet.utils.shell import shell_command
from xpnet.utils.toml import toml_value

_FEW_ROWS = 26
_LONGEST_NAME = 60


def run_page(
    folder: Path,
    config: TrainConfig,
    history: History,
    about: dict[str, Any],
    network: Sequential,
    predicted: PredictedTestSet | None = None,
    ended: str = "",
    diverged: bool = False,
) -> bytes:
    """The page of the run in `folder`, as the bytes of its file.

    `about`: the content of `metrics.json` or, for a run that was not tested, the part of it that
    is known before training; then `predicted` is None, and `ended` says why in one sentence. A run
    that `diverged` has no model and cannot be resumed.
    """
    values: dict[str, Any] = {
        "name": folder.resolve().name,
        "about": about,
        "ended": ended,
        "diverged": diverged,
        "tested": predicted is not None,
        "last": history.records[-1] if history.records else None,
        "kept_epoch": about.get("kept_epoch"),
        "early_stopping": config.patience is not None,
        "running_metrics": config.train_metrics == "running",
        "split_seed": config.seed_of_split,
        "training_time": duration_text(sum(history.column("seconds"))),
        "layers": network.summary(),
        "curves": _diagrams(history),
        "timing": timing_values(config, history, about["samples"]["train"]),
        "commands": _commands(folder, config, network, predicted is not None, diverged),
        **_settings(config),
    }
    if predicted is not None:
        confusion, data = predicted.tested.confusion, predicted.data
        values |= {
            "confusion": confusion_values(confusion, data.classes),
            "mistakes": mistake_values(confusion, predicted.predictions, data),
            "mistakes_per_pair": MISTAKES_PER_PAIR,
            "sample": sample_uri(data, 0),
            "feature_maps": feature_map_values(network, data),
            "class_scores": _class_scores(predicted),
            "calibration": _calibration(predicted),
        }
    return render("run.html", **values)


def _settings(config: TrainConfig) -> dict[str, list[dict[str, str]]]:
    """The settings that differ from the defaults, and the others."""
    fields = type(config).model_fields
    found: dict[str, list[dict[str, str]]] = {"changed": [], "unchanged": []}
    for name, field in fields.items():
        # The number of threads is listed with the versions.
        if name in {"run", "resume", "threads", "report"}:
            continue
        value = getattr(config, name)
        setting = {
            "name": name,
            "value": _value_text(value),
            "default": _value_text(field.default),
            "description": " ".join((field.description or "").split()),
        }
        found["changed" if value != field.default else "unchanged"].append(setting)
    return found


def _value_text(value: Any) -> str:
    return "–" if value is None else truncate(toml_value(value), 200)


def _diagrams(history: History) -> list[Diagram]:
    if not history.records:
        return []
    x, unit = horizontal(history)
    rate = Curve("", drawable_points(history, x, "learning_rate"))
    return [
        curves_diagram("Loss", _curves_of(history, x, "loss", min), unit=unit),
        curves_diagram(
            "Accuracy", _curves_of(history, x, "accuracy", max), unit=unit, as_percent=True
        ),
        curves_diagram("Learning rate", [rate], unit=unit, floor=0),
    ]


def _curves_of(history: History, x: Sequence[float], name: str, best: Any) -> list[Curve]:
    validation = drawable_points(history, x, f"val_{name}")
    star = best(validation, key=lambda point: point[1]) if validation else None
    return [
        Curve("training", drawable_points(history, x, name)),
        Curve("validation", validation, colour=1, dashed=True, best=star),
    ]


def _class_scores(predicted: PredictedTestSet) -> dict[str, Any]:
    """The scores of each class, and how many classes are left out."""
    scores = class_scores(predicted.tested.confusion)
    named = list(zip(predicted.data.classes, scores, strict=True))
    # With very many classes, only those that occur in the test set or among the predictions.
    defined = [pair for pair in named if len(named) <= MOST_CLASSES or pair[1].f1 is not None]
    shown = [(truncate(name, _LONGEST_NAME), score) for name, score in defined[:MOST_CLASSES]]
    return {"shown": shown, "left_out": len(named) - len(shown), "few": _FEW_ROWS}


def _calibration(predicted: PredictedTestSet) -> dict[str, Any]:
    assert predicted.data.labels is not None
    found = reliability(predicted.predictions, predicted.data.labels)
    size, total = len(found.counts), found.counts.sum()
    bins = [
        {
            "low": number / size,
            "high": (number + 1) / size,
            "count": count,
            "accuracy": float(found.accuracy[number]),
            "confidence": float(found.confidence[number]),
        }
        for number, count in enumerate(found.counts.tolist())
        if count
    ]
    return {
        "diagram": Diagram("Reliability", reliability_svg(found)),
        "error": found.error,
        "accuracy": float(found.counts @ found.accuracy / total),
        "confidence": float(found.counts @ found.confidence / total),
        "bin_count": size,
        "bins": bins,
    }


def _commands(
    folder: Path, config: TrainConfig, network: Sequential, tested: bool, diverged: bool
) -> dict[str, str | None]:
    """The command lines to use or repeat the run, by what they do; they work in any folder."""

    def command(module: str, *words: str | Path) -> str:
        return shell_command("python", "-m", f"xpnet.{module}", *words)

    here = folder.absolute()
    settings: list[str | Path] = ["--config", here / "config.toml", *absolute_path_flags(config)]
    if diverged:
        lower = f"{config.learning_rate / 10:g}"
        return {
            "smaller_learning_rate": command("train", *settings, "--learning-rate", lower),
            "clipped_gradients": command("train", *settings, "--clip-norm", "1"),
        }
    model = here / MODEL
    web_demo = command("export", model, "--html", "digit.html")
    return {
        "resume": None if tested else resume_command(config, folder, anywhere=True),
        "train": command("train", *settings),
        "predict": command("predict", model, "FILE"),
        "web_demo": web_demo if _can_be_drawn_on(network) else None,
        "onnx": command("export", model, "--onnx", "model.onnx"),
        "compare": command("compare", here, "OTHER_RUN"),
    }


def _can_be_drawn_on(network: Sequential) -> bool:
    shape = network.metadata.get("image_shape") or (0, 1)
    is_square = len(shape) == 2 and shape[0] == shape[1]
    return is_square and network.metadata.get("pixels") is not False
