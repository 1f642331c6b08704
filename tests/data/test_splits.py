"""`split`: exact sizes, nothing twice, nothing lost, every class its share, one seed one split."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xpnet.data import Dataset, Source, Splits, split
from xpnet.errors import ConfigError


def numbered(labels: list[int] | None, size: int = 0, start: int = 0, classes: int = 4) -> Dataset:
    """Samples that carry their own number, so that a split can be followed."""
    size = size if labels is None else len(labels)
    x = numpy.arange(start, start + size, dtype=numpy.float64)[:, None]
    marks = None if labels is None else numpy.array(labels, dtype=numpy.int64)
    return Dataset(x, marks, tuple(map(str, range(classes))))


def source(train: Dataset, test: Dataset | None = None) -> Source:
    return Source("some", train, test, "")


def ids(data: Dataset | None) -> list[int]:
    return [] if data is None else data.x[:, 0].astype(int).tolist()


def sizes(parts: Splits) -> tuple[int, int, int]:
    return len(parts.train), len(ids(parts.validation)), len(parts.test)


def assert_share(part: Dataset | None, whole: Dataset) -> None:
    """Each class of `part` is within one sample of its share in `whole`."""
    if part is None:
        return
    assert part.labels is not None
    assert whole.labels is not None
    for label in range(len(whole.classes)):
        share = len(part) * (whole.labels == label).sum() / len(whole)
        assert abs((part.labels == label).sum() - share) < 1


def wanted(value: float, available: int) -> int:
    return value if isinstance(value, int) else max(1, round(value * available))


LABELS = st.lists(st.integers(0, 3), min_size=5, max_size=60)


@given(
    labels=LABELS,
    test=st.none() | st.integers(1, 20) | st.floats(0.01, 0.9),
    validation=st.none() | st.integers(0, 20) | st.floats(0.01, 0.9),
    seed=st.integers(0, 2**40),
)
def test_parts_are_exact_disjoint_complete_stratified_and_repeatable(
    labels: list[int], test: float | None, validation: float | None, seed: int
) -> None:
    whole = numbered(labels)
    size = len(labels)
    tested = wanted(0.2 if test is None else test, size)
    left = size - tested
    held_out = tested if validation is None else wanted(validation, left)
    if tested >= size or held_out >= left:
        with pytest.raises(
            ConfigError, match=r"leaves none for training|more than the \d+ samples"
        ):
            split(source(whole), validation=validation, test=test, seed=seed)
        return
    parts = split(source(whole), validation=validation, test=test, seed=seed)
    assert sizes(parts) == (left - held_out, held_out, tested)
    assert (parts.validation is None) == (held_out == 0)

    everything = ids(parts.train) + ids(parts.validation) + ids(parts.test)
    assert sorted(everything) == list(range(size))
    for part in (parts.train, parts.validation, parts.test):
        assert ids(part) == sorted(ids(part))
        if part is not None:
            numpy.testing.assert_array_equal(part.labels, numpy.array(labels)[ids(part)])

    assert_share(parts.test, whole)
    rest = whole.take(numpy.array(sorted(ids(parts.train) + ids(parts.validation))))
    assert_share(parts.validation, rest)

    again = split(source(whole), validation=validation, test=test, seed=seed)
    assert [ids(again.train), ids(again.test)] == [ids(parts.train), ids(parts.test)]


@given(labels=LABELS, apart=st.booleans(), data=st.data())
def test_in_place_gives_the_same_parts_in_the_memory_of_the_source(
    labels: list[int], apart: bool, data: st.DataObject
) -> None:
    size, shares = len(labels), st.floats(0.05, 0.9)
    validation, test = data.draw(st.just(0) | shares), data.draw(st.none() | shares)
    one, other = (
        source(numbered(labels), numbered([0, 1], start=size) if apart else None) for _ in "ab"
    )
    try:
        copies = split(one, validation=validation, test=test, seed=5)
    except ConfigError:
        assume(False)
    parts = split(other, validation=validation, test=test, seed=5, in_place=True)
    for part, copy in zip(
        (parts.train, parts.validation, parts.test),
        (copies.train, copies.validation, copies.test),
        strict=True,
    ):
        assert ids(part) == ids(copy)
        if part is not None and copy is not None:
            numpy.testing.assert_array_equal(part.labels, copy.labels)
    assert ids(one.train) == list(range(size))
    # Whatever became of the order, each sample of the source still has its own label.
    assert sorted(ids(other.train)) == list(range(size))
    assert [labels[number] for number in ids(other.train)] == other.train.labels.tolist()  # type: ignore[union-attr]
    if test is None or not apart:
        assert numpy.shares_memory(parts.train.x, other.train.x)


def test_in_place_leaves_alone_what_cannot_be_written() -> None:
    whole = numbered([0, 1] * 10)
    whole.x.flags.writeable = False
    parts = split(source(whole), validation=None, test=None, seed=0, in_place=True)
    assert ids(whole) == list(range(20))
    assert sizes(parts) == (12, 4, 4)


def test_another_seed_gives_another_split() -> None:
    whole = source(numbered([0, 1] * 50))
    first, second = (split(whole, validation=None, test=None, seed=seed) for seed in (1, 2))
    assert ids(first.test) != ids(second.test)
    assert ids(first.validation) != ids(second.validation)


def test_the_split_of_a_seed_does_not_change_from_release_to_release() -> None:
    parts = split(source(numbered([0, 1, 2] * 4)), validation=3, test=3, seed=7)
    assert ids(parts.train) == [1, 4, 5, 6, 9, 11]
    assert ids(parts.validation) == [2, 3, 7]
    assert ids(parts.test) == [0, 8, 10]


def test_a_tie_for_a_remainder_goes_to_the_lower_labels() -> None:
    whole = numbered([label for label in range(60) for _ in range(2)], classes=60)
    parts = split(source(whole), validation=0, test=25, seed=0)
    assert parts.test.labels is not None
    assert parts.test.labels.tolist() == list(range(25))


def test_the_sources_own_test_part_is_kept() -> None:
    given_source = source(numbered([0, 1, 2, 3] * 10), numbered([0, 1, 2, 3] * 2, start=100))
    parts = split(given_source, validation=None, test=None, seed=0)
    assert parts.test is given_source.test
    assert sizes(parts) == (32, 8, 8)
    assert set(ids(parts.train) + ids(parts.validation)) == set(range(40))


def test_no_validation_leaves_the_training_part_as_it_is() -> None:
    given_source = source(numbered([0, 1] * 10), numbered([0, 1], start=100))
    parts = split(given_source, validation=0, test=None, seed=0)
    assert parts.validation is None
    assert parts.train is given_source.train


@pytest.mark.parametrize("test", [0.25, 12, 12.0])
def test_a_test_size_pools_what_the_source_had_apart(test: float) -> None:
    given_source = source(numbered([0, 1, 2, 3] * 10), numbered([0, 1, 2, 3] * 2, start=40))
    parts = split(given_source, validation=0.5, test=test, seed=0)
    assert sizes(parts) == (18, 18, 12)
    everything = ids(parts.train) + ids(parts.validation) + ids(parts.test)
    assert sorted(everything) == list(range(48))
    # Both of the source's parts are drawn from.
    assert min(ids(parts.test)) < 40
    assert numpy.bincount(parts.test.labels).tolist() == [3, 3, 3, 3]  # type: ignore[arg-type]


def test_the_validation_draw_does_not_depend_on_how_the_test_part_came_about() -> None:
    train = numbered([0, 1] * 20)
    with_test = split(source(train, numbered([0, 1], start=90)), validation=8, test=None, seed=3)
    held_out = split(source(train, numbered([1, 1], start=70)), validation=8, test=None, seed=3)
    assert ids(with_test.validation) == ids(held_out.validation)


@given(rare=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_class_of_few_samples_does_not_fail(rare: int, seed: int) -> None:
    whole = numbered([0] * 30 + [3] * rare)
    parts = split(source(whole), validation=None, test=None, seed=seed)
    assert sum(sizes(parts)) == 30 + rare
    assert_share(parts.test, whole)


def test_unlabelled_data_is_split_too() -> None:
    parts = split(source(numbered(None, size=20)), validation=None, test=None, seed=0)
    assert sizes(parts) == (12, 4, 4)
    assert parts.train.labels is None
    assert parts.train.classes == ("0", "1", "2", "3")


@given(size=st.integers(2, 40), count=st.integers(1, 39))
def test_a_count_is_met_exactly(size: int, count: int) -> None:
    assume(count < size)
    parts = split(
        source(numbered([0, 1, 2, 3] * 10).take(numpy.arange(size))),
        validation=0,
        test=count,
        seed=0,
    )
    assert len(parts.test) == count


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        (None, 0, r"test=0: there must be a test set"),
        (None, 0.0, r"test=0\.0: there must be a test set"),
        (None, -1, r"test=-1 is negative"),
        (-0.5, None, r"validation=-0\.5 is negative"),
        (None, 1.5, r"test=1\.5 is neither a fraction between 0 and 1 nor a whole number"),
        (2.25, None, r"validation=2\.25 is neither"),
        (float("nan"), None, r"validation=nan: give a count of samples or a fraction"),
        (None, float("inf"), r"test=inf: give a count"),
        (None, True, r"test=True: give a count"),
        (None, "2", r"test='2': give a count"),
        (10**400, None, r"validation=1000.*: give a count"),
        (None, 11, r"test=11: more than the 10 samples"),
        (None, 10, r"test=10: takes all 10 samples and leaves none for training"),
        (8, None, r"validation=8: takes all 8 samples and leaves none for training"),
        (9, None, r"validation=9: more than the 8 samples"),
        (None, 5, r"validation=None \(5, as many as the test set\): takes all 5 samples"),
        (None, 6, r"validation=None \(6, as many as the test set\): more than the 4 samples"),
        (0.99, None, r"validation=0\.99: takes all 8 samples"),
        (None, 0.99, r"test=0\.99: takes all 10 samples"),
    ],
)
def test_a_size_that_cannot_be_is_named_with_its_value(
    validation: float | None, test: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        split(source(numbered([0, 1] * 5)), validation=validation, test=test, seed=0)


@pytest.mark.parametrize(
    ("test", "same"),
    [
        (numpy.int64(3), 3),
        (numpy.uint8(3), 3),
        (numpy.array(3), 3),
        (numpy.float32(0.25), 0.25),
        (numpy.float64(3), 3.0),
    ],
)
def test_numbers_of_numpy_are_as_good_as_pythons(test: Any, same: float) -> None:
    whole = source(numbered([0, 1] * 10))
    one = split(whole, validation=test, test=test, seed=numpy.int64(4))  # type: ignore[arg-type]
    other = split(whole, validation=same, test=same, seed=4)
    assert [ids(one.test), ids(one.validation)] == [ids(other.test), ids(other.validation)]
    with pytest.raises(ConfigError, match=r"^test=100: more than the 20 samples"):
        split(whole, validation=0, test=numpy.int64(100), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", ["a", 1.5, True, -1, 2**64, None])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"^seed must be a whole number"):
        split(source(numbered([0, 1] * 5)), validation=0, test=2, seed=seed)


def test_a_single_sample_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match=r"test=None \(a fifth\): takes all 1 samples"):
        split(source(numbered([0])), validation=None, test=None, seed=0)
