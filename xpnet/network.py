"""`Sequential`: layers in a row, over one flat store of values and one of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from xpnet import activations, layers, notebook, random
from xpnet.activations import ACTIVATIONS, softmax
from xpnet.backend import Array, Backend, array_module, on_its_device, shared
from xpnet.errors import CheckpointError, ConfigError, ShapeError, listed, shown
from xpnet.layer import Layer, Parameter
from xpnet.layers import Linear
from xpnet.workspace import Workspace

PREDICTION_ROWS = 768
"""Rows that a prediction takes at a time: enough for a GEMM, few enough for the cache."""

LAYERS: dict[str, type[Layer]] = {
    name: layer
    for module in (layers, activations)
    for name, layer in vars(module).items()
    if isinstance(layer, type) and issubclass(layer, Layer)
    if layer.__module__ == module.__name__ and not name.startswith("_")
}


class Sequential:
    """A feed-forward network: each layer's output is the next one's input.

    `layers`: a list of at least one. `backend`: where it lives (`"cpu"`, `"cuda"`, ..., or a
    `Backend`). `dtype`: float32 or float64. `seed`: of the initial weights and the dropout masks.

    **In brief.** `Sequential(784, 128, "relu", 10)` is another way to write
    `Sequential([Linear(784, 128), ReLU(), Linear(128, 10)])`: the first number says how many
    features come in, each further one is a `Linear` to so many, a name is an activation
    (`relu`, `leaky_relu`, `sigmoid`, `tanh`, `gelu`), and layers may stand between them.

    **The store.** `values`, `gradients`: `(P,)`, contiguous and 64-byte-aligned; matrices come
    first (`values[:decays]`), biases and gains after them. `buffers`: the running statistics
    that no gradient moves. Layers hold views of all three. Names and shapes (`0.weight` as
    `(out, in)`, `0.bias`, ...) are those of `torch.nn.Sequential`.

    Raises `ShapeError` when one layer does not fit the one before, `ConfigError` for no layers,
    for what is none, or another dtype, `BackendUnavailable` for a device that is not there.
    """

    def __init__(
        self,
        *layers: Iterable[Layer] | Layer | int | str,
        backend: Backend | str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        self.layers = _spelled_out(layers)
        self.backend = Backend(backend) if isinstance(backend, str) else backend
        if str(dtype) not in ("float32", "float64"):
            raise ConfigError(f"dtype must be float32 or float64, found {shown(dtype)}")
        self.dtype = self.backend.xp.dtype(dtype)
        self.seed = seed
        self.metadata: dict[str, Any] = {}
        self.workspace = Workspace()
        self.in_features, self.out_features = self._chain()
        with self.backend.current():
            self._allot()

    def _chain(self) -> tuple[int, int]:
        if not self.layers:
            raise ConfigError("a network needs at least one layer: Sequential(784, 10) has one")
        if len({id(layer) for layer in self.layers}) < len(self.layers):
            raise ConfigError("the same layer object stands twice in the network: make two")
        features: int | None = None
        entrance: int | None = None
        for position, layer in enumerate(self.layers):
            after = _features_after(layer, position, features)
            if features is None and after is not None:
                entrance = layer.hyperparameters().get("in_features", after)
            features = after
        if features is None or entrance is None:
            raise ConfigError("no layer of the network says how many features it takes")
        return entrance, features

    def _allot(self) -> None:
        wanted: dict[str, Parameter] = {}
        statistics: dict[str, Parameter] = {}
        for position, layer in enumerate(self.layers):
            layer.seed(self.seed, position)
            wanted |= {f"{position}.{n}": p for n, p in layer.parameters().items()}
            statistics |= {f"{position}.{n}": p for n, p in layer.buffers().items()}
        matrices = {name: p for name, p in wanted.items() if p.decays}
        others = {name: p for name, p in wanted.items() if not p.decays}
        self._layout = matrices | others
        self.values, values = self._store(self._layout, draw=True)
        self.gradients, gradients = self._store(self._layout, draw=False)
        self.buffers, buffers = self._store(statistics, draw=True)
        self.decays = sum(values[name].size for name in matrices)
        self._values = {name: values[name] for name in wanted}
        self._gradients = {name: gradients[name] for name in wanted}
        self._buffers = buffers
        stores = [_by_layer(views) for views in (values, gradients, buffers)]
        for position, layer in enumerate(self.layers):
            layer.bind(*(store.get(position, {}) for store in stores))
        trainable = [p for p, layer in enumerate(self.layers) if layer.parameters()]
        self._first_trainable = trainable[0] if trainable else len(self.layers)

    def _store(
        self, parameters: dict[str, Parameter], draw: bool
    ) -> tuple[Array, dict[str, Array]]:
        """One flat array and named views of it, filled by the initializers if `draw`."""
        size = sum(_size(p.shape) for p in parameters.values())
        # Of what no machine has room for NumPy says something else.
        if size > 2**48:
            raise MemoryError(f"{size} parameters")
        flat = self.backend.zeros(size, self.dtype)
        views = _views(flat, parameters)
        if draw:
            for name, parameter in parameters.items():
                generator = random.generator(self.seed, f"parameter {name}")
                drawn = parameter.initializer(generator, parameter.shape)
                views[name][...] = self.backend.asarray(drawn, dtype=self.dtype)
        return flat, views

    def forward(self, x: Array, *, training: bool = False) -> Array:
        """Logits for `x`: `(N, in_features) -> (N, out_features)`.

        In training the result is a buffer that the next call writes over; in prediction it is
        an array of the caller's own, and any number of rows is worked off in blocks. `x` of
        another dtype is converted; it may be another library's, such as a tensor of PyTorch's
        (see `backend.shared`). Raises `ShapeError`, `DeviceMismatch` and `DataError`.
        """
        x = self._checked(x)
        if training:
            return self._through(x, training=True)
        with self.backend.current():
            return self._predicted(x)

    def _predicted(self, x: Array) -> Array:
        if len(x) <= PREDICTION_ROWS:
            return self._through(x, training=False).copy()
        xp = array_module(x)
        logits = xp.empty((len(x), self.out_features), dtype=self.dtype)
        for start in range(0, len(x), PREDICTION_ROWS):
            rows = slice(start, start + PREDICTION_ROWS)
            logits[rows] = self._through(x[rows], training=False)
        return logits

    def _checked(self, x: Array) -> Array:
        x = shared(x, self.backend.xp)
        array_module(x, self.values)
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ShapeError(
                f"the network takes x of shape (N, {self.in_features}), found {x.shape}"
            )
        if x.dtype != self.dtype:
            x = x.astype(self.dtype)
        return x

    def _through(self, x: Array, *, training: bool) -> Array:
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def backward(self, dlogits: Array, *, input_gradient: bool = False) -> Array | None:
        """Write all gradients, given `∂L/∂logits` of the last training forward pass.

        Goes back no further than the first layer with parameters, whose `dx` is not worked
        out, unless `input_gradient` asks for `∂L/∂x`: `(N, in_features)`.
        """
        gradient = dlogits
        for position in reversed(range(len(self.layers))):
            layer = self.layers[position]
            if position > self._first_trainable or input_gradient:
                gradient = layer.backward(gradient)
            elif position == self._first_trainable:
                layer.backward_parameters(gradient)
        return gradient if input_gradient else None

    @on_its_device
    def predict(self, x: Array) -> Array:
        """The most likely class of each row: `(N, in_features) -> (N,)` int64."""
        logits = self.forward(x)
        return array_module(logits).argmax(logits, axis=1)

    @on_its_device
    def predict_probabilities(self, x: Array) -> Array:
        """Softmax of the logits: `(N, in_features) -> (N, out_features)`, rows sum to 1."""
        p = self.forward(x)
        xp = array_module(p)
        total = xp.empty((len(p), 1), dtype=p.dtype)
        return softmax(xp, p, axis=1, shifted=p, total=total, out=p)

    def seek(self, samples: int) -> None:
        """Let layers that draw go on at training sample number `samples`."""
        for layer in self.layers:
            layer.seek(samples)

    def parameters(self) -> dict[str, Array]:
        """Views of all parameters by name, in layer order; writing to one trains the network."""
        return dict(self._values)

    def parameter_gradients(self) -> dict[str, Array]:
        """Views of all gradients, under the names of `parameters()`."""
        return dict(self._gradients)

    def views(self, flat: Array) -> dict[str, Array]:
        """Views, under the names of `parameters()`, of an array `(P,)` laid out as `values` is."""
        return _views(flat, self._layout)

    def state_dict(self) -> dict[str, Array]:
        """Views of parameters and running statistics, by the names of PyTorch."""
        return self._values | self._buffers

    @on_its_device
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy host arrays in, by name. Raises `CheckpointError` unless all and only ours fit."""
        own = self.state_dict()
        _require_fit({name: view.shape for name, view in own.items()}, state)
        for name, view in own.items():
            view[...] = self.backend.asarray(state[name], dtype=self.dtype)

    def architecture(self) -> list[dict[str, Any]]:
        """The layers as plain data, which `from_architecture` takes."""
        return [{"type": type(x).__name__} | x.hyperparameters() for x in self.layers]

    @classmethod
    def from_architecture(
        cls,
        architecture: list[dict[str, Any]],
        *,
        state: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Sequential:
        """A network of the layers in `architecture`; `options` as for `Sequential`.

        `state`, as `load_state_dict` takes it, is held against the layers before they are given
        any memory: raises `CheckpointError` unless it fits. Without it the network is a fresh one.
        """
        made = []
        for position, entry in enumerate(architecture):
            try:
                made.append(_made(**entry))
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"layer {position} is not known: {shown(entry)}") from error
        if state is None:
            return cls(made, **options)
        shapes = {
            f"{position}.{name}": parameter.shape
            for position, layer in enumerate(made)
            for name, parameter in (layer.parameters() | layer.buffers()).items()
        }
        _require_fit(shapes, state)
        network = cls(made, **options)
        network.load_state_dict(state)
        return network

    def summary(self) -> str:
        """A table of layers, output shapes and parameter counts."""
        rows = self._rows()
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
        rule = "─" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _rows(self) -> list[tuple[str, str, str]]:
        rows, features = [("layer", "output shape", "parameters")], self.in_features
        for position, layer in enumerate(self.layers):
            features = layer.output_features(features) or features
            count = sum(_size(p.shape) for p in layer.parameters().values())
            rows.append((f"{position} {layer}", f"(N, {features})", f"{count:,}"))
        rows.append(("all", f"(N, {self.out_features})", f"{self.values.size:,}"))
        return rows

    def __repr__(self) -> str:
        inside = ", ".join(str(layer) for layer in self.layers)
        return (
            f"Sequential([{inside}], backend={self.backend.device!r}, dtype={str(self.dtype)!r}, "
            f"seed={self.seed})"
        )

    def _repr_html_(self) -> str:
        note = f"{self.dtype} on {self.backend.device}, seed {self.seed}"
        return notebook.table(self._rows(), left=2, note=note, foot=True)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: self.backend.to_host(v) for name, v in self.state_dict().items()}
        device, dtype = self.backend.device, str(self.dtype)
        return _restored, (self.architecture(), device, dtype, self.seed, state, self.metadata)


