"""The space of a search: the settings to vary, and the values of each.

A TOML file with keys of `TrainConfig`: a list holds the values to try, a table
`{low = 1e-4, high = 1e-1, log = true}` is a range, uniform or uniform in the logarithm, which may
have a `step`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from xpnet.config import TrainConfig, explain_errors, make_config
from xpnet.errors import ConfigError, short_repr, truncate
from xpnet.utils.toml import read_toml, toml_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_OTHER_DATA = "trials would be measured on different data, and could not be compared"
_SAME_TRAINING = "it changes what is measured, not the training"
_FIXED = {
    "dataset": _OTHER_DATA,
    "target": _OTHER_DATA,
    "validation": _OTHER_DATA,
    "test": _OTHER_DATA,
    "split_seed": _OTHER_DATA,
    "initial_model": "all trials start from the same model: give --initial-model",
    "initial_model_sha256": "all trials start from the same model: give --initial-model",
    "seed": f"it also divides the data: {_OTHER_DATA}",
    "log_every": _SAME_TRAINING,
    "train_metrics": _SAME_TRAINING,
    "device": "it changes where to compute, not the result",
    "threads": "it changes where to compute, not the result",
    "run": "a search has no run folders",
    "checkpoint_every": "a search has no run folders",
    "resume": "a search has no run folders",
    "report": "a search has no run folders",
}


@dataclass(frozen=True)
class Values:
    """A list in the space file: one of its values."""

    values: tuple[Any, ...]

    def distribution(self) -> BaseDistribution:
        """Categorical, by the text of each value, since Optuna's categories may not be lists."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([toml_value(value) for value in self.values])

    def value(self, stored: Any) -> Any:
        """The setting that Optuna stores as `stored`."""
        return next(value for value in self.values if toml_value(value) == stored)

    def stored(self, value: Any) -> Any:
        """The value that Optuna stores for a setting."""
        return toml_value(value)

    def __str__(self) -> str:
        return toml_value(self.values)


@dataclass(frozen=True)
class Range:
    """A range in the space file: a number from `low` to `high`, inclusive."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def distribution(self) -> BaseDistribution:
        """Uniform, or uniform in the logarithm."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return IntDistribution(low, high, log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, stored: Any) -> Any:
        """The setting that Optuna stores as `stored`."""
        return stored

    def stored(self, value: Any) -> Any:
        """The value that Optuna stores for a setting."""
        return value

    def grid(self) -> Values:
        """Every step from `low` to `high`, in exact decimal arithmetic."""
        low, step = _exact(self.low), _exact(self.step)
        count = int((_exact(self.high) - low) / step) + 1
        kind = int if self.whole else float
        return Values(tuple(kind(low + step * n) for n in range(count)))

    def __str__(self) -> str:
        parts = {"low": self.low, "high": self.high, "log": self.log or None, "step": self.step}
        given = (f"{k} = {toml_value(v)}" for k, v in parts.items() if v is not None)
        return f"{{{', '.join(given)}}}"


Axis = Values | Range
Space = Mapping[str, Axis]


def read_space(path: Path) -> Space:
    """The space in a TOML file. Raises `ConfigError`, naming the file and the key."""
    found = read_toml(path)
    if not found:
        raise ConfigError(f"{path}: holds no setting to search: list values, hidden = [64, 128]")
    space = {}
    for key, given in found.items():
        try:
            space[key] = _axis(key, given)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return space


def _axis(key: str, given: Any) -> Axis:
    if key not in TrainConfig.model_fields:
        _check(key, given)
    if key in _FIXED:
        raise ConfigError(f"{key}: cannot be searched: {_FIXED[key]}")
    if isinstance(given, dict):
        axis: Axis = _range(key, given)
        tried: Sequence[Any] = (given["low"], given["high"])
    elif isinstance(given, list) and given:
        axis, tried = Values(tuple(given)), given
    else:
        raise ConfigError(
            f"{key}: give a list of values or a range {{low = ..., high = ...}}, found "
            f"{short_repr(given)}: "
            f"a setting that all trials share goes into the file of --config or a flag"
        )
    for value in tried:
        _check(key, value)
    texts = [toml_value(value) for value in tried]
    if len(set(texts)) < len(texts):
        raise ConfigError(
            f"{key}: values must be distinct, found {truncate(toml_value(tried), 60)}"
        )
    return axis


def _check(key: str, value: Any) -> None:
    """Raise `ConfigError` for a value that a setting can never have."""
    try:
        TrainConfig(**{key: value})
    except ValidationError as error:
        # Errors without a location are of combinations of settings, which only trials show.
        if any(finding["loc"] for finding in error.errors()):
            raise ConfigError(explain_errors(error)) from None


def _range(key: str, given: Mapping[str, Any]) -> Range:
    field = TrainConfig.model_fields.get(key)
    kinds = {field.annotation, *get_args(field.annotation)} if field else {float}
    if not kinds & {int, float} or Ellipsis in kinds:
        raise ConfigError(f"{key}: takes no range: list its values")
    whole = float not in kinds
    for name in ("low", "high"):
        if name not in given:
            raise ConfigError(
                f"{key}: a range needs low and high, found {short_repr(sorted(given))}"
            )
    for name, value in given.items():
        number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if name not in ("low", "high", "log", "step"):
            raise ConfigError(
                f"{key}: a range has low, high, log and step, found {short_repr(name)}"
            )
        if name == "log":
            if not isinstance(value, bool):
                raise ConfigError(f"{key}: log is true or false, found {short_repr(value)}")
        elif isinstance(value, bool) or not number:
            raise ConfigError(f"{key}: {name} must be a number, found {short_repr(value)}")
        elif whole and not isinstance(value, int):
            raise ConfigError(f"{key}: {name} must be a whole number, found {short_repr(value)}")
    low, high, log, step = (given.get(name) for name in ("low", "high", "log", "step"))
    assert low is not None
    assert high is not None
    if not low < high:
        raise ConfigError(f"{key}: low must be below high, found {low} and {high}")
    if log and (low <= 0 or step is not None):
        what = "no step" if step is not None else f"a low above 0, found {low}"
        raise ConfigError(f"{key}: a range with log takes {what}")
    if step is not None and (step <= 0 or (_exact(high) - _exact(low)) % _exact(step)):
        raise ConfigError(
            f"{key}: high must be low plus a multiple of step, found {low}, {high} and step {step}"
        )
    return Range(low, high, bool(log), step, whole)


def _exact(number: float | None) -> Fraction:
    """The number as it is written: 0.1 is one tenth."""
    return Fraction(str(number))


def grid_points(space: Space, base: TrainConfig) -> list[dict[str, Any]]:
    """All points of a space, the last key varying fastest, each checked as a configuration."""
    for key, axis in space.items():
        if isinstance(axis, Range) and axis.step is None:
            raise ConfigError(f"{key}: a grid needs a step in the range, or a list of values")
    axes = [axis.grid() if isinstance(axis, Range) else axis for axis in space.values()]
    points = [
        dict(zip(space, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    for point in points:
        where = ", ".join(f"{key} = {toml_value(value)}" for key, value in point.items())
        configure(base, point, source=f"the point {where}: ")
    return points


def configure(base: TrainConfig, point: Mapping[str, Any], source: str = "") -> TrainConfig:
    """The configuration at a point of the space. Raises `ConfigError`."""
    return make_config(base.model_dump() | dict(point), source)
