"""The arguments of an object: `get_config()`, for files, checkpoints and `summary()`."""

from __future__ import annotations

import inspect
from typing import Any

import numpy

from xpnet.errors import ConfigError, short_repr


def config_of(made: object) -> dict[str, Any]:
    """The arguments of `type(made)(...)` by name, from the attributes of `made`.

    They are the fields of a dataclass, and for any other class the parameters of its `__init__`,
    each of which must be an attribute of the same name, as in scikit-learn. Raises `ConfigError`,
    naming the class and the parameter, where one is missing.
    """
    kind = type(made)
    found = {}
    for name, parameter in parameters_of(kind).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(
                f"{kind.__name__} takes {parameter}, whose values are not known, so it "
                f"cannot be saved: name its parameters, or define get_config()"
            )
        # The attribute of a class is not an argument.
        if name not in vars(made) and not isinstance(getattr(kind, name, None), property):
            raise ConfigError(
                f"{kind.__name__} takes {name!r} and has no attribute of that name, so it "
                f"cannot be saved: keep it as self.{name}, or define get_config()"
            )
        found[name] = getattr(made, name)
    return found


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """The parameters of `kind`'s `__init__` but for `self`, by name."""
    # Not the signature of `kind`, which may be that of `__new__`.
    if kind.__init__ is object.__init__:  # type: ignore[misc]
        return {}
    _, *parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    return {parameter.name: parameter for parameter in parameters}


def is_own(kind: type) -> bool:
    """Whether xpnet itself defines the class `kind`."""
    return kind.__module__.partition(".")[0] == __package__.partition(".")[0]


def optional_arguments(kind: type) -> set[str]:
    """The names of the arguments of `kind(...)` that have a default."""
    return {name for name, p in parameters_of(kind).items() if p.default is not p.empty}


def as_python(value: Any) -> Any:
    """A NumPy number as a Python number; any other value unchanged."""
    return value.item() if isinstance(value, numpy.generic) else value


def as_json(owner: str, config: dict[str, Any]) -> dict[str, Any]:
    """`config` as values of JSON: numbers, strings, None, and lists and dicts of these.

    Raises `ConfigError`, naming `owner` and the setting, for any other value.
    """
    return {name: _json_value(owner, name, value) for name, value in config.items()}


def _json_value(owner: str, name: str, value: Any) -> Any:
    value = as_python(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_json_value(owner, name, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _json_value(owner, name, item) for key, item in value.items()}
    # Metadata is a dict of the user, not an object with a configuration.
    other = "" if owner == "metadata" else ", or let its get_config() give these"
    raise ConfigError(
        f"{name} of {owner} is {short_repr(value)}, which no file can hold: make {owner} with "
        f"numbers and strings (or lists and dicts of them){other}"
    )
