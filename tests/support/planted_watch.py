"""Pytest plugin of `run_planted_bugs.py`: runs the tests of some detectors, until each has failed.

Its settings are the JSON in the environment variable `PLANTED_WATCH`: `detectors`, `red` (tests
that fail without any planted bug), `ends` (whether a detector ends with its first failure) and
`verdict`, the file that gets the failed tests of each detector. Beside it `running` has detector
and name of the test that runs, for a bug that ends the process.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest

NUMPY, DOUBLE, DEVICE = DETECTORS = ("NumPy", "double", "pretended device")

_settings = json.loads(os.environ.get("PLANTED_WATCH", "{}"))
_failed: dict[str, list[str]] = {}
_detectors: dict[str, str] = {}


def detector_of(item: pytest.Item) -> str:
    """Which detector a test belongs to, by the arrays that it computes on."""
    function = item.function  # type: ignore[attr-defined]
    names: list[str] = item.fixturenames  # type: ignore[attr-defined]
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    if backend is not None:
        return {"cupy": DEVICE, "double": DOUBLE, "kernels": DOUBLE}.get(backend, NUMPY)
    if item.config.getoption("--device") == "cuda" and (
        {"gpu", "device"} & set(names) or "--device" in inspect.getsource(function)
    ):
        return DEVICE
    uses_double = "double" in names or hasattr(inspect.getmodule(function), "strict_cupy")
    return DOUBLE if uses_double or {"gpu", "device"} & set(names) else NUMPY


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = []
    for item in items:
        detector = detector_of(item)
        if detector in _settings["detectors"] and item.nodeid not in _settings["red"]:
            _detectors[item.nodeid] = detector
            kept.append(item)
    items[:] = kept


def pytest_runtest_logstart(nodeid: str) -> None:
    text = f"{_detectors[nodeid]}\n{nodeid}"
    Path(_settings["verdict"]).with_name("running").write_text(text, encoding="utf-8")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _settings["ends"] and _detectors[item.nodeid] in _failed:
        pytest.skip("this detector has noticed the bug")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        failed: Any = _failed.setdefault(_detectors[report.nodeid], [])
        failed.append(report.nodeid)
        Path(_settings["verdict"]).write_text(json.dumps(_failed), encoding="utf-8")


def pytest_runtest_logfinish() -> None:
    if _settings["ends"] and _failed.keys() == set(_settings["detectors"]):
        pytest.exit("every detector has noticed the bug", pytest.ExitCode.TESTS_FAILED)
