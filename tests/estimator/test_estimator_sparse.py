"""Estimators on sparse matrices: what they give for the same samples, dense."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

import xpnet as xn
from xpnet.errors import DataError
from xpnet.estimator import XpnetClassifier, XpnetRegressor

pytestmark = pytest.mark.filterwarnings("ignore:.*has not converged")

RNG = np.random.default_rng(0)
DENSE = RNG.standard_normal((120, 30)) * (RNG.random((120, 30)) < 0.15)
DENSE[::9] = 0
X = sparse.csr_array(DENSE)
Y = (DENSE.sum(axis=1) > 0).astype(int) + (DENSE[:, 0] != 0)
HEIGHTS = DENSE @ RNG.standard_normal(30)
WEIGHTS = RNG.uniform(0, 2, 120) * (RNG.random(120) < 0.8)


def classifier(**options: Any) -> XpnetClassifier:
    return XpnetClassifier(**{"hidden_layer_sizes": 8, "max_iter": 6, "random_state": 0} | options)


def regressor(**options: Any) -> XpnetRegressor:
    return XpnetRegressor(**{"hidden_layer_sizes": 8, "max_iter": 6, "random_state": 0} | options)


def fitted(estimator: Any, x: Any, y: Any, **options: Any) -> Any:
    return estimator.fit(x, y, **options)


def in_parts(estimator: Any, x: Any, y: Any) -> Any:
    first = {"classes": range(3)} if isinstance(estimator, XpnetClassifier) else {}
    estimator.partial_fit(x[:70], y[:70], **first)
    return estimator.partial_fit(x[50:], y[50:], sample_weight=WEIGHTS[50:])


def again(estimator: Any, x: Any, y: Any) -> Any:
    return estimator.fit(x, y).fit(x, y, sample_weight=WEIGHTS)


CASES: dict[str, tuple[Callable[[], Any], Any, Callable[..., Any], dict[str, Any]]] = {
    "classes": (classifier, Y, fitted, {}),
    "weights": (classifier, Y, fitted, {"sample_weight": WEIGHTS}),
    "balanced": (lambda: classifier(class_weight="balanced"), Y, fitted, {}),
    "early stopping": (lambda: classifier(early_stopping=True), Y, fitted, {}),
    "early stopping, weights": (
        lambda: regressor(early_stopping=True, validation_fraction=0.3),
        HEIGHTS,
        fitted,
        {"sample_weight": WEIGHTS},
    ),
    "L2": (lambda: classifier(alpha=1.0), Y, fitted, {}),
    "dropout": (lambda: classifier(dropout=0.3, hidden_layer_sizes=(9, 7)), Y, fitted, {}),
    "no hidden layer": (lambda: classifier(hidden_layer_sizes=()), Y, fitted, {}),
    "sgd": (lambda: classifier(solver="sgd", batch_norm=True, batch_size=30), Y, fitted, {}),
    "labels": (classifier, np.column_stack([Y > 0, Y > 1]).astype(int), fitted, {}),
    "partial fit": (classifier, Y, in_parts, {}),
    "warm start": (lambda: classifier(warm_start=True), Y, again, {}),
    "values": (regressor, HEIGHTS, fitted, {}),
    "values in parts": (regressor, HEIGHTS, in_parts, {}),
    "two values": (regressor, np.column_stack([HEIGHTS, -HEIGHTS]), fitted, {}),
    "counts": (lambda: regressor(loss="poisson"), Y, fitted, {}),
    "network": (
        lambda: classifier(network=lambda features, outputs: [features, 5, "tanh", outputs]),
        Y,
        fitted,
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_estimator_of_the_dense_samples(name: str) -> None:
    make, y, fit, options = CASES[name]
    one, two = fit(make(), X, y, **options), fit(make(), DENSE, y, **options)
    values, expected = one.network_.flat_parameters, two.network_.flat_parameters
    # Some tens of steps, each of which rounds to 2^-53.
    assert np.linalg.norm(values - expected) <= 1e-12 * np.linalg.norm(expected)
    assert one.loss_curve_ == pytest.approx(two.loss_curve_, rel=1e-11)
    assert (one.validation_scores_ or []) == pytest.approx(two.validation_scores_ or [], rel=1e-11)
    assert (one.n_iter_, one.t_, one.n_features_in_) == (two.n_iter_, two.t_, 30)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(two, method):
            found, wanted = (getattr(one, method)(x) for x in (X, DENSE))
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert one.score(X, y) == pytest.approx(one.score(DENSE, y), rel=1e-12)


@pytest.mark.parametrize(
    "kind",
    [
        sparse.csr_matrix,
        sparse.csc_matrix,
        sparse.coo_array,
        sparse.lil_matrix,
        sparse.dok_array,
        sparse.bsr_array,
    ],
)
def test_every_format_gives_the_same_bits(kind: Callable[[Any], Any]) -> None:
    expected = classifier().fit(X, Y).predict_proba(X)
    x = kind(X)
    np.testing.assert_array_equal(classifier().fit(x, Y).predict_proba(x), expected)


def test_held_out_samples_may_be_sparse_or_dense() -> None:
    found = [
        classifier().fit(x, Y, X_val=held, y_val=Y[:40], sample_weight_val=WEIGHTS[:40])
        for x, held in ((X, X[:40]), (X, DENSE[:40]), (DENSE, X[:40]), (DENSE, DENSE[:40]))
    ]
    for one in found[1:]:
        expected = found[0].validation_loss_curve_
        assert one.validation_loss_curve_ == pytest.approx(expected, rel=1e-11)
        assert one.validation_scores_ == found[0].validation_scores_


def test_float32_stays_and_whole_numbers_become_float64() -> None:
    counts = sparse.csr_array(np.rint(3 * DENSE))
    for dtype, expected in (("float32", "float32"), ("int64", "float64"), ("int32", "float64")):
        made = classifier().fit(counts.astype(dtype), Y)
        assert made.network_.dtype == expected
        assert made.predict_proba(counts.astype(dtype)).dtype == expected
    dense = classifier().fit(DENSE.astype("float32"), Y).network_.flat_parameters
    found = classifier().fit(X.astype("float32"), Y).network_.flat_parameters
    assert np.linalg.norm(found - dense) <= 1e-5 * np.linalg.norm(dense)


def test_the_tag_says_so() -> None:
    for kind in (XpnetClassifier, XpnetRegressor):
        assert get_tags(kind()).input_tags.sparse


def test_as_mlpclassifier_it_trains_on_words() -> None:
    texts = ["red apple", "green apple", "red car", "green car", "fast car", "sweet apple"] * 20
    kinds = [text.split()[1] for text in texts]
    for vectorizer in (TfidfVectorizer(), CountVectorizer(), CountVectorizer(binary=True)):
        for kind in (XpnetClassifier, MLPClassifier):
            model = kind((8,), max_iter=60, learning_rate_init=0.05, random_state=0)
            pipeline = make_pipeline(vectorizer, model).fit(texts, kinds)
            assert pipeline.score(texts, kinds) == 1
            assert pipeline.predict(["fast apple"]) == ["apple"]
    search = GridSearchCV(classifier(), {"alpha": [0.1, 1.0]}, cv=2, n_jobs=1).fit(X, Y)
    assert set(search.predict(X)) <= {0, 1, 2}


def test_values_that_are_not_finite_are_named_by_row_and_column() -> None:
    model = classifier().fit(X, Y)
    for value, says in ((np.nan, "is NaN"), (np.inf, "is inf")):
        x = X.copy()
        x.data[70] = value
        row = int(np.searchsorted(x.indptr, 70, side="right")) - 1
        says = rf"^X\[{row}, {x.indices[70]}\] {says}"
        for call in (lambda x: classifier().fit(x, Y), model.predict, model.predict_proba):
            for kind in (sparse.csr_array, sparse.coo_matrix):
                with pytest.raises(DataError, match=says) as caught:
                    call(kind(x))
                assert "\n" not in str(caught.value)


def test_what_cannot_be_used_is_said_in_one_line() -> None:
    model = classifier().fit(X, Y)
    cases: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: model.predict(X[:, :29]),
            "X has 29 features, but XpnetClassifier is expecting 30",
        ),
        (lambda: classifier().fit(X, Y[:-1]), "inconsistent numbers of samples"),
        (lambda: classifier().fit(X[:0], Y[:0]), "0 sample"),
        (lambda: classifier().fit(X.astype(complex), Y), "^X holds complex numbers"),
        (lambda: regressor().fit(X, sparse.csr_array(DENSE[:, :2])), r"^y is sparse \(csr_array\)"),
        (
            lambda: classifier(network=lambda n, k: [xn.BatchNorm(n), n, k]).fit(X, Y),
            r"^X is sparse .* begins with BatchNorm\(30, .*\.toarray\(\)$",
        ),
        (
            lambda: (
                classifier(network=lambda n, k: [xn.BatchNorm(n), n, k]).fit(DENSE, Y).predict(X)
            ),
            r"^X is sparse .* begins with BatchNorm\(30, .*\.toarray\(\)$",
        ),
        (
            lambda: classifier(network=lambda n, k: [xn.BatchNorm(n), n, k]).fit(
                DENSE, Y, X_val=X, y_val=Y
            ),
            r"^X_val is sparse .* begins with BatchNorm\(30, .*\.toarray\(\)$",
        ),
    ]
    for call, says in cases:
        with pytest.raises((ValueError, TypeError), match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(n_iter_no_change=np.inf, early_stopping=True).fit(X, Y).predict(X)
