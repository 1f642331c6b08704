"""Layers in short notation: `784, 128, "relu", 10`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from xpnet.errors import ConfigError, ShapeError, join_names, short_repr
from xpnet.layers.activations import ACTIVATIONS
from xpnet.layers.base import Layer, require_distinct, walk
from xpnet.layers.images import ImageLayer
from xpnet.layers.linear import Linear
from xpnet.layers.reshaping import Unflatten
from xpnet.layers.shapes import Shape
from xpnet.utils.arguments import is_whole
from xpnet.utils.introspection import is_own


def layers_from(
    parts: tuple[Iterable[Layer] | Layer | Shape | int | str, ...],
    shape: Shape | None = None,
    first: int = 0,
) -> list[Layer]:
    """The layers for `Sequential(*parts)`: a list of layers, or short notation.

    `shape`: that of a sample after the layers before, None at the beginning of a network, where
    layer number `first` stands at number 0.
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
        elif isinstance(part, tuple) and not made and shape is None:
            layer = _unflatten(part)
        elif not is_whole(part) or part < 1:
            raise ConfigError(
                f"Sequential takes whole numbers above 0, names of activations and layers, found "
                f"{short_repr(part)}"
            )
        elif shape is not None:
            layer = _linear(shape, int(part), first + len(made))
        elif not made:
            shape = (int(part),)
            continue
        else:
            raise ConfigError(
                f"the size of the inputs comes first, as in Sequential(784, ...), or "
                f"Sequential((28, 28), ...) for images, found {made[0]} before {part}"
            )
        shape = shape_after(layer, first + len(made), shape, made[-1] if made else None)
        made.append(layer)
    return made


def _unflatten(sizes: Shape) -> Unflatten:
    layer = Unflatten(sizes)
    if len(sizes) == 3 and sizes[0] in (1, 3) and 8 <= sizes[1] == sizes[2]:
        channels, height, width = sizes
        raise ConfigError(
            f"the size of images {sizes} looks like (channels, height, width): write ({height}, "
            f"{width}, {channels}); or Unflatten({sizes}) if it is meant"
        )
    return layer


def _linear(shape: Shape, units: int, position: int) -> Linear:
    if len(shape) != 1:
        raise ShapeError(
            f"layer {position}: {units} stands for a Linear, which takes rows of features, and is "
            f"given images {shape}: put Flatten() before it"
        )
    return Linear(shape[0], units)


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


def shape_after(
    layer: Layer, position: int, shape: Shape | None, before: Layer | None = None
) -> Shape | None:
    """The shape of a sample after layer number `position`; `before`: the layer before it, if any.

    Raises `ShapeError`.
    """
    try:
        return layer.output_shape(shape)
    except ShapeError as error:
        hint = ""
        # A user's own layer, of which the shape of its outputs is an assumption.
        if before is not None and type(before).output_shape is Layer.output_shape:
            kind = type(before)
            hint = "" if is_own(kind) else f", or define output_shape() of {kind.__name__}"
        raise ShapeError(f"layer {position}: {error}{hint}") from None


def shapes_of_chain(layers: list[Layer]) -> list[Shape]:
    """The shapes of a sample before `layers` and after each of them that lets them be known.

    Raises `ConfigError` and `ShapeError`.
    """
    if not layers:
        raise ConfigError("a network needs at least one layer: Sequential(784, 10) has one")
    require_distinct(layers, "the network")
    shape: Shape | None = None
    shapes: list[Shape] = []
    for position, layer in enumerate(layers):
        after = shape_after(layer, position, shape, layers[position - 1] if position else None)
        if shape is None:
            _require_size(layer, position, after)
        if shape is None and after is not None:
            # For a composite layer, use its first sublayer that knows the number.
            known = (getattr(inside, "in_features", None) for inside in walk([layer]))
            features = next((number for number in known if number is not None), None)
            shapes.append(after if features is None else (features,))
        shape = after
        shapes += [] if shape is None else [shape]
    if shape is None:
        raise ConfigError("no layer of the network says how many features it takes")
    return shapes


def _require_size(layer: Layer, position: int, after: Shape | None) -> None:
    """Raise `ShapeError` for a layer of images before which no layer says how large they are."""
    first = layer
    while inside := tuple(first.sublayers().values()):
        first = inside[0]
    for one in [first] if after is not None else walk([layer]):
        if isinstance(one, ImageLayer):
            raise ShapeError(
                f"layer {position}: {one} takes images, and the network does not say of which "
                f"size: begin it with their size, as in Sequential((28, 28), …), or with "
                f"Unflatten((height, width, channels))"
            )
