"""The split of samples into a training set and a held-out part for early stopping."""

from __future__ import annotations

import math

import numpy
from sklearn.model_selection import train_test_split

from xpnet.backend import HostArray
from xpnet.errors import DataError


def split(
    count: int, fraction: float, seed: int, classes: HostArray | None
) -> tuple[HostArray, HostArray]:
    """Rows to train on and rows to hold out, of `count`: about `fraction` of them, 2 or more.

    `classes`: `(count,)` integers; then both parts have the shares of the classes that all rows
    have. A class of one sample is trained on. Where the parts are too small for every class,
    rows are held out at random, except one of each class, so that training sees all classes.

    Raises `DataError`, naming `validation_fraction`, if fewer than 2 samples would be held out or
    none would be left to train on.
    """
    held = math.ceil(fraction * count)
    if held < 2 or held >= count:
        left = f"holds out {held} and leaves {count - held} to train on"
        raise DataError(
            f"validation needs 2 samples or more, and training 1: validation_fraction={fraction:g} "
            f"of {count} {left}: change it, give more rows or X_val, or set early_stopping=False"
        )
    rows = numpy.arange(count)
    if classes is None:
        train, held_out = train_test_split(rows, test_size=fraction, random_state=seed)
        return train, held_out
    sizes = numpy.bincount(classes)
    is_single = sizes[classes] == 1
    single, rest = rows[is_single], rows[~is_single]
    kinds = int((sizes > 1).sum())
    if kinds and min(held, len(rest) - held) >= kinds:
        part = held if len(single) else fraction
        train, held_out = train_test_split(
            rest, test_size=part, random_state=seed, stratify=classes[rest]
        )
        return numpy.concatenate([train, single]), held_out
    return _one_of_each_class_stays(held, seed, classes)


def _one_of_each_class_stays(
    held: int, seed: int, classes: HostArray
) -> tuple[HostArray, HostArray]:
    order = numpy.random.RandomState(seed).permutation(len(classes))
    names, first = numpy.unique(classes[order], return_index=True)
    others = numpy.delete(order, first)
    if len(others) < 2:
        raise DataError(
            f"{len(classes)} samples of {len(names)} classes leave less than 2 to validate with, "
            f"whatever validation_fraction is: give more rows or X_val, or set early_stopping=False"
        )
    return numpy.concatenate([order[first], others[held:]]), others[:held]