def _spelled_out(parts: tuple[Iterable[Layer] | Layer | int | str, ...]) -> list[Layer]:
    """The layers that `Sequential(*parts)` has: those of one list, or those written in brief."""
    if len(parts) == 1 and isinstance(parts[0], Iterable) and not isinstance(parts[0], str):
        made = list(parts[0])
        for position, layer in enumerate(made):
            if not isinstance(layer, Layer):
                raise ConfigError(
                    f"layer {position} is {shown(layer)}: a list holds layers; numbers and names "
                    f'go without the brackets, as in Sequential(784, 128, "relu", 10)'
                )
        return made
    made, features = [], None
    for part in parts:
        if isinstance(part, Layer):
            layer = part
        elif isinstance(part, str):
            layer = _activation(part)
        elif not isinstance(part, int) or isinstance(part, bool) or part < 1:
            raise ConfigError(
                f"a network in brief is written in whole numbers above 0, names of activations "
                f"and layers, found {shown(part)}"
            )
        elif features is not None:
            layer = Linear(features, part)
        elif not made:
            features = part
            continue
        else:
            raise ConfigError(
                f"how many features come in is said first, as in Sequential(784, ...), "
                f"found {made[0]} before {part}"
            )
        features = _features_after(layer, len(made), features)
        made.append(layer)
    return made


