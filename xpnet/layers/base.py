"""`Layer`, the base class of all layers. Parameters are stored by the network."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from xpnet.backend import Array, Backend, array_module
from xpnet.errors import ConfigError, deprecated, short_repr
from xpnet.initializers import Initializer
from xpnet.layers.shapes import Shape, shape_by
from xpnet.utils.former_names import FormerAttribute, former_name, take_former_names
from xpnet.utils.introspection import (
    as_python,
    config_of,
    is_own,
    optional_arguments,
    parameters_of,
)
from xpnet.workspace import Workspace

DEEPEST = 20
"""How deep layers may be nested."""


@dataclass(frozen=True)
class Parameter:
    """The specification of one parameter, which the network allocates for a layer.

    `decays`: whether L2 and weight decay apply: True for weight matrices, False for biases, gains
    and running statistics. `order`: the memory layout, `"C"` (row-major), `"F"` (column-major), or
    the axes from the outermost to the innermost.
    """

    shape: tuple[int, ...]
    initializer: Initializer
    decays: bool = False
    order: Literal["C", "F"] | tuple[int, ...] = "C"


@dataclass(eq=False)
class Layer:
    """Base of all layers. Batch first: `x` is `(N, features)` or `(N, height, width, channels)`.

    `forward(x, training=...) -> y` and, after a forward pass with `training=True`,
    `backward(dy) -> dx`, where `dy = ∂L/∂y` and `dx = ∂L/∂x` for the loss `L`. `backward` also
    writes `∂L/∂p` of each parameter `p` into `self.gradients`.

    **Lifetime of arrays.** `forward` and `backward` return a buffer of the layer, allocated for the
    first batch and overwritten by the next one: copy it to keep it. In a training step every result
    is written into such a buffer by an `xp` call with `out=`, so a step does not allocate memory.
    `Sequential.forward(..., training=False)` returns a new array. A layer of your own that follows
    this rule, and whose step does not change Python state, may set
    `replayable: ClassVar[bool] = True` in its class: `fit()` then records and replays it. A call of
    `xp` without `out=` is an error then; an operation without `xp`, as `y *= 2`, is missing from
    the replay without an error.

    **Shapes.** A layer whose outputs have another shape than its inputs defines `output_shape()`.

    **Threads.** A prediction runs on copies of the layers, one set for each thread, which share
    parameters and hyperparameters with the layers and have a `workspace` of their own. So take
    buffers from `self.workspace` (or `self.like`), and assign to attributes instead of writing
    into arrays that they hold.

    **Parameters.** A layer declares them in `parameters()`, and arrays without a gradient (such as
    running statistics) in `buffers()`; the network allocates and initialises them and calls
    `bind()`. Then `self.values` and `self.gradients` hold them by name. A layer belongs to one
    network; `copy()` returns a copy for another network, with the current values.

    **Layers within a layer** are found among its attributes, and in lists, tuples and dicts
    there. Unless a composite layer overrides `parameters()`, it has their parameters and buffers as
    `attribute.name`. Their random numbers depend on their position in it.

    **Files.** `get_config()` returns the constructor arguments: the fields of a dataclass, or the
    parameters of `__init__`, each stored as an attribute of the same name.
    `xpnet.load(path, custom_objects={"Scale": Scale})` creates your own layers from it.
    """

    batch_dependent: ClassVar[bool] = False
    """Whether a row of `y` in training depends on other rows of `x`."""

    mixes_rows = FormerAttribute("mixes_rows", "batch_dependent")
    """The former name of `batch_dependent`, deprecated."""

    workspace: Workspace = field(init=False, repr=False)
    values: dict[str, Array] = field(init=False, repr=False)
    gradients: dict[str, Array] = field(init=False, repr=False)
    statistics: dict[str, Array] = field(init=False, repr=False)
    _trainable: bool = field(init=False, repr=False)
    _network: weakref.ref[Any] | None = field(init=False, repr=False)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A layer with no values yet; a subclass's own `__init__` need not call this one's."""
        made = super().__new__(cls)
        vars(made).update(workspace=Workspace(), values={}, gradients={}, statistics={})
        made._trainable, made._network = True, None
        return made

    def __init_subclass__(cls, **options: Any) -> None:
        """Support subclasses that override methods by their deprecated names."""
        super().__init_subclass__(**options)
        take_former_names(cls, {"seek": "set_sample_counter", "seed": "set_seed"})
        names = {"output_features", "output_shape"}
        kind = next(kind for kind in cls.__mro__ if names & vars(kind).keys())
        if "output_shape" not in vars(kind):
            deprecated(f"{cls.__name__}.output_features()", "output_shape()")
            method = vars(kind)["output_features"]
            cls.output_shape = shape_by(method)  # type: ignore[method-assign, assignment]
        if "mixes_rows" in vars(cls):
            deprecated(f"{cls.__name__}.mixes_rows", "batch_dependent")
            cls.batch_dependent = bool(vars(cls)["mixes_rows"])

    def __post_init__(self) -> None:
        """Check the fields; a subclass that does begins with `super().__post_init__()`."""

    @property
    def trainable(self) -> bool:
        """Whether training changes the layer's parameters; True unless set to False.

        The parameters of a layer that is not trainable (a frozen layer) are not updated, are
        excluded from L2, weight decay and gradient clipping, and have no optimizer state. A frozen
        `BatchNorm` normalises by its running statistics and leaves them as they are. Set for a
        layer made of layers, it is set for all of these; each of them may also be set alone. It is
        set between two calls of `fit()`; an optimizer that has made updates cannot be used for the
        network any more.
        """
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f"trainable must be True or False, found {short_repr(value)}")
        network = self._network() if self._network is not None else None
        if network is not None:
            network._set_trainable(self, value)
            return
        for layer in walk([self]):
            layer._trainable = value

    @property
    def is_bound(self) -> bool:
        """Whether the layer has been added to a network (even if the network was deleted since)."""
        return self._network is not None

    def parameters(self) -> dict[str, Parameter]:
        """The trainable parameters, by name."""
        return _prefixed({n: layer._parameter_specs() for n, layer in self.sublayers().items()})

    def buffers(self) -> dict[str, Parameter]:
        """The arrays of the layer's state that have no gradient, by name."""
        return _prefixed({n: layer._buffer_specs() for n, layer in self.sublayers().items()})

    def _parameter_specs(self) -> dict[str, Parameter]:
        """`parameters()`; a network, whose `parameters()` gives the arrays, has another one."""
        return self.parameters()

    def _buffer_specs(self) -> dict[str, Parameter]:
        """`buffers()`, likewise."""
        return self.buffers()

    def _arrays(self) -> dict[str, Array]:
        """The values of parameters and buffers by name; none before the layer has any."""
        return self.values | self.statistics

    def bind(
        self,
        values: dict[str, Array],
        gradients: dict[str, Array],
        statistics: dict[str, Array],
    ) -> None:
        """Store views of the network's arrays; called by `Sequential`."""
        self.values, self.gradients, self.statistics = values, gradients, statistics
        for name, layer in self.sublayers().items():
            layer.bind(*(below(name, views) for views in (values, gradients, statistics)))

    def sublayers(self) -> dict[str, Layer]:
        """The layers that this one is made of, by the name of their attribute.

        Those in a list, tuple or dict are called `attribute.0`, or `attribute.key`; in a list of
        lists, `attribute.0.1`.
        """
        return {
            name: layer
            for attribute, value in vars(self).items()
            for name, layer in layers_in(value, attribute)
        }

    def set_seed(self, seed: int, position: int | str) -> None:
        """Set the network's seed and this layer's position in it; used by layers with random
        numbers.

        `position`: its number in the network or, within another layer, that layer's position
        and its own number there, as in `"3/0"`.
        """

    def set_sample_counter(self, samples: int) -> None:
        """Continue random numbers at training sample number `samples`."""

    def _begin_part(self, whole: Layer, start: int, backend: Backend) -> None:
        """The next batch is a part, from row `start` on, of the next batch of `whole`."""

    def _skip_samples(self, count: int, backend: Backend) -> None:
        """Other layers have taken the random numbers of the next `count` samples."""

    def seed(self, seed: int, position: int | str) -> None:
        """The former name of `set_seed()`, deprecated."""
        former_name(Layer, self, "seed", "set_seed")(seed, position)

    def seek(self, samples: int) -> None:
        """The former name of `set_sample_counter()`, deprecated."""
        former_name(Layer, self, "seek", "set_sample_counter")(samples)

    def output_shape(self, shape: Shape | None) -> Shape | None:
        """The shape of a sample of `y`, given that of `x` (None: not known yet).

        It is `(features,)`, or `(height, width, channels)` of an image; None where it cannot be
        known from this. Raises `ShapeError` for a shape that the layer does not take.
        """
        return shape

    def multiply_adds(self, shape: Shape) -> int:
        """Multiplications, each with an addition, of the products for a sample of `shape`.

        Of a forward pass. Unless overridden, each weight is used once.
        """
        return sum(math.prod(p.shape) for p in self._parameter_specs().values() if p.decays)

    def output_features(self, features: int | None) -> int | None:
        """The former name of `output_shape()`, deprecated, for rows of features."""
        method = former_name(Layer, self, "output_features", "output_shape")
        shape = method(None if features is None else (features,))
        return None if shape is None else int(shape[0])

    def forward(self, x: Array, *, training: bool) -> Array:
        """`y` for a batch `x`."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def backward(self, dy: Array) -> Array:
        """`dx` for the batch of the last training forward pass, given `dy`."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward()")

    def backward_parameters(self, dy: Array) -> None:
        """Compute only the parameters' gradients, not `dx`; used for the first layer."""
        self.backward(dy)

    def like(self, array: Array, name: str) -> Array:
        """A buffer of this layer with the given name, and with the shape and dtype of `array`."""
        return self.workspace.array(array_module(array), name, array.shape, array.dtype)

    def copy(self) -> Layer:
        """A layer with the same hyperparameters and values, which belongs to no network.

        A network that it is added to starts from these values instead of new random ones.
        """
        return copy.deepcopy(self)

    def without_arrays(self) -> Layer:
        """A copy that has no values, as the layer was before it joined a network."""
        made = copy.deepcopy(self) if self.sublayers() else copy.copy(self)
        for layer in walk([made]):
            layer._drop_arrays()
        return made

    def _drop_arrays(self) -> None:
        vars(self).update(values={}, statistics={}, _network=None)

    def get_config(self) -> dict[str, Any]:
        """The constructor arguments as plain values, for `summary()` and for files.

        Initializers that have a default are left out: a file has the values themselves. Raises
        `ConfigError` for a parameter of `__init__` that is not stored as an attribute.
        """
        if type(self).hyperparameters is not Layer.hyperparameters:
            return self.hyperparameters()  # a class written for version 0.1
        return self._found_config()

    def _found_config(self) -> dict[str, Any]:
        optional = optional_arguments(type(self))
        return {
            name: as_python(value)
            for name, value in config_of(self).items()
            if not (isinstance(value, Initializer) and name in optional)
        }

    def hyperparameters(self) -> dict[str, Any]:
        """The former name of `get_config()`, deprecated."""
        deprecated("Layer.hyperparameters()", "get_config()")
        # Not `get_config`, which asks a method that overrides this one and may call it.
        is_overridden = type(self).hyperparameters is not Layer.hyperparameters
        return self._found_config() if is_overridden else self.get_config()

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to no network, however it is made.
        state = vars(self) | {"_network": None, "gradients": {}, "workspace": Workspace()}
        if not is_own(type(self)):
            return state
        kept = {
            "values",
            "gradients",
            "statistics",
            "workspace",
            *parameters_of(type(self)),
        }
        return {name: v for name, v in state.items() if name in kept or name[0] == "_"}

    def __str__(self) -> str:
        kept = self.get_config().values()
        inside = ", ".join(f"{v:g}" if isinstance(v, float) else repr(v) for v in kept)
        return f"{type(self).__name__}({inside})"


