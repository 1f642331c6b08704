"""`XpnetClassifier`, `XpnetRegressor`: xpnet with the scikit-learn interface (extra `sklearn`).

Both build a `Sequential` and train it by `fit()`; this package adds what scikit-learn needs.
Parameters that `MLPClassifier` has too have the same names and meaning.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy

from xpnet.backend import HostArray
from xpnet.errors import ConfigError, DataError, short_repr
from xpnet.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.utils.inputs import check_finite

try:
    from scipy.special import log_softmax
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils.multiclass import check_classification_targets

    from xpnet.estimator._base import Estimator, Samples
    from xpnet.estimator._inputs import look_at_classes, look_at_numbers
except ImportError as error:
    raise ImportError(
        f"xpnet.estimator needs scikit-learn 1.6 or later ({error}): pip install 'xpnet[sklearn]'"
    ) from error

__all__ = ["XpnetClassifier", "XpnetRegressor"]


def _most_likely(network: Sequential, x: Any) -> HostArray:
    """The number of the most likely class of each row: `(n,)` on the host."""
    classes: HostArray = network.backend.to_host(network.forward(x)).argmax(axis=1)
    return classes


class XpnetClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A feed-forward network as a scikit-learn classifier.

    Hidden layers `Linear`, activation and, if asked for, `Dropout`; then a `Linear` of one logit
    per class, with softmax for the probabilities. The loss is the mean cross-entropy of a batch
    plus `alpha / (2 B) · Σ W²`, `B` being the size of a batch (times the mean of all weights, where
    samples have weights). Data is trained on as it is (scale it first), float32 as float32 and all
    else as float64.

    **Parameters** as in `MLPClassifier`: `hidden_layer_sizes`, units of each hidden layer (a
    number, several, or none); `activation`, one of `relu`, `tanh`, `logistic`, `identity`, and
    `leaky_relu`, `gelu`; `solver`, `adam` (with `beta_1`, `beta_2`, `epsilon`) or `sgd` (with
    `momentum`, `nesterovs_momentum`); `alpha`, the strength of L2; `batch_size`, a number, or
    `"auto"` for `min(200, n)`; `learning_rate_init`; `max_iter`, the most epochs to train;
    `random_state`, of weights, order, dropout and split; `warm_start`; `verbose`, a line an
    epoch. Training ends when the loss has not fallen by `tol` for more than `n_iter_no_change`
    consecutive epochs (`inf`: never) or, with `early_stopping`, when the score of
    `validation_fraction` of the samples (or of `X_val`, `y_val`) has not improved in the same way;
    then the weights with the best score are kept; a class of a single sample is trained on, and if
    the held-out samples are too few for every class, some classes are missing there. Also:
    `dropout`, the rate after each hidden layer, and `device`, `"cpu"`, `"cuda"`, `"cuda:1"` or
    `"auto"`.

    **Attributes**: `classes_`; `network_`, the `Sequential` (which `xpnet.save` takes); `n_iter_`,
    epochs of the last call; `t_`, samples seen in all calls; `loss_curve_`, `loss_`, `best_loss_`,
    with L2, running means over the batches; `validation_scores_`, `best_validation_score_`, of
    accuracy, None without validation; `n_features_in_`, `feature_names_in_`.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from xpnet.estimator import XpnetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = XpnetClassifier((16,), learning_rate_init=0.02, max_iter=500, random_state=0)
    >>> pipeline = make_pipeline(StandardScaler(), network).fit(X, y)
    >>> pipeline.predict(X[::40])
    array([0, 0, 1, 2])
    >>> round(pipeline.score(X, y), 2)
    0.99
    """

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> XpnetClassifier:
        """Train one more epoch on `X`, `y`; the first call creates the network and needs `classes`.

        `classes`: all that will ever be in `y`. Also continues after `fit`. Raises as `fit`
        does, and for `early_stopping=True`.
        """
        begins = not hasattr(self, "network_")
        if begins:
            if classes is None:
                raise ConfigError(
                    "classes must be given on the first call of partial_fit: all that will ever "
                    "be in y"
                )
            self._learn_targets(numpy.asarray(classes))
        elif classes is not None and not numpy.array_equal(numpy.unique(classes), self.classes_):
            raise ConfigError(
                f"classes is {classes!r}, and was {self.classes_!r} on the first call of "
                f"partial_fit: leave it out, or begin with a new estimator"
            )
        self._partial_fit(X, y, sample_weight, begins=begins, learn=False)
        return self

    def predict(self, X: Any) -> HostArray:
        """The most likely class of each row: `(n, features) -> (n,)`, of `classes_`."""
        x = self._placed(X)
        network = self.network_
        labels: HostArray = self.classes_[_most_likely(network, x)]
        return labels

    def predict_proba(self, X: Any) -> HostArray:
        """The probability of each class: `(n, features) -> (n, classes)`, as in `classes_`."""
        x = self._placed(X)
        network = self.network_
        return network.backend.to_host(network.predict_proba(x))

    def predict_log_proba(self, X: Any) -> HostArray:
        """`log p` of each class, finite where `p` itself is 0: `(n, features) -> (n, classes)`."""
        x = self._placed(X)
        network = self.network_
        logs: HostArray = log_softmax(network.backend.to_host(network.forward(x)), axis=1)
        return logs

    def _learn_targets(self, y: HostArray) -> None:
        check_classification_targets(y)
        self.classes_ = LabelEncoder().fit(y).classes_

    def _require_same_targets(self, target: HostArray) -> None:
        found = set(target.tolist())
        missing = [name for code, name in enumerate(self.classes_.tolist()) if code not in found]
        if missing:
            raise DataError(
                f"y lacks the class {short_repr(missing[0])} of the first fit, and with warm_start "
                f"training continues with the same network: give samples of all classes, or fit "
                f"with warm_start=False"
            )

    def _look_at_targets(self, y: Any) -> None:
        look_at_classes(y)

    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        known = set(self.classes_.tolist())
        unseen = [label for label in y.tolist() if label not in known]
        if unseen:
            raise DataError(
                f"y has previously unseen labels, such as {short_repr(unseen[0])}, which the "
                "network "
                f"was not made for: fit a new estimator, or give partial_fit all classes on its "
                f"first call"
            )
        encoder = LabelEncoder()
        encoder.classes_ = self.classes_
        codes: HostArray = encoder.transform(y)
        return codes

    def _outputs(self, target: HostArray) -> int:
        return len(self.classes_)

    def _begin(self, train: Samples) -> None:
        super()._begin(train)
        # A saved network has the names of its classes; `python -m xpnet.predict` prints them.
        self.network_.metadata["classes"] = [str(name) for name in self.classes_]

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return ()

    def _loss(self) -> Loss:
        return SoftmaxCrossEntropy()

    def _score(self, network: Sequential, x: Any, held_out: Samples) -> float:
        hit = _most_likely(network, x) == held_out.target
        return float(numpy.average(hit, weights=held_out.weights))


class XpnetRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A feed-forward network for one or several real targets, as a scikit-learn regressor.

    Parameters and attributes are those of `XpnetClassifier`, without `classes_`; scores are R².
    The loss is the mean of `(prediction − y)²` over samples and outputs, plus
    `alpha / (2 B) · Σ W²`. `MLPRegressor` uses half of the squared error: for one output, use twice
    its `alpha` and half its learning rate for `sgd` to get the same result.

    `y`: `(n,)` or `(n, outputs)`; predictions are shaped like it.

    >>> import numpy
    >>> from xpnet.estimator import XpnetRegressor
    >>> X = numpy.linspace(-1, 1, 200).reshape(-1, 1)
    >>> y = numpy.column_stack([X.ravel() ** 2, numpy.sin(3 * X.ravel())])
    >>> network = XpnetRegressor((32,), learning_rate_init=0.02, random_state=0).fit(X, y)
    >>> network.predict(X[:1]).shape
    (1, 2)
    >>> network.score(X, y) > 0.99
    True
    """

    _y_options: ClassVar[dict[str, bool]] = {"multi_output": True, "y_numeric": True}

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> XpnetRegressor:
        """One more epoch on `X`, `y`; a new network on the first call. Also continues after `fit`.

        Raises as `fit` does, and for `early_stopping=True`.
        """
        begins = not hasattr(self, "network_")
        self._partial_fit(X, y, sample_weight, begins=begins, learn=begins)
        return self

    def predict(self, X: Any) -> HostArray:
        """`(n, features) -> (n,)` or `(n, outputs)`, as `y` was."""
        x = self._placed(X)
        network = self.network_
        outputs = network.backend.to_host(network.forward(x))
        return outputs[:, 0] if self._is_single else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _learn_targets(self, y: HostArray) -> None:
        self._is_single = y.ndim == 1

    def _look_at_targets(self, y: Any) -> None:
        look_at_numbers(y, "y")

    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        check_finite(numpy.asarray(y, dtype=numpy.float64), "y", dtype)
        return y.reshape(len(y), -1).astype(dtype)

    def _outputs(self, target: HostArray) -> int:
        return int(target.shape[1])

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return () if self._is_single else (self.network_.out_features,)

    def _loss(self) -> Loss:
        return MeanSquaredError()

    def _score(self, network: Sequential, x: Any, held_out: Samples) -> float:
        outputs = network.backend.to_host(network.forward(x))
        if not numpy.isfinite(outputs).all():
            return math.nan
        return float(r2_score(held_out.target, outputs, sample_weight=held_out.weights))
