"""`XpnetClassifier`, `XpnetRegressor`: scikit-learn's contract, and `fit(sample_weight=...)`."""

from __future__ import annotations

import doctest
import io
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import strict_cupy
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_regression
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingRandomSearchCV,
    cross_val_score,
    train_test_split,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils import get_tags
from thread_settings import SETTINGS

import xpnet as xn
from xpnet import estimator
from xpnet.accel import recording
from xpnet.backend import Backend
from xpnet.errors import (
    BackendUnavailable,
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
)
from xpnet.estimator import XpnetClassifier, XpnetRegressor, _parameters
from xpnet.losses import MeanSquaredError, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from xpnet.runs.model import Model

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS = scale(IRIS)
LINES, HEIGHTS = make_regression(90, 5, n_targets=2, noise=1.0, random_state=0)
HEIGHTS = scale(HEIGHTS)


def line(says: str) -> str:
    """What a message that is one line and begins so matches."""
    return rf"\A{says}[^\n]*\Z"


def classifier(**parameters: Any) -> XpnetClassifier:
    """One that trains for `max_iter` epochs of a full batch by default."""
    fixed = {"hidden_layer_sizes": (8,), "random_state": 0, "max_iter": 20, "batch_size": 1000}
    return XpnetClassifier(**{**fixed, "n_iter_no_change": math.inf, **parameters})


def regressor(**parameters: Any) -> XpnetRegressor:
    shared = classifier().get_params()
    del shared["class_weight"]
    return XpnetRegressor(**shared | parameters)


# ---------------------------------------------------------------------------- the contract


# It has `predict_proba` and, as `MLPClassifier`, no `decision_function`.
NEEDS_DECISION_FUNCTION = "check_classifiers_multilabel_output_format_decision_function"


@pytest.mark.parametrize(
    ("kind", "skipped"),
    [(XpnetClassifier, [(NEEDS_DECISION_FUNCTION, "skipped")]), (XpnetRegressor, [])],
)
def test_every_check_of_scikit_learn_passes_that_applies(
    kind: type, skipped: list[tuple[str, str]]
) -> None:
    """In a process of its own: one check needs `SCIPY_ARRAY_API` before SciPy is imported."""
    program = f"""
import warnings
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator
from xpnet.estimator import {kind.__name__}
warnings.simplefilter("error")
warnings.simplefilter("ignore", ConvergenceWarning)
results = check_estimator({kind.__name__}(), on_skip=None)
print(len(results), sorted({{(r["check_name"], r["status"]) for r in results}} - {{
    (r["check_name"], "passed") for r in results}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, others = done.stdout.split(maxsplit=1)
    assert int(count) > 40
    assert others.strip() == str(skipped)


def test_the_documented_examples_hold() -> None:
    for module in (estimator._classifier, estimator._regressor):
        results = doctest.testmod(module)
        assert results.attempted > 3
        assert results.failed == 0


def test_parameters_are_named_and_set_as_those_of_mlpclassifier() -> None:
    theirs, ours = MLPClassifier().get_params(), XpnetClassifier().get_params()
    assert ours.keys() - theirs.keys() == {
        *("device", "dropout", "class_weight", "batch_norm", "clip_norm", "callbacks", "network")
    }
    assert theirs.keys() - ours.keys() == {"shuffle", "max_fun"}
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    del ours["class_weight"]
    quantile = HistGradientBoostingRegressor(quantile=0.5).get_params()["quantile"]
    more = {"loss": MLPRegressor().loss, "quantile": quantile}
    assert XpnetRegressor().get_params() == ours | more


def test_a_clone_has_the_parameters_and_is_not_fitted() -> None:
    fitted = classifier(alpha=0.5).fit(IRIS, SPECIES)
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    for method in (again.predict, again.predict_proba, again.predict_log_proba):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            method(IRIS)


# ---------------------------------------------------------------------------- as MLPClassifier


def with_the_weights_of(fitted: Any, other: Any) -> Any:
    """`other`, an MLP of scikit-learn fitted once, with the weights of ours."""
    values = [np.array(value) for value in fitted.network_.parameters().values()]
    other.coefs_ = [np.ascontiguousarray(weight.T) for weight in values[::2]]
    other.intercepts_ = values[1::2]
    other.loss_curve_, other.best_loss_, other._no_improvement_count = [], np.inf, 0
    return other


@pytest.mark.filterwarnings("ignore:.* converged")
@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "sgd", "learning_rate_init": 0.1},
        {"solver": "sgd", "learning_rate_init": 0.1, "nesterovs_momentum": False},
        {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.0, "activation": "logistic"},
        {"solver": "adam", "beta_1": 0.8, "beta_2": 0.9, "activation": "tanh"},
        {"solver": "adam", "learning_rate_init": 0.02, "tol": 0.02, "n_iter_no_change": 3},
        {"solver": "sgd", "activation": "identity", "tol": 1e-2, "n_iter_no_change": 4},
        {"solver": "sgd", "learning_rate_init": 0.1, "learning_rate": "invscaling"},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.1, "momentum": 0.0},
        {
            **{"solver": "sgd", "learning_rate_init": 0.5, "learning_rate": "adaptive"},
            **{"tol": 0.02, "n_iter_no_change": 1},
        },
        {"solver": "adam", "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 3},
        {"solver": "adam", "learning_rate": "invscaling"},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_from_the_same_weights_a_full_batch_trains_as_mlpclassifier(
    parameters: dict[str, Any], weighted: bool
) -> None:
    shared = {"hidden_layer_sizes": (7, 5), "alpha": 3.0, "batch_size": 150, "random_state": 1}
    # Their ε is not corrected for bias, ours is: here it is too small to matter.
    shared |= {"max_iter": 1, "warm_start": True, "epsilon": 1e-14, **parameters}
    weights = np.random.default_rng(0).integers(1, 4, 150) if weighted else None
    ours = XpnetClassifier(**shared).fit(IRIS, SPECIES, weights)
    theirs = with_the_weights_of(ours, MLPClassifier(**shared).fit(IRIS, SPECIES, weights))
    for network in (ours, theirs):
        network.set_params(max_iter=60).fit(IRIS, SPECIES, weights)
    assert ours.n_iter_ == theirs.n_iter_
    assert ("tol" in parameters) == (ours.n_iter_ < 60)
    np.testing.assert_allclose(ours.loss_curve_[1:], theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(IRIS), theirs.predict_proba(IRIS), rtol=1e-7)


@pytest.mark.filterwarnings("ignore:.* converged")
def test_the_regressor_trains_as_mlpregressor_whose_squares_are_halved() -> None:
    shared = {"hidden_layer_sizes": (7,), "solver": "sgd", "batch_size": 90, "random_state": 1}
    shared |= {"max_iter": 1, "warm_start": True, "tol": 0.0}
    y = HEIGHTS[:, 0]
    ours = XpnetRegressor(**shared, alpha=2.0, learning_rate_init=0.01).fit(LINES, y)
    theirs = MLPRegressor(**shared, alpha=1.0, learning_rate_init=0.02).fit(LINES, y)
    with_the_weights_of(ours, theirs)
    for network in (ours, theirs):
        network.set_params(max_iter=40).fit(LINES, y)
    np.testing.assert_allclose(ours.loss_curve_[1:], 2 * np.array(theirs.loss_curve_), rtol=1e-9)
    np.testing.assert_allclose(ours.predict(LINES), theirs.predict(LINES), rtol=1e-8)


@pytest.mark.filterwarnings("ignore:.* converged")
def test_on_digits_it_is_as_good_as_mlpclassifier() -> None:
    """Their errors differ by less than half of what a third of the training costs, or the kind of
    mistake (a wrong rate, penalty, scale of the gradient) that this is to find."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (x / 16).astype(np.float32), y, test_size=0.5, random_state=0, stratify=y
    )

    def wrong(kind: type, max_iter: int) -> float:
        shared = {"hidden_layer_sizes": (64,), "learning_rate_init": 0.005, "max_iter": max_iter}
        fitted = (kind(**shared, random_state=seed).fit(x_train, y_train) for seed in range(4))
        return float(np.mean([(network.predict(x_test) != y_test).mean() for network in fitted]))

    ours, theirs, less = (
        wrong(XpnetClassifier, 60),
        wrong(MLPClassifier, 60),
        wrong(MLPClassifier, 20),
    )
    assert less - theirs > 0.01
    assert abs(ours - theirs) < (less - theirs) / 2


