"""Networks from and to PyTorch and scikit-learn, and arrays of other libraries without a copy."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

import xpnet as xn
from xpnet.backend import Backend, shared
from xpnet.data.normalisation import Normalisation
from xpnet.errors import ConfigError, DataError, DeviceMismatch, ShapeError


def drawn(network: xn.Sequential, seed: int = 0) -> xn.Sequential:
    """`network` with random parameters, biases and gains too, and random running statistics."""
    rng = np.random.default_rng(seed)
    for name, array in network.state_dict().items():
        values = rng.standard_normal(array.shape)
        values = np.square(values) + 0.1 if name.endswith("running_var") else values
        array[...] = network.backend.asarray(values, dtype=network.dtype)
    return network


def of_layer(case: cases.LayerCase, **options: Any) -> xn.Sequential:
    """A small network around the layer of `case`."""
    layers = [xn.Linear(4, case.features), *case.among_rows()]
    return drawn(xn.Sequential(layers, **options))


# PyTorch.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", **cases.by_id(cases.LAYERS))
def test_every_layer_goes_to_pytorch_and_back(
    case: cases.LayerCase, dtype: str, backend: Backend
) -> None:
    network = of_layer(case, backend=backend, dtype=dtype)
    x = np.random.default_rng(1).standard_normal((9, 4)).astype(dtype)
    module = xn.to_torch(network)
    expected = backend.to_host(network.forward(backend.asarray(x)))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    with torch.no_grad():
        y = module(torch.from_numpy(x)).numpy()
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    held = module.state_dict()
    for name, array in network.state_dict().items():
        assert np.array_equal(held[name].numpy(), backend.to_host(array)), name

    back = xn.from_torch(module, device=backend)
    assert back.dtype == network.dtype
    assert back.backend.xp is backend.xp
    if case.kind is not xn.GaussianNoise:
        assert back.architecture() == network.architecture()
    for name, array in network.state_dict().items():
        assert np.array_equal(backend.to_host(back.state_dict()[name]), backend.to_host(array)), (
            name
        )
    assert np.array_equal(backend.to_host(back.forward(backend.asarray(x))), expected)


def nested(**options: Any) -> xn.Sequential:
    """Networks and residual blocks within a network, and within each other."""
    inner = xn.Sequential(6, "tanh", xn.Residual(6, 3, "gelu", xn.BatchNorm(3), 6))
    made = [xn.Sequential(4, 6, "relu"), inner, xn.Residual(xn.Sequential(6, 6)), xn.Linear(6, 3)]
    return drawn(xn.Sequential(made, **options))


def test_nested_networks_go_to_pytorch_under_the_same_names() -> None:
    network = nested(dtype="float64")
    network.layers[1].trainable = False
    module = xn.to_torch(network)
    held = module.state_dict()
    names = {name for name in held if not name.endswith("num_batches_tracked")}
    assert names == set(network.state_dict())
    assert "1.1.2.running_mean" in names
    for name, array in network.state_dict().items():
        assert np.array_equal(held[name].numpy(), array), name
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in network.parameters() if name.startswith("1.")}
    x = np.random.default_rng(1).standard_normal((9, 4))
    with torch.no_grad():
        np.testing.assert_allclose(
            module(torch.from_numpy(x)).numpy(), network.forward(x), rtol=1e-12, atol=1e-12
        )


def test_nested_networks_come_back_from_pytorch() -> None:
    network = nested()
    module = pickle.loads(pickle.dumps(xn.to_torch(network)))
    back = xn.from_torch(module)
    kinds = [type(layer).__name__ for layer in back.layers]
    assert kinds == ["Linear", "ReLU", "Tanh", "Residual", "Residual", "Linear"]
    x = np.random.default_rng(1).standard_normal((9, 4)).astype("float32")
    assert np.array_equal(back.forward(x), network.forward(x))


def test_a_residual_block_is_frozen_both_ways() -> None:
    network = xn.Sequential([xn.Linear(4, 5), xn.Residual(5, 5)])
    network.layers[1].trainable = False
    module = xn.to_torch(network)
    assert [p.requires_grad for p in module.parameters()] == [True, True, False, False]
    back = xn.from_torch(module)
    assert [layer.trainable for layer in back.layers] == [True, False]
    part = xn.Sequential(xn.Linear(4, 5), xn.Residual(xn.Linear(5, 5), xn.Linear(5, 5)))
    part.layers[1].layers[0].trainable = False  # type: ignore[attr-defined]
    inner = xn.from_torch(xn.to_torch(part)).layers[1].layers  # type: ignore[attr-defined]
    assert [layer.trainable for layer in inner] == [False, True]
    module[1][0].bias.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"^module 1\.0 of .*Linear, has parameters that require"):
        xn.from_torch(module)


def test_a_residual_block_that_xpnet_cannot_have_is_named() -> None:
    module = xn.to_torch(xn.Sequential([xn.Linear(4, 5), xn.Residual(5, 5)]))
    module[1][0] = nn.Softplus()
    with pytest.raises(ConfigError, match=r"^module 1\.0 of .*Softplus, is not a module"):
        xn.from_torch(module)
    module[1][0] = nn.Linear(5, 4)
    with pytest.raises(ShapeError, match=r"^layer 1: Residual.* takes 5 features .* give 4"):
        xn.from_torch(module)
    module[1][0] = nn.Identity()
    with pytest.raises(ConfigError, match=r"^module 1 of .*Residual, .*at least one layer"):
        xn.from_torch(module)


def test_an_own_layer_within_others_is_named_by_its_position() -> None:
    own = type("Mine", (xn.ReLU,), {})()
    network = xn.Sequential([xn.Linear(3, 2), xn.Residual(xn.Sequential([xn.Linear(2, 2), own]))])
    with pytest.raises(ConfigError, match=r"^layer 1\.0\.1, Mine\(\), has no counterpart"):
        xn.to_torch(network)


def test_both_train_on_alike() -> None:
    """A step moves weights and running statistics alike: momentum and ε mean the same."""
    made = [xn.Linear(4, 6), xn.BatchNorm(6, momentum=0.3, epsilon=1e-3), xn.Tanh()]
    made += [xn.LayerNorm(6, epsilon=1e-2), xn.Linear(6, 3)]
    network = drawn(xn.Sequential(made, dtype="float64"))
    module = xn.to_torch(network).train()
    rng = np.random.default_rng(2)
    x, labels = rng.standard_normal((8, 4)), rng.integers(0, 3, 8)
    loss = xn.SoftmaxCrossEntropy()
    loss.forward(network.forward(x, training=True), labels)
    network.backward(loss.backward())
    nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(
            network.parameter_gradients()[name], parameter.grad.numpy(), atol=1e-12, err_msg=name
        )
    for name in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(
            network.state_dict()[name], module.state_dict()[name].numpy(), rtol=1e-12
        )


def test_a_converted_network_owns_its_weights() -> None:
    network = drawn(xn.Sequential([xn.Linear(4, 3), xn.BatchNorm(3)]))
    kept = {name: array.copy() for name, array in network.state_dict().items()}
    module = xn.to_torch(network)
    back = xn.from_torch(module)
    for tensor in module.state_dict().values():
        tensor.zero_()
    for other in (network, back):
        for name, array in other.state_dict().items():
            assert np.array_equal(array, kept[name])


def test_to_torch_leaves_torchs_random_numbers_as_they_are() -> None:
    network = xn.Sequential([xn.Linear(4, 3)])
    before = torch.get_rng_state()
    assert not xn.to_torch(network).training
    assert torch.equal(torch.get_rng_state(), before)


def test_modules_that_pytorch_users_have() -> None:
    """No bias, no gains, one ReLU object used twice, `Flatten` first, names for positions."""
    relu = nn.ReLU(inplace=True)
    made = [nn.Flatten(), nn.Linear(12, 6, bias=False), nn.BatchNorm1d(6, affine=False), relu]
    made += [nn.Identity(), nn.Linear(6, 5), nn.LayerNorm(5, elementwise_affine=False), relu]
    made += [nn.Dropout(0.2), nn.LayerNorm((5,), bias=False), nn.Linear(5, 2), nn.Softmax(dim=-1)]
    module = nn.Sequential()
    for number, part in enumerate(made):
        module.add_module(f"part{number}", part)
    x = torch.randn(30, 3, 4, generator=torch.Generator().manual_seed(1))
    module(x)
    module.eval()
    network = xn.from_torch(module)
    with torch.no_grad():
        np.testing.assert_allclose(
            network.forward(x.reshape(30, 12)), module(x).numpy(), rtol=1e-5, atol=1e-6
        )
    assert [type(layer).__name__ for layer in network.layers[:3]] == ["Linear", "BatchNorm", "ReLU"]
    assert not network.parameters()["0.bias"].any()
    assert (network.parameters()["1.weight"] == 1).all()


def after_a_linear(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), module)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (
            nn.Conv3d(1, 2, 3),
            r"module 1 .*torch\.Conv3d, is not a module that xpnet can convert; .*LayerNorm",
        ),
        (nn.Sequential(nn.Softplus()), r"module 1\.0 .*torch\.Softplus, is not a module"),
        (nn.Flatten(0), r"module 1 .*torch\.Flatten, has start_dim 0: .* with 1 only"),
        (nn.GELU(), r"module 1 .*torch\.GELU, has approximate 'none': .* with 'tanh' only"),
        (nn.Softmax(dim=0), r"module 1 .*torch\.Softmax, has dim 0: .* with 1 or -1 only"),
        (nn.BatchNorm1d(4, track_running_stats=False), r"module 1 .*track_running_stats False"),
        (nn.BatchNorm1d(4, momentum=None), r"module 1 .*BatchNorm1d, has momentum None"),
        (nn.BatchNorm1d(4, momentum=0.0), r"module 1 .*BatchNorm1d, .*\(0, 1\], found 0"),
        (nn.LayerNorm((2, 4)), r"module 1 .*LayerNorm, normalises over \(2, 4\)"),
        (nn.LeakyReLU(1.5), r"module 1 .*LeakyReLU, .*\[0, 1\), found 1\.5"),
        (nn.Dropout(1.0), r"module 1 .*Dropout, .*\[0, 1\), found 1\.0"),
        (type("MyReLU", (nn.ReLU,), {})(), r"module 1 .*MyReLU, is not a module"),
        (nn.Linear(4, 4).double(), r"parameters of float32 and float64: .*\.float\(\)"),
        (nn.Linear(3, 4), r"^layer 1: Linear\(3, 4\) takes 3 features and is given 4"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_pytorch_has_and_xpnet_has_not_is_named(module: nn.Module, says: str) -> None:
    with pytest.raises((ConfigError, ShapeError), match=says) as caught:
        xn.from_torch(after_a_linear(module))
    assert "\n" not in str(caught.value)


class Backwards(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in reversed(list(self)):
            x = module(x)
        return x


def test_only_a_sequential_is_taken() -> None:
    for thing in (nn.Linear(2, 2), Backwards(nn.Linear(2, 2)), [nn.Linear(2, 2)]):
        with pytest.raises(ConfigError, match=r"from_torch\(\) takes a torch\.nn\.Sequential"):
            xn.from_torch(thing)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"parameters of bfloat16: .*\.float\(\)"):
        xn.from_torch(nn.Sequential(nn.Linear(2, 2)).bfloat16())
    with pytest.raises(ConfigError, match=r"takes an xpnet\.Sequential, found torch\.Sequential"):
        xn.to_torch(nn.Sequential(nn.Linear(2, 2)))  # type: ignore[arg-type]


def test_a_layer_of_ones_own_is_named() -> None:
    network = xn.Sequential([xn.Linear(3, 2), type("Mine", (xn.ReLU,), {})()])
    with pytest.raises(ConfigError, match=r"^layer 1, Mine\(\), has no counterpart in PyTorch"):
        xn.to_torch(network)


# scikit-learn.


def fitted(model: Any, classes: Any = None, dtype: str = "float64", outputs: int = 1) -> Any:
    """`model` after a few steps on random data, of which the first value decides the class."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 4)).astype(dtype)
    if classes is None:
        y = x[:, :outputs] * 2 + 1
        y = y[:, 0] if outputs == 1 else y
    else:
        y = np.asarray(classes)[np.digitize(x[:, 0], np.linspace(-1, 1, len(classes) + 1)[1:-1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.set_params(max_iter=5, random_state=0, batch_size=20).fit(x, y)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("classes", [["no", "yes"], [7, -2, 30, 4], [False, True]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_classifier_keeps_its_probabilities(
    activation: str, classes: list[Any], dtype: str, backend: Backend
) -> None:
    model = fitted(MLPClassifier((6, 5), activation=activation), classes, dtype)
    network = xn.from_sklearn(model, device=backend)
    x = np.random.default_rng(4).standard_normal((50, 4)).astype(dtype)
    on_device = backend.asarray(x)
    p = backend.to_host(network.predict_proba(on_device))
    assert p.dtype == dtype
    np.testing.assert_allclose(
        p, model.predict_proba(x), atol=1e-6 if dtype == "float32" else 1e-12
    )
    found = model.classes_[backend.to_host(network.predict(on_device))]
    assert np.array_equal(found, model.predict(x))
    assert network.metadata == {"classes": [str(label) for label in model.classes_]}


@pytest.mark.parametrize("hidden", [(), (5,), (6, 5)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regressor_keeps_its_predictions(hidden: tuple[int, ...], outputs: int) -> None:
    model = fitted(MLPRegressor(hidden_layer_sizes=hidden), outputs=outputs)
    network = xn.from_sklearn(model)
    x = np.random.default_rng(4).standard_normal((50, 4))
    found = network.forward(x)
    assert found.shape == (50, outputs)
    np.testing.assert_allclose(found, model.predict(x).reshape(50, outputs), atol=1e-12)
    assert network.metadata == {}


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regressor_of_counts_keeps_its_rates(outputs: int, tmp_path: Path) -> None:
    x = np.random.default_rng(4).standard_normal((50, 4))
    counts = np.random.default_rng(5).poisson(2, (50, outputs))
    model = MLPRegressor("poisson", (5,), max_iter=5, random_state=0, batch_size=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, counts[:, 0] if outputs == 1 else counts)
    network = xn.from_sklearn(model)
    np.testing.assert_allclose(network.predict(x), model.predict(x), rtol=1e-12)
    # All files and modules give what `network(x)` gives: the logarithms.
    logarithms = network.forward(x)
    np.testing.assert_allclose(
        np.exp(logarithms), model.predict(x).reshape(50, outputs), rtol=1e-12
    )
    xn.export_onnx(network, tmp_path / "network.onnx")
    (found,) = onnxruntime.InferenceSession(tmp_path / "network.onnx").run(None, {"x": x})
    np.testing.assert_allclose(found, logarithms, rtol=1e-12)
    with torch.no_grad():
        module = xn.to_torch(network)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(module, logarithms, rtol=1e-12)


def ending_in_tanh() -> Any:
    model = fitted(MLPRegressor(hidden_layer_sizes=(5,)))
    model.out_activation_ = "tanh"
    return model


def several_labels() -> Any:
    x = np.random.default_rng(3).standard_normal((60, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier((5,), max_iter=2).fit(x, x[:, :2] > 0)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (MLPClassifier, r"the MLPClassifier is not fitted.*call fit\(\) first"),
        (MLPRegressor, r"the MLPRegressor is not fitted"),
        (lambda: None, "found NoneType"),
        (several_labels, "2 outputs through 'logistic' for 2 classes"),
        (ending_in_tanh, "ends in 'tanh'.* with loss 'squared_error' or 'poisson'"),
    ],
    ids=["classifier", "regressor", "None", "several labels", "tanh"],
)
def test_models_that_cannot_be_taken_over(model: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        xn.from_sklearn(model())
    assert "\n" not in str(caught.value)


# Where the other library is missing, and what `import xpnet` loads.


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("torch", lambda: xn.to_torch(xn.Sequential([xn.Linear(2, 2)]))),
        ("torch", lambda: xn.from_torch(nn.Sequential(nn.Linear(2, 2)))),
        ("sklearn.neural_network", lambda: xn.from_sklearn(MLPClassifier())),
    ],
    ids=["to_torch", "from_torch", "from_sklearn"],
)
def test_without_the_other_library(
    module: str, call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"needs {module}, .*: pip install") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_none_is_imported_before_it_is_asked_for() -> None:
    program = "import sys, xpnet; print({'torch', 'onnx', 'sklearn'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr


# DLPack.


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def tensors(rows: int = 6, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=generator, dtype=dtype)
    return x, torch.arange(rows) % 3


def test_a_tensor_is_predicted_from_where_it_lies() -> None:
    network = drawn(xn.Sequential([xn.Linear(4, 5), xn.ReLU(), xn.Linear(5, 3)]))
    x, _ = tensors()
    seen = []
    first = network.layers[0]
    forward = first.forward
    first.forward = lambda x, **how: seen.append(address(x)) or forward(x, **how)  # type: ignore
    expected = network.forward(x.numpy())
    for found in (network.forward(x), network.forward(x, training=True)):
        assert type(found) is np.ndarray
        assert np.array_equal(found, expected)
    assert np.array_equal(network.predict(x), expected.argmax(axis=1))
    assert network.predict_proba(x).shape == (6, 3)
    assert seen == [x.data_ptr()] * 5


def test_a_block_of_a_large_tensor_is_no_copy_either() -> None:
    network = drawn(xn.Sequential([xn.Linear(4, 3)]))
    x, _ = tensors(5000)
    expected, seen = network.forward(x.numpy()), []
    first = network.layers[0]
    forward = first.forward
    first.forward = lambda x, **how: seen.append(address(x)) or forward(x, **how)  # type: ignore
    assert np.array_equal(network.forward(x), expected)
    assert len(seen) == 7
    assert all(x.data_ptr() <= place < x.data_ptr() + x.nbytes for place in seen)


def test_data_holds_the_tensors_memory() -> None:
    x, labels = tensors()
    data = xn.DeviceData(x, labels, backend=Backend(), dtype="float32")
    assert address(data.x) == x.data_ptr()
    assert address(data.target) == labels.data_ptr()
    pixels = torch.arange(3 * 2 * 5, dtype=torch.uint8).reshape(3, 2, 5)
    data = xn.DeviceData(
        pixels, labels[:3], backend=Backend(), dtype="float32", normalisation=Normalisation(0.5, 1)
    )
    assert address(data.x) == pixels.data_ptr()
    assert data.image_shape == (2, 5)
    assert np.array_equal(data.whole()[0], pixels.reshape(3, 10).numpy() * np.float32(0.5) + 1)


def test_fit_and_evaluate_take_tensors(backend: Backend) -> None:
    x, labels = tensors(24)
    ends = []
    for pair in ((x, labels), (x.numpy(), labels.numpy()), (x.tolist(), labels.tolist())):
        network = xn.Sequential([xn.Linear(4, 3)], backend=backend, seed=2)
        history = xn.fit(network, pair, pair, optimizer=xn.SGD(0.1), epochs=2, batch_size=10)
        evaluated = xn.evaluate(network, pair)
        ends.append(
            (
                backend.to_host(network.flat_parameters).tolist(),
                history.records[-1].loss,
                evaluated.loss,
            )
        )
    assert ends[0][0] == ends[1][0]
    assert ends[0][1:] == ends[1][1:]
    np.testing.assert_allclose(ends[2][0], ends[0][0], rtol=1e-6)


def test_fit_makes_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = tensors(24)
    seen = []
    whole = xn.DeviceData.whole
    monkeypatch.setattr(
        xn.DeviceData, "whole", lambda self: seen.append(address(self.x)) or whole(self)
    )
    network = xn.Sequential([xn.Linear(4, 3)])
    xn.fit(network, (x, labels), optimizer=xn.SGD(0.1), epochs=1, batch_size=None)
    assert seen == [x.data_ptr()]


def test_asarray_shares_and_converts(backend: Backend) -> None:
    x, _ = tensors()
    found = backend.asarray(x)
    assert type(found) is type(backend.xp.zeros(1))
    assert np.array_equal(backend.to_host(found), x.numpy())
    if backend.xp is np:
        assert address(found) == x.data_ptr()
    assert backend.asarray(x, dtype="float64").dtype == np.float64


def test_a_state_of_pytorchs_is_loaded() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))
    network = xn.Sequential([xn.Linear(4, 5), xn.LayerNorm(5)])
    network.load_state_dict(module.state_dict())
    x, _ = tensors()
    np.testing.assert_allclose(network.forward(x), module(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.clone().requires_grad_(),
        lambda x: nn.Parameter(x),
        lambda x: x.bfloat16(),
        lambda x: x.to_sparse(),
        lambda x: x.to("meta"),
    ],
    ids=["requires grad", "parameter", "bfloat16", "sparse", "meta"],
)
def test_what_cannot_be_lent(bad: Callable[[torch.Tensor], torch.Tensor], backend: Backend) -> None:
    x, labels = tensors()
    wrong = bad(x)
    network = xn.Sequential([xn.Linear(4, 3)], backend=backend)
    calls: list[Callable[[], Any]] = [
        lambda: backend.asarray(wrong),
        lambda: network.forward(wrong),
        lambda: xn.fit(network, (wrong, labels), optimizer=xn.SGD(0.1), epochs=1),
        lambda: xn.DeviceData(wrong, labels, backend=backend, dtype="float32"),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"^a torch\.\w+ does not share its memory") as caught:
            call()
        assert "tensor.detach()" in str(caught.value)
        assert "\n" not in str(caught.value)


class OnGpu:
    """What a tensor on a GPU says of itself."""

    device = "cuda:1"

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("its memory was asked for")


def test_an_array_on_another_device_is_refused() -> None:
    network = xn.Sequential([xn.Linear(4, 3)])
    x, labels = tensors()
    calls: list[Callable[[], Any]] = [
        lambda: network.forward(OnGpu()),
        lambda: Backend().asarray(OnGpu()),
        lambda: xn.fit(network, (OnGpu(), labels), optimizer=xn.SGD(0.1), epochs=1),
        lambda: xn.fit(network, (x, OnGpu()), optimizer=xn.SGD(0.1), epochs=1),
    ]
    for call in calls:
        with pytest.raises(DeviceMismatch, match=r"OnGpu is on cuda:1, .*tensor\.cpu\(\)"):
            call()


def test_a_gpus_memory_is_lent_to_the_module_there(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Xp:
        from_dlpack = staticmethod(lambda array: given.append(array) or "on the GPU")

    thing = OnGpu()
    assert shared(thing, Xp) == "on the GPU"
    assert given == [thing]


def test_training_on_a_device_refuses_a_tensor_of_the_host(double: Backend) -> None:
    network = xn.Sequential([xn.Linear(4, 3)], backend=double)
    with pytest.raises(DeviceMismatch, match="numpy"):
        network.forward(tensors()[0], training=True)
    # For a prediction it is brought there.
    assert type(network.forward(tensors()[0])) is double.xp.ndarray


def test_our_own_arrays_pass_untouched(tmp_path: Any, double: Backend) -> None:
    mapped = np.memmap(tmp_path / "values", np.float32, "w+", shape=(2, 3))
    for array in (np.zeros(3), mapped, double.xp.zeros(3), [1, 2], 3.0, np.float64(3), None):
        assert shared(array) is array


def test_jax_arrays_are_shared() -> None:
    import jax.numpy as jax

    x = jax.arange(8.0, dtype="float32").reshape(2, 4)
    network = drawn(xn.Sequential([xn.Linear(4, 3)]))
    assert address(shared(x)) == x.unsafe_buffer_pointer()
    assert np.array_equal(network.forward(x), network.forward(np.array(x)))
    labels = jax.arange(2)
    xn.fit(network, (x, labels), optimizer=xn.SGD(0.1), epochs=1)
