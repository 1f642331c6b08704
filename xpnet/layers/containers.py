"""Layers made of layers: `Residual`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError, ShapeError
from xpnet.layers.base import Layer, require_distinct
from xpnet.layers.shapes import Shape
from xpnet.layers.short_notation import layers_from, shape_after


class Residual(Layer):
    """A residual block: `y = x + f(x)`, where `f` is the given layers one after the other.

    `layers`: as `Sequential` takes them, `Residual(Linear(64, 64), ReLU(), Linear(64, 64))` or
    in short notation `Residual(64, 64, "relu", 64)`. The output of `f` has the
    shape of its input: `x`, `y`: `(N, F)` or `(N, H, W, C)`.

    `x` affects the loss along two paths, so its gradient is a sum: `dx = dy + f′(x)ᵀ dy`, where the
    second term is the result of the layers' backward pass for `dy`. He, Zhang, Ren, Sun, "Deep
    residual learning for image recognition", CVPR 2016, eq. 1.

    Parameters are called by the number of their layer in the block: `0.weight`, `2.bias`.

    Raises `ConfigError` if there are no layers or one is not a layer; `ShapeError` if the layers do
    not fit together, or if the shapes of their input and output differ.
    """

    def __init__(self, *layers: Layer | int | str) -> None:
        self.layers = tuple(layers_from(layers))
        if not self.layers:
            raise ConfigError("Residual needs at least one layer: Residual(64, 64) has one")
        require_distinct(self.layers, "Residual")

    def get_config(self) -> dict[str, Any]:
        """The layers: `{"layers": (Linear(64, 64), …)}`."""
        return {"layers": self.layers}

    def sublayers(self) -> dict[str, Layer]:
        """The layers by their numbers, `"0"`, `"1"`, …"""
        return {str(number): layer for number, layer in enumerate(self.layers)}

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """The shape of a sample of `x`. Raises `ShapeError`."""
        after = shape
        for number, layer in enumerate(self.layers):
            before, after = after, shape_after(layer, number, after)
            if shape is None and before is None and after is not None:
                features = getattr(layer, "in_features", None)
                shape = after if features is None else (features,)
        if shape != after:
            raise ShapeError(
                f"{self} takes {_described(shape)} and its layers give {_described(after)}, which "
                f"cannot be added: let the last layer give {_described(shape)}"
            )
        return after

    def multiply_adds(self, shape: Shape) -> int:
        """Those of the layers."""
        return multiply_adds_of_chain(self.layers, shape)

    def forward(self, x: Array, *, training: bool) -> Array:
        """`(N, F) -> (N, F)`."""
        y = x
        for layer in self.layers:
            y = layer.forward(y, training=training)
        return array_module(x, y).add(x, y, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        """`(N, F) -> (N, F)`; the layers write the gradients of their parameters."""
        dx = dy
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        return array_module(dy, dx).add(dy, dx, out=self.like(dy, "dx"))

    def __str__(self) -> str:
        return f"Residual({', '.join(map(str, self.layers))})"


def multiply_adds_of_chain(layers: Iterable[Layer], shape: Shape) -> int:
    """`Layer.multiply_adds` of all `layers`, one after the other, for a sample of `shape`."""
    total = 0
    for layer in layers:
        total += layer.multiply_adds(shape)
        shape = layer.output_shape(shape) or shape
    return total


def _described(shape: Shape | None) -> str:
    if shape is None:
        return "an unknown shape"
    return f"{shape[0]} features" if len(shape) == 1 else f"images {shape}"
