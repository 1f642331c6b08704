"""The strict double has CuPy's rules: what it refuses, what waits, and of which dtype results are.

`test_strict_cupy.py` says what the double does. Here the same calls are compared with CuPy: with
`--device cuda` by making them there, without a device as far as the imported wheel says it. Where
the double is stricter than CuPy on purpose, the lists below say so, and a CuPy that changes makes
a test fail.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy
import numpy
import pytest
import strict_cupy
import test_strict_cupy as rules
from strict_cupy import _METHODS as METHODS
from test_cupy_contract import uses_in_package

from xpnet.backend import Backend

STRICTER = {
    # NumPy's functions that dispatch to CuPy.
    "numpy function",
    "numpy ufunc",
    # Scalars and index arrays of the host, which CuPy transfers in silence.
    "host scalar on the right",
    "host scalar on the left",
    "host scalar in a ufunc",
    "host scalar in a function",
    "host scalar assigned",
    "host scalar filled in",
    "host indices",
    "host array as an index",
    "list as an index",
    # It calls the method of the host array, and gives a number of the host.
    "host array in a function",
    # It waits for the number.
    "device number in a slice",
    # It converts, also from floats to integers.
    "dtype of out of a reduction",
    "assignment to a smaller kind",
    # The results are undefined, or take a detour over a temporary array.
    "out of dot overlaps",
    "out of matmul overlaps",
    "one place assigned twice",
    # xpnet computes by neither.
    "generator of CuPy",
    "CUDA kernel",
}
"""Mistakes of `test_strict_cupy.MISTAKES` that CuPy accepts."""

OTHER_EVENTS = {
    # CuPy fills the array by a kernel.
    "asarray of a number": {"alloc"},
    # From memory that is not pinned, which is not counted here.
    "set": set(),
    # The double shows no values, since pytest calls `repr`.
    "repr": {"sync"},
    # CuPy's check does not know the streams.
    "synchronize": set(),
}
"""Events on CuPy of calls in `test_strict_cupy.EVENTS` where they are others than the double's."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "module" in metafunc.fixturenames:
        on_cupy = metafunc.config.getoption("--device") == "cuda"
        modules = [strict_cupy.xp, cupy] if on_cupy else [strict_cupy.xp]
        metafunc.parametrize("module", modules, ids=lambda module: module.__name__)


