"""Run the tests on a mutant, in a process of its own that ends when every side has failed."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from mutants_made import FILES, ROOT, TESTS, Mutant
from mutants_page import SIDES

# Imported once, before the first fork; nothing here imports xpnet.
SLOW = ("numpy", "pandas", "torch", "torch._dynamo", "cupy", "cupyx.linalg.sparse", "hypothesis")
SLOW += ("numba", "onnx", "onnx.backend.test.case.node", "scipy.sparse", "pydantic")
SLOW += ("safetensors.numpy", "PIL.Image")


def backend_of(item: Any) -> str | None:
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


def own_names(file: str, source: str) -> tuple[str, ...]:
    """What the tests of a file may be called after: itself, its classes and its functions."""
    defined = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    return tuple(map(_letters, [Path(file).stem, *(node.name for node in defined)]))


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


class Watch:
    """Pytest plugin: notes each side's first failure and ends when none is left to come."""

    def __init__(self, mutant: Mutant, verdict: Path) -> None:
        self.sides, self.verdict, self.side = mutant.sides, verdict, ""
        self.names = own_names(mutant.file, mutant.source)
        self.caught: dict[str, str] = {}

    @staticmethod
    def side_of(item: Any) -> str:
        return SIDES["double" in item.fixturenames or backend_of(item) == "double"]

    def is_own(self, item: Any) -> bool:
        return any(name in _letters(item.name) for name in self.names)

    def pytest_plugin_registered(self, plugin: Any) -> None:
        if getattr(plugin, "__name__", "") == "conftest":
            plugin.BACKENDS = tuple(side.lower() for side in self.left)

    @pytest.hookimpl(trylast=True)  # after pytest has sorted by backend
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[Any]) -> None:
        self.session = session
        items[:] = [item for item in items if self.side_of(item) in self.left]
        items.sort(key=self.is_own, reverse=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: Any) -> None:
        self.side = self.side_of(item)
        if self.side in self.caught:
            pytest.skip("caught")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.side not in self.caught:
            self.caught[self.side] = report.nodeid
            self.verdict.write_text(json.dumps(self.caught))

    @property
    def left(self) -> list[str]:
        """The sides that have not failed."""
        return [side for side in self.sides if side not in self.caught]

    def pytest_runtest_logfinish(self) -> None:
        if not self.left:
            self.session.shouldfail = "caught"


def judge(snapshot: Path, mutant: Mutant, seconds: int) -> dict[str, str]:
    """By which test each side notices `mutant`; a side that does not is missing.

    Raises `RuntimeError` where the tests could not be run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, verdict = Path(name, "copy"), Path(name, "verdict.json")
        shutil.copytree(snapshot, folder)
        path = folder / "xpnet" / mutant.file
        path.write_text(mutant.source, encoding="utf-8")
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        status, caught = run_tests(folder, mutant, verdict, seconds)
    if status == -signal.SIGALRM:
        return dict.fromkeys(mutant.sides, "no end") | caught
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the tests ended with {status}: {mutant}")
    return caught


def run_tests(
    folder: Path, mutant: Mutant, verdict: Path, seconds: int, *, caches: bool = False
) -> tuple[int, dict[str, str]]:
    """The exit status of the tests in `folder`, and by which test each side has failed."""
    verdict.write_text("{}")
    if (child := os.fork()) == 0:
        run_tests_and_exit(folder, mutant, verdict, seconds, caches)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(verdict.read_text())


def run_tests_and_exit(
    folder: Path, mutant: Mutant, verdict: Path, seconds: int, caches: bool
) -> NoReturn:
    status = 99
    try:
        signal.alarm(seconds)
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        sys.dont_write_bytecode = not caches
        sys.path.insert(0, str(folder))
        try:
            package = importlib.import_module("xpnet")
        except Exception as error:
            caught = dict.fromkeys(mutant.sides, f"import: {type(error).__name__}")
            verdict.write_text(json.dumps(caught))
            os._exit(pytest.ExitCode.TESTS_FAILED)
        assert Path(str(package.__file__)).parent == folder / "xpnet"
        options = ["-q", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        # What was imported before the fork is no test, so it needs no rewriting of asserts.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        watch, first = Watch(mutant, verdict), FILES[mutant.file]
        others = [name for name in TESTS if name not in first]
        for names in (first[:1], first[1:], others):
            if not names:
                continue
            paths = [f"tests/{name}" for name in names]
            status = int(pytest.main(options + paths, plugins=[watch]))
            if not watch.left or status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                break
    finally:
        os._exit(status)


def prepare(snapshot: Path) -> int:
    """Copy package and tests, rewrite `FILES` by `ast`, and see that all tests pass then.

    Of the copies that mutants get, Python's bytecode is there already. Returns the seconds that a
    mutant may take.
    """
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("xpnet", "tests"):
        shutil.copytree(ROOT / part, snapshot / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", snapshot)
    for path in (snapshot / "xpnet" / file for file in FILES):
        path.write_text(ast.unparse(ast.parse(path.read_text(encoding="utf-8"))), encoding="utf-8")
    file, verdict = next(iter(FILES)), snapshot.with_name("verdict.json")
    unchanged = Mutant(file, 0, "", "", "", (snapshot / "xpnet" / file).read_text(encoding="utf-8"))
    began = time.monotonic()
    status, caught = run_tests(snapshot, unchanged, verdict, 3600, caches=True)
    if status or caught:
        raise SystemExit(f"red before anything was changed, status {status}: {caught}")
    return 60 + 3 * round(time.monotonic() - began)


def import_slow_modules() -> None:
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ["XPNET_KERNELS"] = "0"
    for module in SLOW:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "-c", os.devnull, "--rootdir", name, name])  # imports its plugins
    gc.freeze()
