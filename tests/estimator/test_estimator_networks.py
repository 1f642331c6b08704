"""The networks of the estimators: lists of settings, `batch_norm`, `network=`, `callbacks`."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale

import xpnet as xn
from xpnet.errors import ConfigError, ShapeError
from xpnet.estimator import XpnetClassifier, XpnetRegressor

X, Y = load_iris(return_X_y=True)
X = scale(X)


def classifier(**parameters: Any) -> XpnetClassifier:
    shared = {"hidden_layer_sizes": (8, 6), "max_iter": 20, "n_iter_no_change": float("inf")}
    return XpnetClassifier(
        **{**shared, "random_state": 0, "learning_rate_init": 0.02, **parameters}
    )


def wide_or_deep(features: int, outputs: int) -> list[Any]:
    return [features, 16, "tanh", xn.LayerNorm(16), outputs]


def kinds(fitted: Any) -> list[str]:
    return [type(layer).__name__ for layer in fitted.network_.layers]


def same_weights(one: Any, other: Any) -> bool:
    return np.array_equal(one.network_.flat_parameters, other.network_.flat_parameters)


def test_each_hidden_layer_has_its_activation_and_dropout() -> None:
    found = classifier(activation=["tanh", "identity"], dropout=[0.0, 0.25]).fit(X, Y)
    assert kinds(found) == ["Linear", "Tanh", "Linear", "Dropout", "Linear"]
    assert found.network_.layers[3].rate == 0.25
    found = classifier(activation=("relu", "gelu"), batch_norm=True, dropout=0.1).fit(X, Y)
    block = ["Linear", "BatchNorm"]
    assert kinds(found) == [*block, "ReLU", "Dropout", *block, "GELU", "Dropout", "Linear"]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_list_of_equal_entries_is_the_entry_bit_for_bit(activation: str) -> None:
    one = classifier(activation=activation, dropout=0.2).fit(X, Y)
    several = classifier(activation=[activation] * 2, dropout=[0.2, 0.2]).fit(X, Y)
    assert same_weights(one, several)


def test_without_hidden_layers_the_lists_are_empty() -> None:
    found = classifier(hidden_layer_sizes=(), activation=[], dropout=[]).fit(X, Y)
    assert kinds(found) == ["Linear"]


def test_a_network_is_what_a_function_makes_of_the_numbers() -> None:
    found = classifier(network=wide_or_deep).fit(X, Y)
    assert kinds(found) == ["Linear", "Tanh", "LayerNorm", "Linear"]
    assert found.score(X, Y) > 0.9
    assert same_weights(found, clone(found).fit(X, Y))
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.predict_proba(X), found.predict_proba(X))
    two = XpnetRegressor(network=wide_or_deep, max_iter=5, n_iter_no_change=float("inf"))
    assert two.fit(X, X[:, :2]).predict(X).shape == (150, 2)


def test_a_function_may_return_a_network() -> None:
    as_list = classifier(network=lambda n, m: [n, 5, "relu", m]).fit(X, Y)
    made = classifier(network=lambda n, m: xn.Sequential(n, 5, "relu", m, seed=3)).fit(X, Y)
    assert kinds(as_list) == kinds(made)


def test_a_given_network_is_copied_with_its_weights() -> None:
    trained = classifier(network=wide_or_deep, max_iter=60).fit(X, Y).network_
    before = trained.flat_parameters.copy()
    more = classifier(network=trained, learning_rate_init=1e-6, max_iter=1)
    assert more.fit(X, Y).score(X, Y) > 0.9
    assert np.array_equal(trained.flat_parameters, before)
    assert clone(more).fit(X, Y).score(X, Y) > 0.9


def test_images_are_possible() -> None:
    x, y = load_digits(return_X_y=True)

    def convolutions(features: int, outputs: int) -> list[Any]:
        layers = [xn.Unflatten((8, 8)), xn.Conv2d(8, 3), xn.ReLU(), xn.Flatten()]
        return [*layers, xn.Linear(8 * 6 * 6, outputs)]

    found = classifier(network=convolutions, max_iter=8).fit(x[:400] / 16, y[:400])
    assert found.loss_curve_[-1] < 0.9 * found.loss_curve_[0]


def test_a_search_over_activations_and_networks() -> None:
    choices = [
        {"activation": [["relu", "tanh"], "gelu"], "batch_norm": [True, False]},
        {"network": [wide_or_deep, None]},
    ]
    alone, together = (
        GridSearchCV(classifier(), choices, cv=2, n_jobs=jobs).fit(X, Y) for jobs in (1, 2)
    )
    scores = together.cv_results_["mean_test_score"]
    assert len(scores) == 6
    assert together.best_score_ > 0.9
    np.testing.assert_allclose(alone.cv_results_["mean_test_score"], scores, atol=0.014)


@pytest.mark.parametrize("count", [201, 401])
def test_batches_of_batch_norm_have_no_single_row(count: int) -> None:
    x = np.random.default_rng(0).standard_normal((count, 3))
    found = classifier(batch_norm=True, max_iter=2).fit(x, (x[:, 0] > 0) * 1)
    assert found.n_iter_ == 2
    with pytest.raises(ConfigError, match="BatchNorm cannot train on a batch of 1 row"):
        classifier(batch_norm=True, batch_size=200).fit(x, (x[:, 0] > 0) * 1)


def test_gradients_are_clipped() -> None:
    plain, same = classifier().fit(X, Y), classifier(clip_norm=1e6).fit(X, Y)
    clipped = classifier(clip_norm=1e-3, solver="sgd", max_iter=1, batch_size=150, momentum=0)
    start = classifier(learning_rate_init=1e-300, solver="sgd", max_iter=1, momentum=0).fit(X, Y)
    move = clipped.fit(X, Y).network_.flat_parameters - start.network_.flat_parameters
    assert np.allclose(plain.predict_proba(X), same.predict_proba(X), rtol=1e-9)
    # One step is as long as the rate times the norm of the gradient, which is above 0.1, and to
    # which 1e-6 is added before it divides (as in PyTorch's `clip_grad_norm_`).
    assert np.linalg.norm(move) == pytest.approx(0.02 * 1e-3, rel=1e-5)


class StopAfter(xn.Callback):
    """Ends training after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.losses = epochs, list[float]()

    def on_log(self, run: Any, record: Any) -> None:
        self.losses.append(record.loss)
        run.stop = run.stop or len(self.losses) >= self.epochs


