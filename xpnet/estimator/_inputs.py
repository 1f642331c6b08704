"""Checks of `X`, `y` and weights, whose errors name the position of the wrong value.

`validate_data` of scikit-learn decides what is accepted; when it fails, `xpnet.utils.inputs` finds
the value. Masked arrays, whose masked values scikit-learn would use, and categories, whose names
it may read as numbers, are refused before that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy

from xpnet.backend import Backend
from xpnet.errors import DataError, XpnetError, short_repr
from xpnet.utils.inputs import as_samples, as_targets, is_missing
from xpnet.utils.sparse import is_sparse

T = TypeVar("T")

_HOST = Backend()


def require_unmasked(value: Any, name: str) -> None:
    """Raise `DataError` for a masked value or a column of categories, naming its place."""
    if isinstance(value, numpy.ma.MaskedArray):
        if numpy.ma.getmaskarray(value).any():
            as_targets(value, backend=_HOST, name=name)
        return
    dtypes = value.dtypes if hasattr(value, "iloc") and getattr(value, "ndim", 0) == 2 else ()
    if any(dtype.name == "category" for dtype in dtypes):
        as_samples(value, backend=_HOST, name=name)


def blaming(call: Callable[[], T], *looked_at: Callable[[], Any]) -> T:
    """The result of `call`; if it fails, the first `DataError` of `looked_at`, or its own error."""
    try:
        return call()
    except XpnetError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        for look in looked_at:
            try:
                look()
            except DataError as found:
                raise found from error
            except XpnetError:
                continue
        text = str(error)
        if "\n" in text and type(error) in (TypeError, ValueError):
            # In one line, without the array.
            text = re.sub(r"\s*(array=)?\[.*\]\.?", "", text, flags=re.DOTALL)
            raise type(error)(" ".join(text.split())) from None
        raise


def look_at_samples(X: Any) -> None:
    """Raise `DataError` for the first value of `X` that is not a finite number."""
    if _is_for_scikit_learn(X):
        return
    as_samples(X, backend=_HOST, name="X")


def look_at_numbers(y: Any, name: str) -> None:
    """Raise `DataError` for the first value of `y` that is not a finite number."""
    if y is None or _is_for_scikit_learn(y):
        return
    for where, value in numpy.ndenumerate(numpy.asarray(y, dtype=object)):
        if isinstance(value, str | bytes):
            place = ", ".join(map(str, where))
            raise DataError(
                f"{name}[{place}] is the text {short_repr(value)}, and has to be a number"
            )
    as_targets(y, backend=_HOST, name=name)


def look_at_classes(y: Any) -> None:
    """Raise `DataError` for the first label that is missing, and for rows of several lengths."""
    if y is None:
        return
    try:
        labels = numpy.asarray(y, dtype=object)
        numpy.asarray(y)
    except ValueError:
        raise DataError(
            "y has rows of different lengths: of class names per sample, make a matrix of 0 and 1 "
            "with MultiLabelBinarizer"
        ) from None
    if labels.shape[1:] == (1,):
        labels = labels.reshape(-1)
    for where, label in numpy.ndenumerate(labels):
        if is_missing(label) or (isinstance(label, float) and label != label):
            place = ", ".join(map(str, where))
            raise DataError(f"y[{place}] is missing ({label}): fill it in, or leave out the row")


def _is_for_scikit_learn(value: Any) -> bool:
    """Whether the message of scikit-learn itself is to be kept."""
    if isinstance(value, str | bytes):
        return True
    if hasattr(value, "iloc") or is_sparse(value):
        return 0 in value.shape
    try:
        array = numpy.asarray(value)
    except ValueError:  # ragged
        return False
    if array.dtype.kind == "c" or array.size == 0:
        return True
    # Of an object that is neither a number nor text scikit-learn raises a TypeError.
    known = (str, bytes, numpy.str_, int, float, numpy.number, numpy.bool, type(None))
    return array.dtype.kind == "O" and not all(isinstance(v, known) for v in array.flat)
