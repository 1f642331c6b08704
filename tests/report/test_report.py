"""`report.html` of runs of every kind: its content, its escaping, and that it is self-contained."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree.ElementTree import fromstring

import matplotlib
import numpy
import pytest
from html_tree import cells, part, pixels, require_self_contained, tree, words
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report_cases import FACTS, HOSTILE, answers_of, history_of

import xpnet
from xpnet import Callback
from xpnet.cli import export
from xpnet.cli.train import main
from xpnet.config import TrainConfig, make_config
from xpnet.data.dataset import Dataset
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.figures.calibration import calibration, reliability
from xpnet.figures.curves import Curve
from xpnet.report import compare
from xpnet.report.confusion import worst_pairs
from xpnet.report.diagrams import Diagram, curves_diagram
from xpnet.report.files import report_again
from xpnet.report.html import run_page
from xpnet.runs.run_reader import RunRecord
from xpnet.runs.summary import collect_metrics, digest_of
from xpnet.runs.test_set import PredictedTestSet
from xpnet.training.history import History, Record
from xpnet.utils.text import percent


def page_of(
    folder,
    answers=None,
    history=None,
    ended="",
    diverged=False,
    config=None,
    about=FACTS,
    **metadata,
):
    network = xpnet.Sequential([xpnet.Linear(16, 10)])
    network.metadata = metadata
    history = history_of() if history is None else history
    if answers is not None:
        about = collect_metrics(about, history, history.records[-1], answers)
    config = config or TrainConfig(batch_size=10)
    return tree(run_page(folder, config, history, about, network, answers, ended, diverged))


# Calibration


def test_calibration_by_hand():
    p = numpy.array([[0.95, 0.05], [0.1, 0.9], [0.6, 0.4], [0.5, 0.5], [0.0, 1.0]])
    found = calibration(p, numpy.array([0, 0, 0, 1, 1]), bins=10)
    # 0.5 belongs to (0.4, 0.5], 0.9 to (0.8, 0.9], 1 to the last.
    assert found.counts.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 2]
    assert found.accuracy.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert found.confidence[[4, 5, 8, 9]].tolist() == [0.5, 0.6, 0.9, 0.975]
    assert found.error == pytest.approx((0.5 + 0.4 + 0.9 + 2 * 0.025) / 5)


@given(st.integers(1, 40), st.integers(2, 5), st.integers(1, 20), st.integers(0, 2**32))
def test_calibration_is_what_guo_defines(samples, classes, bins, seed):
    draw = numpy.random.default_rng(seed)
    # Rounded, so that some lie on the edges of bins.
    p = draw.dirichlet(numpy.full(classes, 0.5), samples).round(1)
    labels = draw.integers(0, classes, samples)
    found, error = calibration(p, labels, bins), 0.0
    for m in range(1, bins + 1):
        low, high = (m - 1) / bins, m / bins
        inside = [i for i in range(samples) if low < p[i].max() <= high]
        assert found.counts[m - 1] == len(inside)
        if inside:
            accuracy = numpy.mean([p[i].argmax() == labels[i] for i in inside])
            confidence = numpy.mean([p[i].max() for i in inside])
            assert found.accuracy[m - 1] == pytest.approx(accuracy)
            assert found.confidence[m - 1] == pytest.approx(confidence)
            error += len(inside) / samples * abs(accuracy - confidence)
    assert found.error == pytest.approx(error)


def test_float32_probabilities_that_add_up_to_more_than_1_are_in_the_last_bin():
    p = numpy.array([[1.0000001, 0.0]], numpy.float32)
    assert calibration(p, numpy.array([0])).counts.tolist() == [0] * 14 + [1]


def test_the_worst_pairs_come_first():
    counts = numpy.array([[90, 5, 0], [5, 40, 5], [9, 0, 1]])
    # Of the three fives the one of the smaller class comes before that of the largest.
    assert worst_pairs(counts, 9) == [(2, 0, 9), (1, 0, 5), (1, 2, 5), (0, 1, 5)]
    assert worst_pairs(counts, 1) == [(2, 0, 9)]
    assert worst_pairs(numpy.diag([3, 4]), 5) == []
    assert counts[0, 0] == 90


# The page


def test_the_page_holds_all_its_parts_and_asks_for_nothing(tmp_path):
    root = page_of(tmp_path / "run", answers_of())
    require_self_contained(root)
    headings = [words(one) for one in root.iter("h2")]
    assert headings == [
        "Configuration",
        "Curves",
        "Confusion",
        "Most confused",
        "Each class",
        "Calibration",
        "Timing",
        "Commands",
        "Versions",
    ]
    (h1,) = root.iter("h1")
    assert words(h1) == "run"
    assert "made <up> (110 train, 20 validation, 60 test)" in words(root.find(".//header"))


def test_what_differs_from_the_defaults_comes_first(tmp_path):
    config = make_config(
        {"hidden": (64,), "seed": 7, "dropout": 0.1, "threads": 2, "dataset": "a<b>.npz"}
    )
    first, rest = part(page_of(tmp_path, config=config), "Configuration").iter("table")
    assert [row[:3] for row in cells(first)] == [
        ["setting", "value", "default"],
        ["dataset", '"a<b>.npz"', '"digits"'],
        ["hidden", "[64]", "[512, 256]"],
        ["dropout", "0.1", "0.4"],
        ["seed", "7", "0"],
    ]
    assert (
        cells(first)[2][3]
        == "the numbers of units of the hidden layers, separated by commas or spaces"
    )
    assert cells(rest)[0] == ["setting", "value", "description"]
    names = {row[0] for row in cells(first)[1:] + cells(rest)[1:]}
    assert names == set(TrainConfig.model_fields) - {"run", "resume", "threads", "report"}
    section = part(page_of(tmp_path, config=TrainConfig(threads=4)), "Configuration")
    assert "All settings have their default values." in words(section)
    assert len(list(section.iter("table"))) == 1


def test_the_matrix_and_the_scores_are_those_of_the_test(tmp_path):
    answers = answers_of(names=tuple("abcdefghij"))
    root = page_of(tmp_path, answers)
    head, *rows = cells(next(part(root, "Confusion").iter("table")))
    assert head[1:] == [row[0] for row in rows] == list("abcdefghij")
    numbers = [[int(cell or 0) for cell in row[1:]] for row in rows]
    assert numbers == answers.tested.confusion.tolist()
    (table,) = part(root, "Each class").iter("table")
    counts = answers.tested.confusion
    for number, row in enumerate(cells(table)[1:]):
        hits = counts[number, number]
        assert row[:3] == [
            "abcdefghij"[number],
            percent(hits / counts[:, number].sum()),
            percent(hits / counts[number].sum()),
        ]
        assert row[4] == str(counts[number].sum())


def test_the_surest_mistakes_are_shown_first_and_named(tmp_path):
    answers = answers_of(classes=3, samples=90)
    section = part(page_of(tmp_path, answers), "Most confused")
    true, guess, times = worst_pairs(answers.tested.confusion, 1)[0]
    assert words(next(section.iter("h3"))) == f"{true} predicted as {guess}"
    assert f"{times} of {answers.tested.confusion[true].sum()} test samples" in words(section)
    p, data = answers.predictions, answers.data
    mistaken = [i for i in range(90) if data.labels[i] == true and p.classes[i] == guess]
    mistaken.sort(key=lambda i: -p.confidence[i])
    assert len(mistaken) >= 8
    shown = list(next(section.iter("ul")))
    assert len(shown) == 8
    for i, one in zip(mistaken, shown, strict=False):
        image = one.find(".//img")
        numpy.testing.assert_array_equal(pixels(image), data.x[i].reshape(4, 4))
        assert image.get("alt") == f"Test sample {i + 1}"
        captions = [words(span) for span in one.iter("span")]
        assert captions == [
            f"as {guess} {percent(float(p.confidence[i]), 1)}",
            f"true {true} {percent(float(p.of_true[i]), 1)}",
        ]


def test_calibration_is_shown_with_its_counts(tmp_path):
    answers = answers_of()
    section = part(page_of(tmp_path, answers), "Calibration")
    found = reliability(answers.predictions, answers.data.labels)
    assert f"{percent(found.error)} expected calibration error" in words(section)
    (drawing,) = section.iter("svg")
    counts = [words(one) for one in drawing.iter("text") if one.get("class") == "count"]
    assert counts == [str(count) for count in found.counts if count]
    (table,) = section.iter("table")
    assert [row[1] for row in cells(table)[1:]] == counts


def test_timing_is_of_epochs_and_samples(tmp_path):
    # 11 steps an epoch of 110 samples in batches of 10, of which the last is interrupted halfway.
    history = history_of(3)
    history.records.append(Record(4, 38, 0.1, 0.2, 0.9, None, None, 1.0))
    section = words(part(page_of(tmp_path, history=history), "Timing"))
    assert "total7 s" in section.replace("total ", "total")
    # 110 samples in 2 s three times, 50 in 1 s.
    assert "samples/s, median55" in section.replace("median ", "median")
    assert "per epoch, median2 s" in section.replace("median ", "median")


def test_the_short_last_batch_of_an_epoch_is_counted_as_it_is(tmp_path):
    history = History([Record(2, 4, 0.1, 0.2, 0.9, None, None, 2.0)])
    config = TrainConfig(batch_size=100)
    section = words(part(page_of(tmp_path, history=history, config=config), "Timing"))
    assert "per epoch, median1 s" in section.replace("median ", "median")
    assert "samples/s, median110" in section.replace("median ", "median")


@pytest.mark.parametrize("classes", [1, 2, 3, 26, 27, 100])
def test_any_number_of_classes(classes, tmp_path):
    root = page_of(tmp_path, answers_of(classes, samples=300, wrong=0.3 if classes > 1 else 0))
    require_self_contained(root)
    section = part(root, "Confusion")
    if classes <= 26:
        assert len(cells(next(section.iter("table")))) == classes + 1
        return
    (image,) = section.iter("img")
    shown = pixels(image)
    assert shown.shape == (classes, classes, 4)
    assert shown[0, 0, 3] > 100
    assert shown[0, 5, 3] == 0
    # Blue on the diagonal, orange beside it.
    assert shown[0, 0, 2] > shown[0, 0, 0]
    assert shown[0, 1, 0] > shown[0, 1, 2]
    table = next(part(root, "Each class").find("details").iter("table"))
    assert len(cells(table)) == classes + 1


def test_data_that_is_no_images_has_its_mistakes_as_text(tmp_path):
    root = page_of(tmp_path, answers_of(image_shape=None))
    assert not list(root.iter("img"))
    assert "test sample " in words(part(root, "Most confused"))
    assert "xpnet.export" in words(part(root, "Commands"))
    assert "--html" not in words(part(root, "Commands"))


def test_without_a_mistake_there_is_none_to_show(tmp_path):
    root = page_of(tmp_path, answers_of(wrong=0))
    assert "All test samples were classified correctly." in words(part(root, "Most confused"))


def test_without_validation_there_are_no_curves_of_it(tmp_path):
    root = page_of(tmp_path, answers_of(), history_of(val_loss=None, val_accuracy=None))
    assert "validation" not in "".join(words(one) for one in root.iter("figure"))
    assert "validation accuracy" not in words(root.find(".//header"))


def test_probabilities_that_are_not_numbers_do_no_harm(tmp_path):
    answers = answers_of()
    answers.predictions.confidence[3] = answers.predictions.of_true[3] = numpy.nan
    root = page_of(tmp_path, answers)
    assert "nan %" in words(part(root, "Calibration"))
    for one in root.iter():
        if one.tag in ("path", "use", "text"):
            assert "nan" not in " ".join(one.attrib.values())


@pytest.mark.parametrize("value", [0, 7, 255, -1.5, 1e308, 5e-324])
@pytest.mark.parametrize("shape", [(4, 4), (1, 16), (200, 150)])
def test_samples_of_any_values_and_size_are_shown(value, shape, tmp_path):
    answers = answers_of(image_shape=shape)
    x = answers.data.x.astype(float if isinstance(value, float) else numpy.uint8)
    x[:] = value
    x[:, 0] = -x[:, 0] if isinstance(value, float) else 1
    data = Dataset(x, answers.data.labels, answers.data.classes, shape)
    root = page_of(tmp_path, PredictedTestSet(answers.tested, answers.predictions, data))
    for image in root.iter("img"):
        assert max(pixels(image).shape) <= 96
        assert pixels(image).ndim == 2


def test_names_stay_text_whatever_they_are(tmp_path):
    answers = answers_of(classes=4, names=HOSTILE)
    config = make_config({"dataset": "<script>alert(2)</script>.csv"})
    about = FACTS | {"dataset": {"name": "</style><script>alert(3)</script>", "sha256": "<b>"}}
    folder = tmp_path / "<script>alert(4)<!--"
    root = page_of(folder, answers, config=config, about=about)
    require_self_contained(root)
    head = cells(next(part(root, "Confusion").iter("table")))[0]
    assert head[1:3] == ["<script>alert(1)</scr..."[:21] + "...", '"><img src=x onerror=...'][:2]
    names = [row[0] for row in cells(next(part(root, "Each class").iter("table")))[1:]]
    assert names == list(HOSTILE)
    assert words(root.find(".//h1")) == "<script>alert(4)<!--"
    assert "<script>alert(4)<!--" in words(root.find(".//title"))
    assert "</style><script>alert(3)</script>" in words(root.find(".//header"))


def test_the_epoch_of_the_saved_weights_is_shown(tmp_path):
    history, answers = history_of(5), answers_of()
    about = collect_metrics(FACTS, history, history.records[2], answers)
    network = xpnet.Sequential([xpnet.Linear(16, 10)])
    root = tree(run_page(tmp_path, TrainConfig(), history, about, network, answers))
    assert "weights of epoch3" in words(root.find(".//header")).replace("epoch ", "epoch")
    root = page_of(tmp_path, answers, history)
    assert "weights of epoch" not in words(root.find(".//header"))


@pytest.mark.parametrize(
    ("settings", "words_expected"),
    [
        ({}, "saved and tested weights are those of the last epoch (5)"),
        ({"patience": 2}, "those of epoch 3, where the validation loss is the lowest"),
    ],
)
def test_the_header_says_which_weights_were_saved(settings, words_expected, tmp_path):
    history, answers = history_of(5), answers_of()
    kept = history.records[2 if settings else 4]
    about = collect_metrics(FACTS, history, kept, answers)
    network = xpnet.Sequential([xpnet.Linear(16, 10)])
    root = tree(run_page(tmp_path, make_config(settings), history, about, network, answers))
    assert words_expected in words(root.find(".//header"))


def test_an_interrupted_run_says_which_weights_were_saved(tmp_path):
    for values, expected in [
        ({}, "the last update"),
        ({"patience": 2}, "the lowest validation loss"),
    ]:
        root = page_of(
            tmp_path, config=make_config(values), history=history_of(1), ended="Interrupted: …"
        )
        assert f"saved weights are those of {expected}" in words(root.find(".//header"))
    root = page_of(tmp_path, history=history_of(1), ended="Diverged: …", diverged=True)
    assert "saved" not in words(root.find(".//header"))


def test_the_split_seed_is_shown(tmp_path):
    for values, expected in [({"seed": 3, "split_seed": 8}, 8), ({"seed": 3}, 3)]:
        root = page_of(tmp_path, config=make_config(values))
        assert f"split seed{expected}" in words(part(root, "Versions"))


def test_equal_samples_have_equal_digests():
    x, labels = numpy.arange(40, dtype=numpy.uint8).reshape(10, 4), numpy.arange(10) % 2
    data = Dataset(x, labels, ("a", "b"))
    again = Dataset(x.copy(), labels.astype(numpy.int32), ("a", "b"))
    assert digest_of(data) == digest_of(again)
    others = [
        Dataset(x + 1, labels, ("a", "b")),
        Dataset(x, 1 - labels, ("a", "b")),
        Dataset(x.astype(numpy.float32), labels, ("a", "b")),
        Dataset(x[::-1], labels[::-1], ("a", "b")),
        data.take(numpy.arange(9)),
    ]
    assert len({digest_of(one) for one in [data, *others]}) == 6
    assert digest_of(None) is None


def test_a_large_part_counts_by_some_rows(monkeypatch):
    x = numpy.arange(4000, dtype=numpy.uint8).reshape(1000, 4)
    whole = digest_of(Dataset(x, None, ("a",)))
    monkeypatch.setattr("xpnet.runs.summary._HASHED_BYTES", 400)
    some = digest_of(Dataset(x, None, ("a",)))
    assert some != whole
    x[5] += 1
    assert digest_of(Dataset(x, None, ("a",))) == some
    x[10] += 1
    assert digest_of(Dataset(x, None, ("a",))) != some


def test_a_diverged_run_says_so_and_what_to_do(tmp_path):
    ended = "Diverged: training diverged in epoch 1 (by step 30): the loss is nan."
    root = page_of(tmp_path / "run", history=History(), ended=ended, diverged=True)
    require_self_contained(root)
    assert ended in words(root.find(".//header"))
    assert "before the first record" in words(part(root, "Curves"))
    commands = [words(one) for one in part(root, "Commands").iter("pre")]
    begin = f"python -m xpnet.train --config {tmp_path}/run/config.toml"
    assert commands == [f"{begin} --learning-rate 0.0002", f"{begin} --clip-norm 1"]


def test_an_interrupted_run_says_how_to_resume(tmp_path):
    root = page_of(tmp_path / "a run", history=history_of(1), ended="Interrupted: …")
    commands = [words(one) for one in part(root, "Commands").iter("pre")]
    assert commands[0] == f"python -m xpnet.train --resume '{tmp_path}/a run'"
    assert "Confusion" not in {words(one) for one in root.iter("h2")}


SIZES = st.floats(0, allow_nan=False, allow_infinity=False)
SHARES = st.none() | st.floats(0, 1)
COUNTS = st.integers(0, 50) | st.integers(0, 2**53)
RECORDS = st.builds(Record, COUNTS, COUNTS, SIZES, SIZES, SHARES, st.none() | SIZES, SHARES, SIZES)


FAR_APART = [Record(0, 0, 0.0, 1.0, None, loss, None, 0.0) for loss in (5e-324, 3.8e293, 9e269)]


@settings(max_examples=10)
@given(st.lists(RECORDS, max_size=4), st.booleans())
@example(FAR_APART, False)
def test_any_history_that_can_be_read_can_be_shown(tmp_path_factory, records, in_order):
    if in_order:
        records.sort(key=lambda record: record.step)
    folder, history = tmp_path_factory.getbasetemp(), History(records)
    history.to_csv(folder / "history.csv")
    assert History.from_csv(folder / "history.csv") == history
    root = page_of(folder, history=history)
    require_self_contained(root)
    run = RunRecord(folder, TrainConfig(), history, None)
    for one in [*root.iter(), *tree(compare.page([run])).iter()]:
        if one.tag in ("path", "use", "text"):
            assert not {"nan", "inf", "-inf"} & set(" ".join(one.attrib.values()).split())


# Diagrams


def drawn(diagram):
    return fromstring(diagram.svg)


def curve_of(drawing):
    """The only curve of a drawing."""
    (curve,) = (one for one in drawing.iter() if one.get("class", "").startswith("curve "))
    return curve


def test_a_wide_range_of_losses_has_a_logarithmic_axis():
    def heights(values, **options):
        points = list(enumerate(values))
        drawing = drawn(curves_diagram("Loss", [Curve("a", points)], unit="epoch", **options))
        return [float(one.get("y")) for one in curve_of(drawing).iter("use")]

    up = heights([1, 10, 100])
    assert up[0] - up[1] == pytest.approx(up[1] - up[2], abs=0.2)
    up = heights([1, 2, 3])
    assert up[0] - up[1] == pytest.approx(up[1] - up[2], abs=0.2)
    up = heights([0.01, 0.5, 0.99], as_percent=True)
    assert up[0] - up[1] == pytest.approx(up[1] - up[2], abs=0.2)


def test_a_curve_of_many_points_stays_small_and_keeps_its_peaks():
    points = [(float(n), math.sin(n / 3000)) for n in range(100_000)]
    points[40_321] = (40_321.0, 5.0)
    diagram = curves_diagram("Loss", [Curve("a", points)], unit="step")
    (path,) = curve_of(drawn(diagram)).iter("path")
    places = [float(number) for number in re.findall(r"[-.\d]+", path.get("d"))]
    assert len(places) < 6000
    up = places[1::2]
    assert min(up) < 30
    assert sorted(up)[10] > 100
    across = places[::2]
    assert (across[0], across[-1]) == (min(across), max(across))
    assert across[-1] - across[0] > 250


def test_one_value_and_no_value_are_drawn():
    assert curves_diagram("Loss", [Curve("a", [])], unit="epoch") == Diagram("Loss")
    for value in (0.0, 1.0, -3.0, 1e-300, 1e300):
        diagram = curves_diagram("Loss", [Curve("a", [(1.0, value)])], unit="epoch")
        assert len(list(curve_of(drawn(diagram)).iter("use"))) == 1


def test_more_curves_than_colours_differ_by_dashes():
    curves = [Curve(str(n), [(0.0, n), (1.0, n)], colour=n) for n in range(16)]
    assert len({curve.css for curve in curves}) == 16
    drawing = drawn(curves_diagram("Loss", curves, unit="epoch"))
    lines = [one for one in drawing.iter("g") if one.get("class", "").startswith("curve ")]
    assert [one.get("class") for one in lines] == [curve.css for curve in curves]
    dashes = [one.find("path").get("stroke-dasharray") for one in lines]
    assert dashes[:8] == [None] * 8
    assert None not in dashes[8:]


def test_a_drawing_is_text_without_colours_fonts_or_styles_of_its_own():
    points = [(1.0, 0.5), (2.0, 0.25)]
    curve = Curve("a", points, best=points[1])
    diagram = curves_diagram("Loss & more", [curve], unit="<epoch>")
    drawing = drawn(diagram)
    assert "<epoch>" in [words(one) for one in drawing.iter("text")]
    colours = {one.get(key) for one in drawing.iter() for key in ("fill", "stroke")}
    assert colours == {None, "none", "currentColor"}
    assert not {"style", "font", "color"} & {key for one in drawing.iter() for key in one.attrib}
    assert drawing.get("aria-label") == "Loss & more: a from 0.5 at <epoch> 1 to 0.25 at 2"
    names = [one.get("id") for one in drawing.iter() if one.get("id")]
    assert names
    assert all(name.startswith("loss-more-") for name in names)
    assert curves_diagram("Loss & more", [curve], unit="<epoch>") == diagram


def test_settings_of_matplotlib_stay_as_they_are():
    # Of `dict`: `RcParams` chooses a backend when that is asked for.
    before = dict.copy(matplotlib.rcParams)
    curves_diagram("Loss", [Curve("a", [(1.0, 0.5)])], unit="epoch")
    assert dict.copy(matplotlib.rcParams) == before


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    argv = ["--epochs", "2", "--hidden", "16", "--batch-size", "100", "--threads", "1"]
    assert main([*argv, "--run", str(folder)]) == 0
    return folder


def test_a_run_leaves_its_report(run):
    page = (run / "report.html").read_bytes()
    assert 20_000 < len(page) < 500_000
    root = tree(page)
    require_self_contained(root)
    metrics = json.loads((run / "metrics.json").read_text())
    header = words(root.find(".//header"))
    assert percent(metrics["test_accuracy"]) in header
    assert f"{metrics['parameters']:,}" in header
    assert metrics["dataset"]["sha256"] in words(part(root, "Versions"))
    assert percent(metrics["test_calibration_error"]) in words(part(root, "Calibration"))
    assert len(list(part(root, "Most confused").iter("img"))) > 10


@pytest.mark.needs("onnx")
def test_the_commands_on_the_page_work(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tree((run / "report.html").read_bytes())
    commands = [shlex.split(words(o)) for o in part(root, "Commands").iter("pre")]
    modules = [argv[2] for argv in commands]
    assert modules == ["xpnet." + n for n in ("train", "predict", "export", "export", "compare")]
    assert main(commands[0][3:]) == 0
    for name in ("model.safetensors", "config.toml"):
        assert (tmp_path / "runs/digits-001" / name).read_bytes() == (run / name).read_bytes()
    for argv in commands[2:4]:
        assert export.main(argv[3:]) == 0
    assert (tmp_path / "digit.html").exists()


@pytest.mark.slow
def test_the_report_can_be_made_again(run, tmp_path):
    again = tmp_path / run.name
    shutil.copytree(run, again)
    figures = sorted(path.name for path in run.glob("*.png"))
    for name in ("report.html", *figures):
        (again / name).unlink()
    assert report_again(again) == again / "report.html"
    here, there = ((f / "report.html").read_text() for f in (again, run))
    assert here.replace(str(again), "") == there.replace(str(run), "")
    assert len(figures) >= 4
    for name in figures:
        assert (again / name).read_bytes() == (run / name).read_bytes()


def test_without_a_report_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys; from xpnet.cli.train import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'matplotlib' in sys.modules)"
    )
    flags = ["--no-report", "--epochs", "1", "--hidden", "8"]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *flags], check=False)
    assert done.returncode == 0
    (folder,) = Path("runs").iterdir()
    names = {"config.toml", "history.csv", "metrics.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    report_again(folder)
    names |= {"report.html", "training_metrics.png", "confusion_matrix.png"}
    names |= {"sample_predictions.png", "weights.png"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("harm", "kind", "message"),
    [
        (lambda f: (f / "metrics.json").unlink(), ConfigError, "is not finished.*--resume"),
        (lambda f: (f / "config.toml").unlink(), ConfigError, "is not the folder of a run"),
        (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "no such file"),
        (lambda f: (f / "metrics.json").write_text("{}"), DataError, "metrics.json: test_accuracy"),
        (lambda f: (f / "history.csv").write_text("a,b\n"), DataError, "history.csv begins with"),
        (
            lambda f: xpnet.save(xpnet.Sequential([xpnet.Linear(5, 2)]), f / "model.safetensors"),
            CheckpointError,
            "classes or features of the model are not those",
        ),
        (
            lambda f: (f / "metrics.json").write_text(
                (f / "metrics.json").read_text().replace('"sha256": "', '"sha256": "0')
            ),
            DataError,
            "is not the data of the run",
        ),
    ],
)
def test_what_cannot_be_reported_again_is_one_line(harm, kind, message, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = (folder / "report.html").read_bytes()
    harm(folder)
    with pytest.raises(kind, match=message) as caught:
        report_again(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert (folder / "report.html").read_bytes() == before


def test_a_run_that_diverges_leaves_a_report(tmp_path, capsys):
    argv = ["--optimizer", "sgd", "--learning-rate", "1e30", "--warm-up", "0", "--epochs", "1"]
    assert main([*argv, "--hidden", "8", "--run", str(tmp_path / "run")]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
    header = words(tree((tmp_path / "run/report.html").read_bytes()).find(".//header"))
    assert "Diverged: training diverged in epoch 1" in header
    assert not (tmp_path / "run/metrics.json").exists()


def test_a_run_that_is_interrupted_leaves_a_report(tmp_path, monkeypatch, capsys):
    class Interrupt(Callback):
        def on_step_end(self, run):
            if run.step == 40:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("xpnet.cli.train.Progress", Interrupt)
    folder = tmp_path / "run"
    assert main(["--hidden", "8", "--batch-size", "100", "--run", str(folder)]) == 130
    root = tree((folder / "report.html").read_bytes())
    assert "Interrupted: not trained to the end" in words(root.find(".//header"))
    command = words(next(part(root, "Commands").iter("pre")))
    assert f"to resume:   {command}" in capsys.readouterr().out
    monkeypatch.undo()
    without = tmp_path / "without"
    shutil.copytree(folder, without)
    assert main(["--resume", str(without), "--no-report"]) == 0
    assert not (without / "report.html").exists()
    report_again(without)
    assert main(shlex.split(command)[3:]) == 0
    root = tree((folder / "report.html").read_bytes())
    assert "Interrupted" not in words(root.find(".//header"))
    assert "Calibration" in {words(one) for one in root.iter("h2")}
