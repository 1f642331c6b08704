"""Layers, losses and optimizers of a user's own: saved, loaded, resumed, and made of others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import place
from safetensors import safe_open

import xpnet as xn
from xpnet.backend import Array, Backend, array_module
from xpnet.errors import CheckpointError, ConfigError
from xpnet.initializers import Initializer, Ones
from xpnet.layers.base import Layer, Parameter
from xpnet.layers.shapes import Shape
from xpnet.losses import Loss
from xpnet.optimizers import Optimizer

X = np.random.default_rng(0).standard_normal((40, 5)).astype("float32")
LABELS = np.arange(40) % 3


class Plain(Layer):
    """Passes on, times a number."""

    factor: Any = 1.0

    def forward(self, x: Array, *, training: bool) -> Array:
        xp = array_module(x)
        return xp.multiply(x, float(self.factor), out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        xp = array_module(dy)
        return xp.multiply(dy, float(self.factor), out=self.like(dy, "dx"))


@dataclass(eq=False)
class Scale(Plain):
    """A dataclass with a parameter, a list and a text among its fields."""

    factor: float = 1.0
    names: tuple[str, ...] = ("a", "b")
    draw: Initializer = Ones()  # noqa: RUF009

    def parameters(self) -> dict[str, Parameter]:
        return {"gain": Parameter((2,), self.draw, decays=True)}

    def backward(self, dy: Array) -> Array:
        self.gradients["gain"].fill(1)
        return super().backward(dy)


class ByHand(Plain):
    """No dataclass; calls nobody's `__init__`."""

    def __init__(self, factor: float, mode: str = "x") -> None:
        self.factor, self.mode = factor, mode


class Hides(Plain):
    def __init__(self, factor: float) -> None:
        self._factor = factor


class Tells(Hides):
    def get_config(self) -> dict[str, Any]:
        return {"factor": self._factor}


class Function(Plain):
    def __init__(self, function: Any) -> None:
        self.function = function


class Linear(xn.Linear):
    """Another class under the name of one of xpnet's."""


def network(*layers: Any) -> xn.Sequential:
    return xn.Sequential([xn.Linear(5, 4), *layers, xn.Linear(4, 3)], seed=2)


@pytest.mark.parametrize(
    "layer",
    [
        Scale(2.5, ("c",)),
        Scale(np.float32(0.5)),
        ByHand(np.float64(2), "y"),
        Tells(3.0),
        Linear(4, 4),
    ],
    ids=["dataclass", "NumPy's number", "by hand", "get_config", "a name of xpnet's"],
)
def test_a_layer_is_saved_and_found_again(layer: Layer, tmp_path: Path) -> None:
    made, path, kind = network(layer.copy()), tmp_path / "model.safetensors", type(layer)
    xn.fit(made, (X, LABELS), optimizer=xn.Adam(), epochs=1)
    xn.save(made, path)
    for name in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}"):
        read = xn.load(path, custom_objects={name: kind})
        assert type(read.layers[1]) is kind
        assert read.architecture() == made.architecture()
        assert np.array_equal(read.forward(X), made.forward(X))
    with pytest.raises(CheckpointError, match=r"layer 1 is not known.*custom_objects=") as raised:
        xn.load(path)
    assert f'{{"{kind.__name__}": {kind.__name__}}}' in str(raised.value)
    with pytest.raises(CheckpointError, match=r"is 3: give the layer class"):
        xn.load(path, custom_objects={kind.__name__: 3})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match=r"layer 1"):
        xn.load(path, custom_objects={kind.__name__: xn.Dropout})


def test_a_setting_that_could_not_be_saved_is_named_when_the_network_is_made() -> None:
    words = r"^Hides takes 'factor' and has no attribute of that name.*self.factor, or define"
    with pytest.raises(ConfigError, match=words):
        network(Hides(2.0))


