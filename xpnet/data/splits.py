"""Stratified training, validation and test sets of exact sizes, determined by a seed."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source, Splits
from xpnet.data.mapped import MappedRows
from xpnet.errors import ConfigError, short_repr
from xpnet.random import generator
from xpnet.utils.arguments import as_float, is_whole, seed_of

_ROWS_AT_ONCE = 1024


def split(
    source: Source,
    *,
    validation: float | int | None,
    test: float | int | None,
    seed: int,
    in_place: bool = False,
) -> Splits:
    """Divide `source` into parts, stratified by class, the same way for the same seed.

    `test`: None keeps the test set of the source, or draws a fifth of the data if it has none. A
    number pools all samples of the source and draws the test set from them. `validation`: is drawn
    from the other samples: None draws as many as the test set has, 0 none. A number between 0 and 1
    is a fraction of the samples to draw from (rounded to the nearest count, at least 1), any other
    a count.

    Sizes are exact; each class has its proportional share to within one sample (largest
    remainder; for equal remainders the lower label). Every part keeps the order of the files;
    where training and test samples were pooled, the training samples come first. The samples are
    not shuffled: batches are. Unlabelled data counts as one class.

    `in_place`: the parts may use the memory of the source, which reorders its training samples,
    instead of copies. Mapped samples stay in their file in any case.

    Raises `ConfigError`, naming the argument and its value, when `seed` is not a whole number of 64
    bits, or when a number is negative, is neither a count nor a fraction, exceeds the number of
    samples, leaves no training sample, or when `test` is 0 or would pool two mapped files.
    """
    seed = seed_of("seed", seed)
    test, validation = _number("test", test), _number("validation", validation)
    if test is None and source.test is not None:
        rest, tested = source.train, source.test
    else:
        pool = source.train if source.test is None or test is None else _pooled(source, test)
        wanted = max(1, round(len(pool) / 5)) if test is None else _count("test", test, len(pool))
        if wanted == 0:
            raise ConfigError(f"test={test}: there must be a test set, give a fraction or a count")
        text = "test=None (a fifth)" if test is None else f"test={test:.15g}"
        own = in_place or pool is not source.train
        tested, rest = _divide(pool, wanted, text, seed, counter=0, in_place=own)
    if validation is None:
        wanted, text = len(tested), f"validation=None ({len(tested)}, as many as the test set)"
    else:
        wanted, text = _count("validation", validation, len(rest)), f"validation={validation:.15g}"
    if wanted == 0:
        return Splits(rest, None, tested)
    own = in_place or rest is not source.train
    held_out, train = _divide(rest, wanted, text, seed, counter=1, in_place=own)
    return Splits(train, held_out, tested)


def _number(name: str, value: Any) -> float | int | None:
    """`value` as a Python number: whole numbers are counts, others may be fractions."""
    if value is None:
        return None
    number = operator.index(value) if is_whole(value) else as_float(value)
    if number is None or as_float(number) is None or not math.isfinite(number):
        raise ConfigError(
            f"{name}={short_repr(value)}: give a count of samples or a fraction between 0 and 1"
        )
    return number


def _count(name: str, value: float, available: int) -> int:
    if value < 0:
        raise ConfigError(f"{name}={value} is negative: give a count or a fraction between 0 and 1")
    if 0 < value < 1:
        return max(1, round(value * available))
    if value != int(value):
        raise ConfigError(
            f"{name}={value} is neither a fraction between 0 and 1 nor a whole number of samples"
        )
    return int(value)


def _divide(
    data: Dataset, count: int, text: str, seed: int, counter: int, *, in_place: bool
) -> tuple[Dataset, Dataset]:
    """`count` samples drawn from `data` class by class, and all the others."""
    if count > len(data):
        raise ConfigError(
            f"{text}: more than the {len(data)} samples there are to draw from: give a smaller "
            f"number, or a fraction between 0 and 1"
        )
    if count == len(data):
        raise ConfigError(f"{text}: takes all {len(data)} samples and leaves none for training")
    labels = numpy.zeros(len(data), numpy.int64) if data.labels is None else data.labels
    sizes = numpy.bincount(labels)
    # In integer arithmetic, so that rounding errors do not decide on the remainders.
    shares, remainders = numpy.divmod(sizes * count, len(data))
    short = count - int(shares.sum())
    shares[numpy.argsort(-remainders, kind="stable")[:short]] += 1
    draw = generator(seed, "split", counter)
    chosen = numpy.zeros(len(data), dtype=bool)
    for label in numpy.flatnonzero(sizes):
        members = numpy.flatnonzero(labels == label)
        chosen[draw.permutation(members)[: shares[label]]] = True
    drawn, others = numpy.flatnonzero(chosen), numpy.flatnonzero(~chosen)
    if not in_place or isinstance(data.x, MappedRows) or not data.x.flags.writeable:
        return data.take(drawn), data.take(others)
    if len(drawn) > len(others):
        return _cut(data, drawn, others)
    rest, part = _cut(data, others, drawn)
    return part, rest


def _cut(data: Dataset, many: HostArray, few: HostArray) -> tuple[Dataset, Dataset]:
    """The samples at `many` and at `few`, both ascending, as two parts of the same memory."""
    assert isinstance(data.x, numpy.ndarray)
    for array in [data.x] if data.labels is None else [data.x, data.labels]:
        moved = array[few]
        for start in range(0, len(many), _ROWS_AT_ONCE):
            rows = many[start : start + _ROWS_AT_ONCE]
            # Rows only move towards the front, so that none is overwritten before it moves.
            array[start : start + len(rows)] = array[rows]
        array[len(many) :] = moved
    parts = []
    for place in (slice(0, len(many)), slice(len(many), None)):
        labels = None if data.labels is None else data.labels[place]
        parts.append(Dataset(data.x[place], labels, data.classes, data.image_shape))
    return parts[0], parts[1]


def _pooled(source: Source, wanted: float | None) -> Dataset:
    train, test = source.train, source.test
    assert test is not None
    if isinstance(train.x, MappedRows) or isinstance(test.x, MappedRows):
        raise ConfigError(
            f"test={wanted}: {source.name} has a test set in a file of its own, and files that "
            f"are mapped cannot be pooled: leave test out"
        )
    labels: HostArray | None = None
    if train.labels is not None and test.labels is not None:
        labels = numpy.concatenate([train.labels, test.labels])
    x = numpy.concatenate([train.x, test.x])
    return Dataset(x, labels, train.classes, train.image_shape)
