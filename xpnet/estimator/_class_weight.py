"""`class_weight` of the classifier: its checks, and the weights of samples that follow from it."""

from __future__ import annotations

from typing import Any

import numpy
from sklearn.utils.class_weight import compute_sample_weight

from xpnet.backend import HostArray
from xpnet.errors import ConfigError, short_repr
from xpnet.estimator._parameters import is_value
from xpnet.utils.arguments import real


def require_class_weight(class_weight: Any) -> None:
    """Raise `ConfigError` for a value that `class_weight` does not take."""
    entries = class_weight if isinstance(class_weight, list) and class_weight else [class_weight]
    if class_weight is None or is_value(class_weight, "balanced"):
        return
    if not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f"class_weight must be a dict of the classes' weights (or a list of dicts {{0: weight, "
            f"1: weight}}, one for each label), 'balanced' or None, found "
            f"{short_repr(class_weight)}"
        )


def class_weights(class_weight: Any, y: HostArray, classes: HostArray) -> HostArray:
    """The weight of each sample by its class `y` `(n,)`, or the product over its labels `(n, k)`.

    Float64, none below 0 and not all 0: `sklearn.utils.class_weight.compute_sample_weight`, for a
    dict of weights as if all `classes`, in order, were in `y`.
    """
    weights: HostArray
    if isinstance(class_weight, str):
        weights = compute_sample_weight(class_weight, y)
    elif y.ndim == 1:
        if isinstance(class_weight, list):
            raise ConfigError(
                "class_weight is a list, one dict for each label, and y has one class for each "
                "sample: give one dict"
            )
        weights = _by_class("class_weight", class_weight, y, classes)
    else:
        weights = _by_label(class_weight, y)
    if not weights.any():
        raise ConfigError(
            "class_weight gives every class of y the weight 0, so there is nothing to learn from: "
            "give at least one class a weight above 0"
        )
    return weights


def _by_class(name: str, weights: dict[Any, Any], y: HostArray, classes: HostArray) -> HostArray:
    """The weight of each class `y` `(n,)`, 1 for those that `weights` lacks.

    A key that is no class is accepted where every class has a weight: a part of the samples, as in
    cross-validation, may lack a class.
    """
    known = classes.tolist()
    unknown = [key for key in weights if key not in known]
    if unknown and not all(label in weights for label in known):
        raise ConfigError(
            f"{name} has the key {short_repr(unknown[0])}, which is not a class of y, whose "
            f"classes are {short_repr(known)}: correct the key, or leave it out"
        )
    for key, weight in weights.items():
        real(f"{name}[{short_repr(key)}]", weight)
    by_class = numpy.array([float(weights.get(label, 1)) for label in known])
    return by_class[numpy.searchsorted(classes, y)]


def _by_label(class_weight: Any, y: HostArray) -> HostArray:
    """The product of the weights of a sample's labels `y` `(n, k)`, each by a dict of its own."""
    columns = y.shape[1]
    if isinstance(class_weight, dict) or len(class_weight) != columns:
        found = "one dict" if isinstance(class_weight, dict) else f"{len(class_weight)} dicts"
        raise ConfigError(
            f"class_weight has {found}, and y {columns} columns of labels: give a list of "
            f"{columns} dicts {{0: weight, 1: weight}}, one for each label"
        )
    weights, classes = numpy.ones(len(y)), numpy.arange(2)
    with numpy.errstate(over="ignore"):
        for column, entry in enumerate(class_weight):
            weights *= _by_class(f"class_weight[{column}]", entry, y[:, column], classes)
    if not numpy.isfinite(weights).all():
        row = int(numpy.isinf(weights).argmax())
        raise ConfigError(
            f"class_weight gives the labels {short_repr(y[row].tolist())} a product of weights "
            f"above the largest float64: give smaller weights"
        )
    return weights
