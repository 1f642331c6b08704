"""Layers to and from plain data (JSON), for files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from xpnet import layers
from xpnet.errors import CheckpointError, ConfigError, XpnetError, one_line, short_repr
from xpnet.layers.base import DEEPEST, Layer
from xpnet.layers.containers import Residual
from xpnet.utils.arguments import instance
from xpnet.utils.introspection import as_json, is_own

LAYERS: dict[str, type[Layer]] = {
    name: layer
    for name, layer in vars(layers).items()
    if isinstance(layer, type) and issubclass(layer, Layer) and layer is not Layer
}
"""The layer classes of xpnet by name."""

Nest = Callable[[list[Layer]], Layer]


def described(made: Sequence[Layer], within: str = "") -> list[dict[str, Any]]:
    """The layers as plain data; the inverse is `layers_of`.

    A class of xpnet's own is named by its name, another one by its module and name. A container
    (`Residual`, or a network within the network) has the description of its layers as `layers`.
    Raises `ConfigError` for a layer whose configuration is not plain data.
    """
    found = []
    for number, layer in enumerate(made):
        kind, position = type(layer), f"{within}{number}"
        name = kind.__name__ if is_own(kind) else f"{kind.__module__}.{kind.__qualname__}"
        inside = contained(layer)
        if inside is not None:
            config: dict[str, Any] = {"layers": described(inside, f"{position}.")}
        else:
            config = as_json(f"layer {position}, {kind.__name__},", layer.get_config())
        if taken := {"type", "trainable"} & config.keys():
            raise ConfigError(
                f"layer {position}, {kind.__name__}, has a setting called {taken.pop()!r}, which "
                f"a file uses for something else: give it another name"
            )
        entry = {"type": name} | config
        found.append(entry if layer.trainable else entry | {"trainable": False})
    return found


def contained(layer: Layer) -> tuple[Layer, ...] | None:
    """The layers of one of xpnet's containers; None for any other layer."""
    inside: tuple[Layer, ...] | None = getattr(layer, "layers", None)
    return inside if is_own(type(layer)) else None


def require_classes(custom_objects: object) -> None:
    """Raise `ConfigError` unless `custom_objects` is None or a dict."""
    if custom_objects is not None:
        what = 'a dict of layer classes by name, such as {"Scale": Scale}'
        instance("custom_objects", custom_objects, dict, what)


def layers_of(
    architecture: list[dict[str, Any]],
    custom_objects: Mapping[str, type[Layer]] | None,
    nest: Nest,
    within: str = "",
) -> list[Layer]:
    """The layers that `described` gives as plain data.

    `nest` creates the layer for a nested network. Raises `CheckpointError`, and `ConfigError` if
    `custom_objects` is not a dict of classes.
    """
    require_classes(custom_objects)
    if within.count(".") > DEEPEST:
        raise CheckpointError(f"layer {within[:-1]} is nested more than {DEEPEST} deep")
    made = []
    for number, entry in enumerate(architecture):
        position = f"{within}{number}"
        try:
            made.append(_made(position, dict(custom_objects or {}), nest, **entry))
        except XpnetError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"layer {position} cannot be made: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"layer {position} is not known: {short_repr(entry)}") from error
    return made


def _made(
    position: str,
    custom_objects: dict[str, type[Layer]],
    nest: Nest,
    /,
    type: str,
    trainable: bool = True,
    **settings: Any,
) -> Layer:
    """The layer that a file describes; a setting of xpnet's own layers is a number, or layers."""
    if type in ("Residual", "Sequential"):
        if settings.keys() != {"layers"} or not isinstance(settings["layers"], list):
            raise TypeError(f"{type} has {', '.join(settings)}")
        inside = layers_of(settings["layers"], custom_objects, nest, f"{position}.")
        layer = Residual(*inside) if type == "Residual" else nest(inside)
    elif type not in LAYERS:
        layer = _called(_custom(position, type, custom_objects), position, settings)
    else:
        kind = LAYERS[type]
        drawn = {f.name for f in fields(kind) if f.default_factory is not MISSING}
        for name, value in settings.items():
            if name in drawn or not _is_setting(value):
                raise TypeError(f"{name} of {type} is {short_repr(value)}")
        layer = kind(**settings)
    if not trainable:
        layer.trainable = trainable
    return layer


def _is_setting(value: Any) -> bool:
    """Whether a setting of xpnet's own layers may be `value`: a number, or two or three of them."""
    if isinstance(value, list):
        return 2 <= len(value) <= 3 and all(isinstance(n, int) and _is_setting(n) for n in value)
    return isinstance(value, int | float) and abs(value) < 2**63


def _called(kind: type[Layer], position: str, settings: dict[str, Any]) -> Layer:
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"layer {position} cannot be made: {kind.__name__} does not take what the file has "
            f"for it, {short_repr(settings)} ({one_line(error)})"
        ) from error


def _custom(position: str, name: str, custom_objects: dict[str, type[Layer]]) -> type[Layer]:
    short = name.rpartition(".")[2]
    found = custom_objects.get(name, custom_objects.get(short))
    if found is None:
        how = f'{{"{short}": {short}}}' if short.isidentifier() and len(short) < 40 else "{...}"
        raise CheckpointError(
            f"layer {position} is not known: {short_repr(name)} is no layer of xpnet's, so load() "
            f"has to be given the class: load(path, custom_objects={how})"
        )
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise ConfigError(
            f"custom_objects[{short_repr(short)}] is {short_repr(found)}: give the layer class"
        )
    return found
