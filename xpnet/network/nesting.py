"""A network used as a layer of another network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xpnet.backend import Array
from xpnet.layers.base import Layer, Parameter, below
from xpnet.layers.containers import multiply_adds_of_chain
from xpnet.layers.dropout import Dropout, GaussianNoise
from xpnet.layers.normalization import BatchNorm, LayerNorm
from xpnet.layers.reshaping import Unflatten
from xpnet.layers.shapes import Shape, require_features
from xpnet.network.parameters import FlatParameters
from xpnet.network.replicas import Replicas

PREDICTION_ROWS = 768
"""Rows per block of a prediction: enough for a fast matrix product, few enough for the cache."""

MOST_OUTPUTS = 2**22
"""Numbers that a layer gives for a block of a prediction: fewer rows where layers are larger."""

_OF_ROWS = (Dropout, GaussianNoise, BatchNorm, LayerNorm)


class NetworkAsLayer(FlatParameters):
    """The layer interface of `Sequential`, called by an outer network (a mixin)."""

    in_features: int
    out_features: int
    prediction_rows: int
    """Rows per block of a prediction."""
    replicas: Replicas
    """For training steps in parts: see `xpnet.training.parts`."""
    _out_shape: Shape
    _layers: tuple[Layer, ...]

    @property
    def image_shape(self) -> Shape | None:
        """`(height, width, channels)` of the images that the network takes, None for rows.

        Dropout, noise and normalisation may come before the `Unflatten`.
        """
        first = next((layer for layer in self._layers if type(layer) not in _OF_ROWS), None)
        if isinstance(first, NetworkAsLayer):
            return first.image_shape
        return first.output_shape(None) if isinstance(first, Unflatten) else None

    def forget_forward(self) -> None:
        """The last training forward pass was not one of the layers themselves: see `Replicas`."""
        self._has_forward = False

    def _set_shapes(self, shapes: Sequence[Shape]) -> None:
        """`shapes`: of a sample before and after the layers, as `shapes_of_chain` gives them."""
        self._out_shape = shapes[-1]
        self.in_features, self.out_features = math.prod(shapes[0]), math.prod(shapes[-1])
        largest = max(map(math.prod, shapes[1:]))
        self.prediction_rows = max(1, min(PREDICTION_ROWS, MOST_OUTPUTS // largest))

    def sublayers(self) -> dict[str, Layer]:
        """The layers by their numbers, `"0"`, `"1"`, …"""
        return {str(position): layer for position, layer in enumerate(self._layers)}

    def bind(
        self,
        values: dict[str, Array],
        gradients: dict[str, Array],
        statistics: dict[str, Array],
    ) -> None:
        """Let the layers take views of another network's store; called by that network."""
        self._own_store = None
        vars(self).pop("replicas", None)  # which hold the former arrays
        for name, layer in self.sublayers().items():
            layer.bind(*(below(name, views) for views in (values, gradients, statistics)))

    def _parameter_specs(self) -> dict[str, Parameter]:
        return Layer.parameters(self)

    def _buffer_specs(self) -> dict[str, Parameter]:
        return Layer.buffers(self)

    def _arrays(self) -> dict[str, Array]:
        return {
            f"{name}.{key}": array
            for name, layer in self.sublayers().items()
            for key, array in layer._arrays().items()
        }

    def output_shape(self, shape: Shape | None) -> Shape:
        """The shape of a sample of the outputs. Raises `ShapeError` for another input shape."""
        require_features(self, self.in_features, shape)
        return self._out_shape

    def multiply_adds(self, shape: Shape) -> int:
        """Those of the layers."""
        return multiply_adds_of_chain(self._layers, shape)

    def get_config(self) -> dict[str, Any]:
        """The layers: `{"layers": (Linear(784, 10), …)}`."""
        return {"layers": self._layers}

    def backward_parameters(self, dy: Array) -> None:
        """Only the parameters' gradients: within another network the first layer's."""
        has = [bool(layer._parameter_specs()) for layer in self._layers]
        first = has.index(True) if True in has else len(has)
        for layer in reversed(self._layers[first + 1 :]):
            dy = layer.backward(dy)
        for layer in self._layers[first : first + 1]:
            layer.backward_parameters(dy)

    def _drop_arrays(self) -> None:
        super()._drop_arrays()
        self._own_store = None
