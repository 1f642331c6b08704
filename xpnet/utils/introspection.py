"""What an object was made with: `get_config()`, for files, checkpoints and `summary()`."""

from __future__ import annotations

import inspect
from typing import Any

import numpy

from xpnet.errors import ConfigError, short_repr


def config_of(made: object) -> dict[str, Any]:
    """The arguments of `type(made)(...)` by name, as `made` holds them.

    Of a dataclass these are its fields, of another class the parameters of its `__init__`, each
    of which must be an attribute of the same name, as in scikit-learn. Raises `ConfigError`,
    naming the class and the parameter, where one is missing.
    """
    kind = type(made)
    found = {}
    for name, parameter in parameters_of(kind).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(
                f"{kind.__name__} is made with {parameter}, which cannot be found again, so it "
                f"could not be saved: name its parameters, or define get_config()"
            )
        # A class's own value is what another argument was not given for.
        if name not in vars(made) and not isinstance(getattr(kind, name, None), property):
            raise ConfigError(
                f"{kind.__name__} is made with {name!r} and has no attribute of that name, so it "
                f"could not be saved: keep it as self.{name}, or define get_config()"
            )
        found[name] = getattr(made, name)
    return found


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """The parameters of `kind`'s `__init__` but for `self`, by name."""
    # Not of `kind` itself, which may have a `__new__` that takes whatever there is.
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
    """A number of NumPy's as Python's own; all else as it is."""
    return value.item() if isinstance(value, numpy.generic) else value


def as_plain(owner: str, config: dict[str, Any]) -> dict[str, Any]:
    """`config` as JSON holds it: numbers, strings, None, and lists and dicts of these.

    Raises `ConfigError`, naming `owner` and the setting, for any other value.
    """
    return {name: _plain(owner, name, value) for name, value in config.items()}


def _plain(owner: str, name: str, value: Any) -> Any:
    value = as_python(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(owner, name, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(owner, name, item) for key, item in value.items()}
    # Metadata is the user's own dict, not an object with a configuration.
    other = "" if owner == "metadata" else ", or let its get_config() give these"
    raise ConfigError(
        f"{name} of {owner} is {short_repr(value)}, which no file can hold: make {owner} with "
        "numbers "
        f"and strings (or lists and dicts of them){other}"
    )
