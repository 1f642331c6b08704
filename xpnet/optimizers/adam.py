"""`Adam` and `AdamW`."""

from __future__ import annotations

import math
from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, array_module
from xpnet.optimizers.base import Optimizer
from xpnet.schedules import Schedule
from xpnet.utils.arguments import real


class Adam(Optimizer):
    """RMSprop with momentum and bias correction.

    `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, and in step `t = 1, 2, …`
    `w ← w − rate · m̂ / (√v̂ + ε)` with `m̂ = m / (1 − β₁ᵗ)`, `v̂ = v / (1 − β₂ᵗ)`: the weights of
    a moving average that starts at 0 sum to `1 − βᵗ`. Kingma, Ba, "Adam", ICLR 2015, algorithm 1.

    The state holds the moments without their factors, `M = m / (1 − β₁)` and `V = v / (1 − β₂)`,
    which saves two passes over memory: `M ← β₁ M + g`, `V ← β₂ V + g²`. With
    `c = √((1 − β₂ᵗ) / (1 − β₂))`, `√v̂ = √V / c`, so `w ← w − a M / (√V + ε c)`,
    `a = rate · c (1 − β₁) / (1 − β₁ᵗ)`; `a` and `ε c` are the step's scalars.
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
        arguments = values, gradients, first, second, scalars, self.beta1, self.beta2
        adam(xp, *arguments, change=self._scratch(values))


class AdamW(Adam):
    """Adam with decoupled weight decay, by default `weight_decay = 0.01`.

    `w ← w − rate · weight_decay · w` for weight matrices (in `Optimizer.step`), then Adam's update.
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


@accelerated
def adam(
    xp: Any,
    values: Array,
    gradients: Array,
    first: Array,
    second: Array,
    scalars: Array,
    beta1: float,
    beta2: float,
    *,
    change: Array,
) -> None:
    """`M ← β₁ M + g`, `V ← β₂ V + g²`, `w ← w − a M / (√V + ε c)`; `change` is scratch."""
    xp.multiply(first, beta1, out=first)
    xp.add(first, gradients, out=first)
    xp.multiply(gradients, gradients, out=change)
    xp.multiply(second, beta2, out=second)
    xp.add(second, change, out=second)
    xp.sqrt(second, out=change)
    xp.add(change, scalars[2:3], out=change)
    xp.divide(first, change, out=change)
    xp.multiply(change, scalars[0:1], out=change)
    xp.subtract(values, change, out=values)
