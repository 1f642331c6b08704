"""Figures of a run: what is drawn on them, and the files that they become."""

from __future__ import annotations

import struct
import sys
import threading
from itertools import pairwise

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from xpnet.errors import ShapeError, XpnetError
from xpnet.figures import plots, style
from xpnet.random import generator
from xpnet.training.history import History, Record
from xpnet.tune import plot

DIGITS = tuple("0123456789")


def record(epoch, step, loss=1.0, accuracy=0.5, val_loss=1.1, val_accuracy=0.4):
    return Record(epoch, step, 0.1, loss, accuracy, val_loss, val_accuracy, 2.0)


def run(epochs=5, steps=20, **changes):
    records = [
        record(n, n * steps, 1 / n, 1 - 0.5 / n, abs(n - 3) + 0.5, 0.9 - 0.1 * abs(n - 4))
        for n in range(1, epochs + 1)
    ]
    return History([Record(**(vars(item) | changes)) for item in records])


def curves(axes):
    """The lines of one diagram by the first word of their label."""
    return {line.get_label().split()[0]: line for line in axes.get_lines()}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def chunks(path):
    """The kinds of a PNG file's chunks."""
    content, kinds, place = path.read_bytes(), [], 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kinds.append(content[place + 4 : place + 8].decode())
        place += length + 12
    return kinds


# Curves


def test_loss_and_accuracy_stand_side_by_side():
    loss, accuracy = plots._training_figure(run()).axes
    assert [axes.get_title() for axes in (loss, accuracy)] == ["Loss", "Accuracy"]
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"
    training, validation, best = (curves(loss)[n] for n in ("training", "validation", "best"))
    numpy.testing.assert_allclose(training.get_xdata(), [1, 2, 3, 4, 5])
    numpy.testing.assert_allclose(training.get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    numpy.testing.assert_allclose(validation.get_ydata(), [2.5, 1.5, 0.5, 1.5, 2.5])
    assert (*best.get_xdata(), *best.get_ydata()) == (3, 0.5)
    assert legend(loss) == ["training 0.2", "validation 2.5", "best 0.5 (epoch 3)"]
    best = curves(accuracy)["best"]
    assert (*best.get_xdata(), *best.get_ydata()) == (4, pytest.approx(0.9))
    assert legend(accuracy)[0] == "training 90.00 %"
    assert legend(accuracy)[2] == "best 90.00 % (epoch 4)"
    assert training.get_linestyle() != validation.get_linestyle()


def test_without_validation_there_is_one_curve():
    figure = plots._training_figure(run(val_loss=None, val_accuracy=None))
    for axes in figure.axes:
        assert list(curves(axes)) == ["training"]


def test_without_accuracy_the_loss_stands_alone():
    (axes,) = plots._training_figure(run(accuracy=None, val_accuracy=None)).axes
    assert axes.get_title() == "Loss"
    assert set(curves(axes)) == {"training", "validation", "best"}


def test_an_interrupted_epoch_ends_where_it_was_left():
    history = run()
    history.records.append(record(6, 110, 0.15, 0.95, None, None))
    loss, _ = plots._training_figure(history).axes
    numpy.testing.assert_allclose(curves(loss)["training"].get_xdata(), [1, 2, 3, 4, 5, 5.5])
    numpy.testing.assert_allclose(curves(loss)["validation"].get_xdata(), [1, 2, 3, 4, 5])
    assert legend(loss)[:2] == ["training 0.15", "validation 2.5"]


@pytest.mark.parametrize(
    ("places", "unit", "expected"),
    [
        ([(10, 200), (20, 400), (25, 500)], "epoch", [10, 20, 25]),
        ([(1, 5), (1, 10), (2, 15)], "step", [5, 10, 15]),
        # 500 steps at a time, 400 to the epoch
        ([(2, 500), (3, 1000), (4, 1500), (4, 1600)], "step", [500, 1000, 1500, 1600]),
        ([(1, 20), (2, 40), (1, 20), (2, 40)], "record", [1, 2, 3, 4]),
    ],
)
def test_epochs_or_steps_or_records_are_counted(places, unit, expected):
    history = History([record(epoch, step) for epoch, step in places])
    loss, _ = plots._training_figure(history).axes
    assert loss.get_xlabel() == unit
    numpy.testing.assert_allclose(curves(loss)["training"].get_xdata(), expected)


def test_one_record_shows_as_points():
    for axes in plots._training_figure(run(epochs=1)).axes:
        for line in curves(axes).values():
            assert line.get_marker() not in (None, "None", "")
        low, high = axes.get_xlim()
        assert low < 1 < high


def test_many_records_are_lines_without_markers():
    loss, _ = plots._training_figure(run(epochs=200)).axes
    assert curves(loss)["training"].get_marker() == "None"


def test_no_record_is_said_so():
    figure = plots._training_figure(History())
    assert [text.get_text() for text in figure.texts] == ["no record yet"]


def test_a_wide_range_of_losses_has_a_logarithmic_axis():
    wide = History([record(n, 20 * n, 4.0**-n) for n in range(1, 8)])
    assert plots._training_figure(wide).axes[0].get_yscale() == "log"
    assert plots._training_figure(run()).axes[0].get_yscale() == "linear"
    with_zero = History([*wide.records, record(8, 160, 0.0)])
    assert plots._training_figure(with_zero).axes[0].get_yscale() == "linear"


def test_what_is_not_finite_is_left_out():
    history = run()
    history.records.append(record(6, 120, 0.1, 0.9, float("inf"), 0.1))
    loss, _ = plots._training_figure(history).axes
    assert len(curves(loss)["validation"].get_xdata()) == 5


# Confusion matrix


def test_the_counts_stand_in_the_cells_and_errors_have_colour():
    counts = numpy.array([[90, 10, 0], [0, 50, 0], [1, 0, 4]])
    figure = plots._confusion_figure(counts, ["cat", "dog", "cow"])
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "90\n90.0 %",
        (1, 0): "10",
        (1, 1): "50\n100.0 %",
        (0, 2): "1",
        (2, 2): "4\n80.0 %",
    }
    assert axes.get_title() == "Accuracy 92.90 % (144 of 155)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "cow"]
    colours = axes.get_images()[0].get_array()
    # Red is as deep as the share of the row: 1 of 5 is worse than 10 of 100.
    green = colours[..., 1]
    assert green[2, 0] < green[0, 1] < green[0, 2] == green[1, 0] == 1
    # The diagonal is blue.
    assert all(colours[n, n, 2] > colours[n, n, 0] for n in range(3))
    assert colours[2, 0, 0] > colours[2, 0, 2]


