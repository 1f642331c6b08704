"""The parameters of a network: as one flat array, and by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xpnet.backend import Array, Backend, on_its_device
from xpnet.errors import ConfigError
from xpnet.layers.base import Layer
from xpnet.network._former_names import FormerNames
from xpnet.network.store import Store, require_fit, views_of


class FlatParameters(FormerNames, Layer):
    """The part of `Sequential` that gives access to parameters, gradients and statistics."""

    backend: Backend
    dtype: Any
    _own_store: Store | None

    @property
    def _store(self) -> Store:
        if self._own_store is None:
            raise ConfigError(
                f"this {type(self).__name__} is a layer of another network, which has its "
                f"parameters: use that network, or a copy of this part, network[0].copy()"
            )
        return self._own_store

    @property
    def flat_parameters(self) -> Array:
        """The trainable parameters, `(P,)`; assigning copies the values in place."""
        return self._store.trained.flat

    @flat_parameters.setter
    def flat_parameters(self, values: Any) -> None:
        self._store.trained.flat[...] = values

    @property
    def flat_gradients(self) -> Array:
        """The gradients of `flat_parameters`, `(P,)`; assigning copies the values in place."""
        return self._store.gradients.flat

    @flat_gradients.setter
    def flat_gradients(self, gradients: Any) -> None:
        self._store.gradients.flat[...] = gradients

    @property
    def flat_buffers(self) -> Array:
        """The running statistics; assigning copies the values in place."""
        return self._store.statistics.flat

    @flat_buffers.setter
    def flat_buffers(self, buffers: Any) -> None:
        self._store.statistics.flat[...] = buffers

    @property
    def decay_size(self) -> int:
        """Weight decay and L2 apply to `flat_parameters[:decay_size]`."""
        return self._store.decay_size

    def count_parameters(self) -> int:
        """The number of parameters, including those of frozen layers."""
        return sum(int(view.size) for view in self._store.parameters.values())

    def parameters(self) -> dict[str, Any]:
        """Views of all parameters by name, in layer order; writing to one changes the network."""
        return dict(self._store.parameters)

    def parameter_gradients(self) -> dict[str, Array]:
        """Views of the gradients of all parameters that are trained, by name."""
        views = self._store.gradients.views
        return {name: views[name] for name in self._store.parameters if name in views}

    def views(self, flat: Array) -> dict[str, Array]:
        """Views, by parameter name, of an array `(P,)` laid out as `flat_parameters` is."""
        return views_of(flat, self._store.trained.layout)

    def state_dict(self) -> dict[str, Array]:
        """Views of parameters and running statistics, by the names of PyTorch."""
        return self._store.parameters | self._store.statistics.views

    @on_its_device
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy host arrays in, by name. Raises `CheckpointError` unless all and only ours fit."""
        own = self.state_dict()
        require_fit({name: view.shape for name, view in own.items()}, state)
        for name, view in own.items():
            view[...] = self.backend.asarray(state[name], dtype=self.dtype)