@pytest.mark.parametrize("as_list", [False, True])
def test_callbacks_are_called_and_may_end_training(as_list: bool) -> None:
    callback = StopAfter(4)
    given = [callback] if as_list else callback
    # It has ended on purpose, which is no failure to converge: no warning.
    found = classifier(callbacks=given, n_iter_no_change=10).fit(X, Y)
    assert found.n_iter_ == 4
    assert callback.losses == found.loss_curve_


def test_a_callback_that_ends_training_in_the_last_epoch_is_no_failure_to_converge() -> None:
    found = classifier(callbacks=StopAfter(4), n_iter_no_change=10, max_iter=4).fit(X, Y)
    assert found.n_iter_ == 4


def test_early_stopping_is_a_parameter_not_a_callback() -> None:
    with pytest.raises(ConfigError, match=r"callbacks has an EarlyStopping.*early_stopping=True"):
        classifier(callbacks=[xn.EarlyStopping(2)]).fit(X, Y)


def test_a_warm_start_goes_on_with_the_same_network() -> None:
    found = classifier(network=wide_or_deep, warm_start=True, max_iter=2).fit(X, Y)
    found.fit(X, Y)
    with pytest.raises(ConfigError, match="network, device or loss has changed"):
        found.set_params(network=None).fit(X, Y)


def test_layers_that_do_not_fit_each_other_are_named() -> None:
    with pytest.raises(ShapeError):
        classifier(network=lambda n, m: [xn.Linear(n, 5), xn.Linear(6, m)]).fit(X, Y)


@pytest.mark.parametrize(("activation", "factor"), [("relu", 6), ("tanh", 6), ("logistic", 2)])
def test_weights_and_biases_begin_as_those_of_mlpclassifier(activation: str, factor: int) -> None:
    """Uniform within the bounds of scikit-learn; the largest of some hundred is near them."""
    still = {"learning_rate_init": 1e-300, "solver": "sgd", "max_iter": 1}
    found = classifier(hidden_layer_sizes=(200, 200), activation=activation, **still).fit(X, Y)
    theirs = MLPClassifier((200, 200), activation, random_state=0, **still)
    with pytest.warns(ConvergenceWarning):
        theirs.fit(X, Y)
    values = [np.array(value) for value in found.network_.parameters().values()]
    pairs = zip(values[::2], values[1::2], theirs.coefs_, theirs.intercepts_, strict=True)
    for weight, bias, their_weight, their_bias in pairs:
        bound = np.sqrt(factor / sum(weight.shape))
        for ours, others in ((weight, their_weight.T), (bias, their_bias)):
            assert ours.shape == others.shape
            assert max(np.abs(ours).max(), np.abs(others).max()) <= bound
            if ours.size >= 200:
                # (1 - 0.05) ** 200 is 4e-5.
                assert min(np.abs(ours).max(), np.abs(others).max()) > 0.95 * bound
