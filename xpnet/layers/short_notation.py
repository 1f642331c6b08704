"""Layers in short notation: `784, 128, "relu", 10`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from xpnet.errors import ConfigError, ShapeError, join_names, short_repr
from xpnet.layers.activations import ACTIVATIONS
from xpnet.layers.base import Layer, require_distinct, walk
from xpnet.layers.linear import Linear
from xpnet.utils.arguments import is_whole


def layers_from(
    parts: tuple[Iterable[Layer] | Layer | int | str, ...],
    features: int | None = None,
    first: int = 0,
) -> list[Layer]:
    """The layers for `Sequential(*parts)`: a list of layers, or short notation.

    `features`: what the layers before give, None at the beginning of a network, where layer
    number `first` stands at number 0.
    """
    if len(parts) == 1 and is_list(parts[0]):
        made: list[Layer] = list(parts[0])
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


def is_list(part: object) -> TypeGuard[Iterable[Any]]:
    """Whether `part` is a list of layers or the like, and no layer or name itself."""
    return isinstance(part, Iterable) and not isinstance(part, str | Layer)


def _activation(name: str) -> Layer:
    known = {key.replace("_", ""): kind for key, kind in ACTIVATIONS.items()}
    plain = name.lower().replace("_", "")
    if plain not in known:
        raise ConfigError(
            f"no activation is called {short_repr(name)}: there are {join_names(ACTIVATIONS)}"
        )
    return known[plain]()


def features_after(layer: Layer, position: int, features: int | None) -> int | None:
    """The outputs of layer number `position` for `features` inputs. Raises `ShapeError`."""
    try:
        return layer.output_features(features)
    except ShapeError as error:
        raise ShapeError(f"layer {position}: {error}") from None


def features_of_chain(layers: list[Layer]) -> tuple[int, int]:
    """The numbers of input and output features. Raises `ConfigError` and `ShapeError`."""
    if not layers:
        raise ConfigError("a network needs at least one layer: Sequential(784, 10) has one")
    require_distinct(layers, "the network")
    features: int | None = None
    entrance: int | None = None
    for position, layer in enumerate(layers):
        after = features_after(layer, position, features)
        if features is None and after is not None:
            # For a composite layer, use its first sublayer that knows the number.
            known = (getattr(inside, "in_features", None) for inside in walk([layer]))
            entrance = next((number for number in known if number is not None), after)
        features = after
    if features is None or entrance is None:
        raise ConfigError("no layer of the network says how many features it takes")
    return entrance, features
