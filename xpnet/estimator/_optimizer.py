"""The optimizer of an estimator, from its parameters, with the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

from xpnet.errors import ConfigError, short_repr
from xpnet.optimizers import SGD, Adam, Optimizer
from xpnet.schedules import Constant, Cosine, OneCycle, Schedule

LEARNING_RATES = ("constant", "cosine", "one_cycle")
"""Values of `learning_rate`: schedules of `xpnet.schedules` over all updates of a fit."""

_OF_SCIKIT_LEARN = ("invscaling", "adaptive")


def require_learning_rate(value: Any) -> None:
    """Raise `ConfigError` for a value that `learning_rate` does not take."""
    if isinstance(value, str) and value in LEARNING_RATES:
        return
    note = ""
    if isinstance(value, str) and value in _OF_SCIKIT_LEARN:
        note = ", which MLPClassifier has and xpnet has not: 'cosine' lowers the rate too"
    raise ConfigError(
        f"learning_rate must be one of {', '.join(LEARNING_RATES)}, found {short_repr(value)}{note}"
    )


def new_optimizer(estimator: Any, steps: int) -> Optimizer:
    """The optimizer for `steps` updates."""
    rate = _schedule(estimator.learning_rate, float(estimator.learning_rate_init), steps)
    if estimator.solver == "sgd":
        momentum = float(estimator.momentum)
        nesterov = bool(estimator.nesterovs_momentum) and momentum > 0
        return SGD(rate, momentum=momentum, nesterov=nesterov)
    return Adam(
        rate,
        beta1=float(estimator.beta_1),
        beta2=float(estimator.beta_2),
        epsilon=float(estimator.epsilon),
    )


def _schedule(name: str, rate: float, steps: int) -> Schedule:
    if name == "cosine":
        return Cosine(rate, steps)
    return OneCycle(rate, steps) if name == "one_cycle" else Constant(rate)