@pytest.fixture
def calls(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the calls to compare, with `xp` as this one."""
    if module is cupy:
        Backend("cuda")
    monkeypatch.setattr(rules, "xp", module)
    return rules


@contextmanager
def events(module: Any) -> Iterator[set[str]]:
    """What happens in the block: by the double's ledger, or by CuPy's hooks."""
    found: set[str] = set()
    if module is strict_cupy.xp:
        before = strict_cupy.ledger.counts.copy()
        yield found
        found |= set(strict_cupy.ledger.counts - before) - {"op", "d2h"}
        return

    class Hook(cupy.cuda.MemoryHook):
        name = "events"

        def malloc_preprocess(self, device_id: int, size: int, mem_size: int) -> None:
            found.add("alloc")

    def transferred(size: int) -> Any:
        found.add("h2d")
        return pinned.malloc(size)

    pinned = cupy.get_default_pinned_memory_pool()
    cupy.cuda.set_pinned_memory_allocator(transferred)
    try:
        with Hook():
            yield found
    finally:
        cupy.cuda.set_pinned_memory_allocator(pinned.malloc)


def waits(call: Any, *arguments: Any) -> bool:
    """Whether CuPy waits for the device in this call."""
    import cupyx

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "cupyx.allow_synchronize", UserWarning)
        try:
            with cupyx.allow_synchronize(False):
                call(*arguments)
        except cupyx.DeviceSynchronized:
            return True
    return False


# ---- with a device ----


@pytest.mark.parametrize("name", rules.MISTAKES)
def test_what_the_double_refuses_cupy_refuses(calls: Any, module: Any, name: str) -> None:
    x = module.asarray(rules.HOST)
    _, mistake = calls.MISTAKES[name]
    if module is cupy and name in STRICTER:
        mistake(x)
        return
    # Which kind of error it is differs, as does what CuPy finds first.
    with pytest.raises(Exception):  # noqa: B017, PT011
        mistake(x)


def test_every_mistake_that_cupy_accepts_is_known() -> None:
    assert rules.MISTAKES.keys() >= STRICTER
    assert rules.EVENTS.keys() >= OTHER_EVENTS.keys()


@pytest.mark.parametrize("name", rules.EVENTS)
def test_what_waits_transfers_and_allocates_does_so_on_cupy(
    calls: Any, module: Any, name: str
) -> None:
    x = module.asarray(rules.HOST)
    call, of_double = calls.EVENTS[name]
    call(x)  # kernels are compiled, pools are filled
    with events(module) as found:
        call(x)
    expected = of_double - {"d2h"}
    if module is cupy:
        expected = OTHER_EVENTS.get(name, expected)
        found |= {"sync"} if waits(call, x) else set()
    assert found == expected


@pytest.mark.parametrize("name", rules.VALUES)
def test_results_have_the_dtype_and_values_of_cupy(module: Any, name: str) -> None:
    if module is cupy:
        Backend("cuda")
    hosts = rules.HOST, rules.HOST + 2
    expected = numpy.asarray(rules.VALUES[name](numpy, *hosts))
    found = rules.VALUES[name](module, *map(module.asarray, hosts))
    assert type(found) is module.ndarray
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    # Sums may be added in another order: 6 terms of up to 2⁻²⁴ each, and exp to 2 units.
    assert numpy.allclose(found.get(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("indices", [[2, -1, 5], [0, 1, 1]])
def test_indices_out_of_range_wrap_on_cupy_too(module: Any, indices: list[int]) -> None:
    if module is cupy:
        Backend("cuda")
    x, at = module.asarray(rules.HOST), module.asarray(indices)
    out = module.empty((3, 3), dtype=module.float32)
    module.take(x, at, axis=0, out=out)
    expected = rules.HOST[numpy.array(indices) % 2]
    assert numpy.array_equal(out.get(), expected)
    assert numpy.array_equal(x[at].get(), expected)


# ---- of the imported wheel ----


def operands(name: str) -> list[tuple[Any, ...]]:
    """Arguments of the ufunc `name`: arrays of the dtypes that xpnet has, and Python numbers."""
    count = getattr(cupy, name).nin
    arrays = [numpy.ones(1, dtype) for dtype in ("?", "u1", "i4", "u4", "i8", "u8", "f4", "f8")]
    if count == 1:
        return [(array,) for array in arrays]
    pairs: list[tuple[Any, ...]] = [(a, b) for a in arrays for b in arrays]
    return pairs


def dtype_by_numpy(name: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(numpy, name)(*arguments).dtype
    except TypeError:
        return None


def dtype_by_table(name: str, arguments: tuple[Any, ...]) -> Any:
    """As CuPy chooses: the first line of its table that takes all operands without loss."""
    for line in getattr(cupy, name).types:
        inputs, _, outputs = line.partition("->")
        if set(inputs) & set("EFD"):
            continue  # complex
        if all(map(numpy.can_cast, (a.dtype for a in arguments), inputs)):
            return numpy.dtype(outputs[0])
    return None


UFUNCS = sorted(
    name for name in uses_in_package() if isinstance(getattr(cupy, name, None), cupy.ufunc)
)


@pytest.mark.parametrize("name", UFUNCS)
def test_cupys_table_of_dtypes_is_that_of_numpy(name: str) -> None:
    """The double computes by NumPy: the dtype of a result must be the one that CuPy chooses."""
    differ = {
        tuple(a.dtype.str for a in arguments)
        for arguments in operands(name)
        if dtype_by_table(name, arguments) != dtype_by_numpy(name, arguments)
    }
    assert differ == OTHER_DTYPES.get(name, set())


OTHER_DTYPES = {
    "negative": {("|b1",)},
    "sign": {("|b1",)},
    "subtract": {("|b1", "|b1")},
}
"""Operands that NumPy refuses, and CuPy too: by the line of its table for them."""


def has(module: Any, name: str) -> bool:
    """Whether `module` has `name`, which may be that of a module's function."""
    try:
        for part in name.split("."):
            module = getattr(module, part)
    except (AttributeError, ValueError):  # the double reads a signature, which not all have
        return False
    return True


# Memory, streams and what is called for arrays of the host alone.
NOT_IN_THE_DOUBLE = {"add.at", "cuda.MemoryPool", "cuda.Stream", "cuda.runtime.memGetInfo"}
NOT_IN_THE_DOUBLE |= {"cuda.using_allocator", "from_dlpack", "get_default_memory_pool"}
# The tests of graphs have one of their own (`strict_graphs.py`).
NOT_IN_THE_DOUBLE |= {"cuda.runtime"}


def test_the_double_has_the_names_that_the_package_uses() -> None:
    used = {name for name in uses_in_package() if has(cupy, name)}
    assert {name for name in used if not has(strict_cupy.xp, name)} == NOT_IN_THE_DOUBLE


def test_methods_of_the_double_take_the_arguments_of_cupys() -> None:
    """CuPy's are compiled: the first line of their documentation has the signature."""
    own = {
        name: method
        for name, method in vars(strict_cupy.ndarray).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in METHODS
    }
    assert len(own) > 5
    unknown = {}
    for name, method in own.items():
        text = str(getattr(cupy.ndarray, name).__doc__).partition("\n")[0]
        of_cupy = set(re.findall(r"\w+", text.partition("(")[2]))
        named = inspect.signature(method).parameters.values()
        missing = {p.name for p in named if p.kind is not p.VAR_POSITIONAL} - of_cupy
        if missing:
            unknown[name] = missing
    assert unknown == {}
