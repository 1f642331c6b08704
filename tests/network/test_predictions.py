"""What `predict` and `predict_proba` answer, by the loss that the network was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import LOSSES, place
from scipy.special import expit, softmax

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import CheckpointError, ConfigError, DataError

X = np.random.default_rng(0).standard_normal((60, 4)).astype("float32")
VALUES = 3 * X[:, :2] - 1


def trained(
    outputs: int, target: Any, loss: xn.losses.Loss, backend: Backend | str = "cpu"
) -> xn.Sequential:
    network = xn.Sequential(4, 8, "tanh", outputs, backend=backend, seed=1)
    data = xn.DeviceData(X, target, backend=network.backend, dtype="float32")
    xn.fit(network, data, optimizer=xn.Adam(0.05), loss=loss, epochs=60, batch_size=20)
    return network


@pytest.mark.parametrize(
    "target", [VALUES[:, 0], VALUES[:, :1], VALUES], ids=["(N,)", "(N, 1)", "(N, 2)"]
)
def test_of_a_regression_the_values_as_the_targets_were(
    target: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    made = trained(target[0].size, target, xn.MeanSquaredError(), backend)
    found = backend.to_host(made.predict(place(backend, X, "float32")))
    assert found.shape == target.shape
    # The deviation of the values is 3: far from the zeros that an argmax of one column gives.
    assert np.abs(found - target).mean() < 0.5
    with pytest.raises(ConfigError, match="trained on values, so it has no probabilities"):
        made.predict_proba(X)
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors", device=backend)
    assert np.array_equal(backend.to_host(read.predict(place(backend, X, "float32"))), found)


@pytest.mark.parametrize("labels", [VALUES[:, 0] > 0, VALUES[:, :1] > 0, VALUES > 0])
def test_of_independent_labels_zeros_and_ones(
    labels: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    made = trained(
        labels[0].size, labels.astype("float32"), xn.SigmoidBinaryCrossEntropy(), backend
    )
    x = place(backend, X, "float32")
    found = backend.to_host(made.predict(x))
    assert found.shape == labels.shape
    assert found.dtype == np.int64
    assert set(np.unique(found)) == {0, 1}
    assert (found == labels).mean() > 0.9
    p = backend.to_host(made.predict_proba(x))
    assert np.allclose(p, expit(backend.to_host(made.forward(x))), atol=1e-6)
    assert np.array_equal(p > 0.5, found.reshape(p.shape) == 1)
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors", device=backend)
    assert np.array_equal(backend.to_host(read.predict(x)), found)


def test_of_classes_their_numbers(backend: Backend) -> None:
    labels = VALUES.argmax(axis=1)
    made, x = trained(2, labels, xn.SoftmaxCrossEntropy(), backend), place(backend, X, "float32")
    assert (backend.to_host(made.predict(x)) == labels).mean() > 0.9
    logits = backend.to_host(made.forward(x))
    assert np.allclose(backend.to_host(made.predict_proba(x)), softmax(logits, axis=1), atol=1e-6)


def test_of_counts_the_rates(backend: Backend, tmp_path: Path) -> None:
    rates = np.exp(X[:, :2])
    made = trained(2, rates, xn.Poisson(), backend)
    x = place(backend, X, "float32")
    found = backend.to_host(made.predict(x))
    assert np.array_equal(found, np.exp(backend.to_host(made.forward(x))))
    # The rates lie between 0.1 and 12.
    assert np.abs(np.log(found / rates)).mean() < 0.1
    with pytest.raises(ConfigError, match="trained on values, so it has no probabilities"):
        made.predict_proba(x)
    with pytest.raises(ConfigError, match="a network that predicts rates"):
        xn.evaluate(made, (X, np.arange(60) % 2))
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors", device=backend)
    assert np.array_equal(backend.to_host(read.predict(x)), found)


@pytest.mark.parametrize("target", [VALUES[:, 0], VALUES[:, :1]], ids=["(N,)", "(N, 1)"])
def test_of_several_quantiles_a_column_each(
    target: np.ndarray, backend: Backend, tmp_path: Path
) -> None:
    made = trained(3, target, xn.Quantile((0.1, 0.5, 0.9)), backend)
    x = place(backend, X, "float32")
    found = backend.to_host(made.predict(x))
    assert np.array_equal(found, backend.to_host(made.forward(x)))
    # Ten of a hundred are above the 0.9-quantile; in 60 samples that were trained on, roughly.
    above = (target.reshape(60, 1) > found).mean(axis=0)
    assert above[0] > 0.7
    assert above[2] < 0.3
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors", device=backend)
    assert np.array_equal(backend.to_host(read.predict(x)), found)


def test_of_a_loss_of_ones_own_the_values() -> None:
    class Own(xn.MeanSquaredError):
        pass

    made = trained(2, VALUES, Own())
    assert np.array_equal(made.predict(X), made.forward(X))


def test_before_any_training() -> None:
    one, three = xn.Sequential(4, 1), xn.Sequential(4, 3)
    assert np.array_equal(one.predict(X), one.forward(X))
    assert np.array_equal(three.predict(X), three.forward(X).argmax(axis=1))
    with pytest.raises(ConfigError, match="has a single output, so it has no"):
        one.predict_proba(X)


def test_what_follows_the_softmax_in_training_alone_does_not_hide_it() -> None:
    class Own(xn.Softmax):
        pass

    for layers in ([xn.Softmax(), xn.Dropout(0.5)], [Own()]):
        made = xn.Sequential([xn.Linear(4, 3), *layers])
        assert np.array_equal(made.predict_proba(X), made.forward(X))
        with pytest.raises(ConfigError, match="applies its activation itself"):
            xn.fit(made, (X, VALUES.argmax(1)), optimizer="sgd", epochs=1)
        labels = np.arange(60) % 3
        assert xn.evaluate(made, (X, labels)).loss == xn.evaluate(made[:1], (X, labels)).loss


@pytest.mark.parametrize("last", [xn.Softmax, xn.Sigmoid])
def test_a_network_that_ends_in_probabilities(last: Callable[[], Any], backend: Backend) -> None:
    """They are not made probabilities once more, by `predict_proba` or a loss."""
    made = xn.Sequential(4, 3, last(), backend=backend)
    x = place(backend, X, "float32")
    p = backend.to_host(made.predict_proba(x))
    assert np.array_equal(p, backend.to_host(made.forward(x)))
    assert np.array_equal(backend.to_host(made.predict(x)), p.argmax(axis=1))
    words = rf"ends in {last.__name__}\(\), and .*CrossEntropy applies its activation itself"
    for loss, target in (("cross_entropy", VALUES.argmax(1)), ("binary_cross_entropy", p)):
        before = backend.to_host(made.flat_parameters).copy()
        with pytest.raises(ConfigError, match=words):
            xn.fit(made, (X, target), optimizer="sgd", loss=loss, epochs=1)
        assert np.array_equal(backend.to_host(made.flat_parameters), before)
    data = xn.DeviceData(X, p, backend=backend, dtype="float32")
    xn.fit(made, data, optimizer="sgd", loss="mse", epochs=1)


def test_the_former_name_warns() -> None:
    made = xn.Sequential(4, 3)
    with pytest.warns(
        DeprecationWarning, match=r"^predict_probabilities.*use predict_proba"
    ) as found:
        assert np.array_equal(made.predict_probabilities(X), made.predict_proba(X))
    assert found[0].filename == __file__


def test_the_seed_is_saved_so_that_training_goes_on_as_it_would(tmp_path: Path) -> None:
    def fit(network: xn.Sequential) -> bytes:
        xn.fit(network, (X, VALUES.argmax(1)), optimizer=xn.SGD(0.1), epochs=2, batch_size=8)
        return network.flat_parameters.tobytes()

    made = xn.Sequential(4, 8, "relu", xn.Dropout(0.5), 2, seed=2**64 - 1)
    xn.save(made, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors")
    assert read.seed == made.seed
    assert fit(read) == fit(made)
    with pytest.raises(
        ConfigError, match=r"^seed of Sequential must be a whole number below 2\^64"
    ):
        xn.Sequential(4, 3, seed=10**22)
    with pytest.raises(ConfigError, match=r"^seed of Sequential .* of 0 or more, found -1"):
        xn.Sequential(4, 3, seed=-1)


DAMAGED = [("seed", value) for value in (-1, True, 1.5, 2**64)]
DAMAGED += [("prediction", v) for v in (3, {"kind": "digit"}, {"kind": "class", "shape": [7]})]


@pytest.mark.parametrize(("field", "value"), DAMAGED)
def test_a_damaged_description_is_named(field: str, value: Any, tmp_path: Path) -> None:
    from xpnet.serialization import describe, write

    made, path = xn.Sequential(4, 3), tmp_path / "model.safetensors"
    write(path, made.state_dict(), describe(made) | {field: value})
    with pytest.raises(CheckpointError, match=f"{path}: {field}"):
        xn.load(path)


def test_a_loss_gives_a_number_to_keep(backend: Backend) -> None:
    loss, rng = xn.SoftmaxCrossEntropy(), np.random.default_rng(0)
    labels = backend.asarray(np.arange(6) % 3)
    batches = [place(backend, rng.standard_normal((6, 3)), "float64") for _ in range(3)]
    kept = [loss(logits, labels) for logits in batches]
    assert all(type(value) is float for value in kept)
    assert kept == [float(backend.to_host(loss.forward(logits, labels))) for logits in batches]
    assert len(set(kept)) == 3
    with pytest.raises(DataError, match="target"):
        loss(batches[0], labels + 3)


def test_backward_needs_a_forward_pass_in_training(backend: Backend) -> None:
    made, loss = xn.Sequential(4, 3, backend=backend), xn.SoftmaxCrossEntropy()
    x, labels = place(backend, X, "float32"), backend.asarray(VALUES.argmax(1))
    for again in (lambda: None, lambda: made.forward(x), lambda: made.append("relu")):
        again()
        with pytest.raises(
            ConfigError, match=r"backward\(\) needs forward\(x, training=True\) first"
        ):
            made.backward(x[:, :3])
    kinds = {case.kind for case in LOSSES}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        with pytest.raises(ConfigError, match=rf"^{kind.__name__}: backward\(\) needs forward"):
            kind().backward()
    loss.forward(made.forward(x, training=True), labels)
    made.backward(loss.backward())


def test_of_a_loss_of_ones_own_for_classes_the_class() -> None:
    class Focal(xn.losses.Loss):
        """Some other loss of labels, around one of xpnet's."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = xn.SoftmaxCrossEntropy()

        def forward(self, logits: Any, target: Any, weights: Any = None) -> Any:
            return self.inner.forward(logits, target, weights)

        def backward(self, scale: float = 1.0) -> Any:
            return self.inner.backward(scale)

        def get_config(self) -> dict[str, Any]:
            return {}

    labels = VALUES.argmax(axis=1)
    made = trained(2, labels, Focal())
    assert made.prediction == "class"
    assert (made.predict(X) == labels).mean() > 0.9
    assert np.allclose(made.predict_proba(X).sum(axis=1), 1, atol=1e-6)


