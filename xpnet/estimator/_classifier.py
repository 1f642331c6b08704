"""`XpnetClassifier`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from scipy.special import log_expit, log_softmax
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets

from xpnet.backend import HostArray
from xpnet.errors import ConfigError, DataError, short_repr
from xpnet.estimator._base import Estimator, Samples
from xpnet.estimator._class_weight import class_weights, require_class_weight
from xpnet.estimator._inputs import look_at_classes
from xpnet.estimator._labels import (
    LabelCrossEntropy,
    columns_of,
    label_matrix,
    require_all_columns,
)
from xpnet.losses import Loss, SoftmaxCrossEntropy


def _decided(outputs: HostArray, is_multilabel: bool) -> HostArray:
    """Of logits `(n, k)`, the numbers of the most likely classes `(n,)`, or the labels `(n, k)`."""
    return (outputs > 0).astype(numpy.int64) if is_multilabel else outputs.argmax(axis=1)


class XpnetClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A feed-forward network as a scikit-learn classifier.

    Each hidden layer is a `Linear`, an activation and, if `dropout` is set, a `Dropout`. A last
    `Linear` gives one logit for each class, and softmax turns the logits into probabilities. The
    loss of a batch is the mean cross-entropy plus `alpha / (2 B) · Σ W²`, where `B` is the size of
    a batch (times the mean sample weight, if there are weights). Weights and biases are initialised
    as in `MLPClassifier`. `X` is not scaled: scale it first. float32 stays float32, all other types
    become float64. A sparse `X` of SciPy stays sparse; a `network`, if given, must then begin with
    `Linear`.

    **Parameters of scikit-learn** (as in `MLPClassifier`)

    - `hidden_layer_sizes`: the units of each hidden layer, a number or a sequence.
    - `activation`: `"relu"`, `"tanh"`, `"logistic"`, `"identity"`, and also `"leaky_relu"` or
      `"gelu"`; or a list with one entry for each hidden layer.
    - `solver`: `"adam"` (with `beta_1`, `beta_2`, `epsilon`) or `"sgd"` (with `momentum`,
      `nesterovs_momentum`).
    - `alpha`: the strength of L2 regularisation.
    - `batch_size`: a number, or `"auto"` for `min(200, n)`.
    - `learning_rate`: `"constant"`, always `learning_rate_init`; `"cosine"` or `"one_cycle"`, a
      schedule over `max_iter` epochs (`xpnet.schedules`); and two that only `"sgd"` uses:
      `"invscaling"`, after each epoch `learning_rate_init / (t_ + 1)^power_t`, and `"adaptive"`,
      divided by 5 each time training would stop, until it is 1e-6 or less.
    - `max_iter`: the maximum number of epochs.
    - `tol`, `n_iter_no_change`: training stops when the loss has not fallen by `tol` for more than
      `n_iter_no_change` consecutive epochs; `inf`: never.
    - `early_stopping`, `validation_fraction`: the score on held-out samples decides instead of the
      loss, and the weights with the best score are kept. The held-out samples are this fraction, or
      `X_val`, `y_val` of `fit`. A class of a single sample stays in the training set. If there are
      fewer held-out samples than classes, some classes are missing among them.
    - `random_state`: for the initial weights, the order of samples, dropout and the split.
    - `warm_start`: `fit` continues with the trained network.
    - `verbose`: prints a line for each epoch and a progress bar (`xpnet.Progress`).

    **More parameters** (not in `MLPClassifier`)

    - `dropout`: the rate after each hidden layer, a number or a list.
    - `batch_norm`: whether there is a `BatchNorm` before each activation.
    - `clip_norm`, `callbacks`: as in `xpnet.fit`, but without `EarlyStopping`.
    - `class_weight`: a dict of weights by class (1 for classes that are not in it), or `"balanced"`
      for `n / (classes · count)`, where `count` is the number of samples of the class. The weight
      of a training sample (or one held out by `validation_fraction`) is its `sample_weight` times
      this.
    - `network`: a function of the numbers of features and outputs that returns the list of layers,
      or a `Sequential`, whose layers are copied with their weights. `hidden_layer_sizes`,
      `activation`, `dropout` and `batch_norm` are then ignored.
    - `device`: `"cpu"`, `"cuda"`, `"cuda:1"` or `"auto"`.

    **Multilabel classification**: `y (n, labels)` of 0 and 1, as `MultiLabelBinarizer` returns it.
    The last layer then has one logit for each label. The loss is the binary cross-entropy of their
    sigmoids, summed over the labels. `predict` and `predict_proba` return `(n, labels)`; `score`
    and `validation_scores_` are the fraction of samples whose labels are all correct.
    `class_weight` is then `"balanced"` or a list of dicts, one for each label, whose weights are
    multiplied, as in scikit-learn's `compute_sample_weight`. `partial_fit` does not need `classes`.

    **Attributes**

    - `classes_`; `n_features_in_`, `feature_names_in_`.
    - `network_`: the `Sequential`, which `xpnet.save` can write to a file.
    - `n_iter_`: the number of epochs of the last call; `t_`: the number of samples seen in all
      calls.
    - `loss_curve_`, `loss_`, `best_loss_`: training losses with L2, as running means over the
      batches of an epoch.
    - `validation_scores_`, `best_validation_score_`: accuracies; `validation_loss_curve_`: the loss
      of the held-out samples with L2 after each epoch. All are None without held-out samples.

    A notebook shows the layers of a fitted network below scikit-learn's diagram.

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

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        class_weight: Any = None,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        dropout: float | Sequence[float] = 0.0,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        batch_norm: bool = False,
        clip_norm: float | None = None,
        callbacks: Any = None,
        network: Any = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            dropout=dropout,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            batch_norm=batch_norm,
            clip_norm=clip_norm,
            callbacks=callbacks,
            network=network,
            device=device,
        )
        self.class_weight = class_weight

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> XpnetClassifier:
        """Train for one more epoch on `X`, `y`; the first call creates the network.

        `classes`: all classes that will ever be in `y`; the first call needs them, unless `y` is
        a matrix of labels. A call after `fit` continues with the trained network. With
        `learning_rate="adaptive"` the losses of all calls are compared. Raises as `fit` does, and
        for `early_stopping=True`, `learning_rate="cosine"` and `"one_cycle"`.
        """
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            raise ConfigError(
                "class_weight='balanced' needs all samples, and partial_fit gets some of them: "
                "give a dict, with weights of compute_class_weight('balanced', classes=..., y=...)"
            )
        begins, columns = not hasattr(self, "network_"), columns_of(y)
        if columns > 1:
            require_all_columns(classes, columns)
        elif begins:
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
        learn = begins and columns > 1
        self._partial_fit(X, y, sample_weight, begins=begins, learn=learn)
        return self

    def predict(self, X: Any) -> HostArray:
        """The most likely class of each row, `(n,)`; or its labels, `(n, labels)` of 0 and 1."""
        decided = _decided(self._logits(X), self._is_multilabel)
        labels: HostArray = decided if self._is_multilabel else self.classes_[decided]
        return labels

    def predict_proba(self, X: Any) -> HostArray:
        """The probability of each class, or of each label: `(n, classes)`, as in `classes_`."""
        x = self._placed(X)
        network = self.network_
        return network.backend.to_host(network.predict_proba(x))

    def predict_log_proba(self, X: Any) -> HostArray:
        """`log p` of each class or label, finite where `p` itself is 0: `(n, classes)`."""
        logits = self._logits(X)
        logs: HostArray = log_expit(logits) if self._is_multilabel else log_softmax(logits, axis=1)
        return logs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _logits(self, X: Any) -> HostArray:
        x = self._placed(X)
        network = self.network_
        return network.backend.to_host(network.forward(x))

    def _options_of(self, y: Any) -> dict[str, bool]:
        return {"multi_output": True} if columns_of(y) > 1 else {}

    def _learn_targets(self, y: HostArray) -> None:
        self._is_multilabel = y.ndim == 2
        if self._is_multilabel:
            label_matrix(y, numpy.float64)
            self.classes_ = numpy.arange(y.shape[1])
            return
        check_classification_targets(y)
        self.classes_ = LabelEncoder().fit(y).classes_

    def _with_class_weights(self, weights: HostArray | None, y: HostArray) -> HostArray | None:
        if self.class_weight is None:
            return weights
        by_class = class_weights(self.class_weight, y, self.classes_)
        if weights is None:
            return by_class
        product = weights * by_class
        if not product.any():
            raise DataError(
                "sample_weight times class_weight is zero everywhere, so there is nothing to learn "
                "from: give at least one class, and a sample of it, weights above 0"
            )
        return product

    def _require_valid(self) -> None:
        super()._require_valid()
        require_class_weight(self.class_weight)

    def _require_same_targets(self, target: HostArray) -> None:
        if self._is_multilabel:
            return
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
        labels = len(self.classes_)
        if y.shape[1:] != ((labels,) if self._is_multilabel else ()):
            wanted = f"{labels} labels" if self._is_multilabel else "one class"
            raise DataError(
                f"y has shape {y.shape}, and the network was made for {wanted} per sample: give as "
                f"many, or fit a new estimator"
            )
        if self._is_multilabel:
            return label_matrix(y, dtype)
        known = set(self.classes_.tolist())
        unseen = [label for label in y.tolist() if label not in known]
        if unseen:
            raise DataError(
                f"y has previously unseen labels, such as {short_repr(unseen[0])}, which the "
                f"network was not made for: fit a new estimator, or give partial_fit all classes "
                f"on its first call"
            )
        encoder = LabelEncoder()
        encoder.classes_ = self.classes_
        codes: HostArray = encoder.transform(y)
        return codes

    def _outputs(self, target: HostArray) -> int:
        return int(target.shape[1]) if self._is_multilabel else len(self.classes_)

    def _begin(self, train: Samples) -> None:
        super()._begin(train)
        # A saved network has the names of its classes; `python -m xpnet.predict` prints them.
        self.network_.metadata["classes"] = [str(name) for name in self.classes_]

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return (self.network_.out_features,) if self._is_multilabel else ()

    def _loss(self) -> Loss:
        return LabelCrossEntropy() if self._is_multilabel else SoftmaxCrossEntropy()

    def _score(self, outputs: HostArray, held_out: Samples) -> float:
        hit = _decided(outputs, self._is_multilabel) == held_out.target
        if self._is_multilabel:
            hit = hit.all(axis=1)
        return float(numpy.average(hit, weights=held_out.weights))