# ---------------------------------------------------------------------------- within scikit-learn


@pytest.fixture(scope="module")
def grid() -> Callable[[int], GridSearchCV]:
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("network", classifier(batch_size="auto", max_iter=60))]
    )
    choices = {
        "network__hidden_layer_sizes": [1, (24,)],
        "network__learning_rate_init": [1e-6, 0.03],
    }

    def search(n_jobs: int) -> GridSearchCV:
        return GridSearchCV(pipeline, choices, cv=3, n_jobs=n_jobs).fit(IRIS * 5 + 3, SPECIES)

    return search


def test_a_grid_over_a_pipeline_finds_the_same_with_one_process_and_two(
    grid: Callable[[int], GridSearchCV],
) -> None:
    alone, together = grid(1), grid(2)
    scores = alone.cv_results_["mean_test_score"]
    best, second = np.sort(scores)[:-3:-1]
    assert best - second > 0.03, "the winner has to be no matter of rounding"
    expected = {"network__hidden_layer_sizes": (24,), "network__learning_rate_init": 0.03}
    assert alone.best_params_ == together.best_params_ == expected
    np.testing.assert_allclose(scores, together.cv_results_["mean_test_score"], atol=0.02)
    assert together.score(IRIS * 5 + 3, SPECIES) > 0.95


def test_cross_validation_in_two_processes_gives_the_scores_of_one() -> None:
    pipeline = make_pipeline(StandardScaler(), classifier(learning_rate_init=0.03, max_iter=100))
    alone, together = (cross_val_score(pipeline, IRIS, SPECIES, n_jobs=n, cv=3) for n in (1, 2))
    assert alone.min() > 0.9
    np.testing.assert_allclose(alone, together, atol=0.021)


