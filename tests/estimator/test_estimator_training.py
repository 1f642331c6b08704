"""Estimators: the loss of held-out samples, schedules by name, and the display in a notebook."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import ConfigError
from xpnet.estimator import XpnetClassifier, XpnetRegressor
from xpnet.schedules import Cosine, OneCycle

X, Y = load_iris(return_X_y=True)
X = scale(X)
WEIGHTS = np.random.default_rng(0).random(150) + 0.1
HELD = {"X_val": X[::3], "y_val": Y[::3]}


def classifier(**parameters: Any) -> XpnetClassifier:
    shared = {"hidden_layer_sizes": (8,), "max_iter": 12, "n_iter_no_change": float("inf")}
    return XpnetClassifier(
        **{**shared, "random_state": 0, "learning_rate_init": 0.02, **parameters}
    )


def regressor(**parameters: Any) -> XpnetRegressor:
    shared = classifier().get_params()
    del shared["class_weight"]
    return XpnetRegressor(**shared | parameters)


class Rates(xn.Callback):
    """The learning rate of the last update of each epoch."""

    def __init__(self) -> None:
        self.rates = list[float]()

    def on_log(self, run: Any, record: Any) -> None:
        self.rates.append(record.learning_rate)


# ---------------------------------------------------------------------------- the held-out loss


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS * 1e-60])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_validation_loss_is_the_weighted_mean_with_l2(dtype: type, weights: Any) -> None:
    held_weights = None if weights is None else weights[::3]
    x = X.astype(dtype)
    found = classifier(alpha=2.0, batch_size=50).fit(
        x, Y, X_val=x[::3], y_val=Y[::3], sample_weight_val=held_weights
    )
    assert len(found.validation_loss_curve_) == len(found.loss_curve_) == 12
    losses = -found.predict_log_proba(x[::3])[np.arange(50), Y[::3]]
    squares = sum((w**2).sum() for w in list(found.network_.parameters().values())[::2])
    expected = np.average(losses, weights=held_weights) + 2.0 / (2 * 50) * squares
    # Each term is rounded to dtype.
    rtol = 1e-5 if dtype is np.float32 else 1e-12
    assert found.validation_loss_curve_[-1] == pytest.approx(expected, rel=rtol)


def test_the_validation_loss_of_a_regressor() -> None:
    found = regressor(alpha=0.0).fit(X, X[:, :2], X_val=X[::3], y_val=X[::3, :2])
    expected = mean_squared_error(X[::3, :2], found.predict(X[::3]))
    assert found.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-12)
    assert found.validation_scores_[-1] == pytest.approx(found.score(X[::3], X[::3, :2]))


def test_on_the_training_samples_it_is_the_loss_curve_one_update_later() -> None:
    """A full batch is measured before its update, held-out samples after it."""
    found = classifier(batch_size=150, alpha=1.0).fit(X, Y, X_val=X, y_val=Y)
    np.testing.assert_allclose(found.validation_loss_curve_[:-1], found.loss_curve_[1:], rtol=1e-12)


def test_it_exists_where_samples_are_held_out() -> None:
    assert classifier().fit(X, Y).validation_loss_curve_ is None
    found = classifier(early_stopping=True, warm_start=True).fit(X, Y)
    assert len(found.validation_loss_curve_) == 12
    assert found.validation_loss_curve_[-1] < found.validation_loss_curve_[0]
    found.fit(X, Y)
    assert len(found.validation_loss_curve_) == 24
    assert len(found.set_params(warm_start=False).fit(X, Y).validation_loss_curve_) == 12


def test_it_is_measured_on_every_backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = classifier(alpha=1.0).fit(X, Y, WEIGHTS, **HELD, sample_weight_val=WEIGHTS[::3])

    def placed(layers: Any, **options: Any) -> xn.Sequential:
        return xn.Sequential(layers, **(options | {"backend": backend}))

    monkeypatch.setattr("xpnet.estimator._network.Sequential", placed)
    found = classifier(alpha=1.0, device="cuda")
    found.fit(X, Y, WEIGHTS, **HELD, sample_weight_val=WEIGHTS[::3])
    np.testing.assert_allclose(
        found.validation_loss_curve_, expected.validation_loss_curve_, rtol=1e-9
    )


def test_verbose_prints_the_held_out_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = classifier(verbose=True, max_iter=2).fit(X, Y, **HELD)
    last = capsys.readouterr().out.splitlines()[-1]
    loss, score = found.validation_loss_curve_[-1], found.validation_scores_[-1]
    assert last.startswith("epoch 2/2  loss ")
    assert f"  val loss {loss:.4f}  val acc {100 * score:5.2f} %  " in last
    regressor(verbose=True, max_iter=1).fit(X, X[:, 0], X_val=X, y_val=X[:, 0])
    printed = capsys.readouterr().out
    assert "  val loss " in printed
    assert "acc" not in printed


def test_partial_fit_says_why_it_cannot_stop_early() -> None:
    says = r"\Apartial_fit cannot stop early, as each call has only a part of the samples: "
    with pytest.raises(ConfigError, match=says + r"set early_stopping=False and call [^\n]*\Z"):
        classifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2])


# ---------------------------------------------------------------------------- learning rates


@pytest.mark.parametrize(("name", "kind"), [("cosine", Cosine), ("one_cycle", OneCycle)])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_schedule_by_name_goes_over_all_updates(name: str, kind: type, solver: str) -> None:
    rates = Rates()
    classifier(learning_rate=name, solver=solver, batch_size=40, callbacks=rates).fit(X, Y)
    schedule = kind(0.02, 12 * 4)
    assert rates.rates == [pytest.approx(schedule(4 * epoch + 3)) for epoch in range(12)]
    assert rates.rates[-1] < 0.001


def test_held_out_samples_are_not_counted_and_a_warm_start_begins_the_schedule_again() -> None:
    rates = Rates()
    found = classifier(learning_rate="cosine", callbacks=rates, batch_size=40, early_stopping=True)
    found.set_params(warm_start=True, validation_fraction=0.2).fit(X, Y).fit(X, Y)
    schedule = Cosine(0.02, 12 * 3)
    assert rates.rates == [pytest.approx(schedule(3 * epoch + 2)) for epoch in range(12)] * 2


def test_constant_is_the_default() -> None:
    assert XpnetClassifier().learning_rate == XpnetRegressor().learning_rate == "constant"
    rates = Rates()
    classifier(callbacks=rates).fit(X, Y)
    assert rates.rates == [0.02] * 12


def test_the_end_of_a_schedule_is_no_failure_to_converge() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(learning_rate="cosine", n_iter_no_change=10).fit(X, Y)
    with pytest.warns(ConvergenceWarning):
        classifier(n_iter_no_change=10).fit(X, Y)


def test_invscaling_counts_the_samples_of_earlier_fits_and_calls() -> None:
    rates = Rates()
    found = classifier(
        learning_rate="invscaling", power_t=0.4, solver="sgd", batch_size=40, callbacks=rates
    )
    expected = [0.02, *(0.02 / (150 * epoch + 1) ** 0.4 for epoch in range(1, 12))]
    found.fit(X, Y)
    assert rates.rates == [pytest.approx(rate) for rate in expected]
    found.partial_fit(X, Y)
    assert rates.rates[12] == pytest.approx(0.02 / (150 * 12 + 1) ** 0.4)
    found.set_params(warm_start=True, max_iter=2).fit(X, Y)
    assert rates.rates[13:] == [0.02, pytest.approx(0.02 / (150 * 14 + 1) ** 0.4)]


def test_with_invscaling_calls_of_partial_fit_are_epochs_of_fit() -> None:
    shared = {"learning_rate": "invscaling", "solver": "sgd", "batch_size": 150}
    at_once, calls = classifier(**shared).fit(X, Y), classifier(**shared)
    for _ in range(12):
        calls.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_allclose(calls.predict_proba(X), at_once.predict_proba(X), rtol=1e-12)


def test_adaptive_divides_the_rate_by_5_until_it_is_small() -> None:
    rates = Rates()
    shared = {"learning_rate": "adaptive", "solver": "sgd", "callbacks": rates}
    found = classifier(**shared, tol=1e9, n_iter_no_change=2, max_iter=60).fit(X, Y)
    # 0.02 / 5^7 is the first one of 1e-6 or less, which ends training as a constant rate would.
    expected = [0.02] + [0.02 / 5**power for power in range(8) for _ in range(3)]
    assert rates.rates == [pytest.approx(rate) for rate in expected]
    assert found.n_iter_ == len(expected)


def test_adaptive_with_early_stopping_waits_for_the_score() -> None:
    rates = Rates()
    shared = {"learning_rate": "adaptive", "solver": "sgd", "callbacks": rates}
    found = classifier(**shared, early_stopping=True, n_iter_no_change=2, max_iter=60).fit(X, Y)
    expected, best, waited = [0.02], -1.0, 0
    for score in found.validation_scores_:
        waited = 0 if score >= best + found.tol else waited + 1
        best = max(best, score)
        lowered = waited > 2
        expected.append(expected[-1] / 5 if lowered else expected[-1])
        waited = 0 if lowered else waited
    assert rates.rates == [pytest.approx(rate) for rate in expected[:-1]]
    assert rates.rates[-1] < 0.02


ADAPTIVE = {"learning_rate": "adaptive", "solver": "sgd", "n_iter_no_change": 2}


@pytest.mark.filterwarnings("ignore:.* converged")
def test_with_adaptive_calls_of_partial_fit_are_epochs_of_fit() -> None:
    shared = {**ADAPTIVE, "learning_rate_init": 0.5, "tol": 0.05, "batch_size": 150}
    rates, rates_of_calls = Rates(), Rates()
    at_once = classifier(**shared, max_iter=25, callbacks=rates).fit(X, Y)
    calls = classifier(**shared, callbacks=rates_of_calls)
    for _ in range(25):
        calls.partial_fit(X, Y, classes=[0, 1, 2])
    assert rates_of_calls.rates == rates.rates
    assert 1e-6 < rates.rates[-1] < 0.5 / 5**2
    np.testing.assert_allclose(calls.loss_curve_, at_once.loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(calls.predict_proba(X), at_once.predict_proba(X), rtol=1e-12)


def test_with_adaptive_partial_fit_trains_on_at_the_least_rate() -> None:
    rates = Rates()
    found = regressor(**ADAPTIVE, tol=1e9, callbacks=rates)
    for _ in range(40):
        found.partial_fit(X, X[:, 0])
    falling = [0.02] + [0.02 / 5**power for power in range(7) for _ in range(3)]
    least = [0.02 / 5**7] * (40 - len(falling))
    assert rates.rates == [pytest.approx(rate) for rate in [*falling, *least]]
    assert len(found.loss_curve_) == 40


@pytest.mark.filterwarnings("ignore:.* converged")
def test_with_adaptive_partial_fit_counts_on_from_fit_and_a_new_fit_begins_again() -> None:
    rates = Rates()
    found = classifier(**ADAPTIVE, tol=1e9, max_iter=6, callbacks=rates).fit(X, Y)
    for _ in range(3):
        found.partial_fit(X, Y)
    expected = [0.02] * 4 + [0.02 / 5] * 3 + [0.02 / 25] * 2
    assert rates.rates == [pytest.approx(rate) for rate in expected]
    for warm_start in (False, True):
        rates.rates.clear()
        found.set_params(warm_start=warm_start).fit(X, Y)
        assert rates.rates == [pytest.approx(rate) for rate in expected[:6]]


@pytest.mark.filterwarnings("ignore:.* converged")
def test_the_epochs_that_a_score_did_not_improve_are_not_counted_by_partial_fit() -> None:
    rates = Rates()
    found = classifier(**ADAPTIVE, early_stopping=True, tol=1e9, max_iter=6, callbacks=rates)
    found.fit(X, Y).set_params(early_stopping=False)
    for _ in range(4):
        found.partial_fit(X, Y)
    expected = [0.02] * 4 + [0.02 / 5] * 5 + [0.02 / 25]
    assert rates.rates == [pytest.approx(rate) for rate in expected]


@pytest.mark.parametrize("n_iter_no_change", [1, 3])
def test_with_adaptive_partial_fit_trains_as_that_of_mlpclassifier(n_iter_no_change: int) -> None:
    """From equal weights, on a third of the samples in each call."""
    shared = {**ADAPTIVE, "hidden_layer_sizes": (7,), "batch_size": 50, "random_state": 1}
    shared |= {"learning_rate_init": 0.1, "tol": 0.01, "n_iter_no_change": n_iter_no_change}
    theirs = MLPClassifier(**shared)
    theirs.partial_fit(X, Y, classes=[0, 1, 2])
    ours = XpnetClassifier(**shared, network=xn.from_sklearn(theirs))
    theirs.loss_curve_, theirs.best_loss_, theirs._no_improvement_count = [], np.inf, 0
    del theirs._optimizer
    for call in range(90):
        rows = slice(call % 3, None, 3)
        for network in (ours, theirs):
            network.partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
        rate = ours._optimizer.learning_rate(ours._optimizer.steps)
        assert rate == pytest.approx(theirs._optimizer.learning_rate)
    assert rate < 1e-6
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)


def test_a_rate_that_falls_may_still_be_cut_short() -> None:
    for name in ("invscaling", "adaptive"):
        with pytest.warns(ConvergenceWarning):
            classifier(learning_rate=name, solver="sgd", n_iter_no_change=10).fit(X, Y)


def test_it_falls_on_every_backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The velocity is scaled on the device, between replayed steps."""
    shared = {"solver": "sgd", "batch_size": 40, "power_t": 0.3, "learning_rate": "invscaling"}
    expected = classifier(**shared).fit(X, Y)

    def placed(layers: Any, **options: Any) -> xn.Sequential:
        return xn.Sequential(layers, **(options | {"backend": backend}))

    monkeypatch.setattr("xpnet.estimator._network.Sequential", placed)
    found = classifier(**shared, device="cuda").fit(X, Y)
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-9)


