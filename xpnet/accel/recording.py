"""Records the `xp` calls of a training step once, and replays them without the layers.

After the first steps, every step is the same sequence of `xp` calls on the same arrays. While one
is recorded, `array_module` returns a `Recorder`, which runs each call and appends it to a list;
running the calls of the list again in order performs the next step, with bit-identical results. So
the formulas are written only in the layers.

This is correct because of a rule in `CONTRIBUTING.md`: inside a step every array result is an
`xp` call with `out=` into an array made earlier. The recorder raises an error for any other call.
It cannot detect operations outside `xp` (`y *= 2`, a count in Python), so only xpnet's own classes
are recorded, and classes that set `replayable = True` in their own body.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import is_
from types import MethodType, ModuleType
from typing import Any, ParamSpec, TypeAlias, TypeVar
from weakref import WeakMethod

import numpy

from xpnet.accel import dispatch
from xpnet.accel.cuda_graph import Graphs
from xpnet.backend import substituted
from xpnet.backend.context import current
from xpnet.errors import ConfigError
from xpnet.utils.introspection import is_own

Call: TypeAlias = Callable[[], Any]
P = ParamSpec("P")
R = TypeVar("R")

_REDUCTIONS = {"sum": numpy.add, "max": numpy.maximum, "min": numpy.minimum}
_METHODS = {"argmax", "argmin", "clip", "dot", "mean", "take"}
# NumPy deprecates `out` by position for these two.
_OUT_BY_NAME = (numpy.maximum, numpy.minimum)


class Recorder:
    """The array module `xp`, where each call is run and also appended to `calls`.

    It equals `xp`, so that a `Workspace` finds the arrays it made with `xp`. Raises
    `ConfigError`, naming the function, for a call whose result is not written to an `out=`.
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.calls: list[Call] = []

    def __eq__(self, other: object) -> bool:
        return other is self or self.xp == other

    def __hash__(self) -> int:
        return hash(self.xp)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.xp, name)
        if isinstance(found, ModuleType):
            raise ConfigError(f"xp.{name} cannot be recorded: {_REMEDY}")
        if isinstance(found, type) or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            out = (*args, kwargs.get("dst"))[0] if name == "copyto" else kwargs.get("out")
            if out is None:
                raise ConfigError(f"xp.{name}() without out= cannot be recorded: {_REMEDY}")
            self.record_call(_bound(self.xp, name, found, args, kwargs))
            return out

        return call

    def record_call(self, call: Call) -> None:
        """Run `call`, and append it to the recorded step."""
        self.calls.append(call)
        call()


_REMEDY = (
    "let each xp call of a step write to out=, a buffer of the workspace, or take "
    "`replayable = True` from your class"
)


def record(xp: Any, step: Call) -> tuple[Call, ...]:
    """Run `step`, which computes through `xp` only; returns its calls."""
    recorder = Recorder(xp)
    with substituted(recorder):
        step()
    return dispatch.fuse(recorder.calls)


