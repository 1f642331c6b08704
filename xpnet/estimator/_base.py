"""The base class of classifier and regressor: the scikit-learn interface of `fit()`."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from xpnet import random
from xpnet.backend import HostArray
from xpnet.errors import ConfigError, DataError, DivergenceError
from xpnet.estimator._html import ShowsNetwork
from xpnet.estimator._inputs import blaming, look_at_samples, require_unmasked
from xpnet.estimator._network import batch_size, new_network, settings_of_network
from xpnet.estimator._optimizer import (
    SCHEDULES,
    callbacks_of_rate,
    is_adaptive,
    new_optimizer,
    require_rate_of_partial_fit,
)
from xpnet.estimator._parameters import checked_weights, require_valid
from xpnet.estimator._split import split
from xpnet.estimator._stopping import ConvergenceCheck, HeldOut, HeldOutProgress
from xpnet.losses import L2Penalty, Loss
from xpnet.network.inputs import require_sparse_fits
from xpnet.training import fit
from xpnet.training.options import callbacks_of
from xpnet.utils.sparse import is_sparse

_ACCEPTED: dict[str, Any] = {
    "accept_sparse": "csr",
    "dtype": (numpy.float64, numpy.float32),
    "order": "C",
}
"""What `X` may be, for `validate_data`."""


class Diverged(DivergenceError, ValueError):
    """Training diverged; also a `ValueError`, which `MLPClassifier` raises for that."""


class Samples(NamedTuple):
    """Checked samples: `x (n, features)`, targets as the loss takes them, and sample weights.

    `x`: an array, or a CSR matrix of SciPy.
    """

    x: Any
    target: HostArray
    weights: HostArray | None

    def take(self, indices: HostArray) -> Samples:
        """Those of `indices` `(m,)`."""
        weights = None if self.weights is None else self.weights[indices]
        return Samples(self.x[indices], self.target[indices], weights)

    def of_weight(self) -> Samples:
        """Those whose weight is not 0."""
        if self.weights is None or self.weights.all():
            return self
        return self.take(self.weights.nonzero()[0])


class Estimator(ShowsNetwork, BaseEstimator, ABC):  # type: ignore[misc]
    """The base class of classifier and regressor: parameters, their checks, training."""

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str | Sequence[str] = "relu",
        *,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
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
        self.batch_norm = batch_norm
        self.clip_norm = clip_norm
        self.callbacks = callbacks
        self.network = network
        self.device = device

    @abstractmethod
    def _options_of(self, y: Any) -> dict[str, bool]:
        """Options of `validate_data` for the targets `y`."""

    @abstractmethod
    def _learn_targets(self, y: HostArray) -> None:
        """Store the classes, or the shape, of the targets `y`."""

    @abstractmethod
    def _look_at_targets(self, y: Any) -> None:
        """Raise `DataError` for a wrong value in `y`, with its position where that is known."""

    @abstractmethod
    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        """`y` as the loss takes it."""

    @abstractmethod
    def _outputs(self, target: HostArray) -> int:
        """The number of outputs of the network."""

    @property
    @abstractmethod
    def _target_shape(self) -> tuple[int, ...]:
        """The shape of one target, which is the shape of one prediction of the network."""

    @abstractmethod
    def _loss(self) -> Loss:
        """The loss to train with."""

    @abstractmethod
    def _score(self, outputs: HostArray, held_out: Samples) -> float:
        """The score of the outputs `(n, outputs)` that the network has for held-out samples."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _require_valid(self) -> None:
        """Raise `ConfigError`, naming the parameter, unless all of them are valid."""
        require_valid(self)

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
        """Train on `X (n, features)`, an array or sparse, and `y`; return the estimator itself.

        `sample_weight`: `(n,)` numbers of 0 or more; a sample of weight 2 counts twice, one of
        weight 0 is ignored. `X_val`, `y_val`, `sample_weight_val`: held-out samples, which are used
        instead of `validation_fraction`; without `early_stopping` they are only measured. With
        `warm_start` training continues where the last call ended.

        Raises a `ValueError` with a one-line message for an invalid parameter or array and for
        training that diverges; `BackendUnavailable` for a `device` that is not available.
        """
        self._require_valid()
        begins = not (self.warm_start and hasattr(self, "network_"))
        given = self._samples(X, y, sample_weight, reset=begins, learn=begins)
        train = given.of_weight()
        if begins:
            self._begin(train)
        else:
            self._require_same_network(train)
            self._require_same_targets(given.target)
        held_out = None
        if X_val is not None:
            held_out = self._samples(X_val, y_val, sample_weight_val, is_trained_on=False)
            held_out = held_out.of_weight()
        elif self.early_stopping:
            train, held_out = self._split(train)
        if held_out is not None and len(held_out.target) < 2:
            raise DataError("validation needs 2 samples or more, found 1: give X_val more rows")
        count, epochs = len(train.target), int(self.max_iter)
        updates = epochs * math.ceil(count / batch_size(self, count))
        self._optimizer = new_optimizer(self, updates)
        return self._train(train, held_out, epochs=epochs)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, *, begins: bool, learn: bool) -> Any:
        self._require_valid()
        if self.early_stopping:
            raise ConfigError(
                "partial_fit cannot stop early, as each call has only a part of the samples: set "
                "early_stopping=False and call score() on held-out samples, or call fit"
            )
        require_rate_of_partial_fit(self)
        train = self._samples(X, y, sample_weight, reset=begins, learn=learn).of_weight()
        if begins:
            self._begin(train)
            self._optimizer = new_optimizer(self, 1)
        else:
            self._require_same_network(train)
        return self._train(train, None, epochs=1, is_partial=True)

    def _samples(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        reset: bool = False,
        learn: bool = False,
        is_trained_on: bool = True,
    ) -> Samples:
        """The arguments of a fit, checked."""
        require_unmasked(X, "X")
        require_unmasked(y, "y")

        def checked() -> tuple[Any, HostArray, HostArray]:
            options = _ACCEPTED | self._options_of(y)
            x, given = validate_data(self, X, y, reset=reset, **options)
            if learn:
                self._learn_targets(given)
            return x, given, self._encoded(given, x.dtype)

        looks = (lambda: look_at_samples(X), lambda: self._look_at_targets(y))
        x, given, target = blaming(checked, *looks)
        weights = None if sample_weight is None else checked_weights(sample_weight, len(target))
        if is_trained_on:
            weights = self._with_class_weights(weights, given)
        return Samples(x, target, weights)

    def _split(self, samples: Samples) -> tuple[Samples, Samples]:
        """The samples to train on, and those that `validation_fraction` holds out."""
        classes = samples.target if samples.target.ndim == 1 else None
        fraction = float(self.validation_fraction)
        train, held_out = split(len(samples.target), fraction, self._seed, classes)
        return samples.take(train), samples.take(held_out)

    def _begin(self, train: Samples) -> None:
        """Make a new network for these samples, and forget earlier training."""
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._made_with = self._settings_of_network()
        features, outputs = train.x.shape[1], self._outputs(train.target)
        self.network_ = new_network(self, features, outputs, str(train.x.dtype), self._seed)
        self.t_, self._waited = 0, 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None
        self.validation_loss_curve_: list[float] | None = None
        self.best_validation_score_: float | None = None

    def _with_class_weights(self, weights: HostArray | None, y: HostArray) -> HostArray | None:
        """`weights` `(n,)`, multiplied by those of the classes `y` where an estimator has some."""
        return weights

    def _require_same_targets(self, target: HostArray) -> None:
        """Raise `DataError` where `target` lacks a class that the network was made for."""

    def _settings_of_network(self) -> tuple[Any, ...]:
        return settings_of_network(self)

    def _require_same_network(self, train: Samples) -> None:
        if self._settings_of_network() != self._made_with:
            raise ConfigError(
                "training continues with the existing network, but hidden_layer_sizes, activation, "
                "dropout, batch_norm, network, device or loss has changed: restore it, or fit with "
                "warm_start=False"
            )
        outputs = self._outputs(train.target)
        if outputs != self.network_.out_features:
            raise DataError(
                f"y has {outputs} columns, and the network that training continues with gives "
                f"{self.network_.out_features}: give as many, or fit with warm_start=False"
            )

    def _train(
        self, train: Samples, held_out: Samples | None, *, epochs: int, is_partial: bool = False
    ) -> Estimator:
        network, count = self.network_, len(train.target)
        for name, samples in (("X", train), ("X_val", held_out)):
            require_sparse_fits(network, None if samples is None else samples.x, name)
        size = batch_size(self, count)
        weight_of_batch = size * (1.0 if train.weights is None else float(train.weights.mean()))
        # fit() divides by the number of all samples.
        l2 = float(self.alpha) * count / weight_of_batch
        measured = None
        if held_out is not None:
            measured = HeldOut(
                network,
                *held_out,
                loss=self._loss(),
                penalty=L2Penalty(l2, count),
                score=lambda outputs: self._score(outputs, held_out),
            )
        check = ConvergenceCheck(
            measured,
            by_score=bool(self.early_stopping),
            tol=float(self.tol),
            patience=float(self.n_iter_no_change),
            lowers_rate=is_adaptive(self),
            samples_seen=self.t_,
            # Calls of partial_fit are epochs of one training; fit() compares its own epochs only,
            # of which the first is better than -inf and sets `waited` to 0.
            best=-min(self.loss_curve_, default=math.inf) if is_partial else -math.inf,
            waited=self._waited,
        )
        own = [check, *callbacks_of_rate(self, seen=self.t_, count=count)]
        progress = [HeldOutProgress(check)] if self.verbose else []
        try:
            history = fit(
                network,
                (train.x, train.target),
                optimizer=self._optimizer,
                loss=self._loss(),
                sample_weight=train.weights,
                epochs=epochs,
                batch_size=size,
                l2=l2,
                seed=random.key(self._seed, f"order from sample {self.t_}"),
                clip_norm=self.clip_norm,
                callbacks=[*own, *callbacks_of(self.callbacks), *progress],
            )
        except DivergenceError as error:
            raise self._diverged() from error
        # A batch is measured before its update, so the last update was not.
        if not numpy.isfinite(network.backend.to_host(network.flat_parameters)).all():
            raise self._diverged()
        network.prediction, network.target_shape = self._loss().prediction, self._target_shape
        self._keep(history.column("loss"), check, count)
        has_ended = check.was_stopped or self.n_iter_ < epochs
        # A schedule has lowered the rate by then.
        is_meant = self.n_iter_no_change == math.inf or self.learning_rate in SCHEDULES
        if not (is_partial or has_ended or is_meant):
            warnings.warn(
                f"{type(self).__name__} has not converged in max_iter={epochs} epochs: "
                f"increase max_iter, or set n_iter_no_change=inf to train exactly that many",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _keep(self, losses: list[float], check: ConvergenceCheck, count: int) -> None:
        """Set the attributes about training from `losses` and `check`, with one for each epoch."""
        self.n_iter_ = len(losses)
        self.t_ += len(losses) * count
        self.loss_curve_ = self.loss_curve_ + losses
        self.loss_, self.best_loss_ = losses[-1], min(self.loss_curve_)
        self._waited = 0 if self.early_stopping else check.waited
        if check.scores:
            self.validation_scores_ = (self.validation_scores_ or []) + check.scores
            self.validation_loss_curve_ = (self.validation_loss_curve_ or []) + check.losses
            self.best_validation_score_ = max(self.validation_scores_)

    def _diverged(self) -> Diverged:
        return Diverged(
            f"training diverged at learning_rate_init={self.learning_rate_init:g}: choose a "
            f"smaller one, or scale X (for regression also y), for example with StandardScaler"
        )

    def _placed(self, X: Any) -> Any:
        """`X` of a prediction, checked, on the device; a sparse one on the host."""
        check_is_fitted(self, "network_")
        require_unmasked(X, "X")

        def checked() -> Any:
            return validate_data(self, X, **_ACCEPTED, reset=False)

        x = blaming(checked, lambda: look_at_samples(X))
        require_sparse_fits(self.network_, x, "X")
        return x if is_sparse(x) else self.network_.backend.asarray(x)
