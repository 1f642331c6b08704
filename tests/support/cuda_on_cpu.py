"""The CUDA kernels of `xpnet/accel/cuda_kernels.cu`, their own text, run on the CPU for the strict
double.

A C++ compiler is given that text behind the macros of `cuda_on_cpu.h`. The threads of a block are
coroutines: each runs until it ends or comes to `__syncthreads`, so shared memory is shared as on a
card. What CUDA would not notice is an error: a block whose threads do not all come to the same
barrier, an argument whose type is not the declared one, a write outside of an array or into a
`const` one. What is read outside of an array is NaN.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest
import strict_cupy
from thread_settings import SETTINGS

from xpnet.accel import cuda_launch, dispatch

# What stands for each template parameter: float types, and what labels, indices and samples are.
TYPES = {
    "T": ("float", "double"),
    "Label": ("int", "long long", "signed char", "unsigned char", "unsigned short"),
    "Index": ("int", "long long"),
    "Pixel": ("unsigned char", "float", "double"),
    "Target": ("unsigned char", "unsigned short", "unsigned int", "unsigned long long"),
}
_DTYPES = {name: dtype for dtype, name in cuda_launch.TYPES.items()}
_DTYPES |= {"Size": "i8", "Word": "u4", "Long": "u8"}
# What only a kernel with barriers has in its text.
_WAITING = ("of_block(", "add_hits(", "__syncthreads")
# Of 65,536 registers a block has; no kernel uses more than 255. More threads need a promise.
_ALWAYS_POSSIBLE = 256

_HEAD = Path(__file__).with_suffix(".h").read_text(encoding="ascii")
_ENTRY = """
extern "C" int {symbol}(unsigned int blocks, unsigned int threads, int falling, void** arguments) {{
    return run([](void** a) {{ call({expression}, a); }}, blocks, threads, {barriers}, falling,
               arguments);
}}
"""


@dataclass(frozen=True)
class Declared:
    """A kernel as it is written, and over how many threads a block it can be launched."""

    name: str
    templates: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    has_barriers: bool
    most_threads: int

    def expressions(self) -> list[str]:
        """Its name with each choice of types."""
        if not self.templates:
            return [self.name]
        choices = itertools.product(*(TYPES[name] for name in self.templates))
        return [f"{self.name}<{', '.join(chosen)}>" for chosen in choices]


@cache
def declared() -> dict[str, Declared]:
    """All kernels in `kernels.cu`, by name."""
    text = re.sub(r"//.*", "", cuda_launch.source())
    head = r"(?:template <([^>]*)>\s*)?__global__ void (?:__launch_bounds__\((\d+), 1\) )?"
    head += r"(\w+)\(([^)]*)\)"
    found = list(re.finditer(head, text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    made = {}
    for match, end in zip(found, ends, strict=True):
        templates, bounds, name, parameters = match.groups()
        body = text[match.end() : end]
        made[name] = Declared(
            name,
            tuple(re.findall(r"typename (\w+)", templates or "")),
            tuple(tuple(part.strip().rsplit(" ", 1)) for part in parameters.split(",")),
            any(word in body for word in _WAITING),
            max(int(bounds or 0), _ALWAYS_POSSIBLE),
        )
    return made


def expressions() -> list[str]:
    """Every kernel with each choice of types."""
    return [expression for kernel in declared().values() for expression in kernel.expressions()]


def compiler() -> list[str]:
    """A C++ compiler: the system's, or the one that comes as the Python package `ziglang`."""
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    if find_spec("ziglang"):
        # As a C compiler, for which it has no library of C++ to build first.
        return [sys.executable, "-m", "ziglang", "cc", "-x", "c++", "-fno-sanitize=undefined"]
    raise RuntimeError(
        "the CUDA kernels cannot be run on the CPU without a C++ compiler: install g++ or clang, "
        "or pip install ziglang"
    )


def program() -> str:
    """What the compiler is given."""
    entries = [
        _ENTRY.format(
            symbol=_symbol(expression),
            expression=expression,
            barriers=str(kernel.has_barriers).lower(),
        )
        for kernel in declared().values()
        for expression in kernel.expressions()
    ]
    return "\n".join([_HEAD, cuda_launch.source(), *entries])


def build(folder: Path, command: list[str], text: str) -> ctypes.CDLL:
    """`text` as a library, loaded."""
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(text, encoding="ascii")
    # Without contraction, for the same reason as `--fmad=false`.
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Werror"]
    # Not every program needs every word of CUDA.
    flags += ["-Wno-unused-function", "-Wno-unneeded-internal-declaration"]
    done = subprocess.run(
        [*command, *flags, "-o", str(library), str(source), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} refuses kernels.cu:\n{done.stderr}")
    return ctypes.CDLL(str(library))


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder), compiler(), program())


