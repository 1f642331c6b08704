"""A step as a program: a list of operations on arrays.

The layers, the loss and the optimizer compute through `array_module`. While a step is recorded, it
returns `Operations` in place of NumPy or CuPy: a module whose calls are run and also appended to
the program. Running the operations of a program again in order performs the next step, with
bit-identical results. So the formulas are written only in the layers.

This is correct because of a rule in `CONTRIBUTING.md`: inside a step every array result is an
`xp` call with `out=` into an array made earlier. Any other call raises an error.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import length_hint
from types import ModuleType
from typing import Any, TypeAlias

import numpy

from xpnet.backend import Array, substitute_of, substituted
from xpnet.backend.context import current
from xpnet.errors import ConfigError

Call: TypeAlias = Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation of a step: `xp.name(*inputs, out=output, **options)`, or a kernel.

    `inputs`: arrays and numbers. For a kernel they include the arrays it writes, `output` is None,
    and `is_kernel` is True. `call()` runs the operation. `origin`: the class and method that asked
    for it, such as `Linear.forward`. `part`: that of the batch to which it belongs, if any: see
    `xpnet.accel.part_threads`.
    """

    name: str
    inputs: tuple[Any, ...]
    output: Array | None
    call: Call
    options: dict[str, Any] = field(default_factory=dict)
    is_kernel: bool = False
    origin: str = ""
    part: int | None = None

    def __str__(self) -> str:
        described = [_described(value) for value in self.inputs]
        described += [f"{name}={_described(value)}" for name, value in self.options.items()]
        if self.output is not None:
            described.append(f"out={_described(self.output)}")
        return f"{self.origin or 'a step'}: {self.name}({', '.join(described)})"


class LazyCall:
    """A call without arguments, which is bound by `bind()` when it is first made."""

    def __init__(self, bind: Callable[[], Call]) -> None:
        self._bind = bind
        self._bound: Call | None = None

    def __call__(self) -> Any:
        """Make the call."""
        if self._bound is None:
            self._bound = self._bind()
        return self._bound()


Program: TypeAlias = tuple[Op, ...]
Pass: TypeAlias = Callable[[Op], Sequence[Op]]
"""What replaces one operation by others that compute the same."""

PRODUCTS = frozenset({"dot", "matmul"})
"""The operations that a pass may replace."""


def factors(op: Op) -> tuple[Array, Array] | None:
    """The two matrices that `op` multiplies, or None for any other operation."""
    if op.name not in PRODUCTS or len(op.inputs) != 2 or op.options:
        return None
    a, b = op.inputs
    return (a, b) if getattr(a, "ndim", 0) == getattr(b, "ndim", 0) == 2 else None


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    # A dtype has a shape as well.
    if isinstance(shape, tuple) and not isinstance(value, numpy.dtype):
        return f"{value.dtype}{list(shape)}"
    return repr(value)


class Operations:
    """The array module `xp`, whose calls are operations, run at once.

    `program`: the list to which they are appended, or None. `replace`: a `Pass` for products.
    `executes`: False to run no operation that writes into an array made earlier, which is `skipped`
    instead. It equals `xp`, so that a `Workspace` finds the arrays it made with `xp`. While a
    program is recorded, a call whose result is not written to an `out=` raises `ConfigError` with
    its name.
    """

    def __init__(
        self,
        xp: Any,
        program: list[Op] | None = None,
        replace: Pass | None = None,
        executes: bool = True,
    ):
        self.xp, self.program, self.replace, self.executes = xp, program, replace, executes
        self.skipped: list[Op] = []

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Operations):
            return bool(other.xp == self.xp)
        return True if other is self.xp else NotImplemented

    def __hash__(self) -> int:
        return hash(self.xp)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.xp, name)
        if self.program is None and self.executes and name not in PRODUCTS:
            return found
        if isinstance(found, ModuleType):
            raise ConfigError(f"xp.{name} cannot be recorded: {_REMEDY}")
        if isinstance(found, type) or not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            op = operation(self.xp, name, args, kwargs)
            if op.output is None and self.program is not None:
                raise ConfigError(f"xp.{name}() without out= cannot be recorded: {_REMEDY}")
            return self.run(op)

        return call

    def run(self, op: Op) -> Any:
        """Run `op`, or what replaces it, and append it to the program; returns its result."""
        ops = self.replace(op) if self.replace and op.name in PRODUCTS else (op,)
        if self.program is not None:
            origin, part = _origin(), current().part
            self.program += [dataclasses.replace(op, origin=origin, part=part) for op in ops]
        if not self.executes and (op.is_kernel or op.output is not None):
            self.skipped.append(op)
            return op.output
        result = [one.call() for one in ops][-1]
        return result if op.output is None else op.output


_REMEDY = (
    'give each xp call of a step a buffer as out=, such as self.like(x, "y"), or remove '
    "`replayable = True` from your class"
)


def trace(xp: Any, step: Call) -> Program:
    """Run `step`, which computes through `xp` only; returns its operations."""
    program: list[Op] = []
    outer = substitute_of(xp)
    with substituted(Operations(xp, program, getattr(outer, "replace", None))):
        step()
    return tuple(program)