def _bound(
    xp: Any, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    """The call bound to its arguments; for NumPy, the C function itself, which is faster."""
    out = kwargs.get("out")
    if xp is not numpy or not args or not isinstance(out, numpy.ndarray):
        return partial(function, *args, **kwargs)
    if isinstance(function, numpy.ufunc) and kwargs.keys() <= {"out", "dtype", "casting"}:
        dtype = kwargs.get("dtype")
        args = _as_arrays(args, dtype)
        is_plain = len(kwargs) == 1 or (
            all(isinstance(operand, numpy.ndarray) for operand in args)
            and numpy.result_type(*args) == dtype == out.dtype
        )
        if is_plain and function not in _OUT_BY_NAME:
            return partial(function, *args, out)
    elif name in _REDUCTIONS and len(args) == 1 and kwargs.keys() <= {"axis", "out", "keepdims"}:
        options = kwargs.get("axis"), None, out, kwargs.get("keepdims", False)
        return partial(_REDUCTIONS[name].reduce, *args, *options)
    elif name in _METHODS and isinstance(args[0], numpy.ndarray):
        method = getattr(args[0], name)
        if name == "dot" and len(args) == 2:
            return partial(method, args[1], out)
        return partial(method, *args[1:], **kwargs)
    return partial(function, *args, **kwargs)


def _as_arrays(operands: tuple[Any, ...], dtype: Any = None) -> tuple[Any, ...]:
    """Python numbers among `operands` as the arrays that NumPy would make of them each time.

    `dtype`: in which it was asked to compute, if so.
    """
    dtypes = {operand.dtype for operand in operands if isinstance(operand, numpy.ndarray)}
    if dtype is not None:
        dtypes = {numpy.dtype(dtype)}
    if len(dtypes) != 1:
        return operands
    (dtype,) = dtypes
    numbers = {"f": (int, float), "i": (int,), "u": (int,)}.get(dtype.kind, ())
    try:
        return tuple(numpy.asarray(o, dtype) if type(o) in numbers else o for o in operands)
    except OverflowError:  # a comparison with what the dtype cannot hold
        return operands


class _Snapshot:
    """The objects that are the attributes of all parts, and the entries of dicts among them.

    Without those attributes of `optimizer` that reach a step by its scalars. They are compared
    before each call of a `TrainStep`, so with functions that are written in C.
    """

    def __init__(self, parts: Iterable[Any], optimizer: object) -> None:
        self.of_parts: list[dict[str, Any]] = list(map(vars, parts))
        inside = [value for one in self.of_parts for value in one.values() if type(value) is dict]
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


@dataclass(frozen=True)
class _Step:
    """The parts as they were after the last step of a size, and its calls if recorded."""

    snapshot: _Snapshot | None
    calls: tuple[Call, ...] | None


class Replay:
    """Runs steps: the first of each batch size as written, the second recorded, others replayed.

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
        optimizer: object,
        watched: bool,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.xp, self.optimizer, self.watched = xp, optimizer, watched
        self.parts, self.scope = _weakly(parts), _weakly(scope)
        self.disturbed = False
        self._graphs = Graphs(xp)
        self._steps: dict[Hashable, _Step] = {}
        self._size: Hashable = 0
        self._enabled = current().recording_enabled

    def run(self, size: Hashable, step: Callable[..., None], *arguments: Any) -> bool:
        """`step(*arguments)`, always the same ones for a batch of `size`; whether it was replayed.

        A replay runs none of the Python in `step`.
        """
        known = self._known(size) if self._enabled else None
        if known is not None and known.calls is not None:
            for call in known.calls:
                call()
            return True
        with self.scope():
            self._run(known, size, step, *arguments)
        return False

    def _known(self, size: Hashable) -> _Step | None:
        """The last step of this size, if nothing has changed since."""
        known = self._steps.get(size)
        if self.watched and (self.disturbed or size != self._size):
            if known is not None and known.snapshot is not None:
                known = known if known.snapshot.still_holds(self.parts()) else None
            self.disturbed, self._size = False, size
        return known

    def _run(
        self, known: _Step | None, size: Hashable, step: Callable[..., None], *arguments: Any
    ) -> None:
        calls = None
        if known is not None:
            calls = self._graphs.of(record(self.xp, partial(step, *arguments)))
        else:
            self._enabled = self._enabled and all(map(is_replayable, self.parts()))
            step(*arguments)
        if self._enabled:
            snapshot = _Snapshot(self.parts(), self.optimizer) if self.watched else None
            self._steps[size] = _Step(snapshot, calls)

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


def is_replayable(part: object) -> bool:
    """Whether everything that `part` does in a step goes through `xp`.

    True for xpnet's own classes and those that say so themselves. A subclass of either does not
    inherit it, and an object with a method replaced is not replayable.
    """
    kind = type(part)
    if not (is_own(kind) or vars(kind).get("replayable") is True):
        return False
    return not any(callable(getattr(kind, name, None)) for name in vars(part))