def test_a_halving_search_may_give_out_epochs() -> None:
    search = HalvingRandomSearchCV(
        classifier(),
        {"learning_rate_init": [1e-7, 1e-6, 1e-5, 0.05]},
        n_candidates=4,
        resource="max_iter",
        min_resources=10,
        max_resources=40,
        factor=2,
        cv=3,
        random_state=0,
    ).fit(IRIS, SPECIES)
    assert search.best_params_ == {"learning_rate_init": 0.05, "max_iter": 40}
    assert search.best_score_ > 0.9


def test_names_of_features_pass_through_a_pipeline_of_frames() -> None:
    frame = pd.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    pipeline = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas")
    pipeline.fit(frame, pd.Series(SPECIES).map({0: "s", 1: "e", 2: "i"}))
    assert list(pipeline[-1].feature_names_in_) == ["a", "b", "c", "d"]
    assert set(pipeline.predict(frame)) <= {"s", "e", "i"}


def test_other_names_of_features_are_an_error_and_none_a_warning() -> None:
    frame = pd.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    fitted = classifier().fit(frame, SPECIES)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.partial_fit(frame[["b", "a", "c", "d"]], SPECIES)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        fitted.predict(IRIS)
    with pytest.raises(ValueError, match="X has 3 features, but XpnetClassifier is expecting 4"):
        classifier().fit(IRIS, SPECIES).predict(IRIS[:, :3])


@pytest.mark.parametrize("dump", ["pickle", "joblib"])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_stored_estimator_predicts_the_same_and_trains_on_the_same(
    make: Callable[..., Any], dump: str
) -> None:
    x, y = (IRIS, SPECIES) if make is classifier else (LINES, HEIGHTS)
    fitted = make(dropout=0.2).fit(x, y)
    if dump == "pickle":
        again = pickle.loads(pickle.dumps(fitted))
    else:
        file = io.BytesIO()
        joblib.dump(fitted, file)
        file.seek(0)
        again = joblib.load(file)
    assert np.array_equal(again.predict(x), fitted.predict(x))
    assert np.array_equal(again.network_.flat_parameters, fitted.network_.flat_parameters)
    fitted.partial_fit(x, y)
    again.partial_fit(x, y)
    np.testing.assert_allclose(
        again.network_.flat_parameters, fitted.network_.flat_parameters, rtol=1e-12
    )


# ---------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "names",
    [
        ["setosa", "virginica", "versicolor"],
        np.array(["setosa", "virginica", "versicolor"], dtype=object),
        [-5, 0, 9],
        [0.0, 1.0, 2.0],
        [False, True],
        ["no", "yes"],
        ["the only one"],
    ],
    ids=str,
)
def test_classes_may_be_of_any_type(names: Any) -> None:
    names = np.asarray(names)
    y = names[np.minimum(SPECIES, len(names) - 1)]
    fitted = classifier(learning_rate_init=0.05, max_iter=50).fit(IRIS, y)
    assert np.array_equal(fitted.classes_, np.unique(names))
    assert fitted.classes_.dtype == names.dtype
    assert fitted.predict(IRIS).dtype == names.dtype
    assert fitted.score(IRIS, y) > 0.9
    p = fitted.predict_proba(IRIS)
    assert p.shape == (150, len(names))
    assert np.array_equal(fitted.classes_[p.argmax(axis=1)], fitted.predict(IRIS))
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(IRIS)), p, rtol=1e-12)


def test_the_log_of_a_probability_of_0_is_finite() -> None:
    fitted = classifier().fit(IRIS, SPECIES)
    logs = fitted.predict_log_proba(IRIS * 1e4)
    assert fitted.predict_proba(IRIS * 1e4).min() == 0
    assert np.isfinite(logs).all()
    assert logs.min() < -1000


@pytest.mark.parametrize("shape", [(90,), (90, 1), (90, 2)])
def test_predictions_of_a_regressor_are_shaped_as_its_targets(shape: tuple[int, ...]) -> None:
    y = np.resize(HEIGHTS[:, 0], shape) if len(shape) == 1 else HEIGHTS[:, : shape[1]]
    fitted = regressor(max_iter=200, learning_rate_init=0.03).fit(LINES, y)
    assert fitted.predict(LINES).shape == shape
    assert len(shape) == 1 or fitted.score(LINES, y) > 0.9


def test_only_the_regressor_says_that_it_takes_several_targets() -> None:
    assert get_tags(XpnetRegressor()).target_tags.multi_output
    tags = get_tags(XpnetClassifier())
    assert not tags.target_tags.multi_output
    assert tags.classifier_tags.multi_label


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_the_dtype_of_x_is_that_of_the_network(make: Callable[..., Any], dtype: type) -> None:
    x, y = (IRIS, SPECIES) if make is classifier else (LINES, HEIGHTS)
    fitted = make().fit(x.astype(dtype), y)
    assert fitted.network_.flat_parameters.dtype == dtype
    outputs = fitted.predict_proba if make is classifier else fitted.predict
    assert outputs(x.astype(dtype)).dtype == dtype
    whole = make().fit((x * 10).astype(int), y)
    assert whole.network_.flat_parameters.dtype == np.float64


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize("make", [classifier, regressor])
def test_weights_are_repetitions(make: Callable[..., Any]) -> None:
    x, y = (IRIS, SPECIES) if make is classifier else (LINES, HEIGHTS)
    times = np.random.default_rng(3).integers(0, 4, len(x))
    weighted = make(alpha=1.0).fit(x, y, times)
    repeated = make(alpha=1.0).fit(x.repeat(times, axis=0), y.repeat(times, axis=0))
    plain = make(alpha=1.0).fit(x, y)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-10)
    np.testing.assert_allclose(
        weighted.network_.flat_parameters, repeated.network_.flat_parameters, rtol=1e-7, atol=1e-10
    )
    assert abs(weighted.loss_ - plain.loss_) > 1e-4


