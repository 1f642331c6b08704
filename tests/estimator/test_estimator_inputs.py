"""Estimators: what is given to them, named where it cannot be used; early stopping of few."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

import xpnet as xn
from xpnet.errors import ConfigError, DataError
from xpnet.estimator import XpnetClassifier, XpnetRegressor
from xpnet.estimator._split import split

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has not converged"),
    pytest.mark.needs("sklearn"),
]

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
Y = (X[:, 0] > 0).astype(int)
HEIGHTS = 2 * X[:, 0]
FRAME = pd.DataFrame(X, columns=list("abcd"))


def classifier(**options: Any) -> XpnetClassifier:
    return XpnetClassifier(**{"hidden_layer_sizes": 8, "max_iter": 3, "random_state": 0} | options)


def regressor(**options: Any) -> XpnetRegressor:
    return XpnetRegressor(**{"hidden_layer_sizes": 8, "max_iter": 3, "random_state": 0} | options)


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(
    "x",
    [
        X.tolist(),
        FRAME,
        FRAME.astype("Float64"),
        X.astype(object),
        np.asfortranarray(X),
        np.ma.masked_array(X, mask=False),
    ],
    ids=["list", "DataFrame", "Float64", "object", "Fortran", "unmasked"],
)
@pytest.mark.filterwarnings("ignore:X (has|does not have) .*feature names")
def test_samples_of_many_kinds_are_the_same_samples(x: Any) -> None:
    expected = classifier().fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(classifier().fit(x, Y).predict_proba(x), expected)


@pytest.mark.parametrize(
    "kind", [list, pd.Series, np.asarray, lambda y: pd.Series(y, dtype="Int64")]
)
def test_targets_of_many_kinds_are_the_same_targets(kind: Any) -> None:
    expected = classifier().fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(classifier().fit(X, kind(Y)).predict_proba(X), expected)
    values = np.round(HEIGHTS).astype(int)
    wanted = regressor().fit(X, values).predict(X)
    np.testing.assert_array_equal(regressor().fit(X, kind(values)).predict(X), wanted)


def with_one(value: Any, row: int = 5, column: int = 2) -> np.ndarray:
    changed = X.astype(object if isinstance(value, str) else float)
    changed[row, column] = value
    return changed


BAD = [
    (with_one(math.nan), r"^X\[5, 2\] is NaN"),
    (with_one(-math.inf), r"^X\[5, 2\] is -inf"),
    (with_one("tall"), r"^X\[5, 2\] is the text 'tall'"),
    (FRAME.assign(c="tall"), r"^column 'c', row 0 of X is the text 'tall'"),
    (FRAME.mask(FRAME > 2.2), r"^column '[abcd]', row \d+ of X is NaN"),
    (FRAME.astype("Float64").mask(FRAME > 2.2), r"^column '[abcd]', row \d+ of X is missing \(NA"),
    (FRAME.assign(c=pd.Categorical(["u", "v"] * 30)), r"^column 'c' of X is categorical"),
    (FRAME.assign(c=pd.Categorical([1, 2] * 30)), r"^column 'c' of X is categorical"),
    (FRAME.assign(c=pd.Timestamp("2020-01-01")), r"^column 'c' of X holds dates"),
    (np.ma.masked_greater(X, 2.2), r"^X\[\d+, \d\] is masked"),
    ([[1.0, 2.0], [3.0]], r"^X is ragged: row 1 has 1 values"),
    ([[10**400] * 4] * 60, "large a number"),
    (None, "^X is None"),
]


@pytest.mark.parametrize(("x", "says"), BAD, ids=[says for _, says in BAD])
@pytest.mark.filterwarnings("ignore:X (has|does not have) .*feature names")
def test_samples_that_are_no_numbers_are_named(x: Any, says: str) -> None:
    for estimator, y in ((classifier(), Y), (regressor(), HEIGHTS)):
        with pytest.raises(DataError, match=says) as caught:
            estimator.fit(x, y)
        one_line(caught.value)
    fitted = classifier().fit(FRAME if isinstance(x, pd.DataFrame) else X, Y)
    for method in (fitted.predict, fitted.predict_proba, fitted.predict_log_proba):
        with pytest.raises(DataError, match=says):
            method(x)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.where(Y > 0, math.nan, 1.0), r"^y\[\d+\] is missing \(nan\)"),
        (np.where(Y > 0, None, "a"), r"^y\[\d+\] is missing \(None\)"),
        (pd.Series(Y, dtype="Int64").mask(Y > 0), r"^y\[\d+\] is missing \(<NA>\)"),
        (np.ma.masked_equal(Y, 1), r"^y\[\d+\] is masked"),
        (np.array(["a", np.ma.masked, "b"] * 20, dtype=object), r"^y\[1\] is missing"),
    ],
)
def test_labels_that_are_missing_are_named(y: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        classifier().fit(X, y)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.where(Y > 0, math.nan, 1.0), r"^y\[\d+\] is NaN"),
        (np.where(Y > 0, math.inf, 1.0), r"^y\[\d+\] is inf"),
        (["a"] * 60, r"^y\[0\] is the text 'a'"),
        (pd.DataFrame({"u": HEIGHTS, "v": ["a"] * 60}), r"^y\[0, 1\] is the text 'a'"),
        (pd.Series(HEIGHTS, dtype="Float64").mask(Y > 0), r"^y\[\d+\] is missing"),
        (np.ma.masked_greater(HEIGHTS, 1), r"^y\[\d+\] is masked"),
    ],
)
def test_values_that_are_no_numbers_are_named(y: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        regressor().fit(X, y)
    one_line(caught.value)


def test_a_value_that_float32_cannot_hold_is_named() -> None:
    y = HEIGHTS.copy()
    y[7] = 1e39
    with pytest.raises(DataError, match=r"^y\[7\] is 1e\+39, and float32"):
        regressor().fit(X.astype(np.float32), y)
    several = np.column_stack([HEIGHTS] * 50)
    several[7, 3] = -1e39
    with pytest.raises(DataError, match=r"^y\[7, 3\] is -1e\+39, and float32") as caught:
        regressor().fit(X.astype(np.float32), several)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (np.ma.masked_array(np.ones(60), mask=Y > 0), r"^sample_weight\[\d+\] is masked"),
        (np.where(Y > 0, math.nan, 1.0), r"^sample_weight\[\d+\] is NaN"),
        (["a"] * 60, r"^sample_weight\[0\] is the text 'a'"),
        ("balanced", "^sample_weight is 'balanced', X has 60 rows"),
        (3.0, r"^sample_weight is 3\.0, X has 60 rows"),
    ],
)
def test_weights_that_are_no_numbers_are_named(weights: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        classifier().fit(X, Y, sample_weight=weights)
    one_line(caught.value)


@pytest.mark.parametrize("x", [X[:, 0], X + 1j, FRAME[list("dcba")], X.reshape(60, 2, 2)])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_scikit_learns_own_words_come_in_one_line(x: Any) -> None:
    fitted = classifier().fit(FRAME, Y)
    with pytest.raises(ValueError, match=r"Expected|Complex|feature names|dim 3") as caught:
        fitted.predict(x)
    assert len(one_line(caught.value)) < 250


NUMBERS = [np.int64(1), np.array(1), np.uint8(1)]
REALS = [np.float32(0.25), np.array(0.25), Fraction(1, 4)]
NO_NUMBERS = [None, "0.5", True, np.True_, math.nan, [0.5], xn.Adam, 1j, 10**400, Decimal("0.1")]


@pytest.mark.parametrize("value", REALS, ids=repr)
def test_numbers_of_numpy_are_as_good_as_pythons(value: Any) -> None:
    names = ("alpha", "tol", "learning_rate_init", "dropout", "beta_1", "epsilon", "momentum")
    settings = dict.fromkeys((*names, "validation_fraction"), value)
    found = classifier(early_stopping=True, **settings).fit(X, Y)
    plain = classifier(early_stopping=True, **dict.fromkeys(settings, 0.25)).fit(X, Y)
    np.testing.assert_array_equal(found.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_whole_numbers_of_numpy_are_as_good_as_pythons(value: Any) -> None:
    names = ("max_iter", "batch_size", "n_iter_no_change", "hidden_layer_sizes")
    found = classifier(**dict.fromkeys(names, value)).fit(X, Y)
    plain = classifier(**dict.fromkeys(names, 1)).fit(X, Y)
    np.testing.assert_array_equal(found.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    "name",
    [
        "alpha",
        "tol",
        "learning_rate_init",
        "dropout",
        "beta_1",
        "beta_2",
        "epsilon",
        "momentum",
        "validation_fraction",
        "max_iter",
        "batch_size",
        "n_iter_no_change",
    ],
)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    if name == "dropout" and isinstance(value, list):
        value = [value]  # a list has one entry a hidden layer, which is no list itself
    with pytest.raises(ConfigError, match=rf"^{name} must be a (whole )?number") as caught:
        classifier(**{name: value}).fit(X, Y)
    assert len(one_line(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_layer_sizes", {3}),
        ("hidden_layer_sizes", True),
        ("hidden_layer_sizes", [[3]]),
        ("activation", xn.ReLU),
        ("activation", np.array(["relu", "tanh"])),
        ("solver", xn.Adam(0.1)),
        ("device", None),
        ("early_stopping", "yes"),
        ("early_stopping", np.array([1, 2])),
        ("warm_start", None),
        ("nesterovs_momentum", 2),
        ("verbose", "yes"),
        ("random_state", "seed"),
        ("random_state", -1),
        ("random_state", np.random.default_rng(0)),
    ],
)
def test_other_slips_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} must be ") as caught:
        classifier(**{name: value}).fit(X, Y)
    assert len(one_line(caught.value)) < 200


# Early stopping of few samples.


def test_a_split_with_room_is_that_of_scikit_learn() -> None:
    train, held = split(60, 0.2, 7, Y)
    rows = np.arange(60)
    expected = train_test_split(rows, test_size=0.2, random_state=7, stratify=Y)
    assert [train.tolist(), held.tolist()] == [part.tolist() for part in expected]
    train, held = split(60, 0.2, 7, None)
    expected = train_test_split(rows, test_size=0.2, random_state=7)
    assert [train.tolist(), held.tolist()] == [part.tolist() for part in expected]


@pytest.mark.parametrize(
    "sizes",
    [
        [59, 1],
        [30, 29, 1],
        [20, 1, 1, 1, 37],
        [2] * 30,
        [1] * 57 + [3],
        [1] * 30 + [2] * 15,
        [3] * 20,
        [6] * 10,
        [60],
    ],
    ids=str,
)
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_every_class_is_trained_on(sizes: list[int], fraction: float) -> None:
    classes = np.random.default_rng(2).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train, held = split(60, fraction, 0, classes)
    assert sorted([*train, *held]) == list(range(60))
    assert set(classes[train]) == set(range(len(sizes)))
    assert 2 <= len(held) <= math.ceil(fraction * 60)
    again = split(60, fraction, 0, classes)
    assert [part.tolist() for part in again] == [train.tolist(), held.tolist()]


def test_a_class_of_one_sample_trains_with_early_stopping() -> None:
    y = Y.copy()
    y[5] = 2
    fitted = classifier(early_stopping=True).fit(X, y)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert len(fitted.validation_scores_) == fitted.n_iter_
    many = np.arange(60) % 30
    assert classifier(early_stopping=True).fit(X, many).network_.out_features == 30


@pytest.mark.parametrize(
    ("count", "fraction", "classes"),
    [
        (1, 0.1, None),
        (2, 0.5, None),
        (3, 0.9, None),
        (10, 0.1, None),
        (10, 0.1, np.zeros(10, int)),
        (10, 0.5, np.arange(10)),
        (10, 0.5, np.array([*range(9), 0])),
    ],
)
def test_what_cannot_be_held_out_names_the_fraction(
    count: int, fraction: float, classes: np.ndarray | None
) -> None:
    with pytest.raises(DataError, match="validation_fraction") as caught:
        split(count, fraction, 0, classes)
    one_line(caught.value)


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_the_estimators_name_the_fraction_too() -> None:
    for estimator, y in ((classifier(), np.arange(60)), (regressor(), HEIGHTS)):
        estimator.set_params(early_stopping=True, validation_fraction=0.01)
        with pytest.raises(DataError, match="validation_fraction"):
            estimator.fit(X, y)
    with pytest.raises(DataError, match="give X_val more rows"):
        classifier().fit(X, Y, X_val=X[:1], y_val=Y[:1])


@pytest.mark.parametrize("columns", [None, 1, 2])
def test_the_network_of_an_estimator_predicts_as_it_does(columns: int | None) -> None:
    y = HEIGHTS if columns is None else X[:, :columns]
    fitted = regressor().fit(X, y)
    np.testing.assert_array_equal(fitted.network_.predict(X), fitted.predict(X))
    named = classifier().fit(X, np.array(["no", "yes"])[Y])
    np.testing.assert_array_equal(named.classes_[named.network_.predict(X)], named.predict(X))
    np.testing.assert_array_equal(named.network_.predict_proba(X), named.predict_proba(X))


def test_warm_start_with_other_classes_is_refused_by_name() -> None:
    x, y = X[:30], np.arange(30) % 3
    model = XpnetClassifier(max_iter=2, warm_start=True, random_state=0, n_iter_no_change=math.inf)
    model.fit(x, y).fit(x, y)
    with pytest.raises(
        ValueError, match=r"^y lacks the class 2 of the first fit.*warm_start=False$"
    ):
        model.fit(x, y % 2)
    with pytest.raises(ValueError, match=r"^y has previously unseen labels, such as 3, which"):
        model.fit(x, y + 1)
    with pytest.raises(ValueError, match=r"^y has previously unseen labels, such as 'a', which"):
        model.fit(x, np.full(30, "a"))
