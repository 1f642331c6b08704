"""`XpnetClassifier(class_weight=)`: the weights of scikit-learn, times those of the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.metrics import recall_score
from sklearn.utils.class_weight import compute_sample_weight

from xpnet.errors import ConfigError, DataError
from xpnet.estimator import XpnetClassifier

X, RARE = make_classification(300, 6, weights=[0.9], class_sep=0.7, flip_y=0, random_state=0)
NAMES = np.array(["often", "rare"])[RARE]
WEIGHTS = np.random.default_rng(0).random(300)
DICT = {"often": 0.25, "rare": 4.0}


def classifier(**parameters: Any) -> XpnetClassifier:
    shared = {"hidden_layer_sizes": (8,), "max_iter": 15, "n_iter_no_change": float("inf")}
    return XpnetClassifier(**{**shared, "random_state": 0, **parameters})


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("class_weight", [DICT, "balanced"])
def test_it_is_the_same_sample_weight_given_by_hand_bit_for_bit(
    class_weight: Any, weights: Any, early_stopping: bool
) -> None:
    by_hand = compute_sample_weight(class_weight, NAMES)
    by_hand = by_hand if weights is None else weights * by_hand
    one = classifier(class_weight=class_weight, early_stopping=early_stopping)
    other = classifier(early_stopping=early_stopping)
    one.fit(X, NAMES, weights)
    other.fit(X, NAMES, by_hand)
    assert np.array_equal(one.network_.flat_parameters, other.network_.flat_parameters)
    assert one.loss_curve_ == other.loss_curve_
    assert one.validation_scores_ == other.validation_scores_


def test_calls_of_partial_fit_take_a_dict() -> None:
    one, other = classifier(class_weight=DICT), classifier()
    for rows in (slice(0, 150), slice(150, 300)):
        one.partial_fit(X[rows], NAMES[rows], classes=["often", "rare"])
        by_hand = compute_sample_weight(DICT, NAMES[rows])
        other.partial_fit(X[rows], NAMES[rows], by_hand, classes=["often", "rare"])
    assert np.array_equal(one.network_.flat_parameters, other.network_.flat_parameters)


def test_a_dict_is_compared_with_all_classes_not_with_those_of_a_batch() -> None:
    y = np.arange(300) % 3
    one = classifier(class_weight={1: 5.0})
    other = classifier(class_weight={0: 1.0, 1: 5.0, 2: 1.0})
    for rows in (y == 0, y > 0):  # the first batch has no sample of class 1
        one.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
        other.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert np.array_equal(one.network_.flat_parameters, other.network_.flat_parameters)
    with pytest.raises(ConfigError, match="class_weight has the key 7, which is not a class of y"):
        classifier(class_weight={1: 5.0, 2: 1.0, 7: 1.0}).fit(X, y)


def test_names_of_digits_and_a_class_that_a_part_of_the_samples_lacks() -> None:
    digits = np.array(["0", "1"])[RARE]
    one = classifier(class_weight={"0": 0.25, "1": 4.0, "2": 9.0}).fit(X, digits)
    other = classifier(class_weight=DICT).fit(X, NAMES)
    assert np.array_equal(one.network_.flat_parameters, other.network_.flat_parameters)


def test_with_warm_start_a_class_of_weight_0_is_still_in_y() -> None:
    y = np.arange(300) % 3
    one = classifier(class_weight={0: 0.0, 1: 1.0, 2: 1.0}, warm_start=True).fit(X, y)
    assert one.fit(X, y).n_iter_ == 15


def test_held_out_samples_of_ones_own_have_their_own_weights_alone() -> None:
    held = {"X_val": X[:100], "y_val": NAMES[:100]}
    one = classifier(class_weight=DICT).fit(X, NAMES, **held)
    other = classifier().fit(X, NAMES, compute_sample_weight(DICT, NAMES), **held)
    assert one.validation_scores_ == other.validation_scores_


def test_a_weight_of_0_leaves_a_class_out_of_training() -> None:
    found = classifier(
        class_weight={"often": 1, "rare": 0}, max_iter=60, learning_rate_init=0.02
    ).fit(X, NAMES)
    assert list(found.classes_) == ["often", "rare"]
    assert set(found.predict(X)) == {"often"}


def test_a_rare_class_is_found_more_often() -> None:
    """As `scale_pos_weight` elsewhere: the rare class with the weight of the ratio."""
    recalls = [
        recall_score(RARE, classifier(class_weight=weight, max_iter=40).fit(X, RARE).predict(X))
        for weight in (None, {0: 1, 1: (RARE == 0).sum() / (RARE == 1).sum()}, "balanced")
    ]
    assert recalls[0] + 0.2 < recalls[1]
    assert recalls[0] + 0.2 < recalls[2]


@pytest.mark.parametrize(
    ("class_weight", "says"),
    [
        ("even", "class_weight must be a dict of the classes.*, 'balanced' or None, found 'even'"),
        ([1, 2], r"class_weight must be a dict of the classes.*found \[1, 2\]"),
        (
            {0: 1, 7: 2},
            r"^class_weight has the key 7, which is not a class of y, whose classes are \[0, 1\]: "
            r"correct the key, or leave it out$",
        ),
        ({0: 1, "1": 2}, "class_weight has the key '1', which is not a class of y"),
        ({0: 1, 1: -2}, r"class_weight\[1\] must be a number of 0 or more, found -2"),
        ({0: 1, 1: np.nan}, r"class_weight\[1\] must be a number of 0 or more, found nan"),
        ({0: np.inf, 1: 1}, r"class_weight\[0\] must be a number of 0 or more, found inf"),
        ({0: "a", 1: 1}, r"class_weight\[0\] must be a number of 0 or more, found 'a'"),
        (
            {0: 0, 1: 0},
            "class_weight gives every class of y the weight 0.*give at least one class a weight",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused(class_weight: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        classifier(class_weight=class_weight).fit(X, RARE)
    assert "\n" not in str(caught.value)


def test_weights_whose_product_is_0_are_refused() -> None:
    with pytest.raises(DataError, match="sample_weight times class_weight is zero everywhere"):
        classifier(class_weight={0: 0, 1: 1}).fit(X, RARE, (RARE == 0) * 1.0)


def test_partial_fit_cannot_balance() -> None:
    with pytest.raises(ConfigError, match="class_weight='balanced' needs all samples"):
        classifier(class_weight="balanced").partial_fit(X, RARE, classes=[0, 1])
