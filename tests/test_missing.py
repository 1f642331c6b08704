"""What stands in for a missing package is skipped by name, and is an error where CI runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import least_tests
import missing
import pytest

ROOT = Path(__file__).parents[1]


def test_nothing_stands_in_while_tests_run() -> None:
    assert not [finder for finder in sys.meta_path if isinstance(finder, missing.Finder)]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("keras.nobody")


OF_NOBODY = """
import nobody
import pytest

@pytest.fixture
def made():
    return nobody.make()

def test_that_needs_nothing():
    pass

def test_called():
    nobody.make()

def test_made(made):
    pass

@pytest.mark.needs("nobody")
def test_marked():
    pass

def test_imported():
    try:
        import nobody
    except ImportError:
        raise ValueError("another error")
"""


@pytest.mark.parametrize("strict", [False, True])
def test_a_missing_peer_is_skipped_by_name_or_an_error(strict: bool, tmp_path: Path) -> None:
    """With the `conftest.py` of these tests, in a process of its own."""
    (tmp_path / "plugin.py").write_text('import missing\nmissing.PEERS = ("nobody",)\n')
    (tmp_path / "test_it.py").write_text(OF_NOBODY)
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text("utf-8"))
    paths = [str(tmp_path), str(ROOT / "tests/support"), str(ROOT)]
    path = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    environment["XPNET_ALL_PEERS"] = "0"
    words = ["-p", "plugin", "-q", "-ra", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    words += ["--no-missing"] if strict else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "test_it.py"],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if strict:
        assert done.returncode != 0
        assert "No module named 'nobody'" in done.stdout
        return
    assert done.returncode == 0, done.stdout
    assert "1 passed, 4 skipped" in done.stdout
    assert "needs nobody, which is not installed here" in done.stdout


@pytest.mark.parametrize("option", [False, True])
@pytest.mark.parametrize("variable", [None, "0", "1"])
def test_an_option_or_a_variable_makes_it_an_error(
    option: bool, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XPNET_ALL_PEERS", raising=False)
    if variable is not None:
        monkeypatch.setenv("XPNET_ALL_PEERS", variable)
    config: Any = SimpleNamespace(getoption={"--no-missing": option}.__getitem__)
    assert missing.is_error(config) is (option or variable == "1")


def test_a_file_is_collected_and_its_test_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing, "PEERS", ("nobody",))
    missing.begin()
    try:
        inner = importlib.import_module("nobody.inner")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("somebody")
    finally:
        missing.end()

    class Own(inner.Base):
        """Of a class that nobody has."""

    assert inner.One | None is None
    for use in (inner.make, inner.deep.make, Own):
        with pytest.raises(pytest.skip.Exception, match="needs nobody, which is not installed"):
            use()
    with pytest.raises(pytest.skip.Exception, match="needs nobody"):
        list(inner.many)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nobody.inner")


def test_a_module_that_an_installed_peer_lacks_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also of a peer that is a part of a package, as `cuda.bindings` is of `cuda`."""
    for package in ("whole", "part/inner"):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(missing, "PEERS", ("whole", "part.inner", "part.other", "no.inner"))
    missing.begin()
    try:
        for name in ("whole.lost", "part.lost", "part.inner.lost"):
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(name)
        for name in ("part.other", "part.other.deep", "no.inner"):
            assert type(importlib.import_module(name)) is missing._Module
        assert [missing.missing_peer(f"{peer}.x") for peer in missing.PEERS] == [
            None,
            None,
            "part.other",
            "no.inner",
        ]
    finally:
        missing.end()
    with pytest.raises(RuntimeError, match=r"whole\.lost was about to be skipped"):
        missing.skip("whole.lost")


@pytest.mark.slow
def test_what_is_installed_can_be_imported_while_tests_are_collected() -> None:
    """In a process of its own, where none of them is imported yet."""
    names = ("torch", "sklearn", "onnx", "optuna", "numba")
    script = (
        "import missing; missing.begin(); "
        f"import {', '.join(names)}; "
        f"print([m.__file__ is not None for m in ({', '.join(names)})])"
    )
    path = os.pathsep.join([str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")])
    installed = [name for name in names if missing.missing_peer(name) is None]
    if len(installed) < len(names):
        missing.skip(next(name for name in names if name not in installed))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str([True] * len(names))


def test_a_complete_run_that_executes_too_few_tests_says_so() -> None:
    enough = ["test_a[cupy]"] * least_tests.LEAST_ON_CUPY
    enough += ["test_a[numpy]"] * (least_tests.LEAST - len(enough))
    assert least_tests.complaint(enough) is None
    for few in (enough[1:], enough[:-1]):
        complaint = least_tests.complaint(few)
        assert complaint is not None
        assert complaint.startswith(f"too few tests: {len(few)} executed")
        assert "\n" not in complaint


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"args": ["."]}, True),
        ({"args": ["tests/accel"]}, False),
        ({"device": "cpu"}, False),
        ({"keyword": "graph"}, False),
        ({"markexpr": "slow"}, False),
        ({"deselect": ["tests/test_losses.py"]}, False),
        ({"ignore": ["tests/accel"]}, False),
        ({"collectonly": True}, False),
    ],
)
def test_which_runs_are_complete(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: bool
) -> None:
    options = dict.fromkeys(("keyword", "markexpr", "deselect", "ignore", "collectonly"))
    options |= {"device": "cuda"} | changes
    config: Any = SimpleNamespace(
        args=options.pop("args", ["tests"]),
        rootpath=ROOT,
        invocation_params=SimpleNamespace(dir=ROOT),
        option=SimpleNamespace(**options),
        getoption=lambda _: options["device"],
    )
    monkeypatch.setattr(missing, "_is_installed", lambda peer: peer not in least_tests.NOT_NEEDED)
    assert least_tests.is_complete(config) is expected
    monkeypatch.setattr(missing, "_is_installed", lambda peer: peer != "torch")
    assert not least_tests.is_complete(config)
