"""Training, validation and test parts: exact sizes, every class its share, one seed one split."""

from __future__ import annotations

import math

import numpy

from xpnet.backend import HostArray
from xpnet.data.dataset import Dataset, Source, Splits
from xpnet.errors import ConfigError
from xpnet.random import generator


def split(
    source: Source,
    *,
    validation: float | int | None,
    test: float | int | None,
    seed: int,
) -> Splits:
    """Divide `source` by class (stratified), the same way for the same seed.

    `test`: None keeps the test part that the source came with; where it came with none, a
    fifth of the data is drawn. A number pools all of the source's samples and draws the test
    part from them. `validation`: drawn from what the test part leaves: None as many as the
    test part has, 0 none at all. Either number is a count, or a fraction of what it is drawn
    from when it lies between 0 and 1 (rounded to the nearest count, at least 1).

    Sizes are exact; each class has its proportional share to within one sample (largest
    remainder, a tie goes to the lower label). Every part keeps the order of the files, the
    source's test samples standing after its training samples where the two were pooled;
    shuffling is the batches' task. Unlabelled data is drawn from as one class.

    Raises `ConfigError`, naming the argument and its value, when a number is negative, is
    neither a count nor a fraction, exceeds what there is, leaves no training sample, or when
    `test` is 0.
    """
    if test is None and source.test is not None:
        rest, tested = source.train, source.test
    else:
        pool = source.train if source.test is None or test is None else _pooled(source)
        wanted = max(1, round(len(pool) / 5)) if test is None else _count("test", test, len(pool))
        if wanted == 0:
            raise ConfigError(
                f"test={test}: there has to be a test part, give a fraction or a count"
            )
        said = "test=None (a fifth)" if test is None else f"test={test}"
        tested, rest = _divide(pool, wanted, said, seed, counter=0)
    if validation is None:
        wanted, said = len(tested), f"validation=None ({len(tested)}, as many as the test part)"
    else:
        wanted, said = _count("validation", validation, len(rest)), f"validation={validation}"
    if wanted == 0:
        return Splits(rest, None, tested)
    held_out, train = _divide(rest, wanted, said, seed, counter=1)
    return Splits(train, held_out, tested)


def _count(name: str, value: float, available: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name}={value}: give a count of samples or a fraction between 0 and 1")
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
    data: Dataset, count: int, said: str, seed: int, counter: int
) -> tuple[Dataset, Dataset]:
    """`count` samples drawn from `data` class by class, and all the others."""
    if count > len(data):
        raise ConfigError(f"{said}: more than the {len(data)} samples there are to draw from")
    if count == len(data):
        raise ConfigError(f"{said}: takes all {len(data)} samples and leaves none for training")
    labels = numpy.zeros(len(data), numpy.int64) if data.labels is None else data.labels
    sizes = numpy.bincount(labels)
    # In whole numbers, so that no rounding error can decide who gets a remainder.
    shares, remainders = numpy.divmod(sizes * count, len(data))
    short = count - int(shares.sum())
    shares[numpy.argsort(-remainders, kind="stable")[:short]] += 1
    draw = generator(seed, "split", counter)
    chosen = numpy.zeros(len(data), dtype=bool)
    for label in numpy.flatnonzero(sizes):
        members = numpy.flatnonzero(labels == label)
        chosen[draw.permutation(members)[: shares[label]]] = True
    return data.take(numpy.flatnonzero(chosen)), data.take(numpy.flatnonzero(~chosen))


def _pooled(source: Source) -> Dataset:
    train, test = source.train, source.test
    assert test is not None
    labels: HostArray | None = None
    if train.labels is not None and test.labels is not None:
        labels = numpy.concatenate([train.labels, test.labels])
    x = numpy.concatenate([train.x, test.x])
    return Dataset(x, labels, train.classes, train.image_shape)