def _activation(name: str) -> Layer:
    if name not in ACTIVATIONS:
        raise ConfigError(f"no activation is called {shown(name)}: there are {listed(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _features_after(layer: Layer, position: int, features: int | None) -> int | None:
    try:
        return layer.output_features(features)
    except ShapeError as error:
        raise ShapeError(f"layer {position}: {error}") from None


def _restored(
    architecture: list[dict[str, Any]],
    device: str,
    dtype: str,
    seed: int,
    state: dict[str, Any],
    metadata: dict[str, Any],
) -> Sequential:
    options: dict[str, Any] = {"backend": device, "dtype": dtype, "seed": seed}
    network = Sequential.from_architecture(architecture, state=state, **options)
    network.metadata = metadata
    return network


def _made(type: str, **settings: Any) -> Layer:
    """The layer that a file describes; every setting in a file is a number."""
    kind = LAYERS[type]
    drawn = {f.name for f in fields(kind) if f.default_factory is not MISSING}
    for name, value in settings.items():
        if name in drawn or not isinstance(value, int | float) or not abs(value) < 2**63:
            raise TypeError(f"{name} of {type} is {shown(value)}")
    return kind(**settings)


def _require_fit(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless `state` holds arrays of these names and shapes alone."""
    if shapes.keys() != state.keys():
        missing, extra = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
        raise CheckpointError(
            f"the state does not belong to this network: missing {shown(missing, 200)}, "
            f"not known {shown(extra, 200)}"
        )
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if found != shape:
            raise CheckpointError(f"{name} has shape {found}, this network's is {shape}")


def _by_layer(views: dict[str, Array]) -> dict[int, dict[str, Array]]:
    found: dict[int, dict[str, Array]] = {}
    for name, view in views.items():
        position, _, own = name.partition(".")
        found.setdefault(int(position), {})[own] = view
    return found


def _views(flat: Array, parameters: dict[str, Parameter]) -> dict[str, Array]:
    views, start = {}, 0
    for name, parameter in parameters.items():
        end = start + _size(parameter.shape)
        views[name] = _shaped(flat[start:end], parameter)
        start = end
    return views


def _shaped(flat: Array, parameter: Parameter) -> Array:
    """The stretch `flat` of the store as `parameter` has it: a view."""
    if parameter.order == "F":
        return flat.reshape(parameter.shape[::-1]).T
    return flat.reshape(parameter.shape)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