def walk(layers: Iterable[Layer]) -> Iterator[Layer]:
    """`layers` and all their sublayers, depth first, each once."""
    for layer, _ in walk_positions(layers):
        yield layer


def walk_positions(layers: Iterable[Layer]) -> Iterator[tuple[Layer, int | str]]:
    """`walk`, each layer with its position as `Layer.set_seed` takes it: `3`, then `"3/0"`, ..."""
    outermost = list(layers)
    seen = {id(layer) for layer in outermost}

    def inside(layer: Layer, position: int | str) -> Iterator[tuple[Layer, int | str]]:
        yield layer, position
        for number, other in enumerate(layer.sublayers().values()):
            if id(other) not in seen:
                seen.add(id(other))
                yield from inside(other, f"{position}/{number}")

    for position, layer in enumerate(outermost):
        yield from inside(layer, position)


def require_distinct(layers: Iterable[Layer], where: str) -> None:
    """Raise `ConfigError` where a layer is twice among `layers` and all within them.

    A layer keeps what its backward pass needs of one forward pass, and has one set of parameters.
    A class that is not xpnet's may refer to a layer without parameters that stands elsewhere. Nor
    may layers lie deeper within one another than `DEEPEST`.
    """
    seen: set[int] = set()

    def visit(layers: Iterable[Layer], may_refer: bool, depth: int) -> None:
        for layer in layers:
            if depth > DEEPEST:
                raise ConfigError(f"{where} has layers nested more than {DEEPEST} deep")
            if id(layer) in seen:
                if may_refer and not layer._parameter_specs():
                    continue
                raise ConfigError(f"{where} contains the same layer object twice: make two")
            seen.add(id(layer))
            visit(layer.sublayers().values(), not is_own(type(layer)), depth + 1)

    visit(layers, False, 0)


def frozen_parameters(layer: Layer) -> set[str]:
    """The names of the parameters of `layer` that are not trained, with those of layers in it."""
    names = layer._parameter_specs().keys()
    if not layer.trainable:
        return set(names)
    return {
        f"{prefix}.{name}"
        for prefix, inside in layer.sublayers().items()
        for name in frozen_parameters(inside)
    } & names


def layers_in(value: Any, name: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers in an attribute called `name`, each with its own name."""
    if isinstance(value, Layer):
        yield name, value
    elif isinstance(value, list | tuple | dict):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in inside:
            yield from layers_in(item, f"{name}.{key}")


def _prefixed(named: dict[str, dict[str, Parameter]]) -> dict[str, Parameter]:
    return {
        f"{prefix}.{name}": parameter
        for prefix, parameters in named.items()
        for name, parameter in parameters.items()
    }


def below(prefix: str, views: dict[str, Array]) -> dict[str, Array]:
    """Those of `views` whose names begin with `prefix` and a dot, without these."""
    start = f"{prefix}."
    return {n.removeprefix(start): view for n, view in views.items() if n.startswith(start)}
