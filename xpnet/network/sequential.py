"""`Sequential`: a network of layers, whose parameters are stored in one flat array."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, overload

from xpnet.backend import Array, Backend
from xpnet.errors import ConfigError, ShapeError, short_repr
from xpnet.layers.base import Layer, walk, walk_positions
from xpnet.layers.shapes import Shape, require_output
from xpnet.layers.short_notation import is_list, layers_from, shapes_of_chain
from xpnet.network.architecture import described, layers_of
from xpnet.network.inputs import taken
from xpnet.network.nesting import NetworkAsLayer
from xpnet.network.prediction import Predictions
from xpnet.network.predictor import Predictor
from xpnet.network.replicas import Replicas
from xpnet.network.store import Store, require_fit
from xpnet.network.summary import as_text, table_of
from xpnet.utils import notebook
from xpnet.utils.arguments import float_dtype, seed_of
from xpnet.utils.exclusive import require_free
from xpnet.utils.introspection import is_own


class Sequential(Predictions, NetworkAsLayer):
    """A feed-forward network: each layer's output is the next one's input.

    `layers`: a list of one or more layers. `backend`: the device (`"cpu"`, `"cuda"`, ..., or a
    `Backend`). `dtype`: float32 or float64. `seed`: for initial weights and dropout masks.

    **Short notation.** `Sequential(784, 128, "relu", 10)` is the same as
    `Sequential([Linear(784, 128), ReLU(), Linear(128, 10)])`: the first number is the number of
    input features, each further number is a `Linear` with that many outputs, a name is an
    activation (`relu`, `leaky_relu`, `sigmoid`, `tanh`, `gelu`), and layer objects may be mixed in.
    For images the first is their size, `(28, 28)` or `(height, width, channels)`, which stands for
    an `Unflatten`: `Sequential((28, 28), Conv2d(16, 5), "relu", MaxPool2d(2), Flatten(), 10)`.

    **Images.** Inputs are rows of features in the order channels, height, width, as PyTorch
    flattens images, or images `(N, height, width)` or `(N, height, width, channels)`. Within the
    network images are `(N, height, width, channels)`; `Flatten` makes rows of them.

    **Calls.** `network(x)` predicts: the outputs of the last layer. `predict` and `predict_proba`
    turn them into classes and probabilities. A training step is `forward(x, training=True)`,
    `backward(...)` and `optimizer.step(network)`; `TrainStep` does all three, and `fit` runs the
    whole training.

    A layer belongs to one network only. `network.layers` is a tuple; `network[i]` is one of them,
    `network[:-1]` a new network of copies with the current values, `layer.copy()` a copy for
    another network, and `network.append(...)` adds one at the end. To replace the last layer of a
    trained network:

        network = trained[:-1]
        for layer in network.layers:
            layer.trainable = False     # without this line they are trained further
        network.append(5)               # Linear(network.out_features, 5)

    A network is itself a layer. Inside another network it keeps its values, and its parameters are
    called `0.1.weight`, as in PyTorch; train and save the outer network then.

    **Parameters.** `flat_parameters`, `flat_gradients`: `(P,)`, contiguous and 64-byte-aligned;
    weight matrices come first (`flat_parameters[:decay_size]`), then the biases and the weights
    (gains) of normalisation layers. They hold the parameters that are trained; those of layers with
    `trainable = False` are stored apart. `flat_buffers`: the running statistics that no gradient
    changes. Layers hold views of all these. Names and shapes (`0.weight` as `(out, in)`, `0.bias`,
    ...) are those of `torch.nn.Sequential`.

    **Threads.** Any number of threads may predict with one network at a time (`predict`,
    `predict_proba`, `forward` without `training`), even between a forward and a backward pass of
    training; each thread has its own buffers. Only one thread at a time may train a network.

    **Predictions.** The result of `predict` depends on the loss used in training. The attribute
    `prediction`, which is saved with the network, is `"class"`, `"labels"`, `"values"`, `"rates"`
    (the exponentials of the outputs), or None before training.

    Raises `ShapeError` when one layer does not fit the one before; `ConfigError` if there are no
    layers, if one of them is not a layer or already belongs to another network, or if `dtype` is
    neither float32 nor float64; `BackendUnavailable` if the device is not available.
    """

    seed: int = 0  # type: ignore[assignment]
    _predict: Predictor

    def __init__(
        self,
        *layers: Iterable[Layer] | Layer | Shape | int | str,
        backend: Backend | str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        place = Backend(backend) if isinstance(backend, str) else backend
        if isinstance(place, type) or not hasattr(place, "xp"):
            raise ConfigError(f"backend must be a name such as 'cpu', found {short_repr(backend)}")
        self.backend = place
        self.dtype = self.backend.xp.dtype(float_dtype("dtype", dtype))
        self.seed = seed_of("seed of Sequential", seed)
        self.metadata: dict[str, Any] = {}
        self.prediction: str | None = None
        self.target_shape: tuple[int, ...] | None = None
        self._take(layers_from(layers), {})

    def _take(self, layers: list[Layer], state: Mapping[str, Array]) -> None:
        """Set the layers; their initial values are those of `state`, if it has them."""
        shapes, inside = shapes_of_chain(layers), list(walk(layers))
        owners = [self, *(layer for layer in inside if isinstance(layer, Sequential))]
        for layer in inside:
            layer.get_config()
            owner = None if layer._network is None else layer._network()
            if layer._network is not None and not any(owner is known for known in owners):
                raise ConfigError(
                    f"{layer} belongs to another network: give layer.copy(), which begins with "
                    f"the current values, or begin with a slice of that network, network[:-1]"
                )
        self._store_in(Store.of(layers, state, self.backend, self.dtype, self.seed), layers)
        self._layers = tuple(layers)
        self._set_shapes(shapes)
        own = weakref.ref(self)
        for layer, position in walk_positions(layers):
            layer.set_seed(self.seed, position)
            layer._network = own

    def _store_in(self, store: Store, layers: Sequence[Layer]) -> None:
        """Store the parameters of `layers` in `store`."""
        self._own_store: Store | None = store
        store.bind(layers)
        self._has_forward = False
        for layer in walk(layers):
            if isinstance(layer, Sequential):
                layer.backend, layer.dtype = self.backend, self.dtype
                layer._predict = Predictor(layer, layer._layers)
        # New copies of the layers for each thread: they hold views of the store as well.
        self._predict = Predictor(self, layers)
        self.replicas = Replicas(self.backend, layers, store)

    @property
    def trainable(self) -> bool:
        """Whether any layer is trainable; assigning sets it for all layers."""
        return any(layer.trainable for layer in self._layers)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if self._own_store is None and self._network is not None:
            Layer.trainable.fset(self, trainable)  # type: ignore[attr-defined]
            return
        for layer in self._layers:
            layer.trainable = trainable

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, first to last; `append` adds one, slices of the network leave some out."""
        return self._layers

    def append(self, layer: Layer | int | str) -> Self:
        """Add a layer at the end, as `Sequential(...)` takes one; returns the network.

        All other parameters keep their values. Resets what was known about the outputs:
        `prediction`, and the class names in `metadata` if the number of outputs changes. An
        optimizer that has made updates cannot be used for the network any more. Raises `ShapeError`
        and `ConfigError`, and then leaves the network as it was.
        """
        require_free(self, "no layer can be appended")
        if is_list(layer):
            raise ConfigError(
                f"append() takes one layer, number or name, found {short_repr(layer)}"
            )
        added = layers_from((layer,), self._out_shape, len(self._layers))
        self._take([*self._layers, *added], self.state_dict())
        self.prediction, self.target_shape = None, None
        if len(self.metadata.get("classes", ())) != self.out_features:
            self.metadata.pop("classes", None)
        return self

    def _set_trainable(self, layer: Layer, trainable: bool) -> None:
        """Implements `layer.trainable = trainable` for a layer of this network."""
        inside = list(walk([layer]))
        if trainable:  # so are then the layers that it lies within
            inside += [one for one in walk(self._layers) if layer in walk(one.sublayers().values())]
        if all(one._trainable == trainable for one in inside):
            return
        require_free(self, "trainable of a layer cannot change")
        state = self.state_dict()
        before = [one._trainable for one in inside]
        for one in inside:
            one._trainable = trainable
        try:
            made = Store.of(self._layers, state, self.backend, self.dtype, self.seed)
        except MemoryError:
            for one, was in zip(inside, before, strict=True):
                one._trainable = was
            raise
        self._store_in(made, self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequential:
        """`network[i]`: that layer; `network[i:j]`: a network of copies, with the current values.

        Metadata about inputs (outputs) is kept if the first (last) layer is included.
        """
        if not isinstance(index, slice):
            return self._layers[index]
        chosen = range(len(self))[index]
        if not chosen:
            raise ConfigError(f"network[{index.start}:{index.stop}] has no layer")
        part = Sequential(
            [self._layers[position].copy() for position in chosen],
            backend=self.backend,
            dtype=str(self.dtype),
            seed=self.seed,
        )
        has_first, has_last = chosen[0] == 0, chosen[-1] == len(self) - 1
        part.metadata = {
            name: copy.deepcopy(value)
            for name, value in self.metadata.items()
            if (has_last if name == "classes" else has_first)
        }
        if has_last:
            part.prediction, part.target_shape = self.prediction, self.target_shape
        return part

    def __call__(self, x: Any) -> Array:
        """The outputs for `x`, in prediction: `forward(x)`."""
        return self.forward(x)

    def forward(self, x: Any, *, training: bool = False) -> Array:
        """Logits for `x`: `(N, in_features) -> (N, out_features)`, or images for images.

        `x`: an array, rows of numbers, a DataFrame, images, or an array of another library such
        as a PyTorch tensor; see `inputs.as_samples`. Another dtype is converted. Or a sparse matrix
        of SciPy, for a network that begins with `Linear`.

        In prediction the result is a new array, rows are computed in blocks, and host values that
        are not finite are an error. In training the result is a buffer that the next call
        overwrites (copy it to keep it), and values are not checked. Raises `ShapeError`,
        `DeviceMismatch` and `DataError`.
        """
        # As a layer, of a network in training or among the copies that a prediction uses.
        if self._own_store is None and (training or self._network is None):
            return self._through(x, training)
        if training:
            self._has_forward = True
            return self._through(taken(self, x, check=False), True)
        return self._predict(x)

    def _through(self, x: Array, training: bool) -> Array:
        for position, layer in enumerate(self._layers):
            y = layer.forward(x, training=training)
            if not is_own(type(layer)):
                require_output(layer, position, x, y)
            x = y
        return x

    def backward(self, dlogits: Array, *, input_gradient: bool = False) -> Array | None:
        """Write all gradients, given `∂L/∂logits` of the last training forward pass.

        Stops at the first layer with trainable parameters, whose `dx` is not computed. With
        `input_gradient=True` (always inside another network) it continues to the input and returns
        `∂L/∂x`: `(N, in_features)`. Raises `ConfigError` without such a forward pass.
        """
        gradient = dlogits
        if self._own_store is None:
            for layer in reversed(self._layers):
                gradient = layer.backward(gradient)
            return gradient
        if not self._has_forward:
            raise ConfigError("backward() needs forward(x, training=True) first")
        if gradient.shape[1:] != self._out_shape:
            outputs = ", ".join(map(str, self._out_shape))
            raise ShapeError(
                f"dlogits must have the shape of the outputs, (N, {outputs}), found "
                f"{tuple(gradient.shape)}: does the loss's backward() return another one?"
            )
        first = self._own_store.first_trained
        for position in reversed(range(len(self._layers))):
            layer = self._layers[position]
            if position > first or input_gradient:
                gradient = layer.backward(gradient)
            elif position == first:
                layer.backward_parameters(gradient)
        return gradient if input_gradient else None

    def set_sample_counter(self, samples: int) -> None:
        """Set the sample counter of layers with random numbers to `samples`."""
        for layer in walk(self._layers):
            layer.set_sample_counter(samples)

    def architecture(self) -> list[dict[str, Any]]:
        """The layers as plain data, which `from_architecture` takes. Raises `ConfigError`."""
        return described(self._layers)

    @classmethod
    def from_architecture(
        cls,
        architecture: list[dict[str, Any]],
        *,
        state: Mapping[str, Any] | None = None,
        custom_objects: Mapping[str, type[Layer]] | None = None,
        **options: Any,
    ) -> Sequential:
        """A network of the layers in `architecture`; `options` as for `Sequential`.

        `state`, as `load_state_dict` takes it, is compared with the layers before any memory is
        allocated for them: raises `CheckpointError` unless it fits. Without it the weights are
        newly initialised. `custom_objects`: layer classes that are not xpnet's own, by name.
        """
        made = layers_of(architecture, custom_objects, cls._part)
        if state is None:
            return cls(made, **options)
        shapes = {
            f"{position}.{name}": parameter.shape
            for position, layer in enumerate(made)
            for name, parameter in (layer._parameter_specs() | layer._buffer_specs()).items()
        }
        require_fit(shapes, state)
        network = cls(made, **options)
        network.load_state_dict(state)
        return network

    @classmethod
    def _part(cls, layers: list[Layer]) -> Sequential:
        """A nested network of `layers` without its own storage."""
        made = cls.__new__(cls)
        made._layers, made._own_store, made.seed = tuple(layers), None, 0
        made.metadata, made.prediction, made.target_shape = {}, None, None
        made._set_shapes(shapes_of_chain(layers))
        return made

    def summary(self) -> str:
        """A table: layers, their output shapes, parameters and multiply-adds; frozen ones marked.

        ASCII only if the encoding of standard output has no line-drawing characters.
        """
        return as_text(table_of(self._layers, self.in_features))

    def __repr__(self) -> str:
        inside = ", ".join(str(layer) for layer in self._layers)
        return (
            f"Sequential([{inside}], backend={self.backend.device!r}, dtype={str(self.dtype)!r}, "
            f"seed={self.seed})"
        )

    def __str__(self) -> str:
        return (
            f"Sequential({', '.join(map(str, self._layers))})"
            if self._own_store is None
            else repr(self)
        )

    def _repr_html_(self) -> str:
        note = f"{self.dtype} on {self.backend.device}, seed {self.seed}"
        rows = table_of(self._layers, self.in_features)
        return notebook.table(rows, left=2, note=note, foot=True)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._own_store is None and self._network is None:
            return self._part, (list(self._layers),)
        state = {name: self.backend.to_host(v) for name, v in self._arrays().items()}
        layers = [layer.without_arrays() for layer in self._layers]
        options = {"backend": self.backend.device, "dtype": str(self.dtype), "seed": self.seed}
        known = {
            "metadata": self.metadata,
            "prediction": self.prediction,
            "target_shape": self.target_shape,
        }
        return _restored, (layers, options, state, known)


def _restored(
    layers: list[Layer], options: dict[str, Any], state: dict[str, Any], known: dict[str, Any]
) -> Sequential:
    network = Sequential(layers, **options)
    network.load_state_dict(state)
    vars(network).update(known)
    return network
