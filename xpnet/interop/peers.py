"""Common parts of the conversions: importing the other library, checks of what is converted."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from xpnet.errors import ConfigError
from xpnet.layers.base import Layer
from xpnet.network import Sequential


def imported(module: str, user: str, install: str) -> Any:
    """The other library's `module`. Raises `ConfigError` where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{user} needs {module}, which cannot be imported here ({error}): pip install {install}"
        ) from None


def require_network(thing: object, user: str) -> None:
    """Raise `ConfigError` unless `thing` is a `Sequential` of xpnet's."""
    if not isinstance(thing, Sequential):
        raise ConfigError(f"{user} takes an xpnet.Sequential, found {kind_of(thing)}")
    if type(thing).forward is not Sequential.forward or "forward" in vars(thing):
        raise ConfigError(
            f"{user} writes the layers of a network, found a {kind_of(thing)} with a forward() of "
            f"its own, which would be left out"
        )


def require_own_forward(position: int | str, layer: Layer) -> None:
    """Raise `ConfigError` for a layer object whose forward pass is not that of its class."""
    if "forward" in vars(layer):
        raise ConfigError(
            f"layer {position}, {layer}, has a replaced forward(), which would be left out: make "
            f"it a layer of your own"
        )


def kind_of(thing: object) -> str:
    """The type of `thing` for a message, with the library that it comes from."""
    kind = type(thing)
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library == "builtins" else f"{library}.{kind.__name__}"
