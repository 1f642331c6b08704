"""Backends as fixtures, `--device`, and the list of what was compared between backends."""

from __future__ import annotations

import os
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
import strict_cupy

from xpnet.backend import Backend
from xpnet.errors import BackendUnavailable

_compared = pytest.StashKey[dict[str, set[str]]]()
_running = pytest.StashKey[pytest.Item]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: also run every test of `backend` on CuPy, on a real GPU",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_compared] = defaultdict(set)
    if config.getoption("--device") == "cuda":
        if os.environ.get("CUPY_TF32", "0") != "0":
            raise pytest.UsageError("CUPY_TF32 is on, parity needs full float32: unset it")
        try:
            Backend("cuda")
        except BackendUnavailable as error:
            raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = ["numpy", "double"]
        if metafunc.config.getoption("--device") == "cuda":
            names.append("cupy")
        metafunc.parametrize("backend", names, indirect=True)


# Of the session, as Hypothesis asks of what it shares between examples.
@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """NumPy, the strict double, and with `--device cuda` CuPy, one after the other."""
    if request.param == "double":
        return Backend.of(strict_cupy.xp)
    return Backend("cuda" if request.param == "cupy" else "cpu")


@pytest.fixture
def double() -> Iterator[Backend]:
    """The strict CuPy double alone, with its ledger at zero."""
    strict_cupy.ledger.reset()
    yield Backend.of(strict_cupy.xp)
    strict_cupy.ledger.reset()


@pytest.fixture(scope="session")
def reference() -> Backend:
    """NumPy, to compare with."""
    return Backend("cpu")


@pytest.fixture(scope="session")
def compared(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`compared("Linear.forward")`: this operation was just compared on the test's backend."""
    stash = request.config.stash

    def record(name: str) -> None:
        item = stash[_running]
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        where = parameters.get("backend") or ("double" in item.fixturenames and "double")
        if not where:
            raise TypeError("compared() is for tests of the fixture `backend` or `double`")
        stash[_compared][name].add(where)

    return record


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_running] = item


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    order = ("numpy", "double", "cupy")
    for name, where in config.stash[_compared].items():
        groups[tuple(sorted(where, key=order.index))].append(name)
    for where, names in sorted(groups.items()):
        line = f"parity: {len(names)} operations compared on {', '.join(where)}: "
        for part in textwrap.wrap(line + ", ".join(sorted(names)), 100, subsequent_indent="  "):
            terminalreporter.write_line(part)