def test_a_sample_of_weight_0_is_as_if_it_were_not_there_in_small_batches_too() -> None:
    weights = (np.arange(150) % 3 > 0).astype(float)
    zero = classifier(batch_size=16).fit(IRIS, SPECIES, weights)
    kept = weights > 0
    without = classifier(batch_size=16).fit(IRIS[kept], SPECIES[kept])
    np.testing.assert_allclose(
        zero.network_.flat_parameters, without.network_.flat_parameters, rtol=1e-9, atol=1e-12
    )
    assert zero.t_ == 20 * 100


def test_held_out_samples_count_by_their_weights() -> None:
    wrong = np.where(np.arange(150) % 50 == 0, SPECIES, np.maximum(SPECIES, 1))
    fitted = classifier(learning_rate_init=0.05, max_iter=100).fit(
        IRIS, wrong, X_val=IRIS, y_val=SPECIES, sample_weight_val=1.0 + (SPECIES == 0)
    )
    hit = fitted.predict(IRIS) == SPECIES
    expected = np.average(hit, weights=1.0 + (SPECIES == 0))
    assert fitted.validation_scores_[-1] == pytest.approx(expected)
    assert expected < hit.mean() < 0.7


def test_held_out_targets_count_by_their_weights() -> None:
    weights = 1.0 + np.arange(90) ** 2
    fitted = regressor().fit(LINES, HEIGHTS, X_val=LINES, y_val=HEIGHTS, sample_weight_val=weights)
    expected = fitted.score(LINES, HEIGHTS, weights)
    assert fitted.validation_scores_[-1] == pytest.approx(expected)
    assert abs(expected - fitted.score(LINES, HEIGHTS)) > 1e-3


def test_calls_of_partial_fit_are_epochs_of_fit() -> None:
    """Of a full batch, with dropout: the optimizer and the masks continue where they were."""
    at_once = classifier(dropout=0.3, max_iter=6, learning_rate_init=0.02).fit(IRIS, SPECIES)
    one_by_one = classifier(dropout=0.3, learning_rate_init=0.02)
    for _ in range(6):
        returned = one_by_one.partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
        assert returned is one_by_one
        assert one_by_one.n_iter_ == 1
    assert one_by_one.loss_curve_ == at_once.loss_curve_
    assert np.array_equal(one_by_one.network_.flat_parameters, at_once.network_.flat_parameters)
    assert one_by_one.t_ == at_once.t_ == 6 * 150


def test_partial_fit_takes_the_samples_in_another_order_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orders = []
    permutation = xn.training.trainer.random.permutation

    def spy(*arguments: Any) -> Any:
        orders.append(permutation(*arguments))
        return orders[-1]

    monkeypatch.setattr(xn.training.trainer.random, "permutation", spy)
    network = regressor(batch_size=16)
    for _ in range(3):
        network.partial_fit(LINES, HEIGHTS)
    assert len({order.tobytes() for order in orders}) == 3


def test_classes_are_asked_for_once() -> None:
    with pytest.raises(ConfigError, match=line("classes must be given on the first call")):
        classifier().partial_fit(IRIS, SPECIES)
    network = classifier().partial_fit(IRIS[:50], SPECIES[:50], classes=[0, 1, 2])
    network.partial_fit(IRIS, SPECIES).partial_fit(IRIS, SPECIES, classes=[2, 1, 0])
    with pytest.raises(ConfigError, match=line(r"classes is \[0, 1\], and was")):
        network.partial_fit(IRIS, SPECIES, classes=[0, 1])
    with pytest.raises(ValueError, match="previously unseen labels"):
        network.partial_fit(IRIS, SPECIES + 1)
    with pytest.raises(ConfigError, match=line("partial_fit cannot stop early")):
        network.set_params(early_stopping=True).partial_fit(IRIS, SPECIES)


def test_a_warm_start_goes_on_and_a_cold_one_begins_anew() -> None:
    steps = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1}
    at_once = classifier(**steps, max_iter=8).fit(IRIS, SPECIES)
    warm = classifier(**steps, max_iter=4, warm_start=True)
    assert warm.fit(IRIS, SPECIES).n_iter_ == warm.fit(IRIS, SPECIES).n_iter_ == 4
    assert np.array_equal(warm.network_.flat_parameters, at_once.network_.flat_parameters)
    assert warm.loss_curve_ == at_once.loss_curve_
    assert warm.loss_ == warm.best_loss_ == min(at_once.loss_curve_)
    # With targets turned round the loss is high again.
    warm.fit(IRIS, 2 - SPECIES, X_val=IRIS, y_val=SPECIES).set_params(max_iter=1)
    warm.fit(IRIS, SPECIES, X_val=IRIS, y_val=SPECIES)
    assert warm.best_loss_ == min(at_once.loss_curve_) < warm.loss_
    assert len(warm.validation_scores_) == 5
    assert warm.best_validation_score_ == max(warm.validation_scores_)
    cold = classifier(**steps, max_iter=4).fit(IRIS, SPECIES).fit(IRIS, SPECIES)
    assert cold.loss_curve_ == at_once.loss_curve_[:4]


