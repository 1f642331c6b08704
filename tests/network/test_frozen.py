"""Layers that are not trained: left out of updates, L2, decay, clipping and state; saved; shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from cases import place

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import CheckpointError, ConfigError
from xpnet.gradcheck import check_network

X = np.random.default_rng(0).standard_normal((24, 5))
LABELS = np.arange(24) % 3


def network(backend: Backend | str = "cpu", dtype: str = "float32") -> xn.Sequential:
    layers = [xn.Linear(5, 6), xn.BatchNorm(6), xn.ReLU(), xn.Dropout(0.2), xn.Linear(6, 3)]
    made = xn.Sequential(layers, backend=backend, dtype=dtype, seed=4)
    # Statistics and values that are not those of the beginning.
    made.forward(place(made.backend, X, dtype), training=True)
    made.flat_parameters += made.backend.asarray(
        np.linspace(0.1, 0.2, made.flat_parameters.size), dtype=dtype
    )
    return made


def host(network: xn.Sequential) -> dict[str, np.ndarray]:
    to_host = network.backend.to_host
    return {name: to_host(array).copy() for name, array in network.state_dict().items()}


def fit(made: xn.Sequential, **options: Any) -> xn.History:
    data = xn.DeviceData(X, LABELS, backend=made.backend, dtype=str(made.dtype))
    settings = {"optimizer": xn.AdamW(0.05, weight_decay=0.3), "epochs": 4, "batch_size": 7}
    return xn.fit(made, data, **(settings | {"l2": 0.5, "clip_norm": 0.5} | options))


def test_freezing_moves_no_value(backend: Backend) -> None:
    made = network(backend)
    before, x = host(made), place(backend, X, "float32")
    outputs = backend.to_host(made.forward(x))
    for value in (False, True, True, False):
        made.layers[1].trainable = made.layers[0].trainable = value
        after = host(made)
        assert list(after) == list(before)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        assert np.array_equal(backend.to_host(made.forward(x)), outputs)
    assert made.flat_parameters.size == 6 * 3 + 3
    assert made.decay_size == 6 * 3
    assert list(made.parameter_gradients()) == ["4.weight", "4.bias"]


@pytest.mark.parametrize("frozen", [[0], [0, 1], [1], [4], [0, 4]])
@pytest.mark.parametrize(
    "make",
    [
        lambda: xn.SGD(0.1, momentum=0.9, weight_decay=0.3),
        lambda: xn.RMSprop(0.01, weight_decay=0.3),
        lambda: xn.AdamW(0.05, weight_decay=0.3),
    ],
    ids=["SGD", "RMSprop", "AdamW"],
)
def test_what_is_frozen_stays_and_the_rest_moves(
    frozen: list[int], make: Any, backend: Backend
) -> None:
    made, optimizer = network(backend), make()
    for position in frozen:
        made.layers[position].trainable = False
    before = host(made)
    fit(made, optimizer=optimizer)
    after = host(made)
    for name in before:
        if name == "0.bias" and 1 not in frozen:
            continue  # before a BatchNorm its gradient is 0 but for rounding
        stays = int(name.partition(".")[0]) in frozen
        assert np.array_equal(before[name], after[name]) == stays, name
    assert all(state.shape == made.flat_parameters.shape for state in optimizer.state.values())


def test_the_norm_to_clip_and_l2_are_those_of_what_is_trained() -> None:
    """As of a network whose first layer is no longer there."""
    whole = xn.Sequential(5, 6, "tanh", 3, dtype="float64", seed=1)
    whole.layers[0].trainable = False
    part = whole[2:]
    x = whole[:2].forward(X)
    options = {"optimizer": None, "epochs": 5, "batch_size": 8, "l2": 0.3, "clip_norm": 0.1}
    one = xn.fit(whole, (X, LABELS), **(options | {"optimizer": xn.AdamW(0.01)}))
    other = xn.fit(part, (x, LABELS), **(options | {"optimizer": xn.AdamW(0.01)}))
    for name, value in part.parameters().items():
        position, _, own = name.partition(".")
        assert np.allclose(whole.parameters()[f"{int(position) + 2}.{own}"], value, atol=1e-12)
    assert np.allclose(one.column("loss"), other.column("loss"), atol=1e-12)


@pytest.mark.parametrize("frozen", [[1], [0, 1], [4], [0]])
def test_gradients_through_frozen_layers(frozen: list[int], backend: Backend) -> None:
    made = network(backend, "float64")
    for position in frozen:
        made.layers[position].trainable = False
    found = check_network(
        made, xn.SoftmaxCrossEntropy(), place(backend, X[:6]), backend.asarray(LABELS[:6])
    )
    trained = {n for n in made.parameters() if int(n.partition(".")[0]) not in frozen}
    assert set(found) == trained | {"input"}
    if 1 not in frozen:
        # Before a BatchNorm the gradient of a bias is 0 but for rounding.
        found.pop("0.bias", None)
    assert max(found.values()) <= 1e-7


def test_a_frozen_batch_norm_normalises_by_its_running_statistics(backend: Backend) -> None:
    made = network(backend)
    made.layers[1].trainable = made.layers[3].trainable = False
    x = place(backend, X[:1], "float32")
    before = host(made)
    # One row, whose own variance would be no estimate of anything.
    hidden = made[:3].forward(x)
    made[:3].forward(x, training=True)
    norm = made.layers[1]
    y = norm.forward(made.layers[0].forward(x, training=True), training=True)
    wanted = made[:2].forward(x)
    assert np.array_equal(backend.to_host(y), backend.to_host(wanted))
    assert hidden.shape == (1, 6)
    assert all(np.array_equal(before[name], after) for name, after in host(made).items())


def test_frozen_layers_are_saved_and_a_training_with_others_is_another(tmp_path: Path) -> None:
    made = network()
    made.layers[0].trainable = made.layers[1].trainable = False
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors")
    assert [layer.trainable for layer in read] == [False, False, True, True, True]
    assert read.architecture() == made.architecture()
    assert all(np.array_equal(host(made)[name], value) for name, value in host(read).items())

    folder = xn.Checkpoints(tmp_path / "run", "1 epoch")
    fit(made, checkpoints=folder)
    again = network()
    again.layers[0].trainable = False
    with pytest.raises(CheckpointError, match="is of another training: layer 1 is BatchNorm"):
        fit(again, checkpoints=folder)
    again.layers[1].trainable = False
    assert len(fit(again, checkpoints=folder)) == 4
    assert again.flat_parameters.tobytes() == made.flat_parameters.tobytes()


@pytest.mark.parametrize("case", **cases.by_id(cases.LAYERS))
def test_every_layer_can_be_frozen(case: cases.LayerCase, backend: Backend) -> None:
    layer = case.make()
    layer.trainable = False
    made = xn.Sequential(case.between(4, 3, layer), backend=backend, seed=2)
    position = made.layers.index(layer)
    size = sum(math.prod(p.shape) for p in layer.parameters().values())
    everything = sum(value.size for value in made.parameters().values())
    assert made.flat_parameters.size == everything - size
    before = host(made)
    data = xn.DeviceData(X[:, :4], LABELS, backend=backend, dtype="float32")
    xn.fit(made, data, optimizer=xn.Adam(), epochs=2, batch_size=8)
    for name, value in host(made).items():
        assert np.array_equal(before[name], value) == name.startswith(f"{position}."), name
    assert " (frozen)" in made.summary()
    assert (f"all ({size:,} frozen)" in made.summary()) == (size > 0)
    assert f"{everything:,}" in made.summary().splitlines()[-1]


def test_what_cannot_be_is_named() -> None:
    made = network()
    with pytest.raises(ConfigError, match=r"^trainable must be True or False, found 0$"):
        made.layers[0].trainable = 0
    for layer in made:
        layer.trainable = False
    with pytest.raises(ConfigError, match="no parameters to train"):
        fit(made)
    optimizer = xn.Adam()
    made.layers[4].trainable = True
    fit(made, optimizer=optimizer)
    made.layers[4].trainable = False
    made.layers[4].trainable = True
    with pytest.raises(ConfigError, match="make a new optimizer"):
        fit(made, optimizer=optimizer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: setattr(made.layers[0], "trainable", False), "trainable of a layer cannot"),
        (lambda made: made.append(2), "no layer can be appended while fit"),
    ],
)
def test_layers_do_not_change_while_fit_trains(change: Any, words: str) -> None:
    class Change(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            change(run.network)

    made = network()
    with pytest.raises(ConfigError, match=words):
        fit(made, callbacks=[Change()])
    change(made)
