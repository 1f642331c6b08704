"""Predictions from several threads: each works on copies of the layers with its own buffers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from xpnet.backend import Array
from xpnet.configuration import is_own
from xpnet.layer import Layer
from xpnet.workspace import Workspace


class LayersForPrediction(threading.local):
    """The layers of a network as one thread predicts with them.

    A forward pass writes into buffers and into attributes of a layer. So a prediction makes it
    with copies, whose attributes are those of the layers at its beginning and whose workspaces
    are the thread's own: it disturbs no other thread, and no training step under way.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        # Python calls this once in each thread.
        self.layers = layers
        self.workspaces: dict[int, Workspace] = {}
        self.copies = [_blank(layer) for layer in layers]
        # xpnet's own hold no other layers, so their copies need not be made anew each time.
        self.simple = [is_own(type(layer)) for layer in layers]

    def forward(self, x: Array) -> Array:
        """`y` of the last layer, `(N, out)`: a buffer of this thread."""
        for layer, copy, is_simple in zip(self.layers, self.copies, self.simple, strict=True):
            if is_simple:
                attributes = copy.__dict__
                workspace = attributes["workspace"]
                attributes.update(layer.__dict__)
                attributes["workspace"] = workspace
                x = copy.forward(x, training=False)
            else:
                x = self._copied(layer, {}).forward(x, training=False)
        return x

    def _copied(self, layer: Layer, made: dict[int, Layer]) -> Layer:
        """A copy of `layer`, and of the layers within it; `made`: the copies so far, by `id`."""
        copy = made[id(layer)] = _blank(layer)
        attributes = copy.__dict__
        attributes["workspace"] = self.workspaces.setdefault(id(layer), Workspace())
        for name, value in layer.__dict__.items():
            if name != "workspace":
                attributes[name] = self._with_copies(value, made)
        return copy

    def _with_copies(self, value: Any, made: dict[int, Layer]) -> Any:
        if isinstance(value, Layer):
            return made.get(id(value)) or self._copied(value, made)
        if type(value) is dict and any(isinstance(item, Layer) for item in value.values()):
            return {key: self._with_copies(item, made) for key, item in value.items()}
        if type(value) in (list, tuple) and any(isinstance(item, Layer) for item in value):
            return type(value)(self._with_copies(item, made) for item in value)
        return value


def _blank(layer: Layer) -> Layer:
    return type(layer).__new__(type(layer))
