"""`Dataset`, `Source`, `Normalisation`, `one_hot`: what holds and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpnet.data import Dataset, Normalisation, Source, one_hot
from xpnet.data.dataset import MAX_CLASSES, numbered_classes, square_shape
from xpnet.errors import DataError

X = numpy.arange(12, dtype=numpy.uint8).reshape(3, 4)
LABELS = numpy.array([0, 1, 1])
CLASSES = ("no", "yes")


def test_importing_the_package_imports_neither_pandas_nor_pooch() -> None:
    code = "import sys, xpnet.data; print(*(m for m in ('pandas', 'pooch') if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_a_dataset_says_its_size_and_keeps_labels_as_int64() -> None:
    data = Dataset(X, LABELS.astype(numpy.uint8), CLASSES, (2, 2))
    assert (len(data), data.features) == (3, 4)
    assert data.labels is not None
    assert data.labels.dtype == numpy.int64
    assert data.x.dtype == numpy.uint8


def test_take_gives_rows_in_the_order_asked_for() -> None:
    taken = Dataset(X, LABELS, CLASSES, (2, 2)).take(numpy.array([2, 0]))
    assert taken.x.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert taken.labels is not None
    assert taken.labels.tolist() == [1, 0]
    assert (taken.classes, taken.image_shape) == (CLASSES, (2, 2))
    assert Dataset(X, None, ()).take(numpy.array([1])).labels is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [((2, 2), (2, 2)), ([2, 2], (2, 2)), ((2, 2, 1), (2, 2)), ((1, 2, 2), (1, 2, 2))],
    ids=["two", "list", "one channel", "two channels"],
)
def test_one_channel_is_not_written(given: Any, kept: tuple[int, ...]) -> None:
    data = Dataset(X, LABELS, CLASSES, given)
    assert data.image_shape == kept
    assert data.take(numpy.array([1])).image_shape == kept


def test_parts_of_other_channels_are_refused() -> None:
    train = Dataset(X, LABELS, CLASSES, (2, 2))
    test = Dataset(X, LABELS, CLASSES, (1, 2, 2))
    message = (
        "the test set holds images of 1 x 2 pixels of 2 channels, the training set images "
        "of 2 x 2 pixels$"
    )
    with pytest.raises(DataError, match=message):
        Source("a", train, test, "")


def test_a_dataset_is_frozen_and_contiguous() -> None:
    data = Dataset(numpy.asfortranarray(X), LABELS, CLASSES)
    assert data.x.flags.c_contiguous
    assert data.x.tolist() == X.tolist()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.classes = ("other",)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("x", "labels", "classes", "image_shape", "message"),
    [
        (X.tolist(), LABELS, CLASSES, None, r"x is of type list: give a NumPy array of uint8"),
        (X.astype(int), LABELS, CLASSES, None, r"x is an array of int64"),
        (X[0], LABELS, CLASSES, None, r"x has shape \(4,\)"),
        (X[:0], LABELS, CLASSES, None, r"x has shape \(0, 4\)"),
        (X[:, :0], LABELS, CLASSES, None, r"x has shape \(3, 0\)"),
        (X, LABELS.astype(float), CLASSES, None, r"labels is an array of float64"),
        (X, [0, 1, 1], CLASSES, None, r"labels is of type list"),
        (X, LABELS[:2], CLASSES, None, r"labels has shape \(2,\) where x has 3 rows"),
        (X, LABELS[:, None], CLASSES, None, r"labels has shape \(3, 1\)"),
        (X, LABELS - 1, CLASSES, None, r"labels\[0\] is -1, which is not in 0\.\.1"),
        (X, LABELS + 1, CLASSES, None, r"labels\[1\] is 2, which is not in 0\.\.1"),
        (X, LABELS, CLASSES, (3, 2), r"image_shape \(3, 2\) does not hold the 4 features"),
        (X, LABELS, CLASSES, (2, 2, 3), r"image_shape \(2, 2, 3\) does not hold the 4 features"),
        (X, LABELS, CLASSES, (4,), r"image_shape must be \(height, width\) or .*found \(4,\)"),
        (X, LABELS, CLASSES, (1, 1, 2, 2), r"image_shape must be .*found \(1, 1, 2, 2\)"),
        (X, LABELS, CLASSES, (2, 2.0), r"image_shape must be .*found \(2, 2\.0\)"),
        (X, LABELS, CLASSES, (-2, -2), r"image_shape must be .*found \(-2, -2\)"),
        (X, LABELS, CLASSES, 4, r"image_shape must be .*found 4"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    x: object, labels: object, classes: object, image_shape: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(x, labels, classes, image_shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
@pytest.mark.parametrize("dtype", [numpy.float32, numpy.float64])
def test_a_value_that_is_not_finite_is_named_by_its_place(value: float, dtype: type[Any]) -> None:
    x = X.astype(dtype)
    x[1, 2] = value
    with pytest.raises(DataError, match=rf"x\[1, 2\] is {value}"):
        Dataset(x, LABELS, CLASSES)


def test_the_parts_of_a_source_have_to_agree() -> None:
    train = Dataset(X, LABELS, CLASSES)
    for test, message in (
        (Dataset(X[:, :3], LABELS, CLASSES), "a test sample has 3 features, a training sample 4"),
        (Dataset(X, LABELS, ("0", "1")), "other classes"),
        (Dataset(X, None, CLASSES), "has no labels"),
    ):
        with pytest.raises(DataError, match=message):
            Source("name", train, test, "")


def test_unit_normalisation_scales_pixels_and_leaves_floats() -> None:
    assert Normalisation.unit(Dataset(X, None, ())) == Normalisation(1 / 255, 0.0)
    assert Normalisation.unit(Dataset(X.astype(numpy.float32), None, ())) == Normalisation(1, 0)


@pytest.mark.parametrize("dtype", [numpy.uint8, numpy.float32, numpy.float64])
def test_standard_normalisation_gives_mean_0_and_deviation_1(dtype: type[Any]) -> None:
    # More rows than are summed at once, so that the blocks have to add up.
    x = numpy.random.default_rng(3).integers(0, 256, (5000, 7)).astype(dtype)
    normalisation = Normalisation.standard(Dataset(x, None, (), (1, 7)))
    assert normalisation.scale == pytest.approx(1 / x.std(dtype=numpy.float64), rel=1e-12)
    out = normalisation.apply(x, numpy.float64)
    assert out.mean() == pytest.approx(0, abs=1e-12)
    assert out.std() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("value", [0, 7, 0.1])
def test_equal_values_cannot_be_standardised(value: float) -> None:
    x = numpy.full((5, 3), value, dtype=numpy.float32)
    with pytest.raises(DataError, match=r"cannot be standardised.*use unit normalisation"):
        Normalisation.standard(Dataset(x, None, ()))


def test_apply_keeps_shape_and_takes_the_dtype_asked_for() -> None:
    out = Normalisation(0.5, -1.0).apply(X.reshape(3, 2, 2))
    assert out.dtype == numpy.float32
    assert out.tolist() == (X.reshape(3, 2, 2) * 0.5 - 1).tolist()
    assert Normalisation(0.5, -1.0).apply(X, numpy.float64).dtype == numpy.float64


@given(st.lists(st.integers(0, 6)))
def test_one_hot_has_one_1_a_row_at_the_label(labels: list[int]) -> None:
    out = one_hot(numpy.array(labels, dtype=numpy.int64), 7)
    assert out.shape == (len(labels), 7)
    assert out.dtype == numpy.float32
    assert out.argmax(axis=1).tolist() == labels
    assert out.sum(axis=1).tolist() == [1.0] * len(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"label 3 is not in 0\.\.2"),
        ([-1, 0], r"label -1 is not in 0\.\.2"),
        ([0.0, 1.0], "labels is an array of float64"),
        ([[0, 1]], r"shape \(1, 2\)"),
    ],
)
def test_one_hot_refuses_what_is_no_label(labels: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        one_hot(numpy.array(labels), 3)


def test_classes_are_numbered_through_gaps() -> None:
    assert numbered_classes(numpy.array([0, 2])) == ("0", "1", "2")
    assert numbered_classes(numpy.arange(1, 11))[-1] == "10"
    assert numbered_classes(numpy.array([0]), None, numpy.array([1])) == ("0", "1")
    assert numbered_classes(None) == ()
    with pytest.raises(DataError, match=f"label {MAX_CLASSES} is larger"):
        numbered_classes(numpy.array([MAX_CLASSES]))


def test_only_perfect_squares_are_taken_for_square_images() -> None:
    assert square_shape(784) == (28, 28)
    assert square_shape(785) is None
