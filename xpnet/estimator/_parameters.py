"""What the parameters of an estimator may be, each refused by name."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy
from sklearn.utils import check_array

from xpnet.activations import GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from xpnet.backend import HostArray
from xpnet.errors import ConfigError, DataError
from xpnet.layer import Layer

ACTIVATIONS: dict[str, type[Layer] | None] = {
    "identity": None,
    "logistic": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "gelu": GELU,
}
SOLVERS = ("adam", "sgd")

_OF_ZERO_OR_MORE = ("alpha", "tol")
_ABOVE_ZERO = ("learning_rate_init", "epsilon")
_BELOW_ONE = ("dropout", "momentum", "beta_1", "beta_2")


def require_valid(estimator: Any) -> None:
    """Raise `ConfigError`, naming the parameter, unless all of them are what they may be."""
    widths(estimator.hidden_layer_sizes)
    for name, known in (("activation", tuple(ACTIVATIONS)), ("solver", SOLVERS)):
        value = getattr(estimator, name)
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, found {value!r}")
    for name in (*_OF_ZERO_OR_MORE, *_ABOVE_ZERO, *_BELOW_ONE, "validation_fraction"):
        _require_number(estimator, name)
    _require_count("max_iter", estimator.max_iter)
    if estimator.batch_size != "auto":
        _require_count("batch_size", estimator.batch_size, or_else=", or 'auto'")
    if estimator.n_iter_no_change != math.inf:
        _require_count("n_iter_no_change", estimator.n_iter_no_change, or_else=", or inf")
    if not isinstance(estimator.device, str):
        raise ConfigError(f"device must be a string such as 'cuda', found {estimator.device!r}")


def _require_number(estimator: Any, name: str) -> None:
    value = getattr(estimator, name)
    high = math.inf if name in (*_OF_ZERO_OR_MORE, *_ABOVE_ZERO) else 1
    with_zero = name in (*_OF_ZERO_OR_MORE, *_BELOW_ONE)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not (0 <= value < high) or (value == 0 and not with_zero):
        span = "of 0 or more" if with_zero else "above 0"
        span += " and below 1" if high == 1 else ""
        raise ConfigError(f"{name} must be a number {span}, found {value!r}")


def checked_weights(sample_weight: Any, count: int) -> HostArray:
    """`sample_weight` `(count,)` as float64, none below 0 and not all 0."""
    weights: HostArray = check_array(
        sample_weight, ensure_2d=False, dtype=numpy.float64, input_name="sample_weight"
    )
    if weights.shape != (count,):
        raise DataError(
            f"sample_weight has shape {weights.shape}, X has {count} rows: give one weight a row"
        )
    if weights.min() < 0:
        row = int(weights.argmin())
        raise DataError(f"sample_weight[{row}] is {weights[row]:g}: no weight may be below 0")
    if not weights.any():
        raise DataError("every sample_weight is zero, so there is nothing to learn from")
    return weights


def widths(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes`, one number or several, as whole numbers."""
    sizes = hidden_layer_sizes
    if isinstance(sizes, numbers.Integral):
        sizes = (sizes,)
    try:
        sizes = tuple(sizes)
        for size in sizes:
            _require_count("hidden_layer_sizes", size)
    except (TypeError, ConfigError):
        raise ConfigError(
            f"hidden_layer_sizes must be whole numbers above 0, one a hidden layer, found "
            f"{hidden_layer_sizes!r}"
        ) from None
    return tuple(int(size) for size in sizes)


def _require_count(name: str, value: Any, or_else: str = "") -> None:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < 1:
        raise ConfigError(f"{name} must be a whole number above 0{or_else}, found {value!r}")
