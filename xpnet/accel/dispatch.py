"""Which implementation of a formula runs: the formula itself, or a kernel.

A formula is written once, on `xp`. One that has kernels is a function with a decorator:

    @accelerated
    def relu_backward(xp: Any, dy: Array, x: Array, dx: Array, *, workspace: Workspace) -> None:
        ...

The body is the formula. A kernel does the same in one pass over memory. It has the same name and
takes the same positional arguments except `xp`; keyword arguments, such as the workspace for
scratch arrays, are for the formula only.

For NumPy's arrays kernels are compiled by numba, in `xpnet.accel.numba_kernels` (extra `fast`);
`fit()` uses them if training is long enough to make up for the time of loading numba. For CuPy's
arrays they are CUDA kernels, in `xpnet.accel.cuda_kernels`; `fit()` always uses them.
`XPNET_KERNELS=0` in the environment turns both off. A test compares each kernel with its formula:
results may differ only by rounding, if a sum, `exp` or `log` is involved.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy

from xpnet.accel.program import LazyCall, Op, is_executed, is_traced, run_op
from xpnet.backend.context import changed, current
from xpnet.errors import KernelDeclined

P = ParamSpec("P")
Formula: TypeAlias = Callable[Concatenate[Any, P], None]

ENOUGH_STEPS = 900
"""The number of steps from which `fit()` uses numba's kernels.

Loading numba takes half a second. On a quiet machine 1,250 steps of 784-192-128-10 make up for it.
Beside other work, where NumPy's threads wait for each other, fewer do: 940 steps of 784-512-256-10
take a third or a quarter as long with kernels.
"""

FORMULAS: dict[str, Callable[..., None]] = {}
"""The formulas that may have kernels, by name."""

_DTYPES = frozenset("?bBhHiIlLqQfd")
_CUDA_MODULES = {"cupy"}


def accelerated(formula: Formula[P]) -> Formula[P]:
    """Decorator: run the kernel of the same name, if there is one that takes the arguments."""
    name = formula.__name__
    if name in FORMULAS:
        raise TypeError(f"two accelerated formulas are called {name}")

    @wraps(formula)
    def call(xp: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if current().kernels is None or not run_kernel(name, args):
            formula(xp, *args, **kwargs)

    FORMULAS[name] = formula
    return call


def formula(function: Callable[P, None]) -> Callable[P, None]:
    """The formula of an `accelerated` function, which no kernel replaces."""
    return FORMULAS[function.__name__]


def run_kernel(name: str, arguments: tuple[Any, ...]) -> bool:
    """Run the kernel `name`, if it takes `arguments`; returns whether it ran.

    It does not run if kernels are off, if there is no such kernel, for arrays of another module,
    non-contiguous arrays or unsupported dtypes, and for numbers that are not Python numbers or
    tuples of these.
    Numbers are converted to the dtype of the last array of floats: results are the last arguments.
    """
    in_use = current().kernels
    if in_use is None:
        return False
    xp, module = in_use
    kernel = module.KERNELS.get(name)
    if kernel is None:
        return False
    number: Any = float
    for argument in arguments:
        if isinstance(argument, xp.ndarray):
            dtype = argument.dtype
            if not (argument.flags.c_contiguous and dtype.isnative and dtype.char in _DTYPES):
                return False
            if dtype.kind == "f":
                number = dtype.type
        elif type(argument) not in (int, float, bool, tuple):
            return False
    arguments = tuple(number(a) if type(a) is float else a for a in arguments)
    try:
        if is_traced(xp):
            bind = partial(module.bind, name, arguments)
            # What is only listed may never be called; to load a kernel takes time.
            call = bind() if is_executed(xp) else LazyCall(bind)
            run_op(xp, Op(name, arguments, None, call, is_kernel=True))
        else:
            kernel(*arguments)
    except KernelDeclined:
        return False
    return True


def _kernels_for(xp: Any, steps: int) -> ModuleType | None:
    """The module of the kernels for arrays of `xp`, or None."""
    if not current().kernels_enabled:
        return None
    if xp.__name__ in _CUDA_MODULES:
        return import_module("xpnet.accel.cuda_kernels")
    return numba_kernels() if xp is numpy and steps >= ENOUGH_STEPS else None


@contextmanager
def use_kernels(steps: int = sys.maxsize, xp: Any = numpy) -> Iterator[None]:
    """Within the block this thread uses the kernels for arrays of `xp`.

    Those for NumPy only where `steps` are enough.
    """
    module = _kernels_for(xp, steps)
    with changed(kernels=None if module is None else (xp, module)):
        yield


@cache
def numba_kernels() -> ModuleType | None:
    """The module of the CPU's kernels; None without numba. Warns where numba cannot be used."""
    if find_spec("numba") is None:
        return None
    try:
        return import_module("xpnet.accel.numba_kernels")
    except Exception as error:
        # numba fails with a NumPy that is too new, and if its cache folder is not writable.
        warnings.warn(
            f"numba is installed but cannot be used ({error}): xpnet runs without it, slower; "
            f"set XPNET_KERNELS=0 in the environment to leave it out without this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