@pytest.mark.parametrize(
    "change",
    [{"hidden_layer_sizes": (9,)}, {"activation": "tanh"}, {"dropout": 0.1}, {"device": "auto"}],
    ids=str,
)
def test_a_warm_start_needs_the_network_it_had(change: dict[str, Any]) -> None:
    network = classifier(warm_start=True).fit(IRIS, SPECIES).set_params(**change)
    with pytest.raises(ConfigError, match=line("training continues with the existing network")):
        network.fit(IRIS, SPECIES)
    several = regressor(warm_start=True).fit(LINES, HEIGHTS)
    with pytest.raises(DataError, match=line("y has 1 columns")):
        several.fit(LINES, HEIGHTS[:, 0])
    with pytest.raises(ValueError, match="X has 3 features, but XpnetRegressor is expecting 5"):
        several.fit(LINES[:, :3], HEIGHTS)


def test_early_stopping_holds_a_fraction_out_and_keeps_the_best_weights() -> None:
    y = np.where(np.random.default_rng(0).random(150) < 0.3, (SPECIES + 1) % 3, SPECIES)
    network = XpnetClassifier(
        (64,),
        learning_rate_init=0.02,
        early_stopping=True,
        validation_fraction=0.3,
        n_iter_no_change=5,
        max_iter=500,
        random_state=1,
    ).fit(IRIS, y)
    scores = network.validation_scores_
    assert len(scores) == len(network.loss_curve_) == network.n_iter_ < 500
    assert network.best_validation_score_ == max(scores) > scores[-1]
    assert network.t_ == network.n_iter_ * 105
    # More than 5 in a row had not been better by tol.
    assert all(score < max(scores) + 1e-4 for score in scores[-6:])
    assert scores[-7] == max(scores)
    _, x_val, _, y_val = train_test_split(
        IRIS, y, test_size=0.3, random_state=network._seed, stratify=y
    )
    assert network.score(x_val, y_val) == pytest.approx(max(scores))


@pytest.mark.parametrize("make", [classifier, regressor])
def test_held_out_data_may_be_given(make: Callable[..., Any]) -> None:
    x, y = (IRIS, SPECIES) if make is classifier else (LINES, HEIGHTS)
    held_out = {"X_val": x[::3], "y_val": y[::3]}
    measured = make().fit(x, y, **held_out)
    assert len(measured.validation_scores_) == 20
    assert measured.validation_scores_[-1] == pytest.approx(measured.score(x[::3], y[::3]))
    assert np.array_equal(
        measured.network_.flat_parameters, make().fit(x, y).network_.flat_parameters
    )
    stopped = make(early_stopping=True, n_iter_no_change=2, tol=0.05, max_iter=500)
    stopped.fit(x, y, **held_out)
    assert stopped.n_iter_ < 500
    assert stopped.t_ == stopped.n_iter_ * len(x)
    assert stopped.score(x[::3], y[::3]) == pytest.approx(stopped.best_validation_score_)
    assert make().fit(x, y).validation_scores_ is None


def test_training_that_has_not_converged_says_so() -> None:
    with pytest.warns(ConvergenceWarning, match="has not converged in max_iter=3 epochs"):
        XpnetClassifier(max_iter=3).fit(IRIS, SPECIES)
    XpnetClassifier().partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    calm = XpnetClassifier(max_iter=500, tol=10.0, random_state=0).fit(IRIS, SPECIES)
    assert calm.n_iter_ == 12


def test_a_batch_is_200_samples_or_all() -> None:
    x = np.tile(IRIS, (3, 1))
    many, few = (
        classifier(batch_size="auto").fit(x[:n], np.tile(SPECIES, 3)[:n]) for n in (450, 150)
    )
    assert many._optimizer.steps == 20 * 3
    assert few._optimizer.steps == 20


def test_random_state_decides_all() -> None:
    def values(state: Any) -> bytes:
        network = classifier(random_state=state, batch_size=32, dropout=0.1, early_stopping=True)
        return network.fit(IRIS, SPECIES).network_.flat_parameters.tobytes()

    assert values(0) == values(0) == values(np.random.RandomState(0)) != values(1)
    before = np.random.get_state()
    np.random.seed(5)
    drawn = values(None)
    assert values(None) != drawn
    np.random.seed(5)
    assert values(None) == drawn
    np.random.set_state(before)


@pytest.mark.parametrize("activation", sorted(_parameters.ACTIVATIONS))
@pytest.mark.parametrize("solver", _parameters.SOLVERS)
def test_every_activation_learns_with_every_solver(activation: str, solver: str) -> None:
    rate = 0.3 if solver == "sgd" else 0.03
    network = classifier(activation=activation, solver=solver, learning_rate_init=rate)
    assert network.set_params(max_iter=100).fit(IRIS, SPECIES).score(IRIS, SPECIES) > 0.9


