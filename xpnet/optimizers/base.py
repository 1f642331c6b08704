"""`Optimizer`, the base class of all optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xpnet.accel.program import is_executed
from xpnet.backend import Array, Backend, array_module, is_same, substituted, zeros
from xpnet.errors import ConfigError, ShapeError, deprecated, short_repr
from xpnet.schedules import Constant, Schedule
from xpnet.utils.arguments import real
from xpnet.utils.introspection import config_of
from xpnet.workspace import Workspace

FLUSH_EVERY = 50
"""Subnormal numbers in the state become 0 after every 50th update; see `Optimizer.count_step`."""


class _State(dict[str, Array]):
    """The arrays of an optimizer's state; a name that is not there is missing in `state_names`."""

    def __init__(self, owner: str, arrays: dict[str, Array]) -> None:
        super().__init__(arrays)
        self._owner = owner

    def __missing__(self, name: str) -> Array:
        raise ConfigError(
            f"{self._owner} has no state {name!r}: its state_names is {tuple(self)}, which must "
            f"name each array that update() keeps in self.state"
        )


class Optimizer:
    """Base of all optimizers: `step(network)` changes the network's values in place.

    `learning_rate`: a number or a `Schedule`. `steps` counts the updates made; `state` holds
    arrays shaped like `values`, by name; subnormal numbers in it become 0 every 50th update
    (`FLUSH_EVERY`, see `count_step`). An optimizer belongs to one network, since it holds the
    moments and the number of updates; create a new one for another network. Raises `ConfigError`
    for a hyperparameter out of its range, and when a later step has another network's values;
    `ShapeError` unless values and gradients are flat and of one size.

    An optimizer of your own stores each parameter of its `__init__` under the same name, or defines
    `get_config()`: a checkpoint contains it, to detect changed settings on resuming.
    """

    state_names: tuple[str, ...] = ()
    learning_rate: Schedule

    def __init__(self, learning_rate: float | Schedule, weight_decay: float = 0.0) -> None:
        self.learning_rate = learning_rate  # type: ignore[assignment]
        self.weight_decay = real("weight_decay", weight_decay)
        self.steps = 0
        self.state: dict[str, Array] = {}
        self.workspace = Workspace()
        self._values: Array | None = None

    if not TYPE_CHECKING:
        # A property would change the names in `vars()`, which checkpoints compare.
        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; a number given as `learning_rate` becomes a `Schedule`."""
            if name == "learning_rate" and not isinstance(value, Schedule):
                value = Constant(real(name, value, or_else=", or a Schedule"))
            object.__setattr__(self, name, value)

    def get_config(self) -> dict[str, Any]:
        """The constructor arguments of the optimizer, by name."""
        return config_of(self)

    def scalars(self, step: int) -> tuple[float, ...]:
        """The numbers that update number `step` (from 0) uses, in float64: rate, decay, ...

        The first is the rate as `update` uses it, the second `1 − rate · weight_decay`.
        """
        rate = self.learning_rate(step)
        return rate, 1 - rate * self.weight_decay

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        """Apply the formula: update `values` `(P,)` and the state in place.

        `scalars` `(S,)`: what `self.scalars(step)` gives, on the device. `scalars[0:1]` is the
        learning rate; a recorded step reads this slice again each time.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update()")

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

        `decay_size`: `weight_decay` applies to the first `decay_size` values only; in a network
        these are the weight matrices, followed by biases and gains. It is taken from the network,
        or has to be given where `weight_decay` is not 0. `scalars`: this step's
        `self.scalars(self.steps)` if it is on the device already. `decays`: the former name of
        `decay_size`, deprecated.
        """
        if decays is not None:
            deprecated("step(decays=)", "decay_size")
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
                    f"not given which values decay: call step(network), or give "
                    f"decay_size=network.decay_size"
                )
            matrices = values[:decay_size]
            array_module(matrices).multiply(matrices, scalars[1:2], out=matrices)
        self.update(values, gradients, scalars)
        self.count_step()

    def count_step(self) -> None:
        """Count one update; after every 50th (`FLUSH_EVERY`), set subnormal state values to 0.

        `step()` calls it, and so must code that replays the recorded calls of a step, or do the
        same by `flushes_after`.

        The moments of a weight whose input is always 0, such as a border pixel of MNIST, decay
        towards 0 but do not reach it: 0.9 times the smallest subnormal number rounds to itself.
        Arithmetic with subnormal numbers is many times slower on many CPUs, so each later step
        would take longer. `s ← s · [|s| ≥ t]` removes them, where `t` is the smallest normal
        number of the dtype. They are too small to change a weight of normal size: with
        `|M| < t = 1.2e-38`, `ε = 1e-8` and `rate = 1e-3`, Adam changes it by about 1e-34 at most.
        With `ε = 0`, a second moment of 0 gives 0 / 0, as it does for an input that was never used.

        The rule depends on the number of updates alone, so every backend, a resumed run and a
        replayed step apply it at the same updates.
        """
        self.steps += 1
        if self.flushes_after(self.steps) and self.state:
            states = [self.state[name] for name in self.state_names]
            if states and not is_executed(array_module(*states)):
                return
            # Most updates have no such calls, so a step that is being recorded leaves them out.
            with substituted(None):
                for state in states:
                    flush_subnormals(state, self._scratch(state))

    @staticmethod
    def flushes_after(update: int) -> bool:
        """Whether subnormal state values become 0 after the update of this number, from 1."""
        return update % FLUSH_EVERY == 0

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
        # A copy may be used for another network, such as a copy of this one's.
        own = {name: array.copy() for name, array in self.state.items()}
        return vars(self) | {"_values": None, "state": own, "workspace": Workspace()}

    def _prepare(self, values: Array, gradients: Array) -> None:
        xp = array_module(values, gradients)
        held = next(iter(self.state.values()), values)
        if values.ndim != 1 or values.shape != gradients.shape or values.shape != held.shape:
            raise ShapeError(
                f"values and gradients must be flat and of one size, found {values.shape} and "
                f"{gradients.shape} after {held.shape}: use one optimizer for one network"
            )
        if not self.state:
            names: Any = self.state_names
            if isinstance(names, str):
                raise ConfigError(
                    f"state_names of {type(self).__name__} must be a tuple of names, such as "
                    f"({names!r},), found {names!r}"
                )
            made = {name: zeros(xp, values.size, values.dtype) for name in names}
            self.state = _State(type(self).__name__, made)

    def _upload(self, values: Array) -> Array:
        xp, numbers = array_module(values), self.scalars(self.steps)
        scalars = self.workspace.array(xp, "scalars", (len(numbers),), values.dtype)
        for place, number in enumerate(numbers):
            scalars[place : place + 1].fill(number)
        return scalars

    def table(self, steps: Sequence[int], backend: Backend, dtype: object) -> Array:
        """The scalars of many steps at once, on the device: `(len(steps), S)`."""
        return backend.asarray([self.scalars(step) for step in steps], dtype=dtype)

    def _scratch(self, values: Array) -> Array:
        return self.workspace.array(array_module(values), "scratch", values.shape, values.dtype)


def flush_subnormals(state: Array, scratch: Array) -> None:
    """`s ← s · [|s| ≥ t]`, `t` the smallest normal number of the dtype; NaN and inf stay."""
    xp = array_module(state)
    xp.absolute(state, out=scratch)
    xp.greater_equal(scratch, float(xp.finfo(state.dtype).tiny), out=scratch)
    xp.multiply(state, scratch, out=state)
