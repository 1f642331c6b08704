"""`XpnetClassifier`, `XpnetRegressor`: xpnet behind scikit-learn's contract (extra `sklearn`).

Both build a `Sequential` and train it by `fit()`; here is only what scikit-learn asks for around
that. Parameters that `MLPClassifier` has as well bear its names and mean the same.
"""

from __future__ import annotations

import math
import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy

from xpnet import random
from xpnet.activations import GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from xpnet.backend import HostArray
from xpnet.callbacks import Callback, Progress, Run
from xpnet.errors import ConfigError, DataError, DivergenceError
from xpnet.history import Record
from xpnet.initializers import GlorotUniform, HeNormal, Initializer
from xpnet.layer import Layer
from xpnet.layers import Dropout, Linear
from xpnet.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.optimizers import SGD, Adam, Optimizer
from xpnet.training import fit

try:
    from scipy.special import log_softmax
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"xpnet.estimator needs scikit-learn 1.6 or later ({error}): pip install 'xpnet[sklearn]'"
    ) from error

ACTIVATIONS: dict[str, type[Layer] | None] = {
    "identity": None,
    "logistic": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "gelu": GELU,
}
SOLVERS = ("adam", "sgd")
AUTO_BATCH = 200

_OF_ZERO_OR_MORE = ("alpha", "tol")
_ABOVE_ZERO = ("learning_rate_init", "epsilon")
_BELOW_ONE = ("dropout", "momentum", "beta_1", "beta_2")


class _Diverged(DivergenceError, ValueError):
    """Training left the finite numbers: a `ValueError` too, as `MLPClassifier` raises it."""


class _Samples(NamedTuple):
    """What a fit has checked: `x (n, features)`, targets as the loss takes them, weights."""

    x: HostArray
    target: HostArray
    weights: HostArray | None

    def take(self, indices: HostArray) -> _Samples:
        weights = None if self.weights is None else self.weights[indices]
        return _Samples(self.x[indices], self.target[indices], weights)


class _Watch(Callback):
    """Looks after each epoch whether training still gets anywhere, as `MLPClassifier` does.

    `score`: of held-out samples, from the network; None without them. `by_score`: it decides, not
    the training loss, and the weights of the best score are kept. Training stops when, more than
    `patience` epochs in a row, the figure was not better than the best before by `tol`.
    """

    def __init__(
        self,
        score: Callable[[Sequential], float] | None,
        *,
        by_score: bool,
        tol: float,
        patience: float,
        seen: int,
    ) -> None:
        self.score, self.by_score, self.tol, self.patience = score, by_score, tol, patience
        self.seen = seen
        self.best, self.waited, self.scores = -math.inf, 0, list[float]()
        self.kept: list[tuple[Any, Any]] = []

    def on_train_begin(self, run: Run) -> None:
        """Let dropout go on where an earlier call ended."""
        run.network.seek(self.seen)

    def on_record(self, run: Run, record: Record) -> None:
        """Compare with the best so far."""
        if self.score is not None:
            self.scores.append(self.score(run.network))
        figure = self.scores[-1] if self.by_score else -record.loss
        self.waited = 0 if figure >= self.best + self.tol else self.waited + 1
        if figure > self.best:
            self.best = figure
            if self.by_score:
                network = run.network
                self.kept = [(a, a.copy()) for a in (network.values, network.buffers)]
        run.stop = run.stop or self.has_stopped

    @property
    def has_stopped(self) -> bool:
        return self.waited > self.patience

    def on_train_end(self, run: Run) -> None:
        """Put the best weights back."""
        for array, best in self.kept:
            array[...] = best