def test_layers_are_those_asked_for_and_none_is_a_linear_model() -> None:
    network = classifier(hidden_layer_sizes=(), max_iter=300, learning_rate_init=0.1)
    assert str(network.fit(IRIS, SPECIES).network_.layers[0]) == "Linear(4, 3)"
    assert len(network.network_.layers) == 1
    deep = classifier(hidden_layer_sizes=(5, 6), dropout=0.25, activation="gelu")
    assert [str(layer) for layer in deep.fit(IRIS, SPECIES).network_.layers] == [
        *("Linear(4, 5)", "GELU()", "Dropout(0.25)"),
        *("Linear(5, 6)", "GELU()", "Dropout(0.25)"),
        "Linear(6, 3)",
    ]
    assert network.score(IRIS, SPECIES) > 0.95


def test_verbose_prints_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    classifier(verbose=True, max_iter=3).fit(IRIS, SPECIES)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_the_network_can_be_saved_and_names_its_classes(tmp_path: Path) -> None:
    fitted = classifier().fit(IRIS, np.array(["s", "e", "i"])[SPECIES])
    xn.save(fitted.network_, tmp_path / "iris.safetensors")
    model = Model.load(tmp_path / "iris.safetensors")
    assert model.classes == ("e", "i", "s")
    np.testing.assert_allclose(model.probabilities(IRIS), fitted.predict_proba(IRIS), rtol=1e-12)


# ---------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("hidden_layer_sizes", (8, 0), r"must be whole numbers above 0, one for each hidden layer"),
        ("hidden_layer_sizes", 2.5, "must be whole numbers above 0"),
        ("hidden_layer_sizes", "100", "must be whole numbers above 0"),
        ("activation", "relu6", "must be one of identity, logistic, tanh, relu, leaky_relu, gelu"),
        ("solver", "lbfgs", "must be one of adam, sgd, found 'lbfgs'"),
        ("learning_rate", "step", "must be one of constant, .*, cosine, one_cycle, found 'step'$"),
        ("learning_rate", 0.1, "must be one of constant, invscaling, adaptive, .*, found 0.1"),
        ("power_t", -0.5, r"must be a number in \[0, 10\), found -0.5"),
        ("alpha", -1, "must be a number of 0 or more, found -1"),
        ("tol", None, "must be a number of 0 or more"),
        ("learning_rate_init", 0, "must be a number above 0, found 0"),
        ("learning_rate_init", math.nan, "must be a number above 0, found nan"),
        ("epsilon", "1e-8", "must be a number above 0"),
        ("momentum", 1, r"must be a number in \[0, 1\), found 1"),
        ("beta_1", True, "must be a number"),
        ("beta_2", 1.0, "must be a number"),
        ("dropout", 1.0, "must be a number"),
        ("validation_fraction", 0, r"must be a number in \(0, 1\), found 0"),
        ("max_iter", 2.0, "must be a whole number above 0, found 2.0"),
        ("batch_size", 0, "must be a whole number above 0, or 'auto', found 0"),
        ("n_iter_no_change", 0, "must be a whole number above 0, or inf, found 0"),
        ("activation", ["relu", "relu"], "has 2 entries and hidden_layer_sizes 1: give one entry"),
        ("activation", ["relu6"], "must be one of identity, .*, found 'relu6'"),
        ("dropout", [0.5, 0.5], "has 2 entries and hidden_layer_sizes 1: give one entry"),
        ("dropout", [1.0], r"must be a number in \[0, 1\), found 1.0"),
        ("batch_norm", 2, "must be True or False, found 2"),
        ("clip_norm", 0, "must be a number above 0, or None, found 0"),
        ("callbacks", "progress", "must be a Callback, such as Progress"),
        ("network", [3, 2], "must be a Sequential, a function of the numbers of features and"),
        ("network", lambda n, m: 7, "must return a list of layers, or a Sequential, found 7"),
        ("network", lambda n, m: [n, 9], r"takes 4 features and gives .* \(9,\): X has 4 .*\(3,\)"),
        ("device", 0, "must be a string such as 'cuda', found 0"),
    ],
)
def test_a_parameter_that_cannot_be_is_named_when_it_is_used(
    name: str, value: Any, says: str
) -> None:
    network = classifier(**{name: value})
    for train in (network.fit, lambda x, y: network.partial_fit(x, y, classes=[0, 1, 2])):
        with pytest.raises(ConfigError, match=line(f"{name} {says}")) as caught:
            train(IRIS, SPECIES)
        assert isinstance(caught.value, ValueError)


