"""`report.html`: a run as one page that says how it was trained, how good it is, and where not.

Made of what the run's files hold and, for the pictures and the calibration, of what the network
answers on the test part: see `xpnet.report.summary`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element

from xpnet.config import TrainConfig
from xpnet.errors import truncate
from xpnet.figures.calibration import reliability
from xpnet.figures.plots import horizontal
from xpnet.figures.style import percent
from xpnet.metrics import MOST_CLASSES, class_scores
from xpnet.network import Sequential
from xpnet.report.charts import Line, line_chart, reliability_chart
from xpnet.report.confusion import confusion_part, mistakes_part
from xpnet.report.elements import document, element, figure_list, fold, note, section, table
from xpnet.report.test_set import PredictedTestSet
from xpnet.runs.run_folder import MODEL, absolute_path_flags, resume_command
from xpnet.training.history import History, loss_text
from xpnet.utils.shell import shell_command
from xpnet.utils.toml import toml_value

_FEW_ROWS = 26
_LONGEST_NAME = 60
# Beyond it the margins of an axis would not be finite.
_TOO_LARGE = 1e300


def run_page(
    folder: Path,
    config: TrainConfig,
    history: History,
    about: dict[str, Any],
    network: Sequential,
    answers: PredictedTestSet | None = None,
    ended: str = "",
    diverged: bool = False,
) -> bytes:
    """The page of the run in `folder`.

    `about`: what `metrics.json` holds or, of a run that came to no test, its part that is known
    before; then `answers` is None, and `ended` says in a sentence why. What `diverged` cannot go
    on, and has no model.
    """
    parts = [_settings(config, network), _curves(config, history)]
    if answers is not None:
        parts += [
            confusion_part(answers.tested.confusion, answers.data.classes),
            mistakes_part(answers.tested.confusion, answers.predictions, answers.data),
            _scores(answers),
            _calibration(answers),
        ]
    parts += [_timing(config, history, about), _again(folder, config, network, answers, diverged)]
    parts.append(_versions(config, about))
    name = folder.resolve().name
    header = _header(name, config, history, about, ended, diverged)
    return document(f"{name}: an xpnet run", header, element("main", *parts))


def _header(
    name: str,
    config: TrainConfig,
    history: History,
    about: dict[str, Any],
    ended: str,
    diverged: bool,
) -> Element:
    header = element("header", element("h1", name))
    data, counts = about["dataset"], about["samples"]
    parts = ", ".join(f"{counts[part]:,} {part}" for part in counts if counts[part])
    header.append(element("p", f"A network trained with xpnet on {data['name']} ({parts})."))
    if ended:
        header.append(element("p", ended, class_="ended"))
    if not diverged:
        header.append(element("p", _which_weights(config, history, about)))
    figures = {}
    if "test_accuracy" in about:
        figures["test accuracy"] = percent(about["test_accuracy"])
        figures["test loss"] = loss_text(about["test_loss"])
        if about["validation_accuracy"] is not None:
            figures["validation accuracy"] = percent(about["validation_accuracy"])
    elif history.records:
        last = history.records[-1]
        figures["training loss"] = loss_text(last.loss)
        if last.val_accuracy is not None:
            figures["validation accuracy"] = percent(last.val_accuracy)
    if history.records:
        epochs = history.records[-1].epoch
        figures["epochs"] = f"{epochs:,}"
        if (kept := about.get("kept_epoch", epochs)) != epochs:
            figures["weights kept of epoch"] = f"{kept:,}"
        figures["training time"] = _duration(sum(history.column("seconds")))
    figures["parameters"] = f"{about['parameters']:,}"
    header.append(figure_list(figures))
    return header


def _which_weights(config: TrainConfig, history: History, about: dict[str, Any]) -> str:
    if "kept_epoch" not in about:
        is_best = config.patience is not None and history.records
        which = "the lowest validation loss so far" if is_best else "the last update"
        return f"The weights that were saved are those of {which}."
    which = f"the last epoch ({about['kept_epoch']:,})"
    if config.patience is not None:
        which = f"epoch {about['kept_epoch']:,}, where the validation loss is the lowest"
    return f"The weights that were saved, and that were tested, are those of {which}."


def _settings(config: TrainConfig, network: Sequential) -> Element:
    fields = type(config).model_fields
    # Where and with how many threads it ran stands with the versions.
    left_out = {"run", "resume", "threads"}
    names = [name for name in fields if name not in left_out]
    changed = [name for name in names if getattr(config, name) != fields[name].default]

    def row(name: str) -> list[Element | str]:
        about = " ".join((fields[name].description or "").split())
        return [
            element("th", element("code", name), scope="row"),
            element("td", element("code", _value(getattr(config, name)))),
            element("td", about, class_="text"),
        ]

    def changed_row(name: str) -> list[Element | str]:
        first, value, about = row(name)
        default = element("code", _value(fields[name].default))
        return [first, value, element("td", default, class_="quiet"), about]

    content = [note("All settings are the defaults.")]
    if changed:
        rows = [changed_row(name) for name in changed]
        head = ["setting", "value", "default", "what it is"]
        content = [table(head, rows, caption="What differs from the defaults", class_="words")]
    rows = [row(name) for name in names if name not in changed]
    head = ["setting", "value", "what it is"]
    content += [
        fold(
            f"{len(rows)} settings as by default",
            table(head, rows, caption="The others", class_="words"),
        ),
        fold("The network, layer by layer", element("pre", network.summary(), tabindex=0)),
    ]
    return section("Configuration", *content)


def _value(value: Any) -> str:
    return "–" if value is None else truncate(toml_value(value), 200)


def _curves(config: TrainConfig, history: History) -> Element:
    if not history.records:
        return section("Curves", note("Training ended before the first record."))
    x, unit = horizontal(history)
    charts = [
        line_chart("Loss", _lines(history, x, "loss", min), unit=unit),
        line_chart("Accuracy", _lines(history, x, "accuracy", max), unit=unit, show=percent),
        line_chart(
            "Learning rate", [Line("", points(history, x, "learning_rate"))], unit=unit, floor=0
        ),
    ]
    text = "★ is the best validation value."
    if config.train_metrics == "running":
        text += (
            " Training figures are means while it trains, with dropout on; validation figures are "
            "of the end of an epoch. So training may lie below validation."
        )
    return section("Curves", element("div", *charts, note(text), class_="charts"))


def _lines(history: History, x: Sequence[float], name: str, best: Any) -> list[Line]:
    held_out = points(history, x, f"val_{name}")
    star = best(held_out, key=lambda point: point[1]) if held_out else None
    return [
        Line("training", points(history, x, name)),
        Line("validation", held_out, colour=1, dashed=True, best=star),
    ]


def points(history: History, x: Sequence[float], name: str) -> list[tuple[float, float]]:
    """Where a column of the history has a value that can be drawn, that value."""
    pairs = zip(x, history.column(name), strict=True)
    return [(place, v) for place, v in pairs if v is not None and abs(v) < _TOO_LARGE]


def _scores(answers: PredictedTestSet) -> Element:
    named = list(zip(answers.data.classes, class_scores(answers.tested.confusion), strict=True))
    # Of very many classes those that the test says something of.
    known = [pair for pair in named if len(named) <= MOST_CLASSES or pair[1].f1 is not None]
    left_out = len(named) - len(known[:MOST_CLASSES])
    rows: list[list[Element | str]] = [
        [
            truncate(name, _LONGEST_NAME),
            percent(score.precision),
            percent(score.recall),
            "–" if score.f1 is None else f"{score.f1:.4f}",
            f"{score.support:,}",
        ]
        for name, score in known[:MOST_CLASSES]
    ]
    head = ["class", "precision", "recall", "F1", "samples"]
    shown = table(head, rows, caption="Precision, recall and F1 of each class")
    if left_out:
        text = f"{left_out:,} more classes are not shown; metrics.json has the scores of all."
        return section("Each class", fold(f"{len(rows):,} classes", shown), note(text))
    content = shown if len(rows) <= _FEW_ROWS else fold(f"All {len(rows)} classes", shown)
    return section("Each class", content)


def _calibration(answers: PredictedTestSet) -> Element:
    assert answers.data.labels is not None
    found = reliability(answers.predictions, answers.data.labels)
    bins = len(found.counts)
    rows: list[list[Element | str]] = [
        [
            f"{percent(number / bins, 0)} to {percent((number + 1) / bins, 0)}",
            f"{count:,}",
            percent(float(found.accuracy[number])),
            percent(float(found.confidence[number])),
        ]
        for number, count in enumerate(found.counts.tolist())
        if count
    ]
    head = ["confidence", "samples", "accuracy", "mean confidence"]
    sure = float(found.counts @ found.confidence / found.counts.sum())
    right = float(found.counts @ found.accuracy / found.counts.sum())
    how = "surer than they are right" if sure > right else "no surer than they are right"
    text = element(
        "div",
        element("p", element("strong", percent(found.error)), " expected calibration error"),
        note(
            f"On average predictions are {how}: mean confidence {percent(sure)}, accuracy "
            f"{percent(right)}. A bar is the accuracy of the predictions of that confidence; on "
            f"the diagonal they come true as often as they say. The error is the mean distance "
            f"from it over all test samples, {bins} bins (Guo et al. 2017, section 2)."
        ),
        fold("The numbers", table(head, rows, caption="Accuracy by confidence")),
    )
    both = element("div", reliability_chart(found), text, class_="charts")
    return section("Calibration", both)


def _timing(config: TrainConfig, history: History, about: dict[str, Any]) -> Element:
    paces = list(_paces(config, history, about["samples"]["train"]))
    if not paces:
        return section("Timing", note("Nothing was measured."))
    total = sum(history.column("seconds"))
    seconds = [an_epoch for _, an_epoch, _ in paces]
    figures = {
        "in all": _duration(total),
        "an epoch, median": _duration(median(seconds)),
        "samples/s, median": f"{median(rate for _, _, rate in paces):,.0f}",
    }
    content = [figure_list(figures)]
    if len(paces) > 1:
        x, unit = horizontal(history)
        line = Line("", [(x[number], an_epoch) for number, an_epoch, _ in paces])
        content.append(line_chart("Seconds an epoch", [line], unit=unit, floor=0))
    content = [element("div", *content, class_="charts")]
    content.append(
        note(
            "Of training alone, with its validation passes; reading the data, the test and the "
            "pictures come on top."
        )
    )
    return section("Timing", *content)


def _paces(
    config: TrainConfig, history: History, samples: int
) -> Iterator[tuple[int, float, float]]:
    """Of each record: its number, seconds an epoch, and samples a second."""
    size = samples if config.batch_size == "full" else min(config.batch_size, samples)
    steps = -(-samples // size)

    def seen(step: int) -> int:
        # The last batch of an epoch may be short.
        return step // steps * samples + step % steps * size

    ends = [0, *(seen(step) for step in history.column("step"))]
    for number, (before, after) in enumerate(pairwise(ends)):
        seconds = history.records[number].seconds
        if after > before and seconds > 0:
            rate = (after - before) / seconds
            if 1 / _TOO_LARGE < rate < _TOO_LARGE:
                yield number, samples / rate, rate


def _duration(seconds: float) -> str:
    if seconds > _TOO_LARGE:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _again(
    folder: Path,
    config: TrainConfig,
    network: Sequential,
    answers: PredictedTestSet | None,
    diverged: bool,
) -> Element:
    def run(module: str, *words: str | Path) -> str:
        return shell_command("python", "-m", f"xpnet.{module}", *words)

    # It may be read in any folder, and what it says is to be typed there.
    here = folder.absolute()
    model = here / MODEL
    settings: list[str | Path] = ["--config", here / "config.toml", *absolute_path_flags(config)]
    same = "The same training again; on this machine and device to the same bits"
    commands = {same: run("train", *settings)}
    if diverged:
        lower = f"{config.learning_rate / 10:g}"
        commands = {
            "The same with a smaller learning rate": run(
                "train", *settings, "--learning-rate", lower
            ),
            "The same with clipped gradients": run("train", *settings, "--clip-norm", "1"),
        }
    elif answers is None:
        on = resume_command(config, folder, anywhere=True)
        commands = {"To go on where it was left": on} | commands
    if not diverged:
        commands["What it sees in files"] = run("predict", model, "FILE")
        if _can_be_drawn_on(network):
            commands["A page to draw on"] = run("export", model, "--html", "digit.html")
        commands["As an ONNX file"] = run("export", model, "--onnx", "model.onnx")
        commands["Beside another run"] = run("compare", here, "OTHER_RUN")
    content = []
    for what, command in commands.items():
        content += [note(what), element("pre", command, tabindex=0)]
    where = note("To be typed in any folder; FILE and OTHER_RUN stand for paths of yours.")
    return section("Again, and further", *content, where)


def _can_be_drawn_on(network: Sequential) -> bool:
    shape = network.metadata.get("image_shape") or (0, 1)
    return shape[0] == shape[1] and network.metadata.get("pixels") is not False


def _versions(config: TrainConfig, about: dict[str, Any]) -> Element:
    rows = {
        "seed": str(about["seed"]),
        "seed of the split": str(config.seed_of_split),
        "data": about["dataset"]["name"],
        "SHA-256 of the data": about["dataset"]["sha256"],
        "device": f"{about['device']}, {about['dtype']}",
        "BLAS threads": str(about["threads"]),
        **about["versions"],
    }
    cells: list[list[Element | str]] = [
        [name, element("td", element("code", value), class_="long")] for name, value in rows.items()
    ]
    return section(
        "Made with",
        table(["what", "which"], cells, caption="Versions, seed and data", class_="words"),
    )