def test_numbers_contrast_with_their_cells():
    counts = numpy.array([[50, 50, 0], [20, 80, 0], [7, 3, 90]])
    axes = plots._confusion_figure(counts, DIGITS[:3]).axes[0]
    colours = axes.get_images()[0].get_array()
    shades = {text.get_color() for text in axes.texts}
    assert shades == {"black", "white"}
    for text in axes.texts:
        column, row = text.get_position()
        light = colours[row, column, :3].mean() > 0.5
        assert (text.get_color() == "black") == light


@pytest.mark.parametrize("size", [1, 2, 10, 26, 27, 100])
def test_any_number_of_classes(size, tmp_path):
    counts = numpy.diag(numpy.full(size, 1000)) + generator(0, "c").integers(0, 2, (size, size))
    names = [f"a rather long name, number {number}" for number in range(size)]
    figure = plots._confusion_figure(counts, names)
    axes = figure.axes[0]
    assert bool(axes.texts) == (size <= 26)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) == min(size, 26 if size <= 26 else -(-size // -(-size // 26)))
    assert all(len(label) <= 18 for label in labels)
    assert len(set(labels)) == len(labels)
    plots.confusion_matrix(counts, names, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert max(image.size) < 2400


def test_texts_stay_within_their_cells():
    for size, count in ((2, 10**7), (10, 59_230), (26, 123_456)):
        counts = numpy.full((size, size), count)
        figure = plots._confusion_figure(counts, DIGITS * 3 if size > 26 else ["n"] * size)
        figure.canvas.draw()
        axes = figure.axes[0]
        (left, _), (right, _) = axes.transData.transform([(0, 0), (1, 0)])
        widest = max(text.get_window_extent().width for text in axes.texts)
        assert widest < 1.02 * (right - left)


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[5, 0], [0, 0]], [[0, 3], [2, 0]]])
def test_classes_without_samples_or_without_errors(counts, tmp_path):
    plots.confusion_matrix(numpy.array(counts), [r"$\frac$", "no $"], tmp_path / "c.png")
    axes = plots._confusion_figure(numpy.array(counts), [r"$\frac$", "no $"]).axes[0]
    assert axes.get_title() == ("No sample" if not numpy.any(counts) else axes.get_title())
    assert "nan" not in axes.get_title()