def test_numbers_of_numpy_are_numbers() -> None:
    parameters = {"hidden_layer_sizes": np.array([3, 4]), "max_iter": np.int64(2)}
    parameters |= {"alpha": np.float32(0.1), "batch_size": np.int32(50), "tol": np.float64(0)}
    fitted = classifier(**parameters).fit(IRIS, SPECIES)
    assert [str(layer) for layer in fitted.network_.layers][::2] == [
        "Linear(4, 3)",
        "Linear(3, 4)",
        "Linear(4, 3)",
    ]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (np.zeros(150), "every sample_weight is zero"),
        (-np.ones(150), r"sample_weight\[0\] is -1: give numbers of 0 or more"),
        (np.ones(149), r"sample_weight has shape \(149,\), X has 150 rows"),
        (np.ones((150, 1)), r"sample_weight has shape \(150, 1\), X has 150 rows"),
    ],
    ids=["zero", "negative", "short", "column"],
)
def test_weights_that_cannot_be_are_refused(weights: Any, says: str) -> None:
    with pytest.raises(DataError, match=line(says)):
        classifier().fit(IRIS, SPECIES, weights)


def test_targets_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier().fit(IRIS, SPECIES + 0.5)
    with pytest.raises(ValueError, match="previously unseen labels"):
        classifier().fit(IRIS[:100], SPECIES[:100], X_val=IRIS, y_val=SPECIES)
    with pytest.raises(DataError, match=line("validation needs 2 samples or more")):
        regressor(early_stopping=True, validation_fraction=0.01).fit(LINES, HEIGHTS)


def test_a_device_that_is_not_there_is_an_error_when_it_is_used() -> None:
    network = classifier(device="cuda:99")
    with pytest.raises(BackendUnavailable, match=line("device cuda")):
        network.fit(IRIS, SPECIES)
    with pytest.raises(NotFittedError):
        network.predict(IRIS)
    with pytest.raises(ConfigError, match=line("unknown device 'gpu'")):
        network.set_params(device="gpu").fit(IRIS, SPECIES)


@pytest.mark.parametrize("max_iter", [1, 300])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_training_that_diverges_names_the_rate(make: Callable[..., Any], max_iter: int) -> None:
    """In the last epoch too, whose loss was measured before the update that broke the weights."""
    x = IRIS.astype(np.float32) * 1e18
    network = make(solver="sgd", learning_rate_init=1e25, max_iter=max_iter)
    says = line(r"training diverged at learning_rate_init=1e\+25: choose a smaller one")
    y = SPECIES if make is classifier else x[:, 0]
    with pytest.raises(DivergenceError, match=says) as caught:
        network.fit(x, y, X_val=x, y_val=y)
    assert isinstance(caught.value, ValueError)


