"""Backends as fixtures, `--device`, and the list of what was compared between backends."""

from __future__ import annotations

import os
import signal
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Of several processes, each has one thread: threads of BLAS that wait for a busy core take long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

import cuda_on_cpu
import least_tests
import missing
import pytest
import strict_cupy
from hypothesis import settings
from thread_settings import SETTINGS
from tqdm import tqdm

from xpnet.accel import dispatch
from xpnet.backend import Backend
from xpnet.errors import BackendUnavailable

BACKENDS = ("numpy", "numba", "double", "kernels", "cupy")

_compared = pytest.StashKey[dict[str, set[str]]]()
_running = pytest.StashKey[pytest.Item]()
_too_few = pytest.StashKey[str]()

# No test asserts a time, and the first call of a kernel waits for its compiler.
settings.register_profile("slow", deadline=None, max_examples=100)
settings.register_profile("quick", deadline=None, max_examples=25)
# Its thread takes some memory every ten seconds, in the midst of what tests count.
tqdm.monitor_interval = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "kernels", "cuda"),
        default="cpu",
        help="also run every test of `backend`, kernels: on the double with CUDA kernels that the "
        "CPU runs; cuda: on CuPy, on a real GPU",
    )
    parser.addoption(
        "--no-missing",
        action="store_true",
        help="a peer (PyTorch, ...) that is not installed is an error, and no test is skipped for "
        "it; the same as XPNET_ALL_PEERS=1 in the environment",
    )
    parser.addoption(
        "--slow",
        action="store_true",
        help="also run the tests marked `slow`, and four times as many examples of Hypothesis, as "
        "`.ci/run` does",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=2,
        help="how often tests/training/test_faults.py kills a training with SIGKILL",
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("slow" if config.getoption("--slow") else "quick")
    config.stash[_compared] = defaultdict(set)
    config.pluginmanager.register(_Comparisons(config.stash[_compared]))
    config.addinivalue_line("markers", "without_kernels: of `backend`, leave `numba` out")
    config.addinivalue_line("markers", "slow: skipped unless --slow is given, as in .ci/run")
    config.addinivalue_line("markers", "needs(*peers): skipped where one of them is not installed")
    if config.getoption("--device") == "cuda":
        if os.environ.get("CUPY_TF32", "0") != "0":
            raise pytest.UsageError("CUPY_TF32 is on, parity needs full float32: unset it")
        try:
            Backend("cuda")
        except BackendUnavailable as error:
            raise pytest.UsageError(str(error)) from error
    if not missing.is_error(config):
        missing.begin()


class _Comparisons:
    """Collects what tests have compared from their reports."""

    def __init__(self, found: dict[str, set[str]]) -> None:
        self.found = found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for kind, value in report.user_properties:
            if kind == "compared":
                name, where = value
                self.found[name].add(where)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`-n` gives all tests of a file to one process: they share arrays and compiled kernels."""
    from xdist.scheduler import LoadFileScheduling

    # Sorted by number of tests, those of README.md, the slowest, would start last.
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        mark = pytest.mark.skip(reason="slow, and --slow is not given")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(mark)


def pytest_collection_finish(session: pytest.Session) -> None:
    missing.end()


@contextmanager
def _skipped_without_a_peer(config: pytest.Config) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        peer = None if missing.is_error(config) else missing.blamed(error)
        if peer is None:
            raise
        missing.skip(peer)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    with _skipped_without_a_peer(pyfuncitem.config):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    try:
        with _skipped_without_a_peer(request.config):
            return (yield)
    except pytest.skip.Exception as skipped:
        # Tests after this one get what pytest has kept of a fixture, which is the first error.
        fixturedef.cached_result = (None, fixturedef.cache_key(request), (skipped, None))
        raise


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        device = metafunc.config.getoption("--device")
        left_out = {"kernels", "cupy"} - {{"cuda": "cupy"}.get(device, device)}
        if metafunc.definition.get_closest_marker("without_kernels"):
            left_out.add("numba")
        names = [name for name in BACKENDS if name not in left_out]
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture(scope="session", autouse=True)
def _signals_end_processes() -> Iterator[None]:
    """What a shell makes its background jobs ignore ends tests and their processes again.

    A process inherits ignored signals, and Python then installs no handler for SIGINT.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ignored = [number for number in defaults if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, defaults[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


# Of the session, as Hypothesis asks of what it shares between examples.
@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """NumPy, NumPy with kernels, the double, with `--device cuda` CuPy, one after the other."""
    if request.param in ("double", "kernels"):
        return Backend.of(strict_cupy.xp)
    return Backend("cuda" if request.param == "cupy" else "cpu")


# `backend` itself is of the session; the kernels it uses are of the test.
@pytest.fixture(autouse=True)
def _kernels_of_the_backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """On `numba` and `kernels` kernels are used, in every `fit()` too; on others none."""
    where = _parameters(request.node).get("backend")
    if where is None:
        yield
        return
    # Graphs make products by another handle; `test_cuda_graph.py` compares them with the calls.
    monkeypatch.setattr(SETTINGS, "graphs_enabled", False)
    # Steps of compiled loops have tests of their own: their bits are not those of the layers.
    monkeypatch.setattr(SETTINGS, "compiled_enabled", False)
    monkeypatch.setattr(SETTINGS, "kernels_enabled", where == "numba")
    if where == "numba":
        if missing.missing_peer("numba") and not missing.is_error(request.config):
            missing.skip("numba")
        monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 0)
    with cuda_on_cpu.kernels_on_the_double() if where == "kernels" else dispatch.use_kernels():
        are_in_use = where in ("numba", "kernels")
        assert (SETTINGS.kernels is not None) == are_in_use, (
            "the kernels need numba: pip install .[peers]"
        )
        yield


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
        where = _parameters(item).get("backend") or ("double" in item.fixturenames and "double")
        if not where:
            raise TypeError("compared() is for tests of the fixture `backend` or `double`")
        # With `-n` the test runs in another process; its report has these properties too.
        item.user_properties.append(("compared", (name, where)))

    return record


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_running] = item
    if not missing.is_error(item.config):
        for mark in item.iter_markers("needs"):
            for peer in filter(missing.missing_peer, mark.args):
                missing.skip(peer)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus != pytest.ExitCode.OK or not least_tests.is_complete(session.config):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    executed = [report.nodeid for report in reporter.stats.get("passed", ())]
    complaint = least_tests.complaint(executed)
    if complaint is not None:
        session.config.stash[_too_few] = complaint
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, where in config.stash[_compared].items():
        groups[tuple(sorted(where, key=BACKENDS.index))].append(name)
    for where, names in sorted(groups.items()):
        line = f"parity: {len(names)} operations compared on {', '.join(where)}: "
        for part in textwrap.wrap(line + ", ".join(sorted(names)), 100, subsequent_indent="  "):
            terminalreporter.write_line(part)
    skipped = terminalreporter.stats.get("skipped", ())
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped, {count}: {reason}")
    if _too_few in config.stash:
        terminalreporter.write_line(config.stash[_too_few], red=True)
