"""Several labels a sample: targets `y (n, labels)` of 0 and 1."""

from __future__ import annotations

from typing import Any

import numpy

from xpnet.backend import Array, HostArray, array_module
from xpnet.errors import ConfigError, DataError, short_repr
from xpnet.losses import SigmoidBinaryCrossEntropy
from xpnet.utils.introspection import as_python


class LabelCrossEntropy(SigmoidBinaryCrossEntropy):
    """`SigmoidBinaryCrossEntropy` times the number `K` of labels: the sum over them.

    It is the loss of `MLPClassifier`, so that its rates, `alpha` and `tol` mean the same here. Both
    the value and the gradient are `K` times those of the mean over the labels.
    """

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        """`Σ_n w_n Σ_k ℓ_nk / Σw`, `()`, of `logits` and `target` `(N, K)`."""
        value = super().forward(logits, target, weights)
        return array_module(value).multiply(value, logits.shape[1], out=value)

    def backward(self, scale: float = 1.0) -> Array:
        """`scale · (σ(z) − t) / N`, or `scale · w (σ(z) − t) / Σw`: `(N, K)`."""
        self._require_forward("p")
        return super().backward(scale * self.p.shape[1])


def columns_of(y: Any) -> int:
    """The number of columns of `y` as given, 1 where it has no or one column."""
    try:
        shape = y.shape if hasattr(y, "shape") else numpy.asarray(y).shape
    except ValueError:  # ragged
        return 1
    return int(shape[1]) if len(shape) == 2 and shape[1] else 1


def label_matrix(y: HostArray, dtype: Any) -> HostArray:
    """`y (n, labels)` as numbers of `dtype`. Raises `DataError` for values that are not 0 or 1."""
    if hasattr(y, "toarray"):
        raise DataError("y is a sparse matrix: give y.toarray()")
    is_label = (y == 0) | (y == 1)
    if not is_label.all():
        row, column = numpy.argwhere(~is_label)[0].tolist()
        found = short_repr(as_python(y[row, column]))
        raise DataError(
            f"y[{row}, {column}] is {found}, and a matrix y (n, labels) takes 1 for a label that "
            f"the sample has, else 0: MultiLabelBinarizer makes such a matrix from class "
            f"names; for several classes in each column use one classifier per column"
        )
    labels: HostArray = y.astype(dtype)
    return labels


def require_all_columns(classes: Any, columns: int) -> None:
    """Raise `ConfigError` unless `classes` are the numbers of the columns, or None."""
    if classes is not None and not numpy.array_equal(numpy.unique(classes), range(columns)):
        raise ConfigError(
            f"classes is {short_repr(classes)}, and y has {columns} columns of labels: leave "
            f"classes out, or give range({columns})"
        )