class _Estimator(BaseEstimator, ABC):  # type: ignore[misc]
    """What classifier and regressor share: parameters, their checks, training."""

    _y_options: ClassVar[dict[str, bool]] = {}
    """What `validate_data` is told of `y`."""

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        dropout: float = 0.0,
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
        device: str = "cpu",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.dropout = dropout
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.device = device

    @abstractmethod
    def _learn_targets(self, y: HostArray) -> None:
        """Keep what `y` says of targets in general: the classes, or its shape."""

    @abstractmethod
    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        """`y` as the loss takes it."""

    @abstractmethod
    def _outputs(self, target: HostArray) -> int:
        """How many outputs the network needs."""

    @abstractmethod
    def _loss(self) -> Loss:
        """The loss to train with."""

    @abstractmethod
    def _score(self, network: Sequential, x: Any, held_out: _Samples) -> float:
        """The score of `network` on held-out samples, whose `x` lies on its device."""

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Train on `X (n, features)` and `y`, and return the estimator itself.

        `sample_weight`: `(n,)` numbers of 0 or more; a sample of weight 2 is worth two, one of
        weight 0 none. `X_val`, `y_val`, `sample_weight_val`: held-out samples, which take the
        place of `validation_fraction`; without `early_stopping` they are measured only. With
        `warm_start` training goes on from where the last call ended.

        Raises a `ValueError` of one line for a parameter or array that cannot be, and for
        training that diverges; `BackendUnavailable` for a `device` that is not there.
        """
        self._check_parameters()
        begins = not (self.warm_start and hasattr(self, "network_"))
        train = self._samples(X, y, sample_weight, reset=begins, learn=begins)
        if begins:
            self._begin(train)
        else:
            self._require_same_network(train)
        self._optimizer = self._new_optimizer()
        held_out = None
        if X_val is not None:
            held_out = self._samples(X_val, y_val, sample_weight_val)
        elif self.early_stopping:
            train, held_out = self._split(train)
        if held_out is not None and len(held_out.x) < 2:
            raise DataError(
                "validation needs 2 samples or more, found 1: give X_val more rows, or let "
                "validation_fraction be larger"
            )
        return self._train(train, held_out, epochs=int(self.max_iter))

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, *, begins: bool, learn: bool) -> Any:
        self._check_parameters()
        if self.early_stopping:
            raise ConfigError(
                "partial_fit does not know when to stop: set early_stopping=False, or call fit"
            )
        train = self._samples(X, y, sample_weight, reset=begins, learn=learn)
        if begins:
            self._begin(train)
            self._optimizer = self._new_optimizer()
        else:
            self._require_same_network(train)
        return self._train(train, None, epochs=1, is_partial=True)

    def _samples(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool = False, learn: bool = False
    ) -> _Samples:
        """The arguments of a fit, checked; samples of weight 0 are left out."""
        x, y = validate_data(
            self,
            X,
            y,
            dtype=(numpy.float64, numpy.float32),
            order="C",
            reset=reset,
            **self._y_options,
        )
        weights = None if sample_weight is None else _checked_weights(sample_weight, len(x))
        if learn:
            self._learn_targets(y)
        samples = _Samples(x, self._encoded(y, x.dtype), weights)
        if weights is None or weights.all():
            return samples
        return samples.take(weights.nonzero()[0])

    def _split(self, samples: _Samples) -> tuple[_Samples, _Samples]:
        """`samples` without and with those that `validation_fraction` holds out."""
        numbered = numpy.arange(len(samples.x))
        classes = samples.target if samples.target.ndim == 1 else None
        parts = train_test_split(
            numbered,
            test_size=float(self.validation_fraction),
            random_state=self._seed,
            stratify=classes,
        )
        train, held_out = (samples.take(part) for part in parts)
        return train, held_out

    def _begin(self, train: _Samples) -> None:
        """A new network for such samples, and nothing known of earlier ones."""
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._made_with = self._settings_of_network()
        kind = ACTIVATIONS[self.activation]
        weights: Initializer = GlorotUniform()
        if kind in (ReLU, LeakyReLU, GELU):
            weights = HeNormal()
        layers: list[Layer] = []
        features = train.x.shape[1]
        for width in _widths(self.hidden_layer_sizes):
            layers.append(Linear(features, width, weights))
            if kind is not None:
                layers.append(kind())
            if self.dropout:
                layers.append(Dropout(float(self.dropout)))
            features = width
        layers.append(Linear(features, self._outputs(train.target), weights))
        self.network_ = Sequential(
            layers, backend=self.device, dtype=str(train.x.dtype), seed=self._seed
        )
        self.t_ = 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None

    def _settings_of_network(self) -> tuple[Any, ...]:
        return (
            _widths(self.hidden_layer_sizes),
            self.activation,
            float(self.dropout),
            self.device,
        )

    def _require_same_network(self, train: _Samples) -> None:
        if self._settings_of_network() != self._made_with:
            raise ConfigError(
                "training goes on with the network there is, and hidden_layer_sizes, activation, "
                "dropout or device is another since: set it back, or fit with warm_start=False"
            )
        outputs = self._outputs(train.target)
        if outputs != self.network_.out_features:
            raise DataError(
                f"y has {outputs} columns, and the network that training goes on with gives "
                f"{self.network_.out_features}: give as many, or fit with warm_start=False"
            )

    def _new_optimizer(self) -> Optimizer:
        rate = float(self.learning_rate_init)
        if self.solver == "sgd":
            momentum = float(self.momentum)
            nesterov = bool(self.nesterovs_momentum) and momentum > 0
            return SGD(rate, momentum=momentum, nesterov=nesterov)
        return Adam(
            rate,
            beta1=float(self.beta_1),
            beta2=float(self.beta_2),
            epsilon=float(self.epsilon),
        )

    def _train(
        self, train: _Samples, held_out: _Samples | None, *, epochs: int, is_partial: bool = False
    ) -> _Estimator:
        network, count = self.network_, len(train.x)
        size = min(AUTO_BATCH if self.batch_size == "auto" else int(self.batch_size), count)
        weight_of_batch = size * (1.0 if train.weights is None else float(train.weights.mean()))
        score = None
        if held_out is not None:
            x = network.backend.asarray(held_out.x, dtype=network.dtype)

            def score(network: Sequential) -> float:
                return self._score(network, x, held_out)

        watch = _Watch(
            score,
            by_score=bool(self.early_stopping),
            tol=float(self.tol),
            patience=float(self.n_iter_no_change),
            seen=self.t_,
        )
        try:
            history = fit(
                network,
                (train.x, train.target),
                optimizer=self._optimizer,
                loss=self._loss(),
                sample_weight=train.weights,
                epochs=epochs,
                batch_size=size,
                # fit() divides by the number of all samples.
                l2=float(self.alpha) * count / weight_of_batch,
                seed=random.key(self._seed, f"order from sample {self.t_}"),
                callbacks=[watch, Progress()] if self.verbose else [watch],
            )
        except DivergenceError as error:
            raise self._diverged() from error
        # The loss of a batch is measured before its update: the last update may be the wrong one.
        if not numpy.isfinite(network.backend.to_host(network.values)).all():
            raise self._diverged()
        self._keep(history.column("loss"), watch.scores, count)
        if not is_partial and not watch.has_stopped and self.n_iter_no_change != math.inf:
            warnings.warn(
                f"{type(self).__name__} has not converged in max_iter={epochs} epochs: let "
                f"max_iter be larger, or say n_iter_no_change=inf if that many were meant",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _keep(self, losses: list[float], scores: list[float], count: int) -> None:
        """The attributes that tell of training: of `losses` and `scores`, one an epoch."""
        self.n_iter_ = len(losses)
        self.t_ += len(losses) * count
        self.loss_curve_ = self.loss_curve_ + losses
        self.loss_, self.best_loss_ = losses[-1], min(self.loss_curve_)
        if scores:
            self.validation_scores_ = (self.validation_scores_ or []) + scores
            self.best_validation_score_ = max(self.validation_scores_)

    def _diverged(self) -> _Diverged:
        return _Diverged(
            f"training diverged at learning_rate_init={self.learning_rate_init:g}: choose a "
            f"smaller one, or scale X (and y, if it is no class), with a StandardScaler, say"
        )

    def _placed(self, X: Any) -> Any:
        """`X` of a prediction, checked, on the device."""
        check_is_fitted(self, "network_")
        x = validate_data(self, X, dtype=(numpy.float64, numpy.float32), order="C", reset=False)
        return self.network_.backend.asarray(x)

    def _check_parameters(self) -> None:
        """Raise `ConfigError`, naming the parameter, unless all of them are what they may be."""
        _widths(self.hidden_layer_sizes)
        for name, known in (("activation", tuple(ACTIVATIONS)), ("solver", SOLVERS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, found {value!r}")
        for name in (*_OF_ZERO_OR_MORE, *_ABOVE_ZERO, *_BELOW_ONE, "validation_fraction"):
            self._require_number(name)
        _require_count("max_iter", self.max_iter)
        if self.batch_size != "auto":
            _require_count("batch_size", self.batch_size, or_else=", or 'auto'")
        if self.n_iter_no_change != math.inf:
            _require_count("n_iter_no_change", self.n_iter_no_change, or_else=", or inf")
        if not isinstance(self.device, str):
            raise ConfigError(f"device must be a string such as 'cuda', found {self.device!r}")

    def _require_number(self, name: str) -> None:
        value = getattr(self, name)
        high = math.inf if name in (*_OF_ZERO_OR_MORE, *_ABOVE_ZERO) else 1
        with_zero = name in (*_OF_ZERO_OR_MORE, *_BELOW_ONE)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not (0 <= value < high) or (value == 0 and not with_zero):
            span = "of 0 or more" if with_zero else "above 0"
            span += " and below 1" if high == 1 else ""
            raise ConfigError(f"{name} must be a number {span}, found {value!r}")


class XpnetClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A feed-forward network that tells classes apart, as scikit-learn wants a classifier.

    Hidden layers `Linear`, activation and, if asked for, `Dropout`; then a `Linear` of one logit
    a class, whose softmax gives the probabilities. What each update makes smaller is the mean
    cross-entropy of a batch plus `alpha / (2 B) · Σ W²`, `B` being the size of a batch (times the
    mean of all weights, where samples have weights).
    Data is trained on as it is (scale it first), float32 as float32 and all else as float64.

    **Parameters** as in `MLPClassifier`: `hidden_layer_sizes`, units of each hidden layer (a
    number, several, or none); `activation`, one of `relu`, `tanh`, `logistic`, `identity`, and
    `leaky_relu`, `gelu`; `solver`, `adam` (with `beta_1`, `beta_2`, `epsilon`) or `sgd` (with
    `momentum`, `nesterovs_momentum`); `alpha`, the strength of L2; `batch_size`, a number, or
    `"auto"` for `min(200, n)`; `learning_rate_init`; `max_iter`, the most epochs to train;
    `random_state`, of weights, order, dropout and split; `warm_start`; `verbose`, a line an
    epoch. Training ends when the loss has not fallen by `tol` for more than `n_iter_no_change`
    epochs in a row (`inf`: never) or, with `early_stopping`, when the score of
    `validation_fraction` of the samples (or of `X_val`, `y_val`) has not risen so, and the
    weights of the best score are kept. Besides: `dropout`, the rate after each hidden layer, and
    `device`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"auto"`.

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
        """One more epoch on `X`, `y`; a new network on the first call, which needs `classes`.

        `classes`: all that will ever be in `y`. Goes on after `fit` as well. Raises as `fit`
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
        labels: HostArray = self.classes_[network.backend.to_host(network.predict(x))]
        return labels

    def predict_proba(self, X: Any) -> HostArray:
        """The probability of each class: `(n, features) -> (n, classes)`, as in `classes_`."""
        x = self._placed(X)
        network = self.network_
        return network.backend.to_host(network.predict_probabilities(x))

    def predict_log_proba(self, X: Any) -> HostArray:
        """`log p` of each class, finite where `p` itself is 0: `(n, features) -> (n, classes)`."""
        x = self._placed(X)
        network = self.network_
        logs: HostArray = log_softmax(network.backend.to_host(network.forward(x)), axis=1)
        return logs

    def _learn_targets(self, y: HostArray) -> None:
        check_classification_targets(y)
        self.classes_ = LabelEncoder().fit(y).classes_

    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        encoder = LabelEncoder()
        encoder.classes_ = self.classes_
        codes: HostArray = encoder.transform(y)
        return codes

    def _outputs(self, target: HostArray) -> int:
        return len(self.classes_)

    def _begin(self, train: _Samples) -> None:
        super()._begin(train)
        # So a saved network names its classes, to `python -m xpnet.predict` as well.
        self.network_.metadata["classes"] = [str(name) for name in self.classes_]

    def _loss(self) -> Loss:
        return SoftmaxCrossEntropy()

    def _score(self, network: Sequential, x: Any, held_out: _Samples) -> float:
        hit = network.backend.to_host(network.predict(x)) == held_out.target
        return float(numpy.average(hit, weights=held_out.weights))


class XpnetRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A feed-forward network for one or several real targets, as scikit-learn wants a regressor.

    Parameters and attributes are those of `XpnetClassifier`, without `classes_`; scores are R².
    The loss is the mean of `(prediction − y)²` over samples and outputs, plus
    `alpha / (2 B) · Σ W²`. `MLPRegressor` halves the first: for one output, its `alpha` is worth
    two here, its rate of `sgd` half.

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
        """One more epoch on `X`, `y`; a new network on the first call. Goes on after `fit` too.

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

    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        return y.reshape(len(y), -1).astype(dtype)

    def _outputs(self, target: HostArray) -> int:
        return int(target.shape[1])

    def _loss(self) -> Loss:
        return MeanSquaredError()

    def _score(self, network: Sequential, x: Any, held_out: _Samples) -> float:
        outputs = network.backend.to_host(network.forward(x))
        if not numpy.isfinite(outputs).all():
            return math.nan
        return float(r2_score(held_out.target, outputs, sample_weight=held_out.weights))


def _checked_weights(sample_weight: Any, count: int) -> HostArray:
    weights: HostArray = check_array(
        sample_weight, ensure_2d=False, dtype=numpy.float64, input_name="sample_weight"
    )
    if weights.shape != (count,):
        raise DataError(
            f"sample_weight has shape {weights.shape}, X has {count} rows: give one weight a row"
        )
    if weights.min() < 0:
        row = int(weights.argmin())
        raise DataError(f"sample_weight[{row}] is {weights[row]:g}: no weight may be below 0")
    if not weights.any():
        raise DataError("every sample_weight is zero, so there is nothing to learn from")
    return weights


def _widths(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes`, one number or several, as whole numbers."""
    sizes = hidden_layer_sizes
    if isinstance(sizes, numbers.Integral):
        sizes = (sizes,)
    try:
        sizes = tuple(sizes)
        for size in sizes:
            _require_count("hidden_layer_sizes", size)
    except (TypeError, ConfigError):
        raise ConfigError(
            f"hidden_layer_sizes must be whole numbers above 0, one a hidden layer, found "
            f"{hidden_layer_sizes!r}"
        ) from None
    return tuple(int(size) for size in sizes)


def _require_count(name: str, value: Any, or_else: str = "") -> None:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < 1:
        raise ConfigError(f"{name} must be a whole number above 0{or_else}, found {value!r}")
