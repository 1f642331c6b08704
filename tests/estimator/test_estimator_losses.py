"""`XpnetRegressor(loss=)`: scikit-learn's losses, with predictions and scores on their scale."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import PoissonRegressor, QuantileRegressor
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor

import xpnet as xn
from xpnet.errors import ConfigError, DataError
from xpnet.estimator import XpnetRegressor
from xpnet.estimator._regressor import LOSSES

pytestmark = pytest.mark.needs("sklearn")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((240, 3))
VALUES = X @ [1.0, -0.5, 0.25] + RNG.standard_normal(240)
COUNTS = RNG.poisson(np.exp(X @ [0.6, -0.4, 0.2] + 0.5))
INTERVAL = (0.1, 0.5, 0.9)


def regressor(**parameters: Any) -> XpnetRegressor:
    shared = {"hidden_layer_sizes": (), "max_iter": 20, "n_iter_no_change": float("inf")}
    return XpnetRegressor(**{**shared, "random_state": 0, "alpha": 0.0, **parameters})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("columns", [None, 1, 2])
def test_every_loss_learns_and_predicts_in_the_shape_of_y(loss: str, columns: int | None) -> None:
    y = COUNTS if columns is None else np.stack([COUNTS] * columns, axis=1)
    found = regressor(loss=loss, hidden_layer_sizes=(8,), learning_rate_init=0.02, max_iter=60)
    found.fit(X, y)
    assert found.predict(X).shape == y.shape
    assert found.score(X, y) > 0.1
    assert found.loss_curve_[-1] < found.loss_curve_[0]


def test_a_loss_by_name_is_that_loss() -> None:
    for name, kind in LOSSES.items():
        by_name = regressor(loss=name).fit(X, COUNTS)
        given = regressor(loss=kind()).fit(X, COUNTS)
        assert np.array_equal(by_name.network_.flat_parameters, given.network_.flat_parameters)
    wide = regressor(loss=xn.Huber(delta=100)).fit(X, 10 * VALUES)
    narrow = regressor(loss="huber").fit(X, 10 * VALUES)
    assert wide.loss_ > 3 * narrow.loss_


@pytest.mark.filterwarnings("ignore:.* converged")
@pytest.mark.parametrize("weighted", [False, True])
def test_from_the_same_weights_counts_are_trained_as_by_mlpregressor(weighted: bool) -> None:
    shared = {"loss": "poisson", "hidden_layer_sizes": (7,), "solver": "sgd", "batch_size": 240}
    shared |= {"max_iter": 1, "warm_start": True, "tol": 0.0, "alpha": 2.0, "random_state": 1}
    shared |= {"learning_rate_init": 0.01}
    weights = RNG.integers(1, 4, 240) if weighted else None
    ours = XpnetRegressor(**shared).fit(X, COUNTS, weights)
    theirs = MLPRegressor(**shared).fit(X, COUNTS, weights)
    values = [np.array(value) for value in ours.network_.parameters().values()]
    theirs.coefs_ = [np.ascontiguousarray(weight.T) for weight in values[::2]]
    theirs.intercepts_ = values[1::2]
    for network in (ours, theirs):
        network.set_params(max_iter=40).fit(X, COUNTS, weights)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-8)
    assert ours.score(X, COUNTS) == pytest.approx(theirs.score(X, COUNTS), rel=1e-8)


def test_without_hidden_layers_it_is_a_generalised_linear_model() -> None:
    found = regressor(loss="poisson", learning_rate_init=0.02, max_iter=400, batch_size=240)
    theirs = PoissonRegressor(alpha=0).fit(X, COUNTS)
    # Theirs ends where the gradient is below 1e-4; rates are about 2.
    np.testing.assert_allclose(found.fit(X, COUNTS).predict(X), theirs.predict(X), rtol=0.01)
    assert (found.predict(X) > 0).all()


def test_quantiles_are_those_of_a_linear_quantile_regression() -> None:
    fitted = regressor(loss="quantile", quantile=INTERVAL, learning_rate_init=0.01, max_iter=800)
    found = fitted.set_params(batch_size=240).fit(X, VALUES).predict(X)
    assert found.shape == (240, 3)
    for q, column in zip(INTERVAL, found.T, strict=True):
        theirs = QuantileRegressor(quantile=q, alpha=0).fit(X, VALUES).predict(X)
        # The deviation of VALUES is 1.5; steps of Adam at the end are about its rate.
        assert np.abs(column - theirs).mean() < 0.1
        assert (column > VALUES).mean() == pytest.approx(q, abs=0.03)


def test_scores_are_on_the_scale_of_the_targets() -> None:
    counts = regressor(loss="poisson").fit(X, COUNTS)
    assert counts.score(X, COUNTS) == r2_score(COUNTS, counts.predict(X))
    weights = RNG.random(240)
    one = regressor(loss="quantile", quantile=0.9).fit(X, VALUES)
    expected = d2_pinball_score(VALUES, one.predict(X), alpha=0.9, sample_weight=weights)
    assert one.score(X, VALUES, weights) == expected
    several = regressor(loss="quantile", quantile=INTERVAL).fit(X, VALUES)
    columns = zip(INTERVAL, several.predict(X).T, strict=True)
    expected = np.mean([d2_pinball_score(VALUES, column, alpha=q) for q, column in columns])
    assert several.score(X, VALUES) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("parameters", [{"loss": "poisson"}, {"loss": "quantile"}])
def test_held_out_samples_are_measured_by_the_same_score(parameters: dict[str, Any]) -> None:
    held = {"X_val": X[:80], "y_val": COUNTS[:80]}
    found = regressor(**parameters, early_stopping=True).fit(X, COUNTS, **held)
    assert found.best_validation_score_ == pytest.approx(found.score(X[:80], COUNTS[:80]), rel=1e-9)


def test_held_out_samples_of_several_quantiles() -> None:
    found = regressor(loss="quantile", quantile=INTERVAL, early_stopping=True).fit(X, VALUES)
    assert len(found.validation_scores_) == 20
    assert max(found.validation_scores_) == found.best_validation_score_


def test_a_saved_network_and_a_stored_estimator_predict_the_same(tmp_path: Path) -> None:
    for parameters in ({"loss": "poisson"}, {"loss": "quantile", "quantile": INTERVAL}):
        found = regressor(**parameters).fit(X, COUNTS)
        again = pickle.loads(pickle.dumps(found))
        assert np.array_equal(again.predict(X), found.predict(X))
        xn.save(found.network_, tmp_path / "model.safetensors")
        read = xn.load(tmp_path / "model.safetensors")
        assert np.array_equal(read.predict(X), found.predict(X))


def test_calls_of_partial_fit_are_epochs_of_fit() -> None:
    found = regressor(loss="poisson", max_iter=2, batch_size=240).fit(X, COUNTS)
    calls = regressor(loss="poisson", batch_size=240)
    for _ in range(2):
        calls.partial_fit(X, COUNTS)
    np.testing.assert_allclose(calls.predict(X), found.predict(X), rtol=1e-12)


def with_skip(features: int, outputs: int) -> list[Any]:
    return [xn.Residual([xn.Linear(features, 3), xn.Tanh()]), xn.Linear(features, outputs)]


def test_a_search_over_losses_activations_and_networks_in_one_process_and_two() -> None:
    choices = [
        {"loss": ["squared_error", "quantile", xn.Huber(delta=0.5)]},
        {"activation": [["tanh", "relu"], "gelu"], "hidden_layer_sizes": [(8, 8)]},
        {"network": [with_skip], "loss": ["absolute_error", xn.Quantile(0.5)]},
    ]
    model = regressor(learning_rate_init=0.05)
    alone, together = (
        GridSearchCV(model, choices, cv=3, scoring="r2", n_jobs=jobs).fit(X, VALUES)
        for jobs in (1, 2)
    )
    scores = alone.cv_results_["mean_test_score"]
    assert len(scores) == 7
    assert scores.min() > 0.3
    # Processes differ by the threads of BLAS, which round differently.
    np.testing.assert_allclose(scores, together.cv_results_["mean_test_score"], atol=1e-6)
    assert "Huber(delta=0.5)" in str(alone.cv_results_["params"])
    again = clone(together.best_estimator_).fit(X, VALUES)
    np.testing.assert_allclose(
        again.predict(X), together.best_estimator_.predict(X), rtol=1e-5, atol=1e-5
    )


def test_a_warm_start_goes_on_with_the_same_loss() -> None:
    found = regressor(warm_start=True).fit(X, COUNTS)
    with pytest.raises(ConfigError, match="device or loss has changed"):
        found.set_params(loss="poisson").fit(X, COUNTS)


@pytest.mark.parametrize(
    ("parameters", "y", "kind", "says"),
    [
        ({"loss": "hinge"}, VALUES, ConfigError, "loss must be one of squared_error, .*'hinge'"),
        ({"loss": None}, VALUES, ConfigError, "loss must be one of squared_error, .*None"),
        (
            {"loss": xn.SoftmaxCrossEntropy()},
            VALUES,
            ConfigError,
            r"a regression loss of xpnet.losses, such as Huber\(delta=3\), found",
        ),
        (
            {"quantile": 1.5},
            VALUES,
            ConfigError,
            r"quantile must be .* in \(0, 1\), found 1.5",
        ),
        ({"quantile": ()}, VALUES, ConfigError, "quantile must be one number between 0 and 1, or"),
        (
            {"loss": "poisson"},
            np.where(np.arange(240) == 7, -2.0, 1.0),
            DataError,
            "^y has the target -2 in row 7, column 0, and Poisson takes .* of 0 or more$",
        ),
        (
            {"loss": "quantile", "quantile": INTERVAL},
            np.ones((240, 2)),
            DataError,
            r"y has shape \(240, 2\), and for several quantiles it must have one number",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(
    parameters: dict[str, Any], y: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        regressor(**parameters).fit(X, y)
    assert "\n" not in str(caught.value)


def test_rates_that_overflow_are_a_divergence() -> None:
    with pytest.raises(ArithmeticError, match="training diverged at learning_rate_init=1000"):
        regressor(loss="poisson", solver="sgd", learning_rate_init=1000.0).fit(X, COUNTS)
