"""The optimizer of an estimator, from its parameters, and how its learning rate falls."""

from __future__ import annotations

from typing import Any

from xpnet.backend import array_module
from xpnet.errors import ConfigError, short_repr
from xpnet.optimizers import SGD, Adam, Optimizer
from xpnet.schedules import Constant, Cosine, OneCycle, Schedule
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.history import Record

SCHEDULES = ("cosine", "one_cycle")
"""Values of `learning_rate`: schedules of `xpnet.schedules` over all updates of a fit."""

LEARNING_RATES = ("constant", "invscaling", "adaptive", *SCHEDULES)


def require_learning_rate(value: Any) -> None:
    """Raise `ConfigError` for a value that `learning_rate` does not take."""
    if not (isinstance(value, str) and value in LEARNING_RATES):
        raise ConfigError(
            f"learning_rate must be one of {', '.join(LEARNING_RATES)}, found {short_repr(value)}"
        )


def require_rate_of_partial_fit(estimator: Any) -> None:
    """Raise `ConfigError` for a `learning_rate` that depends on the number of all epochs."""
    if estimator.learning_rate in SCHEDULES:
        raise ConfigError(
            f"learning_rate={estimator.learning_rate!r} is a schedule over max_iter epochs, and "
            f"partial_fit does not know how many there will be: set learning_rate='constant', "
            f"'invscaling' or 'adaptive'"
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


def is_adaptive(estimator: Any) -> bool:
    """Whether the rate falls where training no longer improves. As in scikit-learn, SGD's only."""
    return bool(estimator.learning_rate == "adaptive" and estimator.solver == "sgd")


class InverseScaling(Callback):
    """`learning_rate="invscaling"`: after each epoch the rate becomes `rate / (t + 1)^power`.

    `t`: the samples seen so far, `seen` of them before this fit and `count` in each epoch, as
    `MLPClassifier` computes it.
    """

    def __init__(self, rate: float, power: float, *, seen: int, count: int) -> None:
        self.rate, self.power, self.seen, self.count = rate, power, seen, count

    def on_log(self, run: TrainingState, record: Record) -> None:
        """Set the rate of the next epoch."""
        seen = self.seen + run.epoch * self.count
        change_rate(run.optimizer, self.rate / (seen + 1) ** self.power)


def callbacks_of_rate(estimator: Any, *, seen: int, count: int) -> list[Callback]:
    """The callback that lowers the rate, if it depends on the number of samples seen."""
    if estimator.learning_rate != "invscaling" or estimator.solver != "sgd":
        return []
    rate, power = float(estimator.learning_rate_init), float(estimator.power_t)
    return [InverseScaling(rate, power, seen=seen, count=count)]


def change_rate(optimizer: Optimizer, rate: float) -> None:
    """Make `rate` the constant rate of `optimizer`, an `SGD`, and keep its last change of weights.

    `MLPClassifier` has the rate `r` in the velocity, `u ← μ u − r g`, `w ← w + u`; `SGD` has it
    outside, `v ← μ v + g`, `w ← w − r v`. With `u = −r v` both are the same. At a change from `r`
    to `r'` `u` stays, so `v` becomes `v r / r'`.
    """
    before = optimizer.learning_rate(optimizer.steps)
    optimizer.learning_rate = Constant(rate)
    for velocity in optimizer.state.values():
        array_module(velocity).multiply(velocity, before / rate, out=velocity)