def test_a_value_that_no_file_holds_is_named_when_it_is_saved(tmp_path: Path) -> None:
    made, words = network(Function(np.sin)), r"^function of layer 1, Function, is <ufunc 'sin'>"
    xn.fit(made, (X, LABELS), optimizer=xn.SGD(), epochs=1)
    with pytest.raises(ConfigError, match=words):
        xn.save(made, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=words):
        xn.fit(
            made, (X, LABELS), optimizer=xn.SGD(), epochs=1, checkpoints=xn.Checkpoints(tmp_path)
        )
    made = network()
    made.metadata["mean"] = np.zeros(3)
    with pytest.raises(ConfigError, match=r"^mean of metadata is array.*dicts of them\)$"):
        xn.save(made, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"^save\(\) takes a Sequential first, found 'model"):
        xn.save("model.safetensors", made)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_file_holds_numbers_of_pythons_alone(tmp_path: Path) -> None:
    made = network(
        xn.Dropout(np.float32(0.25)), xn.BatchNorm(np.int64(4), momentum=np.float64(0.2))
    )
    made.metadata = {"epochs": np.int32(3), "shape": (np.int64(2), 3)}
    xn.save(made, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        about = json.loads(file.metadata()["xpnet"])
    assert about["metadata"] == {"epochs": 3, "shape": [2, 3]}
    assert about["architecture"][1] == {"type": "Dropout", "rate": 0.25}
    assert all(type(v) in (int, float, str) for v in about["architecture"][2].values())


# ---- resumed ----


class OwnLoss(xn.SoftmaxCrossEntropy):
    def __init__(self, factors: Any) -> None:
        super().__init__()
        self.factors = factors


class OwnOptimizer(xn.SGD):
    def __init__(self, rates: Any) -> None:
        super().__init__(0.1)
        self.rates = rates


@pytest.mark.parametrize(
    ("name", "make", "one", "other"),
    [
        ("loss", OwnLoss, [1, 2], [1, 3]),
        ("loss", OwnLoss, np.float32(0.5), np.float32(0.25)),
        ("optimizer", OwnOptimizer, [0.5], [0.25]),
        ("optimizer", OwnOptimizer, None, {"a": 1}),
    ],
)
def test_a_training_with_another_setting_is_not_resumed(
    name: str, make: Any, one: Any, other: Any, tmp_path: Path
) -> None:
    def fit(setting: Any) -> bytes:
        made = network()
        options = {"optimizer": xn.SGD(0.1)} | {name: make(setting)}
        xn.fit(
            made, (X, LABELS), epochs=2, checkpoints=xn.Checkpoints(tmp_path, "1 epoch"), **options
        )
        return made.flat_parameters.tobytes()

    first = fit(one)
    assert fit(one) == first
    with pytest.raises(CheckpointError, match=f"another training: {name} is {make.__name__}"):
        fit(other)


@pytest.mark.parametrize(("name", "base"), [("loss", xn.MeanSquaredError), ("optimizer", xn.SGD)])
def test_a_setting_that_could_not_be_compared_is_named(
    name: str, base: Any, tmp_path: Path
) -> None:
    def make(self: Any, factor: float) -> None:
        base.__init__(self)

    kind = type("Own", (base,), {"__init__": make})
    options = {"optimizer": xn.SGD(0.1), "loss": xn.MeanSquaredError()} | {name: kind(3.0)}
    with pytest.raises(ConfigError, match="Own takes 'factor' and has no attribute"):
        xn.fit(network(), (X, X[:, :3]), epochs=1, checkpoints=xn.Checkpoints(tmp_path), **options)


def test_get_config_makes_it_again() -> None:
    for made in (xn.Adam(0.1, beta2=0.5), xn.SGD(momentum=0.5), xn.SoftmaxCrossEntropy(0.25)):
        again = type(made)(**made.get_config())
        assert again.get_config() == made.get_config()
    assert xn.MeanSquaredError().get_config() == {}
    assert issubclass(OwnLoss, Loss)
    assert issubclass(OwnOptimizer, Optimizer)
    with pytest.warns(DeprecationWarning, match=r"hyperparameters.*use get_config"):
        assert xn.Dropout(0.5).hyperparameters() == {"rate": 0.5}


# ---- made of other layers ----


@dataclass(eq=False)
class Twice(Layer):
    """`y = dropout₁(x) + dropout₂(x W + b)`, its layers in attributes, a list and a dict."""

    features: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.first = xn.Dropout(0.5)
        self.chain = [xn.Linear(self.features, self.features), xn.Dropout(0.5)]
        self.more = {"norm": xn.BatchNorm(self.features)}

    def output_shape(self, shape: Shape | None) -> Shape:
        return (self.features,)

    def forward(self, x: Array, *, training: bool) -> Array:
        xp = array_module(x)
        one = self.first.forward(x, training=training)
        other = self.more["norm"].forward(x, training=training)
        for layer in self.chain:
            other = layer.forward(other, training=training)
        return xp.add(one, other, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        other = dy
        for layer in (*reversed(self.chain), self.more["norm"]):
            other = layer.backward(other)
        return array_module(dy).add(self.first.backward(dy), other, out=self.like(dy, "dx"))


@dataclass(eq=False)
class Deeper(Plain):
    """Delegates as version 0.1 made one do it, with the same position for both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.a, self.b = xn.Dropout(0.5), xn.Dropout(0.5)

    def set_seed(self, seed: int, position: int | str) -> None:
        self.a.set_seed(seed, position)
        self.b.set_seed(seed, position)

    def forward(self, x: Array, *, training: bool) -> Array:
        one = self.a.forward(x, training=training)
        return array_module(x).add(one, self.b.forward(x, training=training), out=self.like(x, "y"))


def masks(layers: list[xn.Dropout], x: Array, backend: Backend) -> list[bytes]:
    return [backend.to_host(layer.forward(x, training=True)).tobytes() for layer in layers]


def test_each_dropout_has_a_mask_of_its_own(backend: Backend) -> None:
    direct = xn.Dropout(0.5)
    made = xn.Sequential([Twice(9), Deeper(), direct], backend=backend, seed=6)
    one, two = made.layers[0], made.layers[1]
    drops = [one.first, one.chain[1], two.a, two.b, direct]  # type: ignore[attr-defined]
    x = place(backend, np.ones((6, 9)), "float32")
    drawn = masks(drops, x, backend)
    assert len(set(drawn)) == 5
    assert masks(drops, x, backend) != drawn
    made.set_sample_counter(0)
    assert masks(drops, x, backend) == drawn
    # One that lies directly in the network draws what it always drew.
    alone = xn.Sequential([xn.Linear(9, 9), xn.Tanh(), xn.Dropout(0.5)], backend=backend, seed=6)
    assert masks([alone.layers[2]], x, backend) == drawn[4:]  # type: ignore[list-item]


def test_a_composite_has_the_parameters_of_its_layers(tmp_path: Path) -> None:
    made = xn.Sequential([xn.Linear(5, 4), Twice(4), xn.Linear(4, 3)], seed=1)
    names = [n.removeprefix("1.") for n in made.state_dict() if n.startswith("1.")]
    assert names[:3] == ["chain.0.weight", "chain.0.bias", "more.norm.weight"]
    assert names[3:] == [f"more.norm.{n}" for n in ("bias", "running_mean", "running_var")]
    before = made.flat_parameters.copy()
    xn.fit(made, (X, LABELS), optimizer=xn.Adam(0.01), epochs=2, batch_size=10)
    assert (before != made.flat_parameters).mean() > 0.9
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors", custom_objects={"Twice": Twice})
    assert np.array_equal(read.forward(X), made.forward(X))
    assert np.array_equal(made[:].forward(X), made.forward(X))
    made.layers[1].trainable = False
    kept = made.state_dict()["1.more.norm.running_mean"].copy()
    frozen = {n: v.copy() for n, v in made.state_dict().items() if n.startswith("1.")}
    xn.fit(made, (X, LABELS), optimizer=xn.Adam(0.01), epochs=2, batch_size=10)
    assert np.array_equal(made.state_dict()["1.more.norm.running_mean"], kept)
    assert all(np.array_equal(made.state_dict()[n], v) for n, v in frozen.items())
    made.layers[1].chain[0].trainable = True  # type: ignore[attr-defined]
    xn.fit(made, (X, LABELS), optimizer=xn.Adam(0.01), epochs=1, batch_size=10)
    moved = {n for n, v in frozen.items() if not np.array_equal(made.state_dict()[n], v)}
    assert moved == {"1.chain.0.weight", "1.chain.0.bias"}


def test_gradients_of_a_composite() -> None:
    from xpnet.gradcheck import check_network

    made = xn.Sequential([xn.Linear(5, 4), xn.Tanh(), Twice(4), xn.Linear(4, 3)], dtype="float64")
    found = check_network(made, xn.SoftmaxCrossEntropy(), X.astype(float), LABELS)
    assert max(found.values()) <= 1e-7
    assert "2.chain.0.weight" in found


def test_a_layer_may_know_another_of_the_network() -> None:
    """It is no part of it: it keeps its own place, and its parameters are there once."""
    first = xn.Dropout(0.5)
    tied = Plain()
    tied.other = first  # type: ignore[attr-defined]
    made = xn.Sequential([xn.Linear(5, 4), first, tied], seed=3)
    same = xn.Sequential([xn.Linear(5, 4), xn.Dropout(0.5)], seed=3)
    x = np.ones((7, 4), "float32")
    found = [n.layers[1].forward(x, training=True) for n in (made, same)]
    assert np.array_equal(*found)


@pytest.mark.parametrize("name", ["type", "trainable"])
def test_a_setting_under_a_name_that_a_file_uses_is_refused(name: str, tmp_path: Path) -> None:
    class Pool(Plain):
        def get_config(self) -> dict[str, Any]:
            return {name: "max"}

    with pytest.raises(ConfigError, match=f"layer 1, Pool, has a setting called '{name}'"):
        xn.save(network(Pool()), tmp_path / "model.safetensors")


def test_layers_in_lists_of_lists_are_found() -> None:
    class Grid(Plain):
        def __init__(self) -> None:
            self.blocks = [[xn.Linear(4, 4)], ({"a": xn.Linear(4, 4)},)]

        def forward(self, x: Array, *, training: bool) -> Array:
            one, other = self.blocks[0][0], self.blocks[1][0]["a"]
            return other.forward(one.forward(x, training=training), training=training)

        def backward(self, dy: Array) -> Array:
            one, other = self.blocks[0][0], self.blocks[1][0]["a"]
            return one.backward(other.backward(dy))

    made = network(Grid())
    assert [n for n in made.parameters() if n[0] == "1"] == [
        f"1.blocks.{place}.{own}" for place in ("0.0", "1.0.a") for own in ("weight", "bias")
    ]
    xn.fit(made, (X, LABELS), optimizer=xn.Adam(), epochs=1)
    assert made.predict(X).shape == (40,)


def test_values_of_another_shape_are_not_replaced_by_new_ones() -> None:
    trained = xn.Sequential(5, 4)
    copied = trained.layers[0].copy()
    copied.out_features = 6  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"^0.weight has the shape \(6, 5\), .* shape \(4, 5\)"):
        xn.Sequential([copied])


def test_names_of_activations_in_any_case_and_large_numbers_as_they_are() -> None:
    made = xn.Sequential(4, "ReLU", "LeakyReLU", xn.Linear(4, 3))
    assert [type(layer) for layer in made][:2] == [xn.ReLU, xn.LeakyReLU]
    assert "Linear(1048576, 3)" in xn.Sequential(2**20, 3).summary()


def test_parameters_without_names_are_refused() -> None:
    class Args(Plain):
        def __init__(self, *factors: float) -> None:
            self.factors = factors

    class Named(Plain):
        def __init__(self, **factors: float) -> None:
            self.factors = factors

    for layer, words in ((Args(1.0), r"\*factors"), (Named(a=1.0), r"\*\*factors")):
        with pytest.raises(ConfigError, match=f"takes {words}.*, whose values are not known"):
            network(layer)


def test_a_class_written_for_version_01_is_asked_as_it_was(tmp_path: Path) -> None:
    class Old(Plain):
        def __init__(self, factor: float) -> None:
            super().__post_init__()
            self.hidden = factor

        def hyperparameters(self) -> dict[str, Any]:
            return {"factor": self.hidden}

    made = network(Old(2.0))
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors", custom_objects={"Old": Old})
    assert read.layers[1].hidden == 2.0  # type: ignore[attr-defined]


def test_such_a_class_may_add_to_what_its_base_says() -> None:
    @dataclass(eq=False)
    class Adds(Plain):
        factor: float = 2.0

        def hyperparameters(self) -> dict[str, Any]:
            return super().hyperparameters() | {"more": 1}

    with pytest.warns(DeprecationWarning, match="use get_config"):
        assert Adds().get_config() == {"factor": 2.0, "more": 1}


def test_what_is_wrong_with_custom_objects_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    xn.save(network(ByHand(2.0)), path)
    with pytest.raises(ConfigError, match=r"^custom_objects must be a dict of layer classes"):
        xn.load(path, custom_objects=[ByHand])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"layer 1 cannot be made: Linear does not take"):
        xn.load(path, custom_objects={"ByHand": xn.Linear})
    with pytest.raises(CheckpointError, match=r"is a folder: give the file in it, such as"):
        xn.load(tmp_path)
    for call in (lambda: xn.load(None), lambda: xn.save(network(), 3)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^path must be a path"):
            call()


def test_a_composite_at_the_beginning_takes_what_its_first_layer_takes() -> None:
    class Head(Plain):
        def __init__(self) -> None:
            self.linear = xn.Linear(5, 16)

        def output_shape(self, shape: Shape | None) -> Shape | None:
            return self.linear.output_shape(shape)

        def forward(self, x: Array, *, training: bool) -> Array:
            return self.linear.forward(x, training=training)

        def backward(self, dy: Array) -> Array:
            return self.linear.backward(dy)

    made = xn.Sequential([Head(), xn.Linear(16, 3)])
    assert made.in_features == 5
    xn.fit(made, (X, LABELS), optimizer="adam", epochs=1)
    assert xn.Sequential([Twice(9), xn.Linear(9, 3)]).in_features == 9


@pytest.mark.parametrize("number", [float, np.float32, np.asarray])
def test_a_loss_may_give_a_plain_number(number: Any) -> None:
    class Squares(Loss):
        def forward(self, logits: Array, target: Array, weights: Any = None) -> Any:
            self.rest = logits - target
            return number((self.rest**2).mean())

        def backward(self, scale: float = 1.0) -> Array:
            return 2 * scale * self.rest / self.rest.size

    made, same = network(), network()
    options = {"epochs": 2, "batch_size": 10, "l2": 0.1}
    history = xn.fit(made, (X, X[:, :3]), optimizer="sgd", loss=Squares(), **options)
    other = xn.fit(same, (X, X[:, :3]), optimizer="sgd", loss="mse", **options)
    assert np.allclose(history.column("loss"), other.column("loss"), atol=1e-6)
    assert np.allclose(made.flat_parameters, same.flat_parameters, atol=1e-6)