def _symbol(expression: str) -> str:
    return re.sub(r"\W+", "_", expression)


class Kernel:
    """Stands for CuPy's `RawKernel`: called with grid, block and arguments."""

    falling = False
    """The order of blocks and threads, which must make no difference."""

    def __init__(self, expression: str) -> None:
        self.name, _, inside = expression.rstrip(">").partition("<")
        self.declared = declared()[self.name]
        names = self.declared.templates
        types = _DTYPES | {
            name: _DTYPES[chosen] for name, chosen in zip(names, inside.split(", "), strict=False)
        }
        self.parameters = [
            (name, kind, types[kind.removeprefix("const ").rstrip("*")])
            for kind, name in self.declared.parameters
        ]
        self.entry = getattr(_library(), _symbol(expression))

    def __call__(self, grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
        (blocks,), (threads,) = grid, block
        if not (0 < blocks < 2**31 and 0 < threads <= self.declared.most_threads):
            raise ValueError(f"{self.name}: cannot be launched over {blocks} × {threads} threads")
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)}, found {len(arguments)}")
        if strict_cupy.capture.calls is not None:
            later = partial(self, grid, block, arguments)
            strict_cupy.capture.keep(self.name, later, out=arguments)
            return
        strict_cupy.ledger.record("op", self.name)
        values, fenced = [], []
        for argument, (name, kind, dtype) in zip(arguments, self.parameters, strict=True):
            if kind.endswith("*"):
                fenced.append(_Fenced(f"{self.name}: {name}", argument, kind, dtype))
                values.append(fenced[-1].address)
            else:
                values.append(_scalar(f"{self.name}: {name}", argument, dtype))
        for one, other in itertools.combinations(fenced, 2):
            only_read = one.is_const and other.is_const
            if not only_read and numpy.may_share_memory(one.host, other.host):
                raise ValueError(f"{one.where} and {other.where} share memory")
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        if self.entry(blocks, threads, int(self.falling), addresses):
            raise RuntimeError(f"{self.name}: a barrier that not all threads of a block come to")
        for array in fenced:
            array.take_back()


class _Fenced:
    """A copy of an array between two stretches of memory that nobody may write to."""

    FENCE = 256

    def __init__(self, where: str, array: Any, kind: str, dtype: str) -> None:
        if not isinstance(array, strict_cupy.ndarray) or not array.flags.c_contiguous:
            raise TypeError(f"{where} must be a contiguous device array")
        if array.dtype != dtype:
            raise TypeError(f"{where} is declared {dtype}, found {array.dtype}")
        self.where, self.host, self.is_const = where, array._host, kind.startswith("const ")
        # Bytes of ones are NaN, −1, or the largest number.
        self.memory = numpy.full(self.host.nbytes + 2 * self.FENCE, 255, numpy.uint8)
        self.inside = self.memory[self.FENCE : self.FENCE + self.host.nbytes]
        self.inside[:] = self.host.reshape(-1).view(numpy.uint8)
        self.address = ctypes.c_void_p(self.inside.ctypes.data)

    def take_back(self) -> None:
        outside = self.memory[: self.FENCE], self.memory[self.FENCE + self.host.nbytes :]
        if not all((part == 255).all() for part in outside):
            raise RuntimeError(f"{self.where} was written to beyond its ends")
        before = self.host.reshape(-1).view(numpy.uint8)
        if not self.is_const:
            before[:] = self.inside
        elif not numpy.array_equal(before, self.inside):
            raise RuntimeError(f"{self.where} is const and was written to")


def _scalar(where: str, value: Any, dtype: str) -> Any:
    """What CuPy makes of a number, if that is what the kernel declares."""
    known = {bool: "b1", int: "i8", float: "f8"}
    found = numpy.dtype(known.get(type(value)) or value.dtype)
    if found != dtype:
        raise TypeError(f"{where} is declared {dtype}, found {found}")
    return numpy.ctypeslib.as_ctypes_type(found)(value)


kernel = cache(Kernel)


@contextmanager
def kernels_on_the_double() -> Iterator[None]:
    """Within the block the CUDA kernels compute on the double's arrays, run on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_launch, "kernel", kernel)
        patch.setattr(SETTINGS, "kernels_enabled", True)
        patch.setattr(dispatch, "_CUDA_MODULES", {strict_cupy.xp.__name__})
        with dispatch.use_kernels(xp=strict_cupy.xp):
            yield
