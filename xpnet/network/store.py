"""The memory of a network: flat arrays, and views of them under the names of its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xpnet import random
from xpnet.backend import Array, Backend
from xpnet.errors import CheckpointError, ConfigError, short_repr
from xpnet.layers.base import Layer, Parameter, frozen_parameters


@dataclass(frozen=True)
class Block:
    """One flat array, contiguous and 64-byte-aligned, and views of it, laid out as `layout`."""

    flat: Array
    layout: dict[str, Parameter]
    views: dict[str, Array]

    @classmethod
    def zeros(cls, backend: Backend, dtype: Any, layout: dict[str, Parameter]) -> Block:
        """A block that holds `layout`, filled with zeros. Raises `MemoryError`."""
        size = sum(math.prod(p.shape) for p in layout.values())
        # Beyond this size NumPy raises other errors than MemoryError.
        if size > 2**48:
            raise MemoryError(f"{size} parameters")
        flat = backend.zeros(size, dtype)
        return cls(flat, layout, views_of(flat, layout))


@dataclass(frozen=True)
class Store:
    """All arrays of a network, each kind in one block.

    `trained`, `gradients`: the parameters that are trained, matrices first, of which the first
    `decay_size` entries decay. `frozen`: the parameters of frozen layers; `unused`: arrays for
    their gradients, which are never read. `statistics`: the running statistics. `parameters`: views
    of all parameters, in the order of the layers. `first_trained`: the first layer with parameters
    that are trained.
    """

    trained: Block
    gradients: Block
    frozen: Block
    unused: Block
    statistics: Block
    parameters: dict[str, Array]
    decay_size: int
    first_trained: int

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        state: Mapping[str, Array],
        backend: Backend,
        dtype: Any,
        seed: int,
    ) -> Store:
        """Allocate the storage for `layers`.

        Each parameter begins with its value in `state` or, of a layer that belongs to no network
        and has values, with that; else with new draws. Raises `ConfigError` for a value of another
        shape, and `MemoryError`.
        """
        wanted: dict[str, Parameter] = {}
        statistics: dict[str, Parameter] = {}
        frozen: dict[str, Parameter] = {}
        known = dict(state)
        for position, layer in enumerate(layers):
            own = {f"{position}.{n}": p for n, p in layer._parameter_specs().items()}
            for name, parameter in own.items():
                if not isinstance(parameter, Parameter):
                    raise ConfigError(
                        f"parameters() of {type(layer).__name__} must give a Parameter(shape, "
                        f"initializer) for each name, found {short_repr(parameter)} for {name}"
                    )
            wanted |= own
            frozen |= {n: own[n] for n in (f"{position}.{n}" for n in frozen_parameters(layer))}
            statistics |= {f"{position}.{n}": p for n, p in layer._buffer_specs().items()}
            if not layer.is_bound:
                carried = layer._arrays()
                known |= {f"{position}.{n}": value for n, value in carried.items()}
        trained = {name: p for name, p in wanted.items() if name not in frozen}
        matrices = {name: p for name, p in trained.items() if p.decays}
        layout = matrices | {name: p for name, p in trained.items() if not p.decays}
        with backend.current():
            kinds = (layout, layout, frozen, frozen, statistics)
            values, gradients, rest, unused, moved = (
                Block.zeros(backend, dtype, kind) for kind in kinds
            )
            views = values.views | rest.views | moved.views
            for name, parameter in (wanted | statistics).items():
                value = known.get(name)
                if value is None:
                    generator = random.generator(seed, f"parameter {name}")
                    value = parameter.initializer(generator, parameter.shape)
                elif value.shape != parameter.shape:
                    raise ConfigError(
                        f"{name} has the shape {parameter.shape}, and the layer has values of "
                        f"shape {tuple(value.shape)}: make a new layer"
                    )
                else:
                    value = Backend.of(value).to_host(value)
                views[name][...] = backend.asarray(value, dtype=dtype)
        return cls(
            trained=values,
            gradients=gradients,
            frozen=rest,
            unused=unused,
            statistics=moved,
            parameters={name: views[name] for name in wanted},
            decay_size=sum(math.prod(p.shape) for p in matrices.values()),
            first_trained=min(map(_position, trained), default=len(layers)),
        )

    def bind(self, layers: Sequence[Layer], gradients: dict[str, Array] | None = None) -> None:
        """Bind `layers` to these arrays, or to other arrays for their gradients."""
        if gradients is None:
            gradients = self.gradients.views | self.unused.views
        kinds = (self.parameters, gradients, self.statistics.views)
        views = [by_layer(kind) for kind in kinds]
        for position, layer in enumerate(layers):
            layer.bind(*(of.get(position, {}) for of in views))


def _position(name: str) -> int:
    return int(name.partition(".")[0])


def views_of(flat: Array, layout: dict[str, Parameter]) -> dict[str, Array]:
    """Views of `flat` `(P,)` by name, consecutive, in the order of `layout`."""
    views, start = {}, 0
    for name, parameter in layout.items():
        end = start + math.prod(parameter.shape)
        views[name] = _shaped(flat[start:end], parameter)
        start = end
    return views


def _shaped(flat: Array, parameter: Parameter) -> Array:
    """A stretch of the store as `parameter` has it: a view."""
    if parameter.order == "F":
        return flat.reshape(parameter.shape[::-1]).T
    if isinstance(parameter.order, tuple):
        axes = sorted(range(len(parameter.order)), key=parameter.order.__getitem__)
        return flat.reshape([parameter.shape[axis] for axis in parameter.order]).transpose(axes)
    return flat.reshape(parameter.shape)


def by_layer(views: Mapping[str, Array]) -> dict[int, dict[str, Array]]:
    """`{"0.weight": …}` as `{0: {"weight": …}}`."""
    found: dict[int, dict[str, Array]] = {}
    for name, view in views.items():
        found.setdefault(_position(name), {})[name.partition(".")[2]] = view
    return found


def require_fit(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless `state` has exactly these names and shapes."""
    if shapes.keys() != state.keys():
        missing, extra = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
        raise CheckpointError(
            f"the state does not belong to this network: missing {short_repr(missing, 200)}, "
            f"not known {short_repr(extra, 200)}"
        )
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if found != shape:
            raise CheckpointError(f"{name} has shape {found}, this network's is {shape}")
