"""`XpnetClassifier` with several labels a sample: `y (n, labels)` of 0 and 1."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import strict_cupy
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.metrics import accuracy_score, recall_score
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from sklearn.utils.class_weight import compute_sample_weight
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import recording
from xpnet.backend import Backend
from xpnet.errors import ConfigError, DataError
from xpnet.estimator import XpnetClassifier
from xpnet.estimator._labels import LabelCrossEntropy
from xpnet.runs.model import Model

X, Y = make_multilabel_classification(200, 6, n_classes=4, random_state=0)
X = scale(X)
WEIGHTS = np.random.default_rng(0).integers(1, 4, 200)


def classifier(**parameters: Any) -> XpnetClassifier:
    shared = {"hidden_layer_sizes": (8,), "max_iter": 20, "n_iter_no_change": float("inf")}
    return XpnetClassifier(
        **{**shared, "random_state": 0, "learning_rate_init": 0.02, **parameters}
    )


@pytest.mark.filterwarnings("ignore:.* converged")
@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "sgd", "learning_rate_init": 0.1},
        {"solver": "sgd", "learning_rate_init": 0.1, "tol": 1e-2, "n_iter_no_change": 4},
        {"solver": "adam", "beta_1": 0.8, "beta_2": 0.9, "activation": "tanh"},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_from_the_same_weights_it_trains_as_mlpclassifier(
    parameters: dict[str, Any], weighted: bool
) -> None:
    shared = {"hidden_layer_sizes": (7, 5), "alpha": 3.0, "batch_size": 200, "random_state": 1}
    # Their ε is not corrected for bias, ours is: here it is too small to matter.
    shared |= {"max_iter": 1, "warm_start": True, "epsilon": 1e-14, **parameters}
    weights = WEIGHTS if weighted else None
    ours = XpnetClassifier(**shared).fit(X, Y, weights)
    theirs = MLPClassifier(**shared).fit(X, Y, weights)
    values = [np.array(value) for value in ours.network_.parameters().values()]
    theirs.coefs_ = [np.ascontiguousarray(weight.T) for weight in values[::2]]
    theirs.intercepts_ = values[1::2]
    theirs.loss_curve_, theirs.best_loss_, theirs._no_improvement_count = [], np.inf, 0
    for network in (ours, theirs):
        network.set_params(max_iter=60).fit(X, Y, weights)
    assert ours.n_iter_ == theirs.n_iter_
    assert ("tol" in parameters) == (ours.n_iter_ < 60)
    # As with one class a sample: 60 updates of 1e-16 each, and Adam's division by small √v.
    np.testing.assert_allclose(ours.loss_curve_[1:], theirs.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)
    np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-7)
    assert np.array_equal(ours.predict(X), theirs.predict(X))
    assert ours.predict(X).dtype == theirs.predict(X).dtype
    assert np.array_equal(ours.classes_, theirs.classes_)
    assert ours.score(X, Y, weights) == theirs.score(X, Y, weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "form",
    [np.asarray, np.ndarray.tolist, pd.DataFrame, lambda y: y.astype(bool), np.asfortranarray],
)
def test_it_learns_labels_in_every_form(form: Any, dtype: type) -> None:
    found = classifier(max_iter=150).fit(X.astype(dtype), form(Y))
    assert list(found.classes_) == [0, 1, 2, 3]
    p = found.predict_proba(X.astype(dtype))
    assert p.shape == (200, 4)
    assert p.dtype == dtype
    assert np.array_equal(found.predict(X.astype(dtype)), p > 0.5)
    np.testing.assert_allclose(np.exp(found.predict_log_proba(X.astype(dtype))), p, rtol=1e-5)
    assert found.score(X, Y) == accuracy_score(Y, found.predict(X))
    never = accuracy_score(Y, np.repeat([Y.mean(axis=0) > 0.5], 200, axis=0))
    assert found.score(X, Y) > never + 0.2


def test_the_log_of_a_probability_of_0_is_finite() -> None:
    found = classifier().fit(X, Y)
    logs = found.predict_log_proba(X * 1e4)
    assert found.predict_proba(X * 1e4).min() == 0
    assert np.isfinite(logs).all()
    assert logs.min() < -1000


def test_early_stopping_measures_the_share_of_samples_that_are_all_right() -> None:
    found = classifier(early_stopping=True, n_iter_no_change=5, max_iter=500).fit(X, Y)
    assert len(found.validation_scores_) == found.n_iter_ < 500
    held = {"X_val": X[:80], "y_val": Y[:80], "sample_weight_val": WEIGHTS[:80]}
    found = classifier(early_stopping=True, max_iter=60).fit(X, Y, **held)
    expected = accuracy_score(Y[:80], found.predict(X[:80]), sample_weight=WEIGHTS[:80])
    assert found.best_validation_score_ == pytest.approx(expected, rel=1e-12)
    assert expected > 0


def test_calls_of_partial_fit_are_epochs_of_fit() -> None:
    at_once = classifier(max_iter=4, batch_size=200).fit(X, Y)
    one_by_one = classifier(batch_size=200)
    for classes in (None, range(4), [3, 2, 1, 0], None):
        one_by_one.partial_fit(X, Y, classes=classes)
    assert one_by_one.loss_curve_ == at_once.loss_curve_
    assert np.array_equal(one_by_one.network_.flat_parameters, at_once.network_.flat_parameters)
    with pytest.raises(ConfigError, match=r"^classes is \[0, 1\], and y has 4 columns of labels"):
        classifier().partial_fit(X, Y, classes=[0, 1])


def test_a_warm_start_continues_also_where_a_label_is_missing() -> None:
    at_once = classifier(max_iter=4, solver="sgd", momentum=0, batch_size=200).fit(X, Y)
    warm = clone(at_once).set_params(max_iter=2, warm_start=True)
    warm.fit(X, Y).fit(X, Y)
    assert np.array_equal(warm.network_.flat_parameters, at_once.network_.flat_parameters)
    without = Y * [1, 1, 1, 0]
    assert warm.fit(X, without).predict(X).shape == (200, 4)


@pytest.mark.parametrize("class_weight", ["balanced", [{0: 1, 1: 5}, *[{0: 1, 1: 1}] * 3]])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_are_the_products_that_scikit_learn_makes(
    class_weight: Any, weighted: bool
) -> None:
    weights = WEIGHTS * 1.0 if weighted else 1.0
    by_hand = weights * compute_sample_weight(class_weight, Y)
    one = classifier(class_weight=class_weight).fit(X, Y, WEIGHTS if weighted else None)
    other = classifier().fit(X, Y, by_hand)
    assert np.array_equal(one.network_.flat_parameters, other.network_.flat_parameters)
    assert by_hand.std() > 0


def test_a_rare_label_is_found_more_often_with_a_weight() -> None:
    noisy = X[:, 0] + np.random.default_rng(1).standard_normal(200)
    y = np.column_stack([Y[:, 0], noisy > 2])
    found = [
        classifier(class_weight=weight, max_iter=40).fit(X, y).predict(X)
        for weight in (None, [{0: 1, 1: 1}, {0: 1, 1: (y[:, 1] == 0).sum() / y[:, 1].sum()}])
    ]
    recalls = [recall_score(y[:, 1], labels[:, 1]) for labels in found]
    assert recalls[0] + 0.2 < recalls[1]


def test_a_stored_estimator_and_a_saved_network_predict_the_same(tmp_path: Path) -> None:
    found = classifier().fit(X, Y)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.predict_proba(X), found.predict_proba(X))
    xn.save(found.network_, tmp_path / "model.safetensors")
    read = xn.load(tmp_path / "model.safetensors")
    assert np.array_equal(read.predict(X), found.predict(X))
    assert np.array_equal(read.predict_proba(X), found.predict_proba(X))
    assert Model.load(tmp_path / "model.safetensors").classes == ("0", "1", "2", "3")


def test_a_search_scores_by_all_labels() -> None:
    choices = {"learning_rate_init": [1e-6, 0.05]}
    search = GridSearchCV(classifier(max_iter=60), choices, cv=3).fit(X, Y)
    assert search.best_params_ == {"learning_rate_init": 0.05}


def test_it_trains_and_predicts_on_every_backend(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 32, "early_stopping": True, "max_iter": 5}
    for weights in (None, WEIGHTS):
        expected = classifier(**options).fit(X, Y, weights)
        with monkeypatch.context() as patch:

            def placed(layers: Any, **options: Any) -> xn.Sequential:
                return xn.Sequential(layers, **(options | {"backend": backend}))

            patch.setattr("xpnet.estimator._network.Sequential", placed)
            found = classifier(**options, device="cuda").fit(X, Y, weights)
        for method in ("predict_proba", "predict_log_proba", "predict"):
            there = getattr(found, method)(X)
            assert isinstance(there, np.ndarray)
            np.testing.assert_allclose(there, getattr(expected, method)(X), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-9)
        assert found.validation_scores_ == expected.validation_scores_


@pytest.mark.parametrize("weights", [None, WEIGHTS * 1.0])
def test_the_loss_is_the_sum_over_the_labels(weights: Any, backend: Backend) -> None:
    rng = np.random.default_rng(3)
    logits, target = rng.standard_normal((200, 4)), Y.astype(float)
    on = [None if a is None else backend.asarray(a) for a in (logits, target, weights)]
    summed, averaged = LabelCrossEntropy(), xn.SigmoidBinaryCrossEntropy()
    assert summed(*on) == pytest.approx(4 * averaged(*on), rel=1e-14)
    np.testing.assert_allclose(
        backend.to_host(summed.backward(0.5)), 2 * backend.to_host(averaged.backward()), rtol=1e-14
    )
    with pytest.raises(ConfigError, match=r"backward\(\) needs forward\(\) first"):
        LabelCrossEntropy().backward()


@pytest.mark.parametrize("weights", [None, WEIGHTS * 1.0])
def test_its_steps_are_replayed_to_the_same_bits(
    weights: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []
    record = recording.record

    def spy(*arguments: Any) -> Any:
        recorded.append(record(*arguments))
        return recorded[-1]

    monkeypatch.setattr(recording, "record", spy)

    def trained(enabled: bool) -> tuple[bytes, list[float]]:
        monkeypatch.setattr(SETTINGS, "recording_enabled", enabled)
        network = xn.Sequential(6, 8, "relu", 4, backend=backend, dtype="float64", seed=2)
        options = {"optimizer": xn.SGD(0.1), "loss": LabelCrossEntropy(), "epochs": 4}
        history = xn.fit(
            network, (X, Y * 1.0), sample_weight=weights, batch_size=50, l2=0.1, **options
        )
        return backend.to_host(network.flat_parameters).tobytes(), history.column("loss")

    as_written = trained(False)
    assert not recorded
    assert trained(True) == as_written
    assert len(recorded) == 1


def test_its_steps_touch_neither_host_nor_allocator(double: Backend) -> None:
    loss, target = LabelCrossEntropy(), double.asarray(Y * 1.0)
    logits = double.asarray(np.random.default_rng(3).standard_normal((200, 4)))
    for weights in (None, double.asarray(WEIGHTS * 1.0)):
        loss.forward(logits, target, weights)
        loss.backward()
        with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
            loss.forward(logits, target, weights)
            loss.backward()


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (Y * 2 - 1, r"^y\[\d+, \d\] is -1, and a matrix y \(n, labels\) takes 1"),
        (Y * 2, r"^y\[\d+, \d\] is 2, and a matrix"),
        (Y + 0.5, r"^y\[0, 0\] is [01]\.5, and a matrix"),
        (np.where(Y > 0, "a", "b"), r"^y\[0, 0\] is '[ab]', .*MultiLabelBinarizer"),
        (np.where(Y > 0, np.nan, 1.0), r"^y\[\d+, \d\] is missing \(nan\)"),
        (csr_matrix(Y), r"^y is a sparse matrix: give y.toarray\(\)"),
    ],
)
def test_a_matrix_that_is_none_of_labels_is_refused(y: Any, says: str) -> None:
    for train in (classifier().fit, classifier().partial_fit):
        with pytest.raises(DataError, match=says) as caught:
            train(X, y)
        assert "\n" not in str(caught.value)


def test_lists_of_names_need_a_binarizer() -> None:
    says = r"\Ay has rows of different lengths: [^\n]* with MultiLabelBinarizer\Z"
    with pytest.raises(DataError, match=says):
        classifier().fit(X, [["a"], ["a", "b"]] * 100)


def test_targets_of_another_shape_are_refused() -> None:
    many = classifier(warm_start=True).fit(X, Y)
    one = classifier(warm_start=True).fit(X, Y[:, 0])
    says = "^y has shape {}, and the network was made for {} per sample: give as many"
    for shape, y in ((r"\(200, 3\)", Y[:, :3]), (r"\(200,\)", Y[:, 0])):
        with pytest.raises(DataError, match=says.format(shape, "4 labels")):
            many.fit(X, y)
        with pytest.raises(DataError, match=says.format(shape, "4 labels")):
            many.fit(X, Y, X_val=X, y_val=y)
    with pytest.raises(DataError, match=says.format(r"\(200, 4\)", "one class")):
        one.fit(X, Y)


@pytest.mark.parametrize(
    ("class_weight", "y", "says"),
    [
        ({0: 1, 1: 2}, Y, "class_weight has one dict, and y 4 columns of labels: give a list of 4"),
        ([{0: 1, 1: 2}] * 3, Y, "class_weight has 3 dicts, and y 4 columns of labels: give a list"),
        ([{0: 1, 1: -2}] * 4, Y, r"class_weight\[0\]\[1\] must be a number of 0 or more, found -2"),
        ([{0: 1}] * 3 + [{2: 1}], Y, r"class_weight\[3\] has the key 2, which is not a class of y"),
        ([{0: 1e300, 1: 1e300}] * 4, Y, "class_weight gives the labels .* a product of weights"),
        ([{0: 1, 1: 2}], Y[:, 0], "class_weight is a list, one dict for each label, and y has one"),
        ([], Y, r"class_weight must be a dict .*found \[\]"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(class_weight: Any, y: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}") as caught:
        classifier(class_weight=class_weight).fit(X, y)
    assert "\n" not in str(caught.value)
