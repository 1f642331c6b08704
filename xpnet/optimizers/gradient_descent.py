"""`SGD` and `RMSprop`."""

from __future__ import annotations

from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, array_module
from xpnet.errors import ConfigError
from xpnet.optimizers.base import Optimizer
from xpnet.schedules import Schedule
from xpnet.utils.arguments import real


class SGD(Optimizer):
    """Gradient descent, plain, with momentum, or with Nesterov's momentum.

    `v ← μ v + g`, `w ← w − rate · v` (Polyak, 1964, with the rate outside, as in PyTorch); with
    `nesterov`, `w ← w − rate · (g + μ v)` (Sutskever, Martens, Dahl, Hinton, "On the importance of
    initialization and momentum", ICML 2013). `μ = 0`: `w ← w − rate · g`. The batch size decides
    whether it is stochastic, mini-batch or full-batch gradient descent.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.momentum = real("momentum", momentum, 0, 1)
        self.nesterov = bool(nesterov)
        if nesterov and not momentum:
            raise ConfigError("nesterov needs a momentum above 0: set momentum=0.9, say")
        self.state_names = ("momentum",) if momentum else ()

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        """`v ← μ v + g`, `w ← w − rate · v`."""
        xp, change = array_module(values), self._scratch(values)
        if not self.momentum:
            descend(xp, values, gradients, scalars, change=change)
            return
        velocity, how = self.state["momentum"], (self.momentum, self.nesterov)
        descend_with_momentum(xp, values, gradients, velocity, scalars, *how, change=change)


class RMSprop(Optimizer):
    """Gradient descent divided by a running root mean square of the gradient.

    `s ← ρ s + (1 − ρ) g²`, `d = g / (√s + ε)`; then `w ← w − rate · d`, or with momentum
    `v ← μ v + d`, `w ← w − rate · v`. ε is added outside the root, as in PyTorch (in TensorFlow it
    is inside). `ρ` is `decay_rate`. Tieleman, Hinton, "Lecture 6.5: RMSProp", Coursera, 2012.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-2,
        *,
        decay_rate: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.decay_rate = real("decay_rate", decay_rate, 0, 1)
        self.epsilon = real("epsilon", epsilon)
        self.momentum = real("momentum", momentum, 0, 1)
        self.state_names = ("square", "momentum") if momentum else ("square",)

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        """`s ← ρ s + (1 − ρ) g²`, `w ← w − rate · g / (√s + ε)`."""
        xp, square, change = array_module(values), self.state["square"], self._scratch(values)
        factors = self.decay_rate, 1 - self.decay_rate, self.epsilon
        if not self.momentum:
            rmsprop(xp, values, gradients, square, scalars, *factors, change=change)
            return
        arrays = values, gradients, square, self.state["momentum"], scalars
        rmsprop_with_momentum(xp, *arrays, *factors, self.momentum, change=change)


@accelerated
def descend(xp: Any, values: Array, gradients: Array, scalars: Array, *, change: Array) -> None:
    """`w ← w − rate · g`; `change` is scratch and may be `gradients`."""
    xp.multiply(gradients, scalars[0:1], out=change)
    xp.subtract(values, change, out=values)


@accelerated
def descend_with_momentum(
    xp: Any,
    values: Array,
    gradients: Array,
    velocity: Array,
    scalars: Array,
    momentum: float,
    nesterov: bool,
    *,
    change: Array,
) -> None:
    """`v ← μ v + g`; `w ← w − rate · v`, or with `nesterov` `w ← w − rate · (g + μ v)`."""
    xp.multiply(velocity, momentum, out=velocity)
    xp.add(velocity, gradients, out=velocity)
    direction = velocity
    if nesterov:
        xp.multiply(velocity, momentum, out=change)
        direction = xp.add(change, gradients, out=change)
    xp.multiply(direction, scalars[0:1], out=change)
    xp.subtract(values, change, out=values)


@accelerated
def rmsprop(
    xp: Any,
    values: Array,
    gradients: Array,
    square: Array,
    scalars: Array,
    decay_rate: float,
    rest: float,
    epsilon: float,
    *,
    change: Array,
) -> None:
    """`s ← ρ s + (1 − ρ) g²`, `w ← w − rate · g / (√s + ε)`; `rest` is `1 − ρ`."""
    rmsprop_direction(xp, gradients, square, change, decay_rate, rest, epsilon)
    descend(xp, values, change, scalars, change=change)


@accelerated
def rmsprop_with_momentum(
    xp: Any,
    values: Array,
    gradients: Array,
    square: Array,
    velocity: Array,
    scalars: Array,
    decay_rate: float,
    rest: float,
    epsilon: float,
    momentum: float,
    *,
    change: Array,
) -> None:
    """`s ← ρ s + (1 − ρ) g²`, `v ← μ v + g / (√s + ε)`, `w ← w − rate · v`."""
    rmsprop_direction(xp, gradients, square, change, decay_rate, rest, epsilon)
    descend_with_momentum(xp, values, change, velocity, scalars, momentum, False, change=change)


@accelerated
def rmsprop_direction(
    xp: Any,
    gradients: Array,
    square: Array,
    direction: Array,
    decay_rate: float,
    rest: float,
    epsilon: float,
) -> None:
    """`s ← ρ s + (1 − ρ) g²`, `d = g / (√s + ε)`."""
    xp.multiply(square, decay_rate, out=square)
    xp.multiply(gradients, gradients, out=direction)
    xp.multiply(direction, rest, out=direction)
    xp.add(square, direction, out=square)
    xp.sqrt(square, out=direction)
    xp.add(direction, epsilon, out=direction)
    xp.divide(gradients, direction, out=direction)
