"""What the ways in and out would take over without seeing all of it is refused by name."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn
from torch.nn.utils import parametrizations, prune

import xpnet as xn
from xpnet.errors import ConfigError


def three() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def agrees(module: nn.Sequential, network: xn.Sequential) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.forward(x), expected, rtol=1e-5, atol=1e-6)


def doubled(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def passed(*arguments: Any) -> None:
    return None


def weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module)


def replaced(module: nn.Module) -> None:
    module.forward = lambda x: x  # type: ignore[method-assign]


def with_a_child(module: nn.Module) -> None:
    module.add_module("extra", nn.Linear(1, 1))


def with_a_buffer(module: nn.Module) -> None:
    module.register_buffer("factor", torch.ones(1))


def half_frozen(module: nn.Module) -> None:
    module.bias.requires_grad_(False)


def without_weight(module: nn.Module) -> None:
    module.weight = None


def in_complex(module: nn.Module) -> None:
    module.weight = nn.Parameter(module.weight.detach().to(torch.complex64))


def sparse(module: nn.Module) -> None:
    module.weight = nn.Parameter(module.weight.detach().to_sparse(), requires_grad=True)


UNSEEN = [
    (lambda m: m.register_forward_hook(doubled), r"has a forward hook \(doubled\)"),
    (lambda m: m.register_forward_pre_hook(passed), r"has a forward pre hook \(passed\)"),
    (lambda m: m.register_full_backward_hook(passed), r"has a backward hook \(passed\)"),
    (lambda m: m.register_full_backward_pre_hook(passed), "has a backward pre hook"),
    (lambda m: m.weight.register_hook(passed), "has a hook on its weight"),
    (weight_norm, r"has a forward pre hook \(torch\.WeightNorm\), .*remove_weight_norm"),
    (nn.utils.spectral_norm, r"has a forward pre hook \(torch\.SpectralNorm\)"),
    (parametrizations.weight_norm, "has a parametrization of its weight"),
    (parametrizations.spectral_norm, "has a parametrization of its weight"),
    (lambda m: prune.l1_unstructured(m, "weight", 0.5), r"pre hook \(torch\.L1.*prune\.remove"),
    (replaced, r"has a replaced forward\(\)"),
    (with_a_child, "has 'extra', which xpnet's Linear does not have"),
    (with_a_buffer, "has 'factor', which xpnet's Linear does not have"),
    (half_frozen, "require a gradient and others that do not"),
    (without_weight, "has no weight, so it cannot be converted"),
    (sparse, r"has a weight that is not a dense tensor \(torch\.Parameter, torch\.sparse_coo\)"),
    (lambda m: m.to("meta"), "is on the meta device, where its weight has no values"),
    (lambda m: m.half(), r"parameters of float16 and float32: .*\.float\(\)"),
    (in_complex, r"parameters of complex64 and float32"),
]


@pytest.mark.parametrize(("spoil", "says"), UNSEEN)
def test_what_from_torch_cannot_see_is_refused(spoil: Callable[[Any], Any], says: str) -> None:
    module = three()
    spoil(module[2])
    with pytest.raises(ConfigError, match=says) as caught:
        xn.from_torch(module)
    assert "\n" not in str(caught.value)
    assert "module 2 of the torch.nn.Sequential" in str(caught.value) or ".float()" in says + str(
        caught.value
    )


@pytest.mark.parametrize("spoil", [lambda m: m.register_forward_hook(doubled), replaced])
@pytest.mark.parametrize("kind", [nn.Identity, nn.ReLU, nn.Flatten])
def test_modules_without_parameters_are_looked_at_too(
    spoil: Callable[[Any], Any], kind: type[nn.Module]
) -> None:
    module = nn.Sequential(nn.Linear(4, 3), kind())
    spoil(module[1])
    with pytest.raises(ConfigError, match=r"^module 1 of .* (hook|replaced)"):
        xn.from_torch(module)


@pytest.mark.parametrize("spoil", [lambda m: m.register_forward_hook(doubled), replaced])
def test_the_sequential_itself_is_looked_at_too(spoil: Callable[[Any], Any]) -> None:
    module = three()
    spoil(module)
    with pytest.raises(ConfigError, match=r"^the torch\.nn\.Sequential has a (forward hook|repl)"):
        xn.from_torch(module)
    outer = nn.Sequential(module, nn.Tanh())
    with pytest.raises(ConfigError, match=r"^module 0 of .* has a (forward hook|replaced)"):
        xn.from_torch(outer)


@pytest.fixture
def hook_on_all_modules() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(doubled)
    yield
    handle.remove()


@pytest.mark.usefixtures("hook_on_all_modules")
def test_a_hook_on_all_modules_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has a forward hook \(doubled\)"):
        xn.from_torch(three())


def test_removed_again_it_is_taken() -> None:
    module = three()
    handle = module[0].register_forward_hook(doubled)
    handle.remove()
    prune.l1_unstructured(module[2], "weight", 0.5)
    prune.remove(module[2], "weight")
    agrees(module, xn.from_torch(module))


def test_lazy_modules_are_taken_once_they_have_weights() -> None:
    module = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(ConfigError, match=r"^module 0 of .*LazyLinear, is lazy, .* on a batch"):
        xn.from_torch(module)
    module(torch.ones(2, 4))
    agrees(module, xn.from_torch(module))


def test_a_sequential_within_is_taken_as_its_modules() -> None:
    inner = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 5)))
    module = nn.Sequential(inner, nn.ReLU(), nn.Linear(5, 3))
    network = xn.from_torch(module)
    assert [type(layer).__name__ for layer in network.layers] == [
        "Linear",
        "Tanh",
        "Linear",
        "ReLU",
        "Linear",
    ]
    agrees(module, network)
    with pytest.raises(ConfigError, match=r"^module 0\.1\.1 of .*Softplus, is not a module"):
        xn.from_torch(
            nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Softplus())))
        )


class Backwards(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in reversed(list(self)):
            x = module(x)
        return x


def test_a_sequential_with_its_own_forward_within_is_no_layer() -> None:
    with pytest.raises(ConfigError, match=r"^module 0 of .*Backwards, is not a module"):
        xn.from_torch(nn.Sequential(Backwards(nn.Linear(4, 4))))


@pytest.mark.needs("torch")
@pytest.mark.parametrize("kind", [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout])
def test_a_subclass_of_a_known_module_is_no_layer(kind: type[nn.Module]) -> None:
    mine = type("Mine", (kind,), {})
    made = {nn.Linear: (4, 4), nn.BatchNorm1d: (4,)}.get(kind, ())
    with pytest.raises(
        ConfigError, match=r"^module 1 of .*Mine, is not a module that xpnet can convert"
    ):
        xn.from_torch(nn.Sequential(nn.Linear(4, 4), mine(*made)))


def test_shared_parameters_are_refused() -> None:
    twice = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match=r"^module 2 .* shares its weight with module 0 .*copy"):
        xn.from_torch(nn.Sequential(twice, nn.ReLU(), twice))
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].bias = tied[0].bias
    with pytest.raises(ConfigError, match=r"^module 2 .* shares its bias with module 0"):
        xn.from_torch(tied)
    apart = nn.Sequential(twice, nn.ReLU(), copy.deepcopy(twice))
    agrees(apart, xn.from_torch(apart))


def test_quantized_modules_are_no_layers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.ao.quantization.quantize_dynamic(three(), {nn.Linear})
        except RuntimeError:  # a PyTorch built without an engine for it
            module = nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(4, 3))
    with pytest.raises(ConfigError, match=r"^module 0 of .*torch\.Linear, is not a module"):
        xn.from_torch(module)


def test_statistics_that_a_batch_norm_lost_are_missed() -> None:
    norm = nn.BatchNorm1d(4)
    norm.running_var = None
    with pytest.raises(ConfigError, match="has no running_var, so it cannot be converted"):
        xn.from_torch(nn.Sequential(nn.Linear(4, 4), norm))


def test_frozen_layers_stay_frozen_both_ways() -> None:
    module = three()
    module[0].requires_grad_(False)
    network = xn.from_torch(module)
    assert [layer.trainable for layer in network.layers] == [False, True, True]
    again = xn.to_torch(network)
    assert [p.requires_grad for p in again.parameters()] == [False, False, True, True]


def test_training_mode_does_not_matter() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3))
    module.train()
    agrees(module, xn.from_torch(module))


# Out of xpnet.


def written(network: xn.Sequential, path: Path, **options: Any) -> Any:
    xn.export_onnx(network, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("out", ["torch", "onnx"])
def test_a_replaced_forward_is_not_left_out(out: str, tmp_path: Path) -> None:
    def export(network: xn.Sequential) -> None:
        if out == "torch":
            xn.to_torch(network)
        else:
            xn.export_onnx(network, tmp_path / "network.onnx")

    class Halved(xn.Sequential):
        def forward(self, x: Any, *, training: bool = False) -> Any:
            return super().forward(x, training=training) / 2

    with pytest.raises(ConfigError, match=r"Halved with a forward\(\) of its own"):
        export(Halved(4, 3))
    network = xn.Sequential(4, 5, "relu", 3)
    relu = network.layers[1]
    relu.forward = lambda x, *, training: x  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"^layer 1, ReLU\(\), has a replaced forward\(\)"):
        export(network)
    mine = type("Mine", (xn.Linear,), {})
    with pytest.raises(ConfigError, match=r"^layer 0, Mine\(4, 3\), has no (form|counterpart)"):
        export(xn.Sequential([mine(4, 3)]))


def test_what_is_no_number_stays_so(tmp_path: Path) -> None:
    """A diverged network is taken over as it is, to be looked at."""
    network = xn.Sequential(4, 3, seed=0)
    network.flat_parameters[0] = math.nan
    x = np.ones((2, 4), np.float32)
    expected = network.forward(x)
    assert np.isnan(expected).any()
    module = xn.to_torch(network)
    with torch.no_grad():
        outputs = module(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(np.isnan(outputs), np.isnan(expected))
    np.testing.assert_array_equal(xn.from_torch(module).flat_parameters, network.flat_parameters)
    (found,) = written(network, tmp_path / "n.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize(
    "normalisation",
    [
        {"scale": 0.25, "shift": -0.5},
        {"scale": 3, "shift": 0},
        {"scale": np.float32(0.25), "shift": np.int64(1)},
        {"scale": [0.25, 1.0, 2.0, 0.5], "shift": [0.0, -1.0, 3.0, 0.25]},
        {"scale": np.array([1.0, 2.0, 3.0, 4.0]), "shift": -0.5},
        {"scale": 0.5, "shift": (1.0, 2.0, 3.0, 4.0)},
    ],
)
@pytest.mark.parametrize("pixels", [True, False])
def test_a_normalisation_by_feature_or_for_all(
    normalisation: dict[str, Any], pixels: bool, tmp_path: Path
) -> None:
    network = xn.Sequential(4, 5, "tanh", 3, seed=0)
    network.metadata = {"normalisation": normalisation, "pixels": pixels}
    x = np.random.default_rng(0).integers(0, 5, (7, 4)).astype("uint8" if pixels else "float32")
    (found,) = written(network, tmp_path / "n.onnx", normalise=True).run(None, {"x": x})
    scale, shift = (
        np.asarray(normalisation[name], np.float32).reshape(-1) for name in ("scale", "shift")
    )
    expected = network.forward(x.astype(np.float32) * scale + shift)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["scale", "shift"])
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        1e300,  # no float32
        None,
        "0.5",
        True,
        1j,
        [1.0, 2.0, 3.0],
        [[1.0, 2.0, 3.0, 4.0]],
        [1.0, 2.0, 3.0, math.nan],
        [1.0, 2.0, 3.0, "4"],
        [1.0, [2.0], 3.0, 4.0],
        {"of": 1},
    ],
)
def test_what_is_no_normalisation_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    network = xn.Sequential(4, 3)
    network.metadata = {"normalisation": {"scale": 1.0, "shift": 0.0} | {name: value}}
    with pytest.raises(ConfigError, match=rf" has {name} .*scale and shift have to be") as e:
        xn.export_onnx(network, tmp_path / "n.onnx", normalise=True)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [None, 3, "standard", [1.0, 0.0], {}, {"shift": 0.0}])
def test_a_missing_normalisation_is_refused(value: Any, tmp_path: Path) -> None:
    network = xn.Sequential(4, 3)
    network.metadata = {"normalisation": value}
    with pytest.raises(ConfigError, match=r"normalisation .* is .*: scale and shift have"):
        xn.export_onnx(network, tmp_path / "n.onnx", normalise=True)


# In from scikit-learn.

X = np.random.default_rng(0).standard_normal((60, 3))


@pytest.mark.parametrize(
    "names",
    [
        np.array([3, 5, 9]),
        np.array([3, 5, 9], np.uint8),
        np.array(["ant", "bee", "cow"]),
        np.array(["ant", "bee", "cow"], object),
        np.array([0.0, 1.0, 2.0]),
        np.array([False, True]),
        np.array([-1, 1], np.int8),
    ],
    ids=lambda names: f"{names.dtype}",
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_labels_of_any_kind_name_the_classes(names: np.ndarray, tmp_path: Path) -> None:
    y = names[np.random.default_rng(1).integers(0, len(names), 60)]
    model = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, y)
    network = xn.from_sklearn(model)
    assert network.metadata["classes"] == [str(name) for name in names]
    np.testing.assert_allclose(network.predict_proba(X), model.predict_proba(X), rtol=1e-9)
    assert (model.classes_[network.predict(X)] == model.predict(X)).all()
    xn.save(network, tmp_path / "m.safetensors")
    assert xn.load(tmp_path / "m.safetensors").metadata["classes"] == network.metadata["classes"]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_regressors_network_predicts_values(outputs: int) -> None:
    y = X[:, :outputs] if outputs > 1 else X[:, 0]
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(X, y)
    found = xn.from_sklearn(model).predict(X)
    assert found.shape == model.predict(X).shape
    np.testing.assert_allclose(found, model.predict(X), rtol=1e-9)


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("method", ["predict", "predict_proba", "_forward_pass_fast"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_subclass_that_computes_otherwise_is_refused(method: str) -> None:
    y = (X[:, 0] > 0).astype(int)
    kind = type("Mine", (MLPClassifier,), {method: lambda self, X: None})
    model = MLPClassifier((4,), max_iter=3).fit(X, y)
    model.__class__ = kind
    with pytest.raises(ConfigError, match=rf"the Mine has a {method}\(\) that is not MLPClass"):
        xn.from_sklearn(model)
    model.__class__ = type("Named", (MLPClassifier,), {})
    assert xn.from_sklearn(model).out_features == 2