def test_evaluate_takes_the_logits_of_a_network_that_ends_in_softmax(backend: Backend) -> None:
    made = xn.Sequential(4, 6, "tanh", 3, xn.Softmax(), backend=backend, seed=4)
    labels = np.arange(60) % 3
    data = xn.DeviceData(X, labels, backend=backend, dtype="float32")
    found, wanted = xn.evaluate(made, data), xn.evaluate(made[:-1], data)
    assert found.loss == wanted.loss
    assert found.accuracy == wanted.accuracy
    ends_in_sigmoid = xn.Sequential(4, 3, "sigmoid", backend=backend)
    with pytest.raises(ConfigError, match="applies its activation itself"):
        xn.evaluate(ends_in_sigmoid, data)
    made.prediction = "values"
    with pytest.raises(ConfigError, match="for a network that predicts values"):
        xn.evaluate(made, data)


@pytest.mark.parametrize("given", [lambda x: x, lambda x: x.tolist(), lambda x: x.astype(float)])
def test_what_lies_on_the_host_is_predicted_from_on_every_device(
    given: Callable[[np.ndarray], Any], backend: Backend
) -> None:
    made = xn.Sequential(4, 6, "tanh", 3, backend=backend, seed=4)
    there = backend.to_host(made.forward(place(backend, X, "float32")))
    assert np.array_equal(backend.to_host(made.forward(given(X))), there)
    assert np.array_equal(backend.to_host(made.predict(given(X))), there.argmax(axis=1))


def test_frozen_parameters_are_counted() -> None:
    made = xn.Sequential(4, 6, "tanh", 3)
    made.layers[0].trainable = False
    assert made.count_parameters() == 4 * 6 + 6 + 6 * 3 + 3
    assert made.flat_parameters.size == 6 * 3 + 3