def test_a_search_over_schedules_and_a_copy() -> None:
    choices = {"learning_rate": ["constant", "invscaling", "adaptive", "cosine", "one_cycle"]}
    model = classifier(max_iter=60, solver="sgd", learning_rate_init=0.2)
    search = GridSearchCV(model, choices, cv=3).fit(X, Y)
    assert search.best_score_ > 0.9
    found = pickle.loads(pickle.dumps(clone(search.best_estimator_).fit(X, Y)))
    assert found.learning_rate in choices["learning_rate"]


def test_partial_fit_has_no_schedule() -> None:
    says = r"\Alearning_rate='cosine' is a schedule over max_iter epochs, and partial_fit [^\n]*\Z"
    with pytest.raises(ConfigError, match=says):
        classifier(learning_rate="cosine").partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ConfigError, match=says):
        regressor(learning_rate="cosine").partial_fit(X, X[:, 0])


# ---------------------------------------------------------------------------- in a notebook


@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_notebook_shows_the_parameters_and_the_network(make: Any) -> None:
    model = make(hidden_layer_sizes=(7,))
    before = model._repr_mimebundle_()["text/html"]
    assert before.count("Linear(4, 7)") == 0
    fitted = model.fit(X, Y)
    for html in (fitted._repr_mimebundle_()["text/html"], fitted._repr_html_()):
        assert type(model).__name__ in html
        assert "learning_rate_init" in html
        assert html.endswith(fitted.network_._repr_html_())
        assert html.count("Linear(4, 7)") == 1
    assert fitted._repr_mimebundle_()["text/plain"] == repr(fitted)


def test_a_notebook_that_is_to_show_text_shows_text() -> None:
    fitted = classifier().fit(X, Y)
    with config_context(display="text"):
        assert set(fitted._repr_mimebundle_()) == {"text/plain"}
        assert not hasattr(fitted, "_repr_html_")


def test_a_pipeline_is_shown_as_before() -> None:
    pipeline = make_pipeline(StandardScaler(), classifier()).fit(X, Y)
    assert "XpnetClassifier" in pipeline._repr_html_()
