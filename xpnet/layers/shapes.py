"""The shape of a sample, and errors for one that a layer does not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from xpnet.errors import ShapeError

Shape: TypeAlias = tuple[int, ...]
"""The shape of a sample: `(features,)`, or `(height, width, channels)` of an image."""


def require_rows(layer: object, shape: Shape | None) -> None:
    """Raise `ShapeError` where the layer before gives images and `layer` takes rows of features."""
    if shape is not None and len(shape) != 1:
        raise ShapeError(
            f"{layer} takes rows of features and is given images {shape}: put Flatten() before it"
        )


def require_features(layer: object, expected: int, shape: Shape | None) -> None:
    """Raise `ShapeError` unless the layer before gives what `layer` takes."""
    require_rows(layer, shape)
    if shape is not None and shape != (expected,):
        raise ShapeError(
            f"{layer} takes {expected} features and is given {shape[0]}: "
            f"make it {type(layer).__name__}({shape[0]}, …) or change the layer before it"
        )


def require_output(layer: Any, position: int, x: Any, y: Any) -> None:
    """Raise `ShapeError` unless `y` has the shape that `output_shape()` of `layer` gives.

    `y` is what `layer`, number `position` of its network, has computed from `x`.
    """
    before, after = tuple(x.shape[1:]), tuple(y.shape[1:])
    expected = layer.output_shape(before)
    if expected is not None and after != tuple(expected):
        raise ShapeError(
            f"layer {position}: {type(layer).__name__} turns samples of shape {before} into "
            f"{after}, and its output_shape() gives {tuple(expected)}: define output_shape(), "
            f"or change forward()"
        )


def shape_by(
    output_features: Callable[[Any, int | None], int | None],
) -> Callable[[Any, Shape | None], Shape | None]:
    """`output_shape()` of a class that has `output_features()`, as version 0.1 called it."""

    def output_shape(self: Any, shape: Shape | None) -> Shape | None:
        require_rows(self, shape)
        features = output_features(self, None if shape is None else shape[0])
        return None if features is None else (features,)

    return output_shape
