"""Learning-rate schedules: pure functions `step -> rate`, steps counted from 0.

A rate is computed on the host in Python floats (float64); training uploads the rates of a
whole epoch at a time. A plain number is accepted wherever a schedule is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from xpnet.errors import ConfigError
from xpnet.utils.arguments import real, whole


@dataclass(frozen=True)
class Schedule:
    """Base: `schedule(step) -> learning rate`; a schedule of your own defines `__call__`."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value, name = getattr(self, item.name), f"{item.name} of {type(self).__name__}"
            if item.name == "then":
                if not isinstance(value, Schedule):
                    value = Constant(real(name, value, or_else=", or a Schedule"))
            elif item.name in ("steps", "every"):
                value = whole(name, value)
            else:
                value = real(name, value)
            object.__setattr__(self, item.name, value)

    def __call__(self, step: int) -> float:
        """The learning rate of update number `step` (the first is 0)."""
        raise TypeError(
            f"{type(self).__name__} defines no __call__(step), which returns the learning rate"
        )


@dataclass(frozen=True)
class Constant(Schedule):
    """`rate` at every step."""

    rate: float

    def __call__(self, step: int) -> float:
        """`rate`."""
        return self.rate


@dataclass(frozen=True)
class StepDecay(Schedule):
    """`rate · factor^⌊step / every⌋`."""

    rate: float
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        """`rate · factor^⌊step / every⌋`."""
        return float(self.rate * self.factor ** (step // self.every))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `rate` at step 0 down to `final` at step `steps`, and `final` after.

    `final + ½ (rate − final) (1 + cos(π step / steps))`: Loshchilov, Hutter, "SGDR", ICLR 2017,
    eq. 5, without restarts.
    """

    rate: float
    steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate at `step`."""
        return _half_cosine(self.rate, self.final, step / self.steps)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `rate / divisor` to `rate` in the first `rise` of `steps`, then down to almost 0.

    Both parts are half a cosine; the last step has `rate / (divisor · final_divisor)`. Smith,
    Topin, "Super-convergence", 2018; defaults and end points as PyTorch's `OneCycleLR`.
    """

    rate: float
    steps: int
    rise: float = 0.3
    divisor: float = 25.0
    final_divisor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rise < 1:
            raise ConfigError(f"rise of OneCycle must lie between 0 and 1, found {self.rise!r}")
        if not (self.divisor > 0 and self.final_divisor > 0):
            raise ConfigError("divisor and final_divisor of OneCycle must be above 0")

    def __call__(self, step: int) -> float:
        """The rate at `step`."""
        top, last = self.rise * self.steps - 1, self.steps - 1
        start = self.rate / self.divisor
        if step < top:
            return _half_cosine(start, self.rate, step / top)
        return _half_cosine(self.rate, start / self.final_divisor, (step - top) / (last - top))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear warm-up to `then(0)` over `steps` steps, followed by the schedule `then` from its step
    0.

    Step `t < steps` has the rate `then(0) · (t + 1) / (steps + 1)`. It is never 0, and the full
    rate is reached only with the first step of `then`. Goyal et al., "Accurate, large minibatch
    SGD", 2017, section 2.2.
    """

    then: Schedule | float
    steps: int

    def __call__(self, step: int) -> float:
        """The rate at `step`."""
        assert isinstance(self.then, Schedule)  # a number has become one
        if step < self.steps:
            return self.then(0) * (step + 1) / (self.steps + 1)
        return self.then(step - self.steps)


def _half_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2
