"""Layers from a short notation, from a description in a file, and the description itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from xpnet import layers
from xpnet.errors import (
    CheckpointError,
    ConfigError,
    ShapeError,
    XpnetError,
    join_names,
    one_line,
    short_repr,
)
from xpnet.layers import Linear
from xpnet.layers.activations import ACTIVATIONS
from xpnet.layers.base import Layer
from xpnet.utils.arguments import instance, is_whole
from xpnet.utils.introspection import as_plain, is_own

LAYERS: dict[str, type[Layer]] = {
    name: layer
    for name, layer in vars(layers).items()
    if isinstance(layer, type) and issubclass(layer, Layer) and layer is not Layer
}


def spelled_out(
    parts: tuple[Iterable[Layer] | Layer | int | str, ...],
    features: int | None = None,
    first: int = 0,
) -> list[Layer]:
    """The layers that `Sequential(*parts)` has: those of one list, or those written in brief.

    `features`: what the layers before give, None at the beginning of a network, where layer
    number `first` stands at number 0.
    """
    if len(parts) == 1 and isinstance(parts[0], Iterable) and not isinstance(parts[0], str):
        made = list(parts[0])
        for position, layer in enumerate(made):
            if not isinstance(layer, Layer):
                raise ConfigError(
                    f"layer {position} is {short_repr(layer)}: a list holds layers; numbers and "
                    "names "
                    f'go without the brackets, as in Sequential(784, 128, "relu", 10)'
                )
        return made
    made = []
    for part in parts:
        if isinstance(part, Layer):
            layer = part
        elif isinstance(part, str):
            layer = _activation(part)
        elif not is_whole(part) or part < 1:
            raise ConfigError(
                f"a network in brief is written in whole numbers above 0, names of activations "
                f"and layers, found {short_repr(part)}"
            )
        elif features is not None:
            layer = Linear(features, part)
        elif not made:
            features = int(part)
            continue
        else:
            raise ConfigError(
                f"the number of input features comes first, as in Sequential(784, ...), "
                f"found {made[0]} before {part}"
            )
        features = features_after(layer, first + len(made), features)
        made.append(layer)
    return made


def _activation(name: str) -> Layer:
    known = {key.replace("_", ""): kind for key, kind in ACTIVATIONS.items()}
    plain = name.lower().replace("_", "")
    if plain not in known:
        raise ConfigError(
            f"no activation is called {short_repr(name)}: there are {join_names(ACTIVATIONS)}"
        )
    return known[plain]()


def features_after(layer: Layer, position: int, features: int | None) -> int | None:
    """What layer number `position` makes of `features`. Raises `ShapeError`."""
    try:
        return layer.output_features(features)
    except ShapeError as error:
        raise ShapeError(f"layer {position}: {error}") from None


def described(made: Sequence[Layer]) -> list[dict[str, Any]]:
    """The layers as plain data, which `layers_of` takes.

    A class of xpnet's own goes by its name, another one by its module and name. Raises
    `ConfigError` for a layer whose configuration no file can hold.
    """
    found = []
    for position, layer in enumerate(made):
        kind = type(layer)
        name = kind.__name__ if is_own(kind) else f"{kind.__module__}.{kind.__qualname__}"
        config = as_plain(f"layer {position}, {kind.__name__},", layer.get_config())
        if taken := {"type", "trainable"} & config.keys():
            raise ConfigError(
                f"layer {position}, {kind.__name__}, has a setting called {taken.pop()!r}, which "
                f"a file uses for something else: give it another name"
            )
        entry = {"type": name} | config
        found.append(entry if layer.trainable else entry | {"trainable": False})
    return found


def require_classes(custom_objects: object) -> None:
    """Raise `ConfigError` unless `custom_objects` is None or a dict."""
    if custom_objects is not None:
        what = 'a dict of layer classes by name, such as {"Scale": Scale}'
        instance("custom_objects", custom_objects, dict, what)


def layers_of(
    architecture: list[dict[str, Any]], custom_objects: Mapping[str, type[Layer]] | None = None
) -> list[Layer]:
    """The layers that `described` gives as plain data.

    Raises `CheckpointError`, and `ConfigError` for `custom_objects` that are no dict of classes.
    """
    require_classes(custom_objects)
    made = []
    for position, entry in enumerate(architecture):
        try:
            made.append(_made(position, dict(custom_objects or {}), **entry))
        except XpnetError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"layer {position} cannot be made: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"layer {position} is not known: {short_repr(entry)}") from error
    return made


def _made(
    position: int,
    custom_objects: dict[str, type[Layer]],
    /,
    type: str,
    trainable: bool = True,
    **settings: Any,
) -> Layer:
    """The layer that a file describes; every setting of xpnet's own layers is a number."""
    if type not in LAYERS:
        layer = _called(_custom(position, type, custom_objects), position, settings)
    else:
        kind = LAYERS[type]
        drawn = {f.name for f in fields(kind) if f.default_factory is not MISSING}
        for name, value in settings.items():
            if name in drawn or not isinstance(value, int | float) or not abs(value) < 2**63:
                raise TypeError(f"{name} of {type} is {short_repr(value)}")
        layer = kind(**settings)
    if not trainable:
        layer.trainable = trainable
    return layer


def _called(kind: type[Layer], position: int, settings: dict[str, Any]) -> Layer:
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"layer {position} cannot be made: {kind.__name__} does not take what the file has "
            f"for it, {short_repr(settings)} ({one_line(error)})"
        ) from error


def _custom(position: int, name: str, custom_objects: dict[str, type[Layer]]) -> type[Layer]:
    short = name.rpartition(".")[2]
    found = custom_objects.get(name, custom_objects.get(short))
    if found is None:
        how = f'{{"{short}": {short}}}' if short.isidentifier() and len(short) < 40 else "{...}"
        raise CheckpointError(
            f"layer {position} is not known: {short_repr(name)} is no layer of xpnet's, so "
            "load() has "
            f"to be given the class: load(path, custom_objects={how})"
        )
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise ConfigError(
            f"custom_objects[{short_repr(short)}] is {short_repr(found)}: give the layer class"
        )
    return found