def trace_only(xp: Any, step: Call) -> Program:
    """The operations of `step`, none of which is run: no array of the caller changes.

    `step` runs twice, and what it changes in Python is changed. The first time it may allocate
    arrays, and fill one that later steps only read, such as a constant: these operations are run.
    """
    first = Operations(xp, executes=False)
    with substituted(first):
        step()
    program: list[Op] = []
    with substituted(Operations(xp, program, executes=False)):
        step()
    outputs = [op.output for op in program if op.output is not None]
    for op in first.skipped:
        if op.output is not None and not _is_written(op.output, outputs):
            op.call()
    return tuple(program)


def _is_written(array: Array, outputs: Sequence[Array]) -> bool:
    return any(numpy.may_share_memory(array, output) for output in outputs)


def is_executed(xp: Any) -> bool:
    """Whether operations on `xp` are run in this thread, not only listed by `trace_only`."""
    return getattr(substitute_of(xp), "executes", True)


@contextmanager
def replaced(xp: Any, replace: Pass) -> Iterator[None]:
    """Within the block `replace` is applied to the products of `xp`, recorded or not."""
    outer = substitute_of(xp)
    with substituted(Operations(xp, getattr(outer, "program", None), replace)):
        yield


def signature(program: Program) -> Hashable:
    """Equal for two programs of NumPy's arrays that do the same in the same memory.

    That holds while one of them exists: then none of its addresses is used again.
    """
    return tuple(
        (op.name, op.is_kernel, *map(_identity, (*op.inputs, op.output)), *_options(op))
        for op in program
    )


def _options(op: Op) -> Iterator[Hashable]:
    for name, value in sorted(op.options.items()):
        yield name, _identity(value)


def _identity(value: Any) -> Hashable:
    if isinstance(value, numpy.ndarray):
        return value.ctypes.data, value.shape, value.strides, value.dtype.str
    # `repr` tells -0 from 0; of two numbers that are not equal it is never the same.
    return (type(value), repr(value)) if isinstance(value, _PLAIN) else id(value)


_PLAIN = (int, float, str, numpy.generic, tuple, type(None))


def run_op(xp: Any, op: Op) -> None:
    """Run `op`, and append it to the program where one is recorded."""
    Operations(xp, getattr(substitute_of(xp), "program", None), executes=is_executed(xp)).run(op)


def is_traced(xp: Any) -> bool:
    """Whether this thread records a program of operations on `xp`."""
    return getattr(substitute_of(xp), "program", None) is not None or not is_executed(xp)


def run(program: Program) -> Callable[[], None]:
    """One call that runs `program`. An error is given a note with the operation that raised it."""
    calls = tuple(op.call for op in program)

    def run_calls() -> None:
        remaining = iter(calls)
        try:
            for call in remaining:
                call()
        except Exception as error:
            place = len(calls) - length_hint(remaining) - 1
            error.add_note(f"in a recorded step, {program[place]}")
            raise

    return run_calls


def operation(xp: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Op:
    """The call `xp.name(*args, **kwargs)`."""
    if name in PRODUCTS and len(args) == 3:
        kwargs = kwargs | {"out": args[2]}
        args = args[:2]
    if name == "copyto":
        options = dict(zip(("dst", "src"), args, strict=False)) | kwargs
        output, inputs = options.pop("dst", None), (options.pop("src", None),)
        return Op(name, inputs, output, partial(xp.copyto, *args, **kwargs), options)
    options = {key: value for key, value in kwargs.items() if key != "out"}
    call = _bound(xp, name, args, kwargs)
    return Op(name, args, kwargs.get("out"), call, options)


def _origin() -> str:
    """Class and method that asked for an operation, found among the callers up to `trace`."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not trace.__code__:
        owner = frame.f_locals.get("self")
        if not isinstance(owner, Operations | AbstractContextManager | None):
            return f"{type(owner).__name__}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


_REDUCTIONS = {"sum": numpy.add, "max": numpy.maximum, "min": numpy.minimum}
_METHODS = {"argmax", "argmin", "clip", "dot", "mean", "take"}
# NumPy deprecates `out` by position for these two.
_OUT_BY_NAME = (numpy.maximum, numpy.minimum)


def _bound(xp: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call bound to its arguments; for NumPy, the C function itself, which is faster."""
    function, out = getattr(xp, name), kwargs.get("out")
    if xp is not numpy or not args or not isinstance(out, numpy.ndarray):
        return partial(function, *args, **kwargs)
    if isinstance(function, numpy.ufunc) and kwargs.keys() <= {"out", "dtype", "casting"}:
        dtype = kwargs.get("dtype")
        args = _as_arrays(function, args, dtype)
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


def _as_arrays(
    function: numpy.ufunc, operands: tuple[Any, ...], dtype: Any = None
) -> tuple[Any, ...]:
    """Python numbers among `operands` as the arrays that NumPy would make of them each time.

    `dtype`: in which it was asked to compute, if so. `ldexp` has operands of different dtypes.
    """
    dtypes = {operand.dtype for operand in operands if isinstance(operand, numpy.ndarray)}
    if dtype is not None:
        dtypes = {numpy.dtype(dtype)}
    if len(dtypes) != 1:
        return operands
    (dtype,) = dtypes
    if not any(kinds.startswith(dtype.char * function.nin + "->") for kinds in function.types):
        return operands
    numbers = {"f": (int, float), "i": (int,), "u": (int,)}.get(dtype.kind, ())
    try:
        return tuple(numpy.asarray(o, dtype) if type(o) in numbers else o for o in operands)
    except OverflowError:  # a comparison with what the dtype cannot hold
        return operands
