"""`Sequential`: layers in a row, over one flat store of values and one of gradients."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, overload

from xpnet.backend import Array, Backend, array_module, on_its_device
from xpnet.errors import ConfigError, deprecated, short_repr
from xpnet.layers import Dropout, GaussianNoise
from xpnet.layers.activations import Sigmoid, Softmax, sigmoid, softmax
from xpnet.layers.base import Layer, walk, walk_positions
from xpnet.network.architecture import LAYERS as LAYERS
from xpnet.network.architecture import described, features_after, layers_of, spelled_out
from xpnet.network.prediction import LayersForPrediction
from xpnet.network.store import Store, require_fit, views_of
from xpnet.network.summary import as_text, table_of
from xpnet.utils import notebook
from xpnet.utils.arguments import float_dtype, seed_of
from xpnet.utils.exclusive import require_free
from xpnet.utils.inputs import as_samples, check_finite, is_plain
from xpnet.workspace import Workspace

PREDICTION_ROWS = 768
"""Rows that a prediction takes at a time: enough for a GEMM, few enough for the cache."""


class Sequential:
    """A feed-forward network: each layer's output is the next one's input.

    `layers`: a list of at least one. `backend`: where it lives (`"cpu"`, `"cuda"`, ..., or a
    `Backend`). `dtype`: float32 or float64. `seed`: of the initial weights and the dropout masks.

    **In brief.** `Sequential(784, 128, "relu", 10)` is another way to write
    `Sequential([Linear(784, 128), ReLU(), Linear(128, 10)])`: the first number says how many
    features come in, each further one is a `Linear` to so many, a name is an activation
    (`relu`, `leaky_relu`, `sigmoid`, `tanh`, `gelu`), and layers may stand between them.

    **Layers** belong to one network. `network.layers` is a tuple; `network[i]` is one of them,
    `network[:-1]` a network of copies with the values of now, `layer.copy()` a copy for another
    network, and `network.append(...)` adds one at the end. So a trained network gets a new last
    layer by

        network = trained[:-1]
        for layer in network.layers:
            layer.trainable = False     # or leave them to be trained further
        network.append(5)               # Linear(network.out_features, 5)

    **The store.** `values`, `gradients`: `(P,)`, contiguous and 64-byte-aligned; matrices come
    first (`values[:decays]`), biases and gains after them. They hold the parameters that are
    trained; those of layers with `trainable = False` lie apart. `buffers`: the running statistics
    that no gradient moves. Layers hold views of all these. Names and shapes (`0.weight` as
    `(out, in)`, `0.bias`, ...) are those of `torch.nn.Sequential`.

    **Threads.** Any number of threads may predict with one network at a time (`predict`,
    `predict_proba`, `forward` without `training`), also between a forward and a backward pass of
    training; each has buffers of its own. To train, a network needs a thread to itself.

    **Predictions.** `predict` answers in the terms of the loss that `fit()` trained the network
    with: `prediction`, which is saved with it, is `"class"`, `"labels"`, `"values"`, or None
    before any training.

    Raises `ShapeError` when one layer does not fit the one before; `ConfigError` if there are no
    layers, if one of them is not a layer or already belongs to another network, or if `dtype` is
    neither float32 nor float64; `BackendUnavailable` for a device that is not there.
    """

    def __init__(
        self,
        *layers: Iterable[Layer] | Layer | int | str,
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
        self._is_on_host = self.backend.device == "cpu"
        self.prediction: str | None = None
        self.target_shape: tuple[int, ...] | None = None
        self.workspace = Workspace()
        self._take(spelled_out(layers), {})

    def _take(self, layers: list[Layer], state: Mapping[str, Array]) -> None:
        """Have these layers; begin with the values of `state`, as far as it has them."""
        features = _chain(layers)
        for layer in walk(layers):
            layer.get_config()
            held = [name for name, value in vars(layer).items() if isinstance(value, Sequential)]
            if held:
                raise ConfigError(
                    f"{held[0]} of {type(layer).__name__} is a network, whose parameters would "
                    f"not be trained: keep its layers there, [layer.copy() for layer in network]"
                )
            if layer._network is not None and layer._network() is not self:
                raise ConfigError(
                    f"{layer} belongs to another network: give layer.copy(), which begins with "
                    f"the values of now, or begin with a slice of that network, network[:-1]"
                )
        self._store_in(Store.of(layers, state, self.backend, self.dtype, self.seed), layers)
        self._layers = tuple(layers)
        self.in_features, self.out_features = features
        for layer, position in walk_positions(layers):
            layer.seed(self.seed, position)
        own = weakref.ref(self)
        for layer in walk(layers):
            layer._network = own

    def _store_in(self, store: Store, layers: Sequence[Layer]) -> None:
        """Have the parameters of `layers` in `store`."""
        self._store, self.decays = store, store.decays
        store.bind(layers)
        self._has_forward = False
        # Copies of the layers, which hold views of the store as well, one set a thread.
        self._of_thread = threading.local()

    @property
    def values(self) -> Array:
        """The parameters that are trained, `(P,)`; what is assigned is copied in."""
        return self._store.trained.flat

    @values.setter
    def values(self, values: Any) -> None:
        self._store.trained.flat[...] = values

    @property
    def gradients(self) -> Array:
        """The gradients of `values`, `(P,)`; what is assigned is copied in."""
        return self._store.gradients.flat

    @gradients.setter
    def gradients(self, gradients: Any) -> None:
        self._store.gradients.flat[...] = gradients

    @property
    def buffers(self) -> Array:
        """The statistics that no gradient moves; what is assigned is copied in."""
        return self._store.statistics.flat

    @buffers.setter
    def buffers(self, buffers: Any) -> None:
        self._store.statistics.flat[...] = buffers

    @property
    def trainable(self) -> bool:
        """Whether any layer is trained; set, it is that of all layers."""
        return any(layer.trainable for layer in self._layers)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        for layer in self._layers:
            layer.trainable = trainable

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, first to last; `append` adds one, slices of the network leave some out."""
        return self._layers

    def append(self, layer: Layer | int | str) -> Self:
        """Add a layer at the end, as `Sequential(...)` takes one; returns the network.

        All other parameters keep their values. What is known of the outputs no longer holds:
        `prediction`, and the names of classes in `metadata` where their number is another. An
        optimizer that has made updates serves the network no longer. Raises `ShapeError` and
        `ConfigError`, and then leaves the network as it was.
        """
        require_free(self, "no layer can be appended")
        if isinstance(layer, Iterable) and not isinstance(layer, str):
            raise ConfigError(
                f"append() takes one layer, number or name, found {short_repr(layer)}"
            )
        added = spelled_out((layer,), self.out_features, len(self._layers))
        self._take([*self._layers, *added], self.state_dict())
        self.prediction, self.target_shape = None, None
        if len(self.metadata.get("classes", ())) != self.out_features:
            self.metadata.pop("classes", None)
        return self

    def _set_trainable(self, layer: Layer, trainable: bool) -> None:
        """What `layer.trainable = trainable` does for a layer of this network."""
        if not any(layer is own for own in self._layers):
            raise ConfigError(
                f"{layer} lies within another layer: set trainable of the layer of the network "
                f"that it is in"
            )
        if layer.trainable == trainable:
            return
        require_free(self, "trainable of a layer cannot change")
        state, inside = self.state_dict(), list(walk([layer]))
        for one in inside:
            one._trainable = trainable
        try:
            made = Store.of(self._layers, state, self.backend, self.dtype, self.seed)
        except MemoryError:
            for one in inside:
                one._trainable = not trainable
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
        """`network[i]`: that layer; `network[i:j]`: a network of copies of these, trained as now.

        What is known of inputs or outputs goes along where the first or the last layer does.
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

    def forward(self, x: Any, *, training: bool = False) -> Array:
        """Logits for `x`: `(N, in_features) -> (N, out_features)`.

        `x`: an array, rows of numbers, a DataFrame, pictures, or an array of another library,
        such as a tensor of PyTorch's; see `inputs.as_samples`. Another dtype is converted.

        In prediction the result is an array of the caller's own, any number of rows is worked off
        in blocks, and a value on the host that is not finite is refused. In training the result
        is a buffer that the next call writes over (copy it to keep it), and values are taken as
        they are. Raises `ShapeError`, `DeviceMismatch` and `DataError`.
        """
        if training:
            return self._through(self._taken(x, check=False))
        # An array as it is expected, such as the one row of a request, needs no more than this.
        if self._is_on_host and is_plain(x, self.in_features) and x.dtype is self.dtype:
            return self._predicted(x, look=True)
        with self.backend.current():
            return self._predicted(self._taken(x, check=True), look=False)

    def _taken(self, x: Any, *, check: bool) -> Array:
        """`x` as an array `(N, in_features)` of the network's dtype, where the network is.

        What is given for a prediction on the host goes to the device; in training nothing does.
        """
        x = as_samples(
            x, backend=self.backend, features=self.in_features, check=check, dtype=self.dtype
        )
        if check and array_module(x) != self.backend.xp:
            return self.backend.asarray(x, dtype=self.dtype)
        array_module(x, self.values)
        return x if x.dtype == self.dtype else x.astype(self.dtype)

    def _predicted(self, x: Array, *, look: bool) -> Array:
        """Logits of `x`; if it is to `look`, every value must be finite, else it is known to be."""
        if len(x) <= PREDICTION_ROWS:
            logits = self._copies().forward(x, look)
            return logits.copy() if logits is not None else self._looked_at(x)
        xp = array_module(x)
        made = xp.empty((len(x), self.out_features), dtype=self.dtype)
        for start in range(0, len(x), PREDICTION_ROWS):
            rows = slice(start, start + PREDICTION_ROWS)
            logits = self._copies().forward(x[rows], look)
            if logits is None:
                return self._looked_at(x)
            made[rows] = logits
        return made

    def _looked_at(self, x: Array) -> Array:
        """`_predicted`, once every value was found finite after all, if large."""
        check_finite(x, "x", self.dtype)
        return self._predicted(x, look=False)

    def _copies(self) -> LayersForPrediction:
        """The layers that this thread predicts with."""
        copies: LayersForPrediction | None = getattr(self._of_thread, "copies", None)
        if copies is None:
            copies = self._of_thread.copies = LayersForPrediction(self._layers)
        return copies

    def _through(self, x: Array) -> Array:
        for layer in self._layers:
            x = layer.forward(x, training=True)
        self._has_forward = True
        return x

    def backward(self, dlogits: Array, *, input_gradient: bool = False) -> Array | None:
        """Write all gradients, given `∂L/∂logits` of the last training forward pass.

        Goes back no further than the first layer with parameters to be trained, whose `dx` is
        not worked out, unless `input_gradient` asks for `∂L/∂x`: `(N, in_features)`. Raises
        `ConfigError` where there was no such forward pass.
        """
        if not self._has_forward:
            raise ConfigError("backward() needs forward(x, training=True) first")
        gradient = dlogits
        for position in reversed(range(len(self._layers))):
            layer = self._layers[position]
            if position > self._store.first_trained or input_gradient:
                gradient = layer.backward(gradient)
            elif position == self._store.first_trained:
                layer.backward_parameters(gradient)
        return gradient if input_gradient else None

    @on_its_device
    def predict(self, x: Any) -> Array:
        """What the network answers for each row of `x`: `(N, in_features)`.

        By the loss it was trained with. `SoftmaxCrossEntropy`: the most likely class, `(N,)`
        int64; `SigmoidBinaryCrossEntropy`: 1 where the probability is above a half, else 0,
        int64; any other: the outputs. Labels and values are shaped as the targets were, `(N,)`
        or `(N, out_features)`. Before any training: the class or, of one output, the value.
        """
        outputs, kind = self.forward(x), self._answers()
        xp = array_module(outputs)
        if kind == "class":
            return outputs.argmax(axis=1)
        if kind == "labels":
            outputs = (outputs > 0).astype(xp.int64)
        if self.target_shape == () and self.out_features == 1:
            outputs = outputs.reshape(len(outputs))
        return outputs

    @on_its_device
    def predict_proba(self, x: Any) -> Array:
        """The probability of each class or label: `(N, in_features) -> (N, out_features)`.

        The softmax of the logits, so that rows sum to 1; of a network trained with
        `SigmoidBinaryCrossEntropy` the sigmoid of each. Of a network that ends in `Softmax` or
        `Sigmoid` the outputs as they are. Raises `ConfigError` for a network without
        probabilities: one trained on values, or of a single output.
        """
        makes = self.probabilities_by()
        p = self.forward(x)
        xp = array_module(p)
        if makes == "sigmoid":
            return sigmoid(xp, p, out=xp.empty_like(p), scratch=xp.empty_like(p))
        if makes == "softmax":
            total = xp.empty((len(p), 1), dtype=p.dtype)
            return softmax(xp, p, axis=1, shifted=p, total=total, out=p)
        return p

    def probabilities_by(self) -> str:
        """What makes probabilities of the outputs: `"softmax"`, `"sigmoid"` or `"identity"`.

        Raises `ConfigError` for a network without probabilities, as `predict_proba` does.
        """
        if isinstance(self._layers[self.last_active()], Softmax | Sigmoid):
            return "identity"
        kind = self._answers()
        if kind == "values":
            what = "was trained on values" if self.prediction else "has a single output"
            raise ConfigError(f"the network {what}, so it has no probabilities: use predict()")
        return "sigmoid" if kind == "labels" else "softmax"

    def predict_probabilities(self, x: Any) -> Array:
        """The former name of `predict_proba`, deprecated."""
        deprecated("predict_probabilities()", "predict_proba()")
        return self.predict_proba(x)

    def last_active(self) -> int:
        """The position of the last layer that does something in prediction."""
        active = [p for p, x in enumerate(self._layers) if type(x) not in (Dropout, GaussianNoise)]
        return active[-1]

    def _answers(self) -> str:
        is_classifier = self.out_features > 1 or "classes" in self.metadata
        return self.prediction or ("class" if is_classifier else "values")

    def seek(self, samples: int) -> None:
        """Let layers that draw go on at training sample number `samples`."""
        for layer in walk(self._layers):
            layer.seek(samples)

    def count_parameters(self) -> int:
        """How many numbers all parameters have, those of frozen layers included."""
        return sum(int(view.size) for view in self._store.parameters.values())

    def parameters(self) -> dict[str, Array]:
        """Views of all parameters by name, in layer order; writing to one trains the network."""
        return dict(self._store.parameters)

    def parameter_gradients(self) -> dict[str, Array]:
        """Views of the gradients of all parameters that are trained, by name."""
        views = self._store.gradients.views
        return {name: views[name] for name in self._store.parameters if name in views}

    def views(self, flat: Array) -> dict[str, Array]:
        """Views, by name of the parameters, of an array `(P,)` laid out as `values` is."""
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

        `state`, as `load_state_dict` takes it, is held against the layers before they are given
        any memory: raises `CheckpointError` unless it fits. Without it the network is a fresh one.
        `custom_objects`: layer classes that are not xpnet's own, by name.
        """
        made = layers_of(architecture, custom_objects)
        if state is None:
            return cls(made, **options)
        shapes = {
            f"{position}.{name}": parameter.shape
            for position, layer in enumerate(made)
            for name, parameter in (layer.parameters() | layer.buffers()).items()
        }
        require_fit(shapes, state)
        network = cls(made, **options)
        network.load_state_dict(state)
        return network

    def summary(self) -> str:
        """A table of layers, output shapes and parameter counts; layers not trained are marked.

        In ASCII where the encoding of the standard output has no characters to draw a line with.
        """
        return as_text(table_of(self._layers, self.in_features))

    def __repr__(self) -> str:
        inside = ", ".join(str(layer) for layer in self._layers)
        return (
            f"Sequential([{inside}], backend={self.backend.device!r}, dtype={str(self.dtype)!r}, "
            f"seed={self.seed})"
        )

    def _repr_html_(self) -> str:
        note = f"{self.dtype} on {self.backend.device}, seed {self.seed}"
        rows = table_of(self._layers, self.in_features)
        return notebook.table(rows, left=2, note=note, foot=True)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: self.backend.to_host(v) for name, v in self.state_dict().items()}
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


def _chain(layers: list[Layer]) -> tuple[int, int]:
    """How many features come in and go out. Raises `ConfigError` and `ShapeError`."""
    if not layers:
        raise ConfigError("a network needs at least one layer: Sequential(784, 10) has one")
    if len({id(layer) for layer in layers}) < len(layers):
        raise ConfigError("the same layer object stands twice in the network: make two")
    features: int | None = None
    entrance: int | None = None
    for position, layer in enumerate(layers):
        after = features_after(layer, position, features)
        if features is None and after is not None:
            # Of a layer made of layers the first that says so, which is likely to be the first.
            known = (getattr(inside, "in_features", None) for inside in walk([layer]))
            entrance = next((number for number in known if number is not None), after)
        features = after
    if features is None or entrance is None:
        raise ConfigError("no layer of the network says how many features it takes")
    return entrance, features
