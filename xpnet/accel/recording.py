"""Which steps are recorded, and when a recorded step is replayed without the layers.

After the first steps, every step is the same sequence of operations on the same arrays. One is
recorded as a program (`xpnet.accel.program`), its neighbouring operations are fused
(`xpnet.accel.fusion`), and an executor runs it from then on: on a GPU as a CUDA graph
(`xpnet.accel.cuda_graph`), with the kernels of a CPU as compiled loops for many steps at once
(`xpnet.accel.cpu.executor`), else call by call (`program.run`).

Recording cannot detect operations outside `xp` (`y *= 2`, a count in Python), so only xpnet's own
classes are recorded, and classes that set `replayable = True` in their own body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import is_
from types import MethodType
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakMethod

import numpy

from xpnet.accel.cuda_graph import Graphs
from xpnet.accel.fusion import fuse
from xpnet.accel.program import Call, Program, signature, trace, trace_only
from xpnet.backend import Array
from xpnet.backend.context import current
from xpnet.errors import ConfigError
from xpnet.utils.introspection import is_own

P = ParamSpec("P")
R = TypeVar("R")


def record(xp: Any, step: Call) -> Program:
    """Run `step`, which computes through `xp` only; returns its program, fused."""
    return fuse(trace(xp, step))


class _Snapshot:
    """The objects that are the attributes of all parts, and the entries of dicts among them.

    Without those attributes of `optimizer` that reach a step by its scalars. They are compared
    before each call of a `TrainStep`, so with functions that are written in C.
    """

    def __init__(self, parts: Iterable[Any], optimizer: object) -> None:
        self.of_parts: list[dict[str, Any]] = list(map(vars, parts))
        held = [value for one in self.of_parts for value in one.values()]
        inside = [value for value in held if isinstance(value, dict)]
        self.dicts = [one for one in (*self.of_parts, *inside) if one]
        self.empty = [one for one in inside if not one]
        items = [item for one in self.dicts for item in one.items()]
        self.values = [value for _, value in items]
        start = sum(map(len, self.dicts[: _place(self.dicts, vars(optimizer))]))
        own = enumerate(vars(optimizer), start)
        self.left_out = [(i, name) for i, name in own if name in _SCALARS]
        self.optimizer = vars(optimizer)

    def still_holds(self, parts: Iterable[Any]) -> bool:
        """Whether all attributes are still the same objects."""
        for i, name in self.left_out:
            self.values[i] = self.optimizer.get(name)
        return (
            _are_same(self.of_parts, list(map(vars, parts)))
            and not any(self.empty)
            and sum(map(len, self.dicts)) == len(self.values)
            and all(map(is_, self.values, chain.from_iterable(map(dict.values, self.dicts))))
        )


_SCALARS = ("steps", "learning_rate")


def _place(dicts: Sequence[Any], wanted: object) -> int:
    return next(place for place, one in enumerate(dicts) if one is wanted)


def _are_same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


class Steps(Protocol):
    """A recorded step that runs several times in one call, `most` times at most.

    What `Optimizer.count_step` does after each is part of it, but for the count.
    """

    most: int

    def __call__(self, count: int) -> None:
        """Run the step `count` times."""

    def reset(self) -> None:
        """Forget the last call: `completed` is 0."""

    @property
    def completed(self) -> int:
        """How many times the last call ran it."""


class _Calls:
    """A recorded step that one function runs; between two steps the next rows become row 0.

    `count_step` is called after each.
    """

    def __init__(self, call: Call, tables: Sequence[Array], count_step: Call) -> None:
        self._call, self._tables, self._count_step = call, tables, count_step
        self.most = min(map(len, tables), default=1)
        self.completed = 0

    def reset(self) -> None:
        self.completed = 0

    def __call__(self, count: int) -> None:
        self.reset()
        while self.completed < count:
            if self.completed:
                for rows in self._tables:
                    rows[0] = rows[self.completed]
            self._call()
            self.completed += 1
            self._count_step()


@dataclass(frozen=True)
class _Step:
    """The parts as they were after the last step of a size, and what replays it if recorded."""

    snapshot: _Snapshot | None
    replay: Steps | None


class Replay:
    """Runs steps: the first of each batch size as written, the second recorded, others replayed.

    Compiled loops (`xpnet.accel.cpu`) run the first step as well, whose operations are listed
    without being run (`trace_only`): loops round differently, and a training that is resumed at any
    step has to give the same bits as one that was not interrupted.

    `parts()`: the objects that take part in a step (network, layers, loss, ...); once one of them
    is not `is_replayable`, every step runs as written. `watched`: other code may run between two
    steps and change the parts; the caller sets `disturbed`. A size is then replayed only
    while every attribute of every part is the same object as after its own last step; else it is
    recorded again. `optimizer`: the part whose count of steps and learning rate reach a step by
    its arguments. `scope()`: a block in which steps run that are not replayed.

    Methods of the object that has this `Replay` are referred to weakly: in a cycle graphs and their
    memory would stay until Python's garbage collector finds it.
    """

    def __init__(
        self,
        xp: Any,
        parts: Callable[[], Iterable[Any]],
        *,
        optimizer: Any,
        watched: bool,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.xp, self.optimizer, self.watched = xp, optimizer, watched
        self.parts, self.scope = _weakly(parts), _weakly(scope)
        self.disturbed = False
        self.completed = 0
        self._not_compiled: set[Hashable] = set()
        self._made: dict[Hashable, tuple[Hashable, Steps]] = {}
        self._graphs = Graphs(xp)
        self._steps: dict[Hashable, _Step] = {}
        self._size: Hashable = 0
        self._enabled = current().recording_enabled

    def most(self, size: Hashable) -> int:
        """How many steps the next call of `run` may run."""
        known = self._steps.get(size) if self._enabled else None
        if known is None or known.replay is None or known.replay.most == 1:
            return 1
        known = self._known(size)
        return 1 if known is None or known.replay is None else known.replay.most

    def run(
        self,
        size: Hashable,
        step: Callable[..., None],
        *arguments: Any,
        tables: Sequence[Array] = (),
        count: int = 1,
    ) -> bool:
        """`step(*arguments)`, always the same ones for a batch of `size`; whether it was replayed.

        A replay runs none of the Python in `step`. `count`: of steps, up to `most(size)`, if the
        arguments are row 0 of `tables`: step `s` reads row `s` of these.
        """
        self.completed = 0
        known = self._known(size) if self._enabled else None
        if known is None or known.replay is None:
            with self.scope():
                known = self._run(known, size, partial(step, *arguments), tables)
        if known is None:
            return False
        replay, steps = known.replay, self.optimizer.steps
        assert replay is not None
        replay.reset()  # Ctrl-C may come before the call does it
        try:
            replay(count)
        finally:
            self.completed = replay.completed
            self.optimizer.steps = steps + self.completed
        return True

    def _known(self, size: Hashable) -> _Step | None:
        """The last step of this size, if nothing has changed since."""
        known = self._steps.get(size)
        if self.watched and (self.disturbed or size != self._size):
            snapshot = None if known is None else known.snapshot
            if snapshot is not None and not snapshot.still_holds(self.parts()):
                del self._steps[size]
                known = None
            self.disturbed, self._size = False, size
        return known

    def _run(
        self, known: _Step | None, size: Hashable, step: Call, tables: Sequence[Array]
    ) -> _Step | None:
        """Run a step that no replay is known for; or run nothing, and return its replay."""
        self._enabled = self._enabled and all(map(is_replayable, self.parts()))
        replay = self._compiled(size, step, tables) if self._enabled else None
        is_compiled = replay is not None
        if not is_compiled and known is not None:
            program = record(self.xp, step)
            _require_update(program, self.optimizer)
            call = self._graphs.of(program)
            replay = _Calls(call, tables, self.optimizer.count_step)
        elif not is_compiled:
            step()
        if not self._enabled:
            return None
        snapshot = _Snapshot(self.parts(), self.optimizer) if self.watched else None
        self._steps[size] = made = _Step(snapshot, replay)
        return made if is_compiled else None

    def _compiled(self, size: Hashable, step: Call, tables: Sequence[Array]) -> Steps | None:
        """The step as compiled loops, if they are in use and can run it: see `CompiledSteps`."""
        in_use = current().kernels
        are_possible = size not in self._not_compiled and self.xp is numpy
        are_possible = are_possible and current().compiled_enabled
        # One step alone takes less time than to wake the threads for it.
        if not (are_possible and tables and in_use is not None and in_use[0] is numpy):
            return None
        from xpnet.accel.cpu.executor import CompiledSteps
        from xpnet.accel.cpu.lower_base import NotLowered

        count = self.optimizer.steps
        try:
            program = fuse(trace_only(self.xp, step))
            _require_update(program, self.optimizer)
            own = all(is_own(type(part)) for part in self.parts())
            made, known = (own, signature(program)), self._made.get(size)
            # Attributes may have changed without another operation; to compile takes longer.
            if known is None or known[0] != made:
                steps = CompiledSteps(program, tables, self.optimizer, own_layers=own)
                known = self._made[size] = made, steps
            return known[1]
        except NotLowered:
            # Of this size only: which sizes come first differs in a training that is resumed.
            self._not_compiled.add(size)
            return None
        finally:
            self.optimizer.steps = count

    def forget(self, size: Hashable) -> None:
        """Keep nothing of the steps of this size."""
        self._steps.pop(size, None)


def _weakly(function: Callable[P, R]) -> Callable[P, R]:
    """`function`; of a method of an object, one that does not keep the object."""
    if not isinstance(function, MethodType):
        return function
    method = WeakMethod(function)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        found: Callable[P, R] | None = method()
        assert found is not None
        return found(*args, **kwargs)

    return call


def _require_update(program: Program, optimizer: Any) -> None:
    """Raise `ConfigError` for an own optimizer of whose update of the values nothing is recorded.

    Such an update, as `values -= rate * gradients`, would be missing from every replay. On the CPU
    only, where NumPy compares the memory of arrays. Which of its arrays a kernel writes is not
    recorded; those of layers only read the values.
    """
    values = None if is_own(type(optimizer)) else optimizer._values
    if not isinstance(values, numpy.ndarray):
        return
    for op in program:
        if op.is_kernel and re.search(r"\.(forward|backward)", op.origin):
            continue
        written = op.inputs if op.is_kernel else (op.output,)
        arrays = (array for array in written if isinstance(array, numpy.ndarray))
        if any(numpy.may_share_memory(array, values) for array in arrays):
            return
    raise ConfigError(
        f"{type(optimizer).__name__}.update() does not write to values by an xp call with "
        f"out=values, so its steps cannot be recorded: end it with one, such as "
        f"xp.subtract(values, change, out=values), or remove `replayable = True` from your class"
    )


def is_replayable(part: object) -> bool:
    """Whether everything that `part` does in a step goes through `xp`.

    True for xpnet's own classes and those that say so themselves. A subclass of either does not
    inherit it, and an object with a method replaced is not replayable.
    """
    kind = type(part)
    if not (is_own(kind) or vars(kind).get("replayable") is True):
        return False
    return not any(callable(getattr(kind, name, None)) for name in vars(part))
