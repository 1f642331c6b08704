"""Optimizers: whole-array updates of a network's flat store.

`values`, `gradients` and all state: `(P,)`, one dtype, one backend; there is no loop over
parameters. Updates are written with `out=` and read what changes from step to step (rate,
bias correction) from one small array on the device, `scalars`, so a step allocates nothing,
waits for nothing, and can be recorded.

Rates and defaults follow PyTorch, with one exception that holds throughout: `weight_decay` is
decoupled, `W ← W − rate · weight_decay · W` before the update (Loshchilov, Hutter, "Decoupled
weight decay regularization", ICLR 2019), and touches only matrices. The decay that goes
through the gradient is `losses.L2Penalty`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xpnet.accel import dispatch
from xpnet.backend import Array, Backend, array_module, is_same, zeros
from xpnet.errors import ConfigError, ShapeError, deprecated, short_repr
from xpnet.schedules import Constant, Schedule
from xpnet.utils.arguments import real
from xpnet.utils.introspection import config_of
from xpnet.workspace import Workspace


class Optimizer:
    """Base of all optimizers: `step(network)` changes the network's values in place.

    `learning_rate`: a number or a `Schedule`. `steps` counts the updates made; `state` holds
    arrays shaped like `values`, by name. One optimizer serves one network, whose moments and
    count of updates it has; for another network make another optimizer. Raises `ConfigError` for
    a hyperparameter out of its range, and when a later step brings another network's values;
    `ShapeError` unless values and gradients are flat and of one size.

    An optimizer of your own keeps each parameter of its `__init__` under the same name, or
    defines `get_config()`: what is found there tells trainings apart when one is resumed.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: float | Schedule, weight_decay: float = 0.0) -> None:
        if not isinstance(learning_rate, Schedule):
            rate = real("learning_rate", learning_rate, or_else=", or a Schedule")
            learning_rate = Constant(rate)
        self.learning_rate = learning_rate
        self.weight_decay = real("weight_decay", weight_decay)
        self.steps = 0
        self.state: dict[str, Array] = {}
        self.workspace = Workspace()
        self._values: Array | None = None

    def get_config(self) -> dict[str, Any]:
        """What the class is to be called with to make such an optimizer, by name."""
        return config_of(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        """What update number `step` (from 0) multiplies by, in float64: rate, decay, ...

        The first is the rate as `update` uses it, the second `1 − rate · weight_decay`.
        """
        rate = self.learning_rate(step)
        return rate, 1 - rate * self.weight_decay

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        """The formula itself: change `values` and the state, reading `scalars` on the device."""
        raise TypeError(f"{type(self).__name__} defines no update")

    def step(
        self,
        values: Any,
        gradients: Array | None = None,
        *,
        decay_size: int | None = None,
        scalars: Array | None = None,
        decays: int | None = None,
    ) -> None:
        """One update: `step(network)`, or of `values` by `gradients`, both `(P,)`.

        `decay_size`: only the first so many values shrink by `weight_decay`; a network has its
        matrices there, and biases and gains, which are to stay as they are, behind them. It is
        taken from the network, or has to be given where `weight_decay` is not 0. `scalars`: this
        step's `self.scalars(self.steps)` if it lies on the device already.
        """
        if decays is not None:
            deprecated("step(decay_size=)", "decay_size")
            decay_size = decays
        if gradients is None:
            network = values
            if not hasattr(network, "flat_gradients"):
                raise ConfigError(
                    f"step() takes a network, or values and gradients, found {short_repr(network)}"
                )
            values, gradients = network.flat_parameters, network.flat_gradients
            decay_size = network.decay_size
        self.require_same(values)
        self._prepare(values, gradients)
        if scalars is None:
            scalars = self._upload(values)
        if self.weight_decay:
            if decay_size is None:
                raise ConfigError(
                    f"{type(self).__name__} has weight_decay {self.weight_decay:g}, and step() is "
                    f"not told which values are to decay: call step(network), or give "
                    f"decay_size=network.decay_size"
                )
            matrices = values[:decay_size]
            array_module(matrices).multiply(matrices, scalars[1:2], out=matrices)
        self.update(values, gradients, scalars)
        self.steps += 1

    def require_same(self, values: Array) -> None:
        """Raise `ConfigError` where updates were made of other values than `values` `(P,)`."""
        if values is self._values:
            return
        if self._values is not None and self.steps and not is_same(values, self._values):
            raise ConfigError(
                f"this {type(self).__name__} has made {self.steps} updates of another network, or "
                f"of this one before its layers were changed: make a new optimizer"
            )
        if not self.steps:
            self.state = {}
        self._values = values

    def __getstate__(self) -> dict[str, Any]:
        # A copy serves the network that it is given first, such as a copy of this one's.
        own = {name: array.copy() for name, array in self.state.items()}
        return vars(self) | {"_values": None, "state": own, "workspace": Workspace()}

    def _prepare(self, values: Array, gradients: Array) -> None:
        xp = array_module(values, gradients)
        held = next(iter(self.state.values()), values)
        if values.ndim != 1 or values.shape != gradients.shape or values.shape != held.shape:
            raise ShapeError(
                f"values and gradients must be flat and of one size, found {values.shape} and "
                f"{gradients.shape} after {held.shape}: one optimizer serves one network"
            )
        if not self.state:
            self.state = {name: zeros(xp, values.size, values.dtype) for name in self.state_names}

    def _upload(self, values: Array) -> Array:
        xp, numbers = array_module(values), self.scalars(self.steps)
        scalars = self.workspace.array(xp, "scalars", (len(numbers),), values.dtype)
        for place, number in enumerate(numbers):
            scalars[place : place + 1].fill(number)
        return scalars

    def table(self, steps: Sequence[int], backend: Backend, dtype: object) -> Array:
        """The scalars of many steps at once, on the device: `(len(steps), S)`."""
        return backend.asarray([self.scalars(step) for step in steps], dtype=dtype)

    def _descend(
        self,
        values: Array,
        direction: Array,
        scalars: Array,
        momentum: float,
        nesterov: bool = False,
    ) -> None:
        """`v ← μ v + direction`, kept in the state `"momentum"`; `w ← w − rate · v`."""
        xp, change = array_module(values), self._scratch(values)
        if momentum:
            velocity = self.state["momentum"]
            if dispatch.did(
                "descend_with_momentum", values, direction, velocity, scalars, momentum, nesterov
            ):
                return
            xp.multiply(velocity, momentum, out=velocity)
            xp.add(velocity, direction, out=velocity)
            if nesterov:
                xp.multiply(velocity, momentum, out=change)
                direction = xp.add(change, direction, out=change)
            else:
                direction = velocity
        elif dispatch.did("descend", values, direction, scalars):
            return
        xp.multiply(direction, scalars[0:1], out=change)
        xp.subtract(values, change, out=values)

    def _scratch(self, values: Array) -> Array:
        return self.workspace.array(array_module(values), "scratch", values.shape, values.dtype)


class SGD(Optimizer):
    """Gradient descent, plain, with momentum, or with Nesterov's momentum.

    `v ← μ v + g`, `w ← w − rate · v` (Polyak, 1964, with the rate outside, as in PyTorch); with
    `nesterov`, `w ← w − rate · (g + μ v)` (Sutskever, Martens, Dahl, Hinton, "On the importance of
    initialization and momentum", ICML 2013). `μ = 0`: `w ← w − rate · g`. Whether a step is
    stochastic, mini-batch or full-batch is the caller's choice of batch.
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
        self._descend(values, gradients, scalars, self.momentum, self.nesterov)


class RMSprop(Optimizer):
    """Gradient descent divided by a running root mean square of the gradient.

    `s ← ρ s + (1 − ρ) g²`, `d = g / (√s + ε)`; then `w ← w − rate · d`, or with momentum
    `v ← μ v + d`, `w ← w − rate · v`. ε lies outside the root, as in PyTorch (TensorFlow has it
    inside). `ρ` is `decay_rate`. Tieleman, Hinton, "Lecture 6.5: RMSProp", Coursera, 2012.
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
        rest = 1 - self.decay_rate
        if self._did_at_once(values, gradients, scalars, self.decay_rate, rest, self.epsilon):
            return
        if not dispatch.did(
            "rmsprop_direction", gradients, square, change, self.decay_rate, rest, self.epsilon
        ):
            xp.multiply(square, self.decay_rate, out=square)
            xp.multiply(gradients, gradients, out=change)
            xp.multiply(change, rest, out=change)
            xp.add(square, change, out=square)
            xp.sqrt(square, out=change)
            xp.add(change, self.epsilon, out=change)
            xp.divide(gradients, change, out=change)
        self._descend(values, change, scalars, self.momentum)

    def _did_at_once(
        self, values: Array, gradients: Array, scalars: Array, *factors: float
    ) -> bool:
        square, velocity = self.state["square"], self.state.get("momentum")
        if velocity is None:
            return dispatch.did("rmsprop", values, gradients, square, scalars, *factors)
        arrays = (values, gradients, square, velocity, scalars)
        return dispatch.did("rmsprop_with_momentum", *arrays, *factors, self.momentum)


class Adam(Optimizer):
    """RMSprop with momentum and without the bias of moments that start at 0.

    `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, and in step `t = 1, 2, …`
    `w ← w − rate · m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)`, `v̂ = v / (1 − β₂ᵗ)`: a moment that
    started at 0 has weights that sum to `1 − βᵗ` only. Kingma, Ba, "Adam", ICLR 2015, algorithm 1.

    Held are the sums without their factors, `M = m / (1 − β₁)` and `V = v / (1 − β₂)`, which saves
    two passes over memory: `M ← β₁ M + g`, `V ← β₂ V + g²`. With `c = √((1 − β₂ᵗ) / (1 − β₂))`,
    `√v̂ = √V / c`, so `w ← w − a M / (√V + ε c)`, `a = rate · c (1 − β₁) / (1 − β₁ᵗ)`; `a` and
    `ε c` are the step's scalars.
    """

    state_names = ("first", "second")

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.beta1 = real("beta1", beta1, 0, 1)
        self.beta2 = real("beta2", beta2, 0, 1)
        self.epsilon = real("epsilon", epsilon)

    def scalars(self, step: int) -> tuple[float, ...]:
        """`a`, `1 − rate · weight_decay`, `ε c` of update number `step` (from 0)."""
        rate, decay = super().scalars(step)
        # 1 − βᵗ as −expm1(t log β) keeps its digits when β is close to 1.
        first = -math.expm1((step + 1) * math.log(self.beta1)) if self.beta1 else 1.0
        second = -math.expm1((step + 1) * math.log(self.beta2)) if self.beta2 else 1.0
        c = math.sqrt(second / (1 - self.beta2))
        return rate * c * (1 - self.beta1) / first, decay, self.epsilon * c

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        """`M ← β₁ M + g`, `V ← β₂ V + g²`, `w ← w − a M / (√V + ε c)`."""
        xp, first, second = array_module(values), self.state["first"], self.state["second"]
        change = self._scratch(values)
        if dispatch.did("adam", values, gradients, first, second, scalars, self.beta1, self.beta2):
            return
        xp.multiply(first, self.beta1, out=first)
        xp.add(first, gradients, out=first)
        xp.multiply(gradients, gradients, out=change)
        xp.multiply(second, self.beta2, out=second)
        xp.add(second, change, out=second)
        xp.sqrt(second, out=change)
        xp.add(change, scalars[2:3], out=change)
        xp.divide(first, change, out=change)
        xp.multiply(change, scalars[0:1], out=change)
        xp.subtract(values, change, out=values)


class AdamW(Adam):
    """Adam whose decoupled weight decay is on by default: `weight_decay = 0.01`.

    Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(
            learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=weight_decay
        )
