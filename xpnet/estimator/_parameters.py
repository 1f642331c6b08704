"""Checks of the parameters of an estimator; an error names the parameter."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy
from sklearn.utils import check_array, check_random_state

from xpnet.backend import HostArray
from xpnet.errors import ConfigError, DataError, short_repr
from xpnet.estimator._inputs import blaming, look_at_numbers, require_unmasked
from xpnet.estimator._optimizer import require_learning_rate
from xpnet.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from xpnet.layers.base import Layer
from xpnet.training.callbacks import EarlyStopping
from xpnet.training.options import callbacks_of
from xpnet.utils.arguments import real, whole

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
_BELOW_ONE = ("momentum", "beta_1", "beta_2")
_SWITCHES = ("early_stopping", "warm_start", "nesterovs_momentum", "batch_norm")


def require_valid(estimator: Any) -> None:
    """Raise `ConfigError`, naming the parameter, unless all of them are valid."""
    layers = len(widths(estimator.hidden_layer_sizes))
    # Without hidden layers a single value is checked as well.
    for activation in _entries("activation", estimator.activation, layers):
        _require_known("activation", activation, tuple(ACTIVATIONS))
    for rate in _entries("dropout", estimator.dropout, layers):
        real("dropout", rate, high=1)
    _require_known("solver", estimator.solver, SOLVERS)
    require_learning_rate(estimator.learning_rate)
    for name in _OF_ZERO_OR_MORE:
        real(name, getattr(estimator, name))
    for name in _ABOVE_ZERO:
        real(name, getattr(estimator, name), low_is_allowed=False)
    for name in _BELOW_ONE:
        real(name, getattr(estimator, name), high=1)
    # Less than this, no number of samples to the power of it overflows.
    real("power_t", estimator.power_t, high=10)
    fraction = estimator.validation_fraction
    real("validation_fraction", fraction, high=1, low_is_allowed=False)
    _require_count("max_iter", estimator.max_iter)
    if not is_value(estimator.batch_size, "auto"):
        _require_count("batch_size", estimator.batch_size, or_else=", or 'auto'")
    if not is_value(estimator.n_iter_no_change, math.inf):
        _require_count("n_iter_no_change", estimator.n_iter_no_change, or_else=", or inf")
    for name in _SWITCHES:
        _require_switch(name, getattr(estimator, name))
    if not isinstance(estimator.verbose, numbers.Integral | numpy.bool):
        _require_switch("verbose", estimator.verbose)
    if estimator.clip_norm is not None:
        real("clip_norm", estimator.clip_norm, low_is_allowed=False, or_else=", or None")
    if any(isinstance(one, EarlyStopping) for one in callbacks_of(estimator.callbacks)):
        raise ConfigError(
            "callbacks has an EarlyStopping, which needs the validation set of xpnet.fit: set "
            "early_stopping=True and n_iter_no_change instead"
        )
    if not (estimator.network is None or callable(estimator.network)):
        raise ConfigError(
            f"network must be a Sequential, a function of the numbers of features and outputs "
            f"that returns a list of layers (lambda features, outputs: [...]), or None, found "
            f"{short_repr(estimator.network)}"
        )
    if not isinstance(estimator.device, str):
        raise ConfigError(
            f"device must be a string such as 'cuda', found {short_repr(estimator.device)}"
        )
    try:
        check_random_state(estimator.random_state)
    except ValueError:
        raise ConfigError(
            f"random_state must be a whole number from 0 to 2**32 - 1, a numpy.random.RandomState "
            f"or None, found {short_repr(estimator.random_state)}"
        ) from None


def _require_known(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, found {short_repr(value)}")


def per_hidden_layer(name: str, value: Any, layers: int) -> list[Any]:
    """`value`, one for each hidden layer: a list as it is, anything else repeated."""
    if not isinstance(value, list | tuple):
        return [value] * layers
    if len(value) != layers:
        raise ConfigError(
            f"{name} has {len(value)} entries and hidden_layer_sizes {layers}: give one entry for "
            f"each hidden layer, or one for all"
        )
    return list(value)


def _entries(name: str, value: Any, layers: int) -> list[Any]:
    if isinstance(value, numpy.ndarray) and value.ndim:
        raise ConfigError(f"{name} must be one value or a list, found an array: use .tolist()")
    is_one = not isinstance(value, list | tuple)
    return [value] if is_one else per_hidden_layer(name, value, layers)


def _require_count(name: str, value: Any, or_else: str = "") -> None:
    if whole(name, value, or_else=or_else) >= 2**63:
        raise ConfigError(
            f"{name} must be a whole number above 0 and below 2**63{or_else}, found "
            f"{short_repr(value)}"
        )


def is_value(value: Any, expected: str | float) -> bool:
    """Whether `value` is the string or number `expected`, and not an array of it."""
    return isinstance(value, str | numbers.Real) and bool(value == expected)


def _require_switch(name: str, value: Any) -> None:
    is_bool = isinstance(value, bool | numpy.bool)
    if not is_bool and not (isinstance(value, numbers.Integral) and value in (0, 1)):
        raise ConfigError(f"{name} must be True or False, found {short_repr(value)}")


def checked_weights(sample_weight: Any, count: int) -> HostArray:
    """`sample_weight` `(count,)` as float64, none below 0 and not all 0."""
    require_unmasked(sample_weight, "sample_weight")
    if isinstance(sample_weight, str | bytes | numbers.Number):
        raise DataError(
            f"sample_weight is {short_repr(sample_weight)}, X has {count} rows: give one weight "
            "for each row"
        )

    def checked() -> HostArray:
        weights: HostArray = check_array(
            sample_weight, ensure_2d=False, dtype=numpy.float64, input_name="sample_weight"
        )
        return weights

    weights = blaming(checked, lambda: look_at_numbers(sample_weight, "sample_weight"))
    if weights.shape != (count,):
        raise DataError(
            f"sample_weight has shape {weights.shape}, X has {count} rows: give one weight for "
            f"each row"
        )
    if weights.min() < 0:
        row = int(weights.argmin())
        raise DataError(
            f"sample_weight[{row}] is {weights[row]:g}: give numbers of 0 or more, and 0 for a "
            f"sample to ignore"
        )
    if not weights.any():
        raise DataError(
            "every sample_weight is zero, so there is nothing to learn from: give some sample one "
            "above 0, or leave sample_weight out"
        )
    return weights


def widths(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes`, one number or several, as whole numbers."""
    try:
        sizes = (operator.index(hidden_layer_sizes),)
    except TypeError:
        sizes = hidden_layer_sizes
    try:
        if isinstance(hidden_layer_sizes, bool | str | set | dict):
            raise TypeError
        return tuple(whole("hidden_layer_sizes", size) for size in sizes)
    except (TypeError, ConfigError):
        raise ConfigError(
            f"hidden_layer_sizes must be whole numbers above 0, one for each hidden layer, found "
            f"{short_repr(hidden_layer_sizes)}"
        ) from None