def test_counts_that_do_not_fit_the_classes_are_an_error(tmp_path):
    for counts in (numpy.zeros((2, 3), int), numpy.zeros((3, 3), int), numpy.zeros(2, int)):
        with pytest.raises(ShapeError, match="counts has shape"):
            plots.confusion_matrix(counts, ["a", "b"], tmp_path / "c.png")


# Samples


def predictions(count=40, classes=10, wrong=0.2, seed=0):
    draw = generator(seed, "predictions")
    p = draw.dirichlet(numpy.full(classes, 0.3), size=count)
    labels = p.argmax(axis=1)
    mistaken = draw.random(count) < wrong
    labels[mistaken] = (labels[mistaken] + 1) % classes
    return p, labels


def test_wrong_predictions_are_marked_by_more_than_colour():
    p = numpy.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05]])
    images = generator(0, "images").integers(0, 256, (2, 5, 4)).astype(numpy.uint8)
    figure = plots._samples_figure(images, p, numpy.array([0, 2]), ["cat", "dog", "$cow$"])
    right, wrong, *rest = figure.axes
    assert right.get_title() == "✓ cat  70.0 %\ntrue cat"
    assert wrong.get_title() == "✗ dog  90.0 %\ntrue $cow$  5.0 %"
    assert right.title.get_color() == "black"
    assert wrong.title.get_color() == style.RED
    assert wrong.spines["left"].get_linewidth() > right.spines["left"].get_linewidth()
    assert wrong.spines["top"].get_edgecolor() != right.spines["top"].get_edgecolor()
    numpy.testing.assert_array_equal(wrong.get_images()[0].get_array(), images[1])
    assert not any(axes.axison for axes in rest)


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (5, 5), (6, 6), (25, 25), (40, 25)])
def test_up_to_25_samples_are_shown(count, shown, tmp_path):
    p, labels = predictions(count)
    images = numpy.zeros((count, 28, 28), numpy.uint8)
    figure = plots._samples_figure(images, p, labels, DIGITS)
    assert sum(bool(axes.get_images()) for axes in figure.axes) == shown
    plots.sample_predictions(images, p, labels, DIGITS, tmp_path / "s.png")


def test_titles_with_long_names_do_not_overlap():
    p, labels = predictions(10, wrong=1)
    names = [f"{number} of the long-named classes" for number in range(10)]
    figure = plots._samples_figure(numpy.zeros((10, 8, 8)), p, labels, names)
    figure.canvas.draw()
    boxes = [axes.title.get_window_extent() for axes in figure.axes[:5]]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_names_are_no_formulas(tmp_path):
    p, labels = predictions(2, classes=2, wrong=1)
    names = [r"$\frac$", r"$\nosuch$"]  # neither could be drawn as a formula
    plots.sample_predictions(numpy.zeros((2, 8, 8)), p, labels, names, tmp_path / "s.png")


def test_a_letter_that_the_font_lacks_becomes_a_sign_for_that():
    assert style.shortened("été 鞄\x1b", 20) == "été \ufffd\ufffd"


def test_samples_that_do_not_fit_together_are_an_error(tmp_path):
    p, labels = predictions(4)
    images = numpy.zeros((4, 28, 28))
    for wrong in (
        (images[:3], p, labels, DIGITS),
        (images.reshape(4, -1), p, labels, DIGITS),
        (images, p[:, :5], labels, DIGITS),
        (images, p, labels[:2], DIGITS),
        (images[:0], p[:0], labels[:0], DIGITS),
    ):
        with pytest.raises(ShapeError, match="have shapes"):
            plots.sample_predictions(*wrong, tmp_path / "s.png")


