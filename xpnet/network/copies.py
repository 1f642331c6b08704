"""Copies of layers that share their values and settings, and have workspaces of their own."""

from __future__ import annotations

from typing import Any

from xpnet.layers.base import Layer, layers_in, walk
from xpnet.utils.introspection import is_own
from xpnet.workspace import Workspace

_FIXED = {"in_features", "out_features", "features", "in_channels", "out_channels", "image_shape"}
_FIXED |= {"layers"}


class LayerCopies:
    """Makes the copies that one thread works with.

    A forward pass writes into buffers and into attributes of a layer, so two threads cannot use the
    same one at the same time.
    """

    def __init__(self) -> None:
        self._workspaces: dict[int, Workspace] = {}
        # What was copied, the copy, and the names of its settings.
        self._settings: list[tuple[Layer, Layer, tuple[str, ...]]] = []

    def lasting(self, layer: Layer) -> Layer:
        """A copy of one of xpnet's own layers, which `update` gives the settings of `layer`."""
        made: dict[int, Layer] = {}
        copy = self._copied(layer, made)
        for inside in walk([layer]):
            names = tuple(inside.get_config().keys() - _FIXED)
            if is_own(type(inside)) and names:
                self._settings.append((inside, made[id(inside)], names))
        return copy

    def new(self, layer: Layer) -> Layer:
        """A copy of `layer` as it is now, with the workspace of earlier copies of it."""
        return self._copied(layer, {})

    def update(self) -> None:
        """Give the lasting copies the settings that their layers have now."""
        for layer, copy, names in self._settings:
            for name in names:
                setattr(copy, name, getattr(layer, name))

    def _copied(self, layer: Layer, made: dict[int, Layer]) -> Layer:
        """A copy of `layer`, and of the layers within it; `made`: the copies so far, by `id`."""
        copy = made[id(layer)] = type(layer).__new__(type(layer))
        attributes = copy.__dict__
        attributes["workspace"] = self._workspaces.setdefault(id(layer), Workspace())
        for name, value in layer.__getstate__().items():
            if name != "workspace":
                attributes[name] = self._with_copies(value, made)
        return copy

    def _with_copies(self, value: Any, made: dict[int, Layer]) -> Any:
        """`value` with copies in the place of the layers in it, however deep in lists and dicts."""
        if isinstance(value, Layer):
            return made.get(id(value)) or self._copied(value, made)
        # Any other list is the layer's own, which it may append to.
        if type(value) not in (dict, list, tuple) or not any(True for _ in layers_in(value)):
            return value
        if isinstance(value, dict):
            return {key: self._with_copies(item, made) for key, item in value.items()}
        return type(value)(self._with_copies(item, made) for item in value)
