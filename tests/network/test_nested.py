"""Networks and residual blocks as layers: names, gradients, files, copies, freezing."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import error, place
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import CheckpointError, ConfigError, ShapeError
from xpnet.gradcheck import check_network
from xpnet.layers import Residual

X = np.random.default_rng(0).standard_normal((7, 6))
LABELS = np.random.default_rng(1).integers(0, 3, 7)


def nested(backend: Backend | str = "cpu", dtype: str = "float64") -> xn.Sequential:
    body = xn.Sequential(6, 5, "tanh", backend=backend, dtype=dtype, seed=4)
    block = Residual(5, 5, "gelu", xn.LayerNorm(5), xn.Sequential(5, 5))
    return xn.Sequential(body, block, xn.Dropout(0.2), 3, backend=backend, dtype=dtype, seed=1)


def test_parameters_are_named_by_path() -> None:
    names = [*nested().parameters()]
    assert names == [
        *("0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias"),
        *("1.2.weight", "1.2.bias", "1.3.0.weight", "1.3.0.bias", "3.weight", "3.bias"),
    ]


def test_names_and_outputs_are_those_of_torch() -> None:
    network = xn.Sequential(xn.Sequential(6, 5, "tanh"), xn.Sequential(5, 4, "relu", 3))
    nn = torch.nn
    first, second = (
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()),
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
    )
    module = nn.Sequential(first, second)
    module.load_state_dict({n: torch.as_tensor(v.copy()) for n, v in network.state_dict().items()})
    expected = module(torch.as_tensor(X, dtype=torch.float32)).detach().numpy()
    assert error(network(X.astype("float32")), expected) <= 1e-6


def test_every_gradient_agrees_with_central_differences(backend: Backend) -> None:
    network = nested(backend)
    x, labels = place(backend, X), backend.asarray(LABELS)
    errors = check_network(network, xn.SoftmaxCrossEntropy(), x, labels)
    assert len(errors) == 11
    assert max(errors.values()) <= 1e-7


def test_a_nested_network_keeps_its_values_and_trains(backend: Backend) -> None:
    inner = xn.Sequential(6, 5, "tanh", seed=9)
    kept = inner.parameters()["0.weight"].copy()
    network = xn.Sequential(inner, 3, backend=backend)
    found = network.parameters()["0.0.weight"]
    assert np.array_equal(backend.to_host(found), kept)
    x = X.astype("float32")
    history = xn.fit(network, (x, LABELS), optimizer="sgd", epochs=3, batch_size=4)
    assert len(history) == 3
    assert not np.array_equal(backend.to_host(found), kept)
    assert backend.to_host(network.predict(x)).shape == (7,)


def test_training_is_recorded_and_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpnet.accel import recording

    ends, recorded = [], []
    record = recording.record
    monkeypatch.setattr(recording, "record", lambda *a: recorded.append(1) or record(*a))
    for enabled in (True, False):
        monkeypatch.setattr(SETTINGS, "recording_enabled", enabled)
        network = nested()
        xn.fit(network, (X, LABELS), optimizer=xn.Adam(0.01), epochs=6, batch_size=4)
        ends.append(network.flat_parameters.tobytes())
    assert ends[0] == ends[1]
    assert len(recorded) == 2


def test_files_copies_and_pickles(tmp_path: Path) -> None:
    network = nested()
    expected = network(X)
    xn.save(network, tmp_path / "nested.safetensors")
    made = [
        xn.load(tmp_path / "nested.safetensors"),
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        network[:],
    ]
    for other in made:
        assert [*other.state_dict()] == [*network.state_dict()]
        assert np.array_equal(other(X), expected)
    part = network.layers[1].layers[3]  # type: ignore[attr-defined]
    alone = part.copy()
    assert alone(X[:, :5]).shape == (7, 5)
    assert np.array_equal(alone.parameters()["0.weight"], network.parameters()["1.3.0.weight"])


def test_the_part_of_another_network_says_so() -> None:
    network = nested()
    part = network.layers[0]
    assert isinstance(part, xn.Sequential)
    for wrong in (
        lambda: part.flat_parameters,
        lambda: part.state_dict(),
        lambda: xn.fit(part, (X, LABELS), optimizer="sgd", epochs=1),
    ):
        with pytest.raises(ConfigError, match=r"is a layer of another network.*copy\(\)"):
            wrong()
    with pytest.raises(ConfigError, match="belongs to another network"):
        xn.Sequential(part, 3)


def test_freezing_a_nested_network() -> None:
    network = nested()
    network.layers[0].trainable = False
    before = {n: v.copy() for n, v in network.parameters().items()}
    xn.fit(network, (X, LABELS), optimizer=xn.SGD(0.1), epochs=2, batch_size=None)
    changed = [n for n, v in network.parameters().items() if not np.array_equal(v, before[n])]
    assert changed
    assert all(not name.startswith("0.") for name in changed)
    assert "(frozen)" in network.summary()


def test_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"layer 0: Residual.*takes 4 features.*give 3"):
        xn.Sequential(Residual(4, 3))
    with pytest.raises(ShapeError, match=r"takes 6 features and is given 5"):
        xn.Sequential(5, xn.Sequential(6, 3))
    with pytest.raises(ConfigError, match="at least one layer"):
        Residual()
    linear = xn.Linear(4, 4)
    with pytest.raises(ConfigError, match="same layer object twice"):
        Residual(linear, linear)


def test_a_file_of_containers_without_end() -> None:
    entry: dict[str, object] = {"type": "Linear", "in_features": 2, "out_features": 2}
    for _ in range(60):
        entry = {"type": "Residual", "layers": [entry]}
    with pytest.raises(CheckpointError, match="is nested more than 20 deep"):
        xn.Sequential.from_architecture([entry])
    for layers in ("text", [3], [{"type": "Residual"}], {}):
        with pytest.raises(CheckpointError, match="layer 0"):
            xn.Sequential.from_architecture([{"type": "Residual", "layers": layers}])


def test_a_large_batch_is_not_split_around_a_nested_batch_norm() -> None:
    from xpnet.training import microbatch

    rows = 2 * microbatch.MICROBATCH_ROWS
    loss = xn.SoftmaxCrossEntropy()
    plain = xn.Sequential(xn.Sequential(6, 5), 3)
    assert microbatch.can_split(plain, loss, rows)
    normalised = xn.Sequential(Residual(6, 6, xn.BatchNorm(6)), 3)
    assert not microbatch.can_split(normalised, loss, rows)


def test_a_part_predicts_with_buffers_of_its_own() -> None:
    network = nested(dtype="float32")
    x = X.astype("float32")
    part = network.layers[0]
    assert isinstance(part, xn.Sequential)
    first = part(x)
    kept = first.copy()
    part(-x)
    assert np.array_equal(first, kept)
    loss = xn.SoftmaxCrossEntropy()
    network.set_sample_counter(0)
    loss.forward(network.forward(x, training=True), LABELS)
    network.backward(loss.backward())
    expected = network.flat_gradients.copy()
    network.set_sample_counter(0)
    loss.forward(network.forward(x, training=True), LABELS)
    part(-x)
    network.backward(loss.backward())
    assert np.array_equal(network.flat_gradients, expected)
    network.flat_parameters *= 2
    assert not np.array_equal(part(x), kept)
    network.layers[2].trainable = False
    network.flat_parameters *= 0.5
    assert np.allclose(part(x), kept, rtol=1e-6)


@pytest.mark.parametrize("outer", ["network", "append", "residual"])
def test_a_frozen_layer_within_another_stays_frozen(
    outer: str, tmp_path: Path, backend: Backend
) -> None:
    part = xn.Sequential(6, 5, "relu", 6, backend=backend)
    inside = part.layers[0] if outer != "residual" else part.layers[0].copy()
    inside.trainable = False
    if outer == "network":
        network, name = xn.Sequential(part, 3, backend=backend), "0.0"
    elif outer == "append":
        network, name = xn.Sequential(6, 6, backend=backend).append(part).append(3), "1.0"
    else:
        network, name = xn.Sequential(Residual(inside, 6), 3, backend=backend), "0.0"
    frozen = {f"{name}.weight", f"{name}.bias"}
    before = {n: backend.to_host(a).copy() for n, a in network.state_dict().items()}
    size = sum(a.size for n, a in before.items() if n not in frozen)
    assert network.flat_parameters.size == size
    xn.fit(network, (X.astype("float32"), LABELS), optimizer="adam", epochs=1, l2=1.0)
    after = {n: backend.to_host(a) for n, a in network.state_dict().items()}
    same = {n for n in before if np.array_equal(before[n], after[n])}
    assert same == frozen
    assert "frozen)" in network.summary()
    xn.save(network, tmp_path / "m.safetensors")
    assert xn.load(tmp_path / "m.safetensors").flat_parameters.size == size
    module = xn.to_torch(network)
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == frozen
    network.append(2)
    assert network.flat_parameters.size == size + 3 * 2 + 2


def test_a_layer_within_another_is_frozen_and_trained_again() -> None:
    network = nested()
    size, block = network.flat_parameters.size, network.layers[1]
    linear = block.layers[0]  # type: ignore[attr-defined]
    linear.trainable = False
    assert network.flat_parameters.size == size - 5 * 5 - 5
    assert "(30 frozen)" in network.summary()
    block.trainable = False
    assert not linear.trainable
    linear.trainable = True
    assert network.flat_parameters.size == size - (10 + 30)
    assert max(check_network(network, xn.SoftmaxCrossEntropy(), X, LABELS).values()) <= 1e-6
    block.trainable = True
    assert network.flat_parameters.size == size


def test_one_layer_at_two_places_is_refused() -> None:
    layer, drop = xn.Linear(4, 4), xn.Dropout(0.5)
    for layers in (
        [layer, "tanh", Residual(layer)],
        [Residual(layer), "tanh", Residual(layer)],
        [Residual(layer), "tanh", xn.Sequential(layer)],
        [drop, xn.Linear(4, 4), Residual(xn.Linear(4, 4), drop)],
    ):
        with pytest.raises(ConfigError, match=r"^the network contains the same layer object twice"):
            xn.Sequential(*layers)
    with pytest.raises(ConfigError, match="Residual contains the same layer object twice"):
        Residual(Residual(layer), layer)


def test_a_network_within_itself_is_refused_and_stays_as_it_was() -> None:
    network = xn.Sequential(xn.Sequential(6, 6), "tanh", 6)
    expected = network(X).copy()
    for added in (network, Residual(network), network.layers[0]):
        with pytest.raises(ConfigError, match="same layer object twice"):
            network.append(added)
        assert len(network) == 3
        assert np.array_equal(network(X), expected)


def test_layers_within_layers_are_no_deeper_than_a_file_may_have_them(tmp_path: Path) -> None:
    network = xn.Sequential(6, 3)
    for _ in range(20):
        network = xn.Sequential(network, xn.ReLU())
    xn.save(network, tmp_path / "m.safetensors")
    assert np.array_equal(xn.load(tmp_path / "m.safetensors")(X), network(X))
    with pytest.raises(ConfigError, match="nested more than 20 deep"):
        xn.Sequential(network, xn.ReLU())
