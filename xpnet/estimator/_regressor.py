"""`XpnetRegressor`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
from sklearn.base import RegressorMixin
from sklearn.metrics import d2_pinball_score, r2_score

from xpnet.backend import HostArray
from xpnet.errors import ConfigError, DataError, short_repr
from xpnet.estimator._base import Estimator, Samples
from xpnet.estimator._inputs import look_at_numbers
from xpnet.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
)
from xpnet.utils.inputs import check_finite

LOSSES: dict[str, type[Loss]] = {
    "squared_error": MeanSquaredError,
    "absolute_error": MeanAbsoluteError,
    "huber": Huber,
    "poisson": Poisson,
    "quantile": Quantile,
}


class XpnetRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A feed-forward network for one or several real targets, as a scikit-learn regressor.

    Parameters and attributes are those of `XpnetClassifier`, without `classes_` and `class_weight`,
    and two more:

    - `loss`: `"squared_error"`; `"absolute_error"`, for the median; `"huber"`, half of the squared
      error up to an error of 1, and the absolute error minus ½ above; `"poisson"`, for counts `y`
      of 0 or more, where the network gives the logarithm of the rate and `predict` the rate;
      `"quantile"`, for a quantile of `y`; or a loss of `xpnet.losses`, such as `Huber(delta=3)`.
    - `quantile`: a number between 0 and 1, or several, such as `(0.05, 0.95)`, which give a
      prediction interval. `y` must then be `(n,)`, and `predict` returns one column for each
      quantile, `(n, 2)`.

    The score is R². For quantiles it is `sklearn.metrics.d2_pinball_score`, the mean over the
    quantiles of `1 − loss / loss of the best constant prediction`: 1 is perfect, 0 is no better
    than a constant.

    The loss of a batch is the mean over samples and outputs, for `"squared_error"` of
    `(prediction − y)²`, plus `alpha / (2 B) · Σ W²`. `MLPRegressor` uses half of the squared error:
    for one output, use twice its `alpha` and, with `sgd`, half of its learning rate to get the same
    result.

    `y`: `(n,)` or `(n, outputs)`; predictions have the same shape. Targets are not scaled: scale
    them first, unless they are counts, for example with a `TransformedTargetRegressor`.

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

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        loss: str | Loss = "squared_error",
        quantile: Any = 0.5,
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
        self.loss = loss
        self.quantile = quantile

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> XpnetRegressor:
        """Train for one more epoch on `X`, `y`; the first call creates the network.

        As `XpnetClassifier.partial_fit`, without `classes`.
        """
        begins = not hasattr(self, "network_")
        self._partial_fit(X, y, sample_weight, begins=begins, learn=begins)
        return self

    def predict(self, X: Any) -> HostArray:
        """`(n, features) -> (n,)` or `(n, outputs)`, as `y` was; `(n, q)` of `q` quantiles."""
        x = self._placed(X)
        network = self.network_
        return network.backend.to_host(network.predict(x))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions for `X`; of quantiles `d2_pinball_score`, see above."""
        return self._agreement(y, self.predict(X), sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _options_of(self, y: Any) -> dict[str, bool]:
        return {"multi_output": True, "y_numeric": True}

    def _learn_targets(self, y: HostArray) -> None:
        self._is_single = y.ndim == 1

    def _look_at_targets(self, y: Any) -> None:
        look_at_numbers(y, "y")

    def _encoded(self, y: HostArray, dtype: Any) -> HostArray:
        check_finite(numpy.asarray(y, dtype=numpy.float64), "y", dtype)
        target: HostArray = y.reshape(len(y), -1).astype(dtype)
        loss = self._loss()
        if isinstance(loss, Quantile) and isinstance(loss.quantile, tuple) and y.ndim > 1:
            raise DataError(
                f"y has shape {y.shape}, and for several quantiles it must have one number for "
                f"each row, shape (n,): give one column, or one quantile"
            )
        loss.require_targets(target, self._outputs(target), "y")
        return target

    def _outputs(self, target: HostArray) -> int:
        loss = self._loss()
        if isinstance(loss, Quantile) and isinstance(loss.quantile, tuple):
            return len(loss.quantile)
        return int(target.shape[1])

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return () if self._is_single else (self.network_.out_features,)

    def _require_valid(self) -> None:
        super()._require_valid()
        loss = self.loss
        if not isinstance(loss, tuple(LOSSES.values())) and not (
            isinstance(loss, str) and loss in LOSSES
        ):
            raise ConfigError(
                f"loss must be one of {', '.join(LOSSES)}, or a regression loss of xpnet.losses, "
                f"such as Huber(delta=3), found {short_repr(loss)}"
            )
        Quantile(self.quantile)

    def _settings_of_network(self) -> tuple[Any, ...]:
        loss = self._loss()
        return (*super()._settings_of_network(), type(loss), loss.get_config())

    def _loss(self) -> Loss:
        if isinstance(self.loss, Loss):
            return self.loss
        return Quantile(self.quantile) if self.loss == "quantile" else LOSSES[self.loss]()

    def _score(self, outputs: HostArray, held_out: Samples) -> float:
        if self._loss().prediction == "rates":
            with numpy.errstate(over="ignore"):
                outputs = numpy.exp(outputs)
        if not numpy.isfinite(outputs).all():
            return math.nan
        return self._agreement(held_out.target, outputs, held_out.weights)

    def _agreement(self, y: Any, predictions: HostArray, weights: Any) -> float:
        loss = self._loss()
        if not isinstance(loss, Quantile):
            return float(r2_score(y, predictions, sample_weight=weights))
        if not isinstance(loss.quantile, tuple):
            how = {"alpha": loss.quantile, "sample_weight": weights}
            return float(d2_pinball_score(y, predictions, **how))
        columns = zip(loss.quantile, predictions.T, strict=True)
        scores = [d2_pinball_score(y, c, alpha=q, sample_weight=weights) for q, c in columns]
        return float(numpy.mean(scores))
