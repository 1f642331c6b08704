"""What stands in for a missing package does so with `--device cuda` alone, and skips by name."""

from __future__ import annotations

import importlib
import sys

import missing
import pytest


def test_nothing_stands_in_where_ci_runs(request: pytest.FixtureRequest) -> None:
    """Nor, by the time that tests run, anywhere else."""
    assert not [finder for finder in sys.meta_path if isinstance(finder, missing.Finder)]
    if request.config.getoption("--device") != "cuda":
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("keras.nobody")


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

    assert Own.__bases__ == (object,)
    assert inner.One | None is None
    for use in (inner.make, inner.deep.make):
        with pytest.raises(pytest.skip.Exception, match="needs nobody, which is not installed"):
            use()
    with pytest.raises(pytest.skip.Exception, match="needs nobody"):
        list(inner.many)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nobody.inner")
