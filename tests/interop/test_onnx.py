"""ONNX files: valid, equal to xpnet in onnxruntime for every layer, the same bytes each time."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import xpnet as xn
from xpnet import layers
from xpnet.backend import Backend
from xpnet.data.normalisation import Normalisation
from xpnet.errors import CheckpointError, ConfigError
from xpnet.interop import onnx as onnx_file
from xpnet.layers import activations
from xpnet.layers.base import Layer
from xpnet.network import LAYERS

SHAPES = 20

# How a layer for so many features is drawn; a public layer without one fails the suite.
MADE: dict[type[Layer], Callable[[np.random.Generator, int], Layer]] = {
    layers.Linear: lambda rng, features: layers.Linear(features, int(rng.integers(1, 30))),
    layers.Dropout: lambda rng, features: layers.Dropout(rng.uniform(0, 0.9)),
    layers.GaussianNoise: lambda rng, features: layers.GaussianNoise(rng.uniform(0, 3)),
    layers.BatchNorm: lambda rng, features: layers.BatchNorm(
        features, epsilon=10.0 ** rng.uniform(-6, -1)
    ),
    layers.LayerNorm: lambda rng, features: layers.LayerNorm(
        features, epsilon=10.0 ** rng.uniform(-6, -1)
    ),
    activations.ReLU: lambda rng, features: activations.ReLU(),
    activations.LeakyReLU: lambda rng, features: activations.LeakyReLU(rng.uniform(0, 0.99)),
    activations.Sigmoid: lambda rng, features: activations.Sigmoid(),
    activations.Tanh: lambda rng, features: activations.Tanh(),
    activations.GELU: lambda rng, features: activations.GELU(),
    activations.Softmax: lambda rng, features: activations.Softmax(),
    layers.Residual: lambda rng, features: layers.Residual(
        layers.Linear(features, 3),
        xn.Sequential(layers.BatchNorm(3), activations.Tanh()),
        layers.Residual(3, "gelu"),
        layers.Linear(3, features),
    ),
}


def windows(rng: np.random.Generator) -> dict[str, Any]:
    """Windows that fit into `IMAGE`, borders of at most half a window."""
    kernel = rng.integers(1, 4, 2)
    padding = [int(rng.integers(0, k // 2 + 1)) for k in kernel]
    return {
        "kernel_size": tuple(int(k) for k in kernel),
        "stride": tuple(int(s) for s in rng.integers(1, 4, 2)),
        "padding": tuple(padding),
    }


IMAGE = (7, 6, 4)

OF_IMAGES: dict[type[Layer], Callable[[np.random.Generator], Layer]] = {
    layers.Conv2d: lambda rng: layers.Conv2d(
        4 * int(rng.integers(1, 4)),
        **windows(rng),
        dilation=tuple(int(d) for d in rng.integers(1, 3, 2)),
        groups=int(rng.choice([1, 2, 4])),
        bias=bool(rng.integers(2)),
    ),
    layers.MaxPool2d: lambda rng: layers.MaxPool2d(**windows(rng)),
    layers.AveragePool2d: lambda rng: layers.AveragePool2d(**windows(rng)),
    layers.GlobalAveragePool2d: lambda rng: layers.GlobalAveragePool2d(),
    layers.BatchNorm2d: lambda rng: layers.BatchNorm2d(IMAGE[2]),
    layers.Dropout2d: lambda rng: layers.Dropout2d(0.5),
    layers.Flatten: lambda rng: layers.Flatten(),
    layers.Unflatten: lambda rng: layers.Residual(layers.Conv2d(4, 3, padding=1), "relu"),
}
"""What each is between an `Unflatten` and a `Flatten`."""

NOT_FLOAT64 = (layers.Conv2d, layers.AveragePool2d, layers.GlobalAveragePool2d, layers.Unflatten)
"""Those whose operations onnxruntime has in float32 alone."""


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


def drawn(network: xn.Sequential, rng: np.random.Generator) -> xn.Sequential:
    """`network` with random parameters, biases and gains too, and random running statistics."""
    for name, array in network.state_dict().items():
        values = rng.standard_normal(array.shape)
        array[...] = np.square(values) + 0.1 if name.endswith("running_var") else values
    return network


def session(path: Path) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def computed(path: Path, x: np.ndarray) -> np.ndarray:
    (y,) = session(path).run(None, {"x": x})
    return np.asarray(y)


def small(**options: Any) -> xn.Sequential:
    made = [xn.Linear(7, 5), xn.BatchNorm(5), xn.GELU(), xn.Dropout(0.5), xn.Linear(5, 3)]
    return drawn(xn.Sequential(made, **options), np.random.default_rng(4))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_equals_onnxruntime(name: str, dtype: str, tmp_path: Path) -> None:
    kind = LAYERS[name]
    assert kind in MADE.keys() | OF_IMAGES.keys(), f"add to MADE how a {name} is drawn"
    assert kind in onnx_file._FORMS, f"{name} has no form in ONNX: add one to xpnet.interop"
    rng = np.random.default_rng(sorted(LAYERS).index(name))
    tolerance = 1e-5 if dtype == "float32" else 1e-7
    for _ in range(SHAPES):
        rows, inputs, features = (int(n) for n in rng.integers(1, 30, 3))
        if kind in OF_IMAGES:
            made = [xn.Linear(inputs, math.prod(IMAGE)), xn.Unflatten(IMAGE)]
            made += [OF_IMAGES[kind](rng), xn.Flatten()]
        else:
            made = [xn.Linear(inputs, features), MADE[kind](rng, features)]
        network = drawn(xn.Sequential(made, dtype=dtype), rng)
        x = rng.standard_normal((rows, inputs)).astype(dtype)
        path = tmp_path / "network.onnx"
        xn.export_onnx(network, path)
        if kind in NOT_FLOAT64 and dtype == "float64":
            (y,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
        else:
            y = computed(path, x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, network.forward(x), rtol=tolerance, atol=tolerance)


def test_a_layer_without_a_form_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS, "Stray", type("Stray", (Layer,), {}))
    with pytest.raises(AssertionError, match="Stray"):
        test_every_layer_equals_onnxruntime("Stray", "float32", Path())


def test_all_layers_in_a_row_and_any_number_of_rows(backend: Backend, tmp_path: Path) -> None:
    rng, made = np.random.default_rng(0), [xn.Linear(6, 8), xn.Linear(8, 8)]
    made[1:1] = [
        MADE[kind](rng, 8) for kind in LAYERS.values() if kind in MADE.keys() - {xn.Linear}
    ]
    made += [xn.Linear(8, math.prod(IMAGE)), xn.Unflatten(IMAGE)]
    made += [OF_IMAGES[kind](rng) for kind in (xn.BatchNorm2d, xn.Dropout2d, xn.MaxPool2d)]
    made += [
        xn.Conv2d(5, 1),
        xn.Residual(xn.Conv2d(5, 1), "tanh"),
        xn.AveragePool2d(1),
        xn.Flatten(),
    ]
    network = xn.Sequential(made, backend=backend, seed=3)
    train = backend.asarray(rng.standard_normal((40, 6)), dtype="float32")
    network.forward(train, training=True)
    path = tmp_path / "network.onnx"
    xn.export_onnx(network, path)
    opened = session(path)
    for rows in (1, 2, 77):
        x = rng.standard_normal((rows, 6)).astype("float32")
        (y,) = opened.run(None, {"x": x})
        expected = backend.to_host(network.forward(backend.asarray(x)))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_networks_within_the_network(tmp_path: Path) -> None:
    inner = xn.Sequential(5, "tanh", xn.Residual(5, xn.Dropout(0.5), xn.BatchNorm(5)))
    made = [xn.Sequential(7, 5, "relu"), inner, xn.Residual(xn.Dropout(0.5))]
    network = drawn(xn.Sequential(made), np.random.default_rng(4))
    path = tmp_path / "network.onnx"
    xn.export_onnx(network, path)
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert names == set(network.state_dict())
    x = np.random.default_rng(5).standard_normal((6, 7)).astype("float32")
    np.testing.assert_allclose(computed(path, x), network.forward(x), rtol=1e-5, atol=1e-5)


def test_an_own_layer_within_others_is_named_by_its_position(tmp_path: Path) -> None:
    own = type("Mine", (xn.ReLU,), {})()
    network = xn.Sequential([xn.Linear(3, 2), xn.Residual(xn.Sequential([xn.Linear(2, 2), own]))])
    with pytest.raises(ConfigError, match=r"^layer 1\.0\.1, Mine\(\), has no form in ONNX"):
        xn.export_onnx(network, tmp_path / "network.onnx")


def test_extreme_inputs_give_what_xpnet_gives(tmp_path: Path) -> None:
    for kind in (xn.ReLU, xn.LeakyReLU, xn.Sigmoid, xn.Tanh, xn.GELU, xn.Softmax):
        network = xn.Sequential([xn.Linear(3, 3), kind()])
        network.parameters()["0.weight"][...] = np.eye(3)
        xn.export_onnx(network, tmp_path / "network.onnx")
        x = np.array([[-1e30, 0, 1e30], [-50, 50, 1e-30], [-1e4, 88, 104]], dtype="float32")
        with np.errstate(over="ignore"):
            expected = network.forward(x)
        found = computed(tmp_path / "network.onnx", x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=str(kind))


def test_what_the_file_says(tmp_path: Path) -> None:
    network = small()
    network.metadata = {
        "classes": ["ä", "b", "c"],
        "image_shape": None,
        "normalisation": {"shift": -0.5, "scale": 0.25},
    }
    path = tmp_path / "network.onnx"
    xn.export_onnx(network, path)
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("xpnet", xn.__version__)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == network.metadata
    (x,), (y,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (x, y)]
    assert (x.name, y.name, shapes) == ("x", "y", [["N", 7], ["N", 3]])
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, array in network.state_dict().items():
        assert np.array_equal(held[name], array), name


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for order in (1, -1):
        network = small()
        network.metadata = dict([("classes", ["a", "b", "c"]), ("pixels", True)][::order])
        xn.export_onnx(network, tmp_path / "network.onnx")
        contents.append((tmp_path / "network.onnx").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pixels", [True, False, None])
def test_stored_values_in(pixels: bool | None, dtype: str, tmp_path: Path) -> None:
    network = small(dtype=dtype)
    network.metadata = {"normalisation": {"scale": 1 / 70, "shift": -1.5}, "pixels": pixels}
    path = tmp_path / "network.onnx"
    xn.export_onnx(network, path, normalise=True)
    x = np.random.default_rng(1).integers(0, 256, (9, 7))
    stored = x.astype(np.uint8 if pixels else dtype)
    how = Normalisation(1 / 70, -1.5)
    np.testing.assert_allclose(
        computed(path, stored), network.forward(how.apply(stored, dtype)), rtol=1e-5, atol=1e-5
    )
    # What the graph does is not to be done again.
    assert [p.key for p in onnx.load(path).metadata_props] == ["pixels"]
    assert "normalisation" in network.metadata


@pytest.mark.parametrize(
    "how",
    [
        None,
        {},
        {"scale": 1.0},
        {"scale": "a", "shift": 0.0},
        {"scale": "1", "shift": 0.0},
        {"scale": True, "shift": 0.0},
        {"scale": 1e39, "shift": 0.0},
        {"scale": [1.0, [2.0]], "shift": 0.0},
        {"scale": [1.0] * 6, "shift": 0.0},
        3.0,
    ],
)
def test_a_normalisation_that_is_missing(how: Any, tmp_path: Path) -> None:
    network = small()
    network.metadata = {"normalisation": how} if how is not None else {}
    with pytest.raises(ConfigError, match=r"normalisation .*scale and shift"):
        xn.export_onnx(network, tmp_path / "network.onnx", normalise=True)
    assert not list(tmp_path.iterdir())


class Doubled(xn.ReLU):
    """Inherits from a layer with a form, and does something else."""

    def forward(self, x: Any, *, training: bool) -> Any:
        return 2 * super().forward(x, training=training)


def test_a_layer_of_ones_own_is_named(tmp_path: Path) -> None:
    network = xn.Sequential([xn.Linear(3, 2), xn.ReLU(), Doubled()])
    with pytest.raises(ConfigError, match=r"^layer 2, Doubled\(\), has no form in ONNX"):
        xn.export_onnx(network, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes an xpnet\.Sequential, found xpnet\.Linear"):
        xn.export_onnx(xn.Linear(2, 2), tmp_path / "network.onnx")  # type: ignore[arg-type]


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, path = small(), tmp_path / "network.onnx"
    with pytest.raises(CheckpointError, match="cannot be written"):
        xn.export_onnx(network, tmp_path / "missing" / "network.onnx")
    network.metadata = {"when": object()}
    with pytest.raises(CheckpointError, match=r"network\.onnx: metadata 'when' is not plain JSON"):
        xn.export_onnx(network, path)
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 100)
    with pytest.raises(CheckpointError, match="2 GiB"):
        xn.export_onnx(network, path)
    assert not list(tmp_path.iterdir())


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ConfigError, match=r"export_onnx\(\) needs onnx.* pip install onnx"
    ) as caught:
        xn.export_onnx(small(), tmp_path / "network.onnx")
    assert "\n" not in str(caught.value)
