"""`-p cupy_on_cpu.pytest_plugin`: which tests executed on the pretended device, and what it did.

`--only-cupy` leaves out the tests that do not use CuPy. `--at-least N` makes a run red in which
fewer than N tests executed on the pretended device.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from cupy_on_cpu import counters, hook, kernels

DID_SOMETHING = ("launches", "graph_launches", "products", "cub_calls", "memsets")
DID_SOMETHING += ("host_to_device", "device_to_host", "device_to_device")

executed: set[str] = set()
"""The tests during which the pretended device did something."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pretended device")
    group.addoption("--only-cupy", action="store_true", help="only tests that use CuPy")
    group.addoption(
        "--at-least",
        type=int,
        default=1,
        metavar="N",
        help="fail where fewer tests executed on the pretended device",
    )


def pytest_configure() -> None:
    if not hook.is_active():
        raise pytest.UsageError(
            "the pretended device is not active: python tests/support/cupy_on_cpu COMMAND"
        )


def uses_cupy(item: pytest.Item) -> bool:
    """By its backend, its fixtures, or because it asks for `--device`."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "backend" in parameters:
        return parameters["backend"] == "cupy"
    names = getattr(item, "fixturenames", ())
    asks = "request" in names and '"--device"' in inspect.getsource(item.function)
    return asks or not {"gpu", "device"}.isdisjoint(names) or "pretended" in item.path.stem


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--only-cupy"):
        kept = [item for item in items if uses_cupy(item)]
        config.hook.pytest_deselected(items=[item for item in items if not uses_cupy(item)])
        items[:] = kept


def _operations() -> int:
    found = counters.counts()
    return sum(found[name] for name in DID_SOMETHING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _operations()
    result = yield
    if _operations() > before:
        executed.add(item.nodeid)
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and len(executed) < session.config.getoption("--at-least"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    found = counters.counts()
    lines = [
        f"{len(executed)} tests executed on it, at least {config.getoption('--at-least')} must",
        f"{len(kernels.used)} kernels used, {len(kernels.compiled)} of them compiled in this run",
        f"{found['launches']:,} launches of kernels, {found['graph_launches']:,} of graphs",
        f"{found['products']:,} products, {found['cub_calls']:,} calls of CUB",
        f"{found['host_to_device']:,} copies from the host, {found['device_to_host']:,} to it, "
        f"{found['device_to_device']:,} on the device",
    ]
    products = ", ".join(f"{kind}: {count:,}" for kind, count in counters.products().items())
    lines.append(f"matrix products by cuBLAS compute type: {products or 'none'}")
    for line in lines:
        terminalreporter.write_line(f"pretended device: {line}")
    if len(executed) < config.getoption("--at-least"):
        terminalreporter.write_line(
            "pretended device: FAILED, since fewer tests executed on it than must", red=True
        )
