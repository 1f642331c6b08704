"""Checks of arguments for all public functions.

Wherever a number is accepted, so are NumPy scalars and 0-d arrays. They become Python numbers,
which never change the dtype of an array and which JSON can hold. Nothing else is converted:
`"0.5"` and `True` are not numbers.
"""

from __future__ import annotations

import math
import numbers
import operator
from os import PathLike
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from xpnet.errors import ConfigError, short_repr

T = TypeVar("T")


SEEDS = 2**64
"""Seeds are below this: they have 64 bits, so that every file can hold them."""


def seed_of(name: str, value: Any) -> int:
    """`value` as a seed, a whole number of 64 bits. Raises `ConfigError`."""
    seed = whole(name, value, least=0)
    if seed >= SEEDS:
        raise ConfigError(f"{name} must be a whole number below 2^64, found {short_repr(value)}")
    return seed


def whole(name: str, value: Any, *, least: int = 1, or_else: str = "") -> int:
    """`value` as an `int` of `least` or more. Raises `ConfigError` that names the argument.

    `or_else`: what else is allowed, for the message, such as `" or None"`.
    """
    number = operator.index(value) if is_whole(value) else None
    if number is None or number < least:
        span = "above 0" if least == 1 else f"of {least} or more"
        raise ConfigError(
            f"{name} must be a whole number {span}{or_else}, found {short_repr(value)}"
        )
    return number


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether `value` is a whole number, of Python or NumPy, and no bool."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def real(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    low_is_allowed: bool = True,
    or_else: str = "",
) -> float:
    """`value` as a finite `float` in `[low, high)`, or in `(low, high)` without `low_is_allowed`.

    A Python `int` stays an `int`, so that it is printed as it was written. Raises `ConfigError`
    that names the argument.
    """
    number = as_float(value)
    is_high_enough = number is not None and (number > low or (number == low and low_is_allowed))
    if number is None or not math.isfinite(number) or not (is_high_enough and number < high):
        if math.isfinite(high):
            span = f"in {'[' if low_is_allowed else '('}{low:g}, {high:g})"
        elif math.isfinite(low):
            span = f"of {low:g} or more" if low_is_allowed else f"above {low:g}"
        else:
            span = "that is finite"
        raise ConfigError(f"{name} must be a number {span}{or_else}, found {short_repr(value)}")
    return value if type(value) is int else number


def as_float(value: Any) -> float | None:
    """`value` as a `float`, or None where it is not a number."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None


def float_dtype(name: str, value: Any) -> str:
    """`"float32"` or `"float64"` for a name, a type or a dtype. Raises `ConfigError`."""
    found = getattr(value, "__name__", None) or str(value)
    if found not in ("float32", "float64"):
        raise ConfigError(f"{name} must be float32 or float64, found {short_repr(value)}")
    return str(found)


def height_and_width(name: str, value: Any) -> tuple[int, int]:
    """`value` as `(height, width)`. Raises `ConfigError` that names the argument."""
    try:
        height, width = (operator.index(n) if is_whole(n) else 0 for n in value)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ConfigError(
            f"{name} must be (height, width), whole numbers above 0, found {short_repr(value)}"
        )
    return height, width


def as_path(name: str, value: Any) -> Path:
    """`value`, a string or a path, as a `Path`. Raises `ConfigError` that names the argument."""
    if isinstance(value, str | PathLike):
        return Path(value)
    raise ConfigError(f"{name} must be a path, a string or a Path, found {short_repr(value)}")


def instance(name: str, value: Any, kind: type[T] | tuple[type[T], ...], what: str) -> T:
    """`value`, if it is of `kind`. Raises `ConfigError` that says `what` is expected instead.

    The message recognises a class given instead of an object: `SGD` instead of `SGD()`.
    """
    if isinstance(value, kind):
        return value
    found = short_repr(value)
    if isinstance(value, type):
        found = f"the class {value.__name__}: write {value.__name__}(...)"
    raise ConfigError(f"{name} must be {what}, found {found}")