@settings(max_examples=4 * settings.default.max_examples // 5)
@given(st.integers(0, 60), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**40))
def test_the_chosen_samples(size, count, wrong, seed):
    p, labels = predictions(size, wrong=wrong, seed=seed)
    chosen = plots.choose_samples(p, labels, count, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, size)
    mistaken = p.argmax(axis=1) != labels
    number, available = int(mistaken[chosen].sum()), int(mistaken.sum())
    hits = size - available
    assert number >= min(available, 1)
    assert number == min(available, max(-(-count // 3), count - hits))
    # The mistaken ones first, and those that the network was surest of.
    assert mistaken[chosen[:number]].all()
    sureness = p.max(axis=1)
    surest = numpy.sort(sureness[mistaken])[::-1][:number]
    numpy.testing.assert_array_equal(sureness[chosen[:number]], surest)
    numpy.testing.assert_array_equal(chosen, plots.choose_samples(p, labels, count, seed))


def test_another_seed_shows_other_right_ones():
    p, labels = predictions(500)
    first, second = (plots.choose_samples(p, labels, 24, seed) for seed in (1, 2))
    assert first[:8].tolist() == second[:8].tolist()
    assert set(first[8:].tolist()) != set(second[8:].tolist())


# Augmentation


def test_each_row_is_an_original_and_its_versions():
    changed = generator(0, "images").random((2, 3, 5, 4))
    originals = 2 * changed[:, 0]
    axes = plots._augmented_figure(originals, changed).axes
    assert len(axes) == 8
    assert [each.get_title() for each in axes[:4]] == ["original", "1", "2", "3"]
    for row in range(2):
        original, *versions = axes[4 * row : 4 * row + 4]
        numpy.testing.assert_array_equal(original.get_images()[0].get_array(), originals[row])
        for version, image in zip(versions, changed[row], strict=True):
            numpy.testing.assert_array_equal(version.get_images()[0].get_array(), image)
            assert version.spines["left"].get_linewidth() < 1
            assert original.spines["left"].get_linewidth() > 2
            assert original.spines["top"].get_edgecolor() != version.spines["top"].get_edgecolor()
    # One grey scale: the versions are half as bright.
    assert {each.get_images()[0].get_clim() for each in axes} == {(changed.min(), originals.max())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "versions", "shape"),
    [(1, 1, (28, 28)), (3, 1, (1, 5)), (1, 4, (28, 28)), (8, 9, (28, 28)), (20, 20, (6, 9))],
)
def test_up_to_8_originals_and_9_versions_are_shown(rows, versions, shape, tmp_path):
    originals = numpy.zeros((rows, *shape), "f4")
    changed = numpy.zeros((rows, versions, *shape), "f4")
    figure = plots._augmented_figure(originals, changed)
    assert len(figure.axes) == min(rows, 8) * (1 + min(versions, 9))
    figure.canvas.draw()
    headings = [axes.title.get_window_extent() for axes in figure.axes[: 1 + min(versions, 9)]]
    assert all(one.x1 < other.x0 for one, other in pairwise(headings))
    plots.augmented_samples(originals, changed, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert 700 <= image.size[0] <= 1600


def test_versions_that_are_none_of_the_originals_are_an_error(tmp_path):
    originals, changed = numpy.zeros((4, 9, 7)), numpy.zeros((4, 3, 9, 7))
    for wrong in (
        (originals[:3], changed),
        (originals[:, :8], changed),
        (originals, changed[:, 0]),
        (originals, changed[:, :0]),
        (originals[:0], changed[:0]),
        (originals.reshape(4, -1), changed.reshape(4, 3, -1)),
    ):
        with pytest.raises(ShapeError, match="originals and changed have shapes"):
            plots.augmented_samples(*wrong, tmp_path / "a.png")


# Searches


def searched(**changes):
    """A search of 12 trials: pruned (3), failed (5), far off (6); two are best (7, 9)."""
    draw = generator(0, "search")
    values = [0.9, 0.91, 0.89, 0.4, 0.92, None, 0.1, 0.95, 0.93, 0.95, 0.94, 0.9]
    found = {
        "values": values,
        "states": ["complete"] * 3 + ["pruned", "complete", "failed"] + ["complete"] * 6,
        "points": {
            "hidden": [[128], [64], [256, 128]] * 4,
            "optimizer": ["sgd", "adam"] * 6,
            "learning_rate": list(10 ** draw.uniform(-4, 0, 12)),
            "dropout": list(draw.uniform(0, 1, 12)),
            "batch_size": [32, "full", 4] * 4,
        },
        "logarithmic": ["learning_rate"],
        "best": 9,
        "objective": "val_accuracy",
    }
    return found | changes


def dots(axes, kind):
    """Where the marks of one kind stand, by the first word of their label."""
    marks = {str(mark.get_label()).split()[0]: mark for mark in axes.collections}
    return marks[kind].get_offsets().tolist()


def test_every_trial_stands_in_its_turn_and_the_best_so_far_above():
    top, *_ = plot._trials_figure(**searched()).axes
    assert top.get_title() == "Validation accuracy of 12 trials"
    assert top.get_xlabel() == "trial"
    numbers = [0, 1, 2, 4, 7, 8, 9, 10, 11]
    assert dots(top, "complete") == [[n, searched()["values"][n]] for n in numbers]
    assert [x for x, _ in dots(top, "failed")] == [5]
    assert dots(top, "best") == [[9, 0.95]]
    # What is far below the others lies at the edge, as a triangle.
    low, _ = top.get_ylim()
    far = [mark.get_offsets().tolist() for mark in top.collections if len(mark.get_offsets()) == 1]
    edge = {tuple(place) for (place,) in far if place[0] in (3, 6)}
    assert {x for x, _ in edge} == {3, 6}
    assert all(low < y < 0.89 for _, y in edge)
    assert low > 0.4
    (line,) = top.get_lines()
    expected = [0.9, 0.91, 0.91, 0.91, 0.92, 0.92, 0.92, 0.95, 0.95, 0.95, 0.95, 0.95]
    assert line.get_ydata().tolist() == expected
    assert "best 95.00 % (trial 9)" in legend(top)


def test_each_setting_has_a_diagram():
    _, hidden, optimizer, rate, dropout, batch = plot._trials_figure(**searched()).axes

    def columns(axes):
        return [label.get_text() for label in axes.get_xticklabels()]

    assert [axes.get_xlabel() for axes in (hidden, batch)] == ["hidden", "batch_size"]
    assert columns(hidden) == ["64", "128", "256, 128"]
    assert columns(optimizer) == ["adam", "sgd"]
    assert columns(batch) == ["4", "32", "full"]
    assert (rate.get_xscale(), dropout.get_xscale()) == ("log", "linear")
    points = searched()["points"]
    assert dots(rate, "best") == [[points["learning_rate"][9], 0.95]]
    ((x, _),) = dots(hidden, "best")
    assert round(x) == columns(hidden).index("128")
    # The odd ones are adam's; 3 and 5 are not complete.
    adam = [y for x, y in dots(optimizer, "complete") if round(x) == 0]
    assert adam == [searched()["values"][number] for number in (1, 7, 9, 11)]


def test_the_best_loss_is_the_lowest():
    values = [2.0, 0.5, 0.4, 90.0]
    found = searched(values=values, states=["complete"] * 4, objective="val_loss", best=2)
    top, panel = plot._trials_figure(**found | {"points": {"l2": [0.0, 0.5, 1.0, 2.0]}}).axes
    assert top.get_title() == "Validation loss of 4 trials"
    (line,) = top.get_lines()
    assert line.get_ydata().tolist() == [2.0, 0.5, 0.4, 0.4]
    assert top.get_ylim()[1] < 10
    assert "best 0.4 (trial 2)" in legend(top)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "0.5", "1", "2"]


@pytest.mark.parametrize("count", [1, 2, 500])
def test_any_number_of_trials_and_equal_values(count, tmp_path):
    points = {f"setting {n}": [r"$\frac$", 0.5, True, ()][n : n + 1] * count for n in range(4)}
    found = searched(values=[0.5] * count, states=["complete"] * count, points=points, best=0)
    plot.trials(**found, path=tmp_path / "t.png")
    low, high = plot._trials_figure(**found).axes[0].get_ylim()
    assert low < 0.5 < high


def test_trials_that_do_not_fit_together_are_an_error(tmp_path):
    wrong = {"values": [0.5]}, {"states": ["complete"]}, {"points": {"l2": [0.0]}}, {"values": []}
    for changes in wrong:
        with pytest.raises(ShapeError, match="have lengths"):
            plot.trials(**searched(**changes), path=tmp_path / "t.png")


# Weights


def test_each_unit_is_an_image_the_largest_first():
    weight = generator(0, "w").standard_normal((5, 12))
    weight *= numpy.array([[1], [5], [3], [4], [2]])
    axes = plots._weights_figure(weight, (3, 4)).axes[0]
    mosaic = axes.get_images()[0].get_array().filled(numpy.nan)
    assert mosaic.shape == (2 * 3 + 1, 3 * 4 + 2)
    for place, unit in enumerate((1, 3, 2, 4, 0)):
        top, left = place // 3 * 4, place % 3 * 5
        tile = mosaic[top : top + 3, left : left + 4]
        numpy.testing.assert_allclose(tile, weight[unit].reshape(3, 4))
    assert numpy.isnan(mosaic).sum() == mosaic.size - weight.size
    assert axes.get_title() == "First layer: weights of all 5 units"


def test_zero_is_the_middle_of_the_colours():
    weight = generator(0, "w").random((4, 9))
    image = plots._weights_figure(weight, (3, 3)).axes[0].get_images()[0]
    low, high = image.get_clim()
    assert low == -high
    assert high == pytest.approx(weight.max(), rel=0.1)


def test_one_hundred_of_many_units_are_shown():
    weight = generator(0, "w").standard_normal((128, 784))
    weight *= numpy.arange(1, 129)[:, None] / numpy.linalg.norm(weight, axis=1, keepdims=True)
    axes = plots._weights_figure(weight, (28, 28)).axes[0]
    assert axes.get_title() == "First layer: weights of 100 of 128 units (largest norms)"
    mosaic = axes.get_images()[0].get_array().filled(numpy.nan)
    assert numpy.isfinite(mosaic).sum() == 100 * 784
    numpy.testing.assert_allclose(mosaic[-28:, -28:], weight[28].reshape(28, 28))


@pytest.mark.parametrize("units", [1, 2, 10, 100])
def test_any_number_of_units_and_weights_of_zero(units, tmp_path):
    plots.first_layer_weights(numpy.zeros((units, 784), "f4"), (28, 28), tmp_path / "w.png")
    plots.first_layer_weights(numpy.ones((units, 64), "f4"), (4, 16), tmp_path / "w.png")


def test_weights_that_are_no_images_are_an_error(tmp_path):
    for weight in (numpy.zeros((3, 10)), numpy.zeros(9), numpy.zeros((0, 9))):
        with pytest.raises(ShapeError, match="weight has shape"):
            plots.first_layer_weights(weight, (3, 3), tmp_path / "w.png")


# Files


def draw_all(folder):
    p, labels = predictions()
    images = generator(0, "images").integers(0, 256, (40, 28, 28)).astype(numpy.uint8)
    weight = generator(0, "w").standard_normal((64, 784))
    plots.training_metrics(run(), folder / "metrics.png")
    plots.confusion_matrix(numpy.diag(range(10)), DIGITS, str(folder / "confusion.png"))
    plots.sample_predictions(images, p, labels, DIGITS, folder / "samples.png")
    plots.first_layer_weights(weight, (28, 28), folder / "weights.png")
    plots.augmented_samples(images[:8], images[:40].reshape(8, 5, 28, 28), folder / "changed.png")
    plot.trials(**searched(), path=folder / "trials.png")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return [draw_all(tmp_path_factory.mktemp(name)) for name in ("first", "second")]


def test_the_files_are_png_of_a_sensible_size_and_nothing_else(drawn):
    files = drawn[0]
    names = {"metrics.png", "confusion.png", "samples.png", "weights.png", "changed.png"}
    assert set(files) == names | {"trials.png"}
    with Image.open(files["metrics.png"]) as image:
        assert image.size == (1430, 572)
    with Image.open(files["samples.png"]) as image:
        assert image.size[0] == 1300
    for path in files.values():
        with Image.open(path) as image:
            assert 700 <= image.size[0] <= 1600
        assert path.stat().st_size < 500_000
        # No text, no time: nothing but the figure and its resolution.
        assert set(chunks(path)) == {"IHDR", "pHYs", "IDAT", "IEND"}


def test_the_same_figure_is_the_same_file(drawn):
    first, second = drawn
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes()


def test_threads_do_not_disturb_each_other(tmp_path):
    plots.training_metrics(run(), tmp_path / "alone.png")
    threads = [
        threading.Thread(target=plots.training_metrics, args=(run(), tmp_path / f"{n}.png"))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = (tmp_path / "alone.png").read_bytes()
    assert all((tmp_path / f"{n}.png").read_bytes() == expected for n in range(4))


def test_pyplot_and_its_windows_stay_away(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    plots.training_metrics(run(), tmp_path / "metrics.png")
    plots.confusion_matrix(numpy.eye(2, dtype=int), "ab", tmp_path / "confusion.png")


def test_a_figure_that_cannot_be_written_is_one_line_that_names_it(tmp_path):
    path = tmp_path / "nowhere" / "metrics.png"
    with pytest.raises(XpnetError, match="cannot be written") as caught:
        plots.training_metrics(run(), path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(XpnetError, match=r"folder\.png"):
        plots.training_metrics(run(), tmp_path / "folder.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.png"]


@settings(max_examples=10, deadline=None)
@given(
    arrays.arrays(
        numpy.int64, st.integers(1, 6).map(lambda n: (n, n)), elements=st.integers(0, 10**9)
    ),
    st.text(max_size=40),
)
def test_any_counts_and_any_name_can_be_laid_out(counts, name):
    names = [name, *DIGITS][: len(counts)]
    figure = plots._confusion_figure(counts, names)
    figure.canvas.draw()