def test_without_scikit_learn_the_remedy_is_named_and_xpnet_needs_none() -> None:
    program = """
import sys
import xpnet
assert "sklearn" not in sys.modules
sys.modules["sklearn"] = None
import xpnet.estimator
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: xpnet.estimator needs scikit-learn 1.6 or later")
    assert last.endswith("pip install scikit-learn")


# ---------------------------------------------------------------------------- backends


@pytest.mark.parametrize("make", [classifier, regressor])
def test_it_trains_and_predicts_on_every_backend(
    make: Callable[..., Any], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (IRIS, SPECIES) if make is classifier else (LINES, HEIGHTS)
    options = {"batch_size": 32, "dropout": 0.1, "early_stopping": True, "max_iter": 5}
    weights = np.random.default_rng(0).random(len(x))
    expected = make(**options).fit(x, y, weights)

    def placed(layers: Any, **options: Any) -> xn.Sequential:
        return xn.Sequential(layers, **(options | {"backend": backend}))

    monkeypatch.setattr("xpnet.estimator._network.Sequential", placed)
    found = make(**options, device="cuda").fit(x, y, weights)
    assert found.network_.backend is backend
    for method in ("predict_proba", "predict_log_proba", "predict"):
        if hasattr(found, method):
            there = getattr(found, method)(x)
            assert isinstance(there, np.ndarray)
            np.testing.assert_allclose(there, getattr(expected, method)(x), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(found.validation_scores_, expected.validation_scores_, rtol=1e-7)


# ---------------------------------------------------------------------------- fit(sample_weight=)

LOSSES = [
    pytest.param(SoftmaxCrossEntropy, SPECIES, id="SoftmaxCrossEntropy"),
    pytest.param(SigmoidBinaryCrossEntropy, np.eye(3)[SPECIES], id="SigmoidBinaryCrossEntropy"),
    pytest.param(MeanSquaredError, np.eye(3)[SPECIES], id="MeanSquaredError"),
]
WEIGHTS = np.random.default_rng(1).random(150) + 0.1


def small(backend: Backend) -> xn.Sequential:
    layers = [xn.Linear(4, 8), xn.ReLU(), xn.Linear(8, 3)]
    return xn.Sequential(layers, backend=backend, dtype="float64", seed=2)


@pytest.mark.parametrize(("loss", "target"), LOSSES)
def test_a_weighted_step_is_that_of_the_weighted_mean(
    loss: type[xn.losses.Loss], target: np.ndarray, backend: Backend
) -> None:
    """One update with rate 1 moves the weights by `Σ w ∇ℓ / Σ w` of single samples."""
    trained, alone = small(backend), small(backend)
    xn.fit(
        trained,
        (IRIS, target),
        optimizer=xn.SGD(1.0),
        loss=loss(),
        sample_weight=WEIGHTS,
        epochs=1,
        batch_size=None,
    )
    single, summed = loss(), np.zeros(alone.flat_parameters.size)
    for row, weight in enumerate(WEIGHTS):
        logits = alone.forward(backend.asarray(IRIS[row : row + 1]), training=True)
        single.forward(logits, backend.asarray(target[row : row + 1]))
        alone.backward(single.backward())
        summed += weight * backend.to_host(alone.flat_gradients)
    moved = backend.to_host(alone.flat_parameters) - backend.to_host(trained.flat_parameters)
    np.testing.assert_allclose(moved, summed / WEIGHTS.sum(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("loss", "target"), LOSSES)
@pytest.mark.parametrize("batch_size", [16, None])
def test_weighted_steps_are_replayed_to_the_same_bits(
    loss: type[xn.losses.Loss],
    target: np.ndarray,
    batch_size: int | None,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = []
    record = recording.record

    def spy(*arguments: Any) -> Any:
        recorded.append(record(*arguments))
        return recorded[-1]

    monkeypatch.setattr(recording, "record", spy)

    def trained(enabled: bool) -> tuple[bytes, list[float]]:
        monkeypatch.setattr(SETTINGS, "recording_enabled", enabled)
        network = small(backend)
        history = xn.fit(
            network,
            (IRIS, target),
            optimizer=xn.Adam(0.01),
            loss=loss(),
            sample_weight=WEIGHTS * 1e-3,
            epochs=4,
            batch_size=batch_size,
        )
        return backend.to_host(network.flat_parameters).tobytes(), history.column("loss")

    as_written = trained(False)
    assert not recorded
    assert trained(True) == as_written
    assert len(recorded) == (2 if batch_size else 1)


def test_weighted_steps_touch_neither_host_nor_allocator(double: Backend) -> None:
    class Guard(xn.Callback):
        def __init__(self) -> None:
            self.steps, self.guarded = ExitStack(), 0

        def on_step_end(self, run: Any) -> None:
            self.steps.close()
            if run.epoch == 2 and 0 < run.step % run.steps_per_epoch < run.steps_per_epoch - 1:
                self.steps.enter_context(strict_cupy.forbid("sync", "h2d", "d2h", "alloc"))
                self.guarded += 1

    guard = Guard()
    options = {"optimizer": xn.SGD(0.1), "sample_weight": WEIGHTS, "callbacks": [guard]}
    xn.fit(small(double), (IRIS, SPECIES), **options, epochs=2, batch_size=25)
    assert guard.guarded == 4


def test_a_large_weighted_batch_is_the_mean_of_its_samples(backend: Backend) -> None:
    """Without weights it would go through in blocks of rows, whose shares are numbers of rows."""
    x, y = np.tile(IRIS, (20, 1)), np.tile(SPECIES, 20)
    weights = np.tile(WEIGHTS, 20)
    large, one = small(backend), small(backend)
    for network, data in ((large, (x, y, weights)), (one, (IRIS, SPECIES, WEIGHTS))):
        options = {"optimizer": xn.SGD(0.5), "epochs": 3, "batch_size": None}
        xn.fit(network, data[:2], sample_weight=data[2], **options)
    np.testing.assert_allclose(
        backend.to_host(large.flat_parameters),
        backend.to_host(one.flat_parameters),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            np.ones(149),
            r"sample_weight must be 150 numbers, .* found an array of float64 and shape",
        ),
        (["1"] * 150, "sample_weight must be 150 numbers"),
        (np.arange(150), r"sample_weight\[0\] is 0: every weight has to be finite and above 0"),
        (np.full(150, np.nan), r"sample_weight\[0\] is nan"),
        (np.full(150, -1.0), r"sample_weight\[0\] is -1.0"),
    ],
    ids=["short", "words", "zero", "nan", "negative"],
)
def test_fit_refuses_weights_that_cannot_be(weights: Any, says: str, reference: Backend) -> None:
    network = small(reference)
    before = network.flat_parameters.copy()
    with pytest.raises(DataError, match=line(says)):
        xn.fit(network, (IRIS, SPECIES), optimizer=xn.SGD(), sample_weight=weights, epochs=1)
    assert np.array_equal(network.flat_parameters, before)


def test_only_the_ratios_of_weights_matter(backend: Backend) -> None:
    def values(weights: np.ndarray) -> np.ndarray:
        network = xn.Sequential([xn.Linear(4, 3)], backend=backend, seed=2)
        xn.fit(network, (IRIS, SPECIES), optimizer=xn.SGD(), sample_weight=weights, epochs=2)
        return backend.to_host(network.flat_parameters)

    np.testing.assert_allclose(values(WEIGHTS * 1e-60), values(WEIGHTS), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_is_not_gone_on_with_under_other_weights(tmp_path: Path) -> None:
    def train(weights: Any) -> xn.History:
        return xn.fit(
            small(Backend("cpu")),
            (IRIS, SPECIES),
            optimizer=xn.SGD(),
            sample_weight=weights,
            epochs=2,
            checkpoints=xn.Checkpoints(tmp_path, every=1),
        )

    assert len(train(WEIGHTS)) == len(train(WEIGHTS * 2.0)) == 2
    for other in (WEIGHTS[::-1], None):
        with pytest.raises(CheckpointError, match=r"sample_weight is SHA-256 .* there and"):
            train(other)
