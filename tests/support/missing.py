"""What stands in for a package that is not there, on a machine with a GPU and little else.

With `--device cuda`, and only then, a test that needs a peer (PyTorch, scikit-learn, ...) is
skipped by name where the peer is missing, and all others run. Without it, as in CI, what is
missing is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

PEERS = ("torch", "numba", "sklearn", "onnx", "onnxruntime", "playwright", "optuna", "scipy")
PEERS += ("cuda", "nvmath", "coverage", "atheris", "jax", "keras", "thinc", "ziglang")
PEERS += ("pip_audit", "nox", "joblib")


class Absent:
    """Whatever of a package that is not there; a test that calls it is skipped."""

    def __init__(self, name: str) -> None:
        self.__name__ = self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        skip(self._name)

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        return ()

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__

    def __iter__(self) -> Iterator[Any]:
        skip(self._name)
        return iter(())

    __enter__ = __call__


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")


class Finder(MetaPathFinder, Loader):
    """Finds peers that nobody else has found."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        return ModuleSpec(name, self, is_package=True) if is_peer(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def is_peer(name: str | None) -> bool:
    return (name or "").partition(".")[0] in PEERS


def skip(name: str) -> None:
    """Leave this test, or this file, saying what it needs."""
    package = name.partition(".")[0]
    pytest.skip(f"needs {package}, which is not installed here", allow_module_level=True)


def begin() -> None:
    """While tests are collected, files that import a peer may continue without it."""
    sys.meta_path.append(Finder())


def end() -> None:
    """From now on what is missing is missing."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    for name, module in list(sys.modules.items()):
        if type(module) is _Module:  # to ask a lazy one for more would load it
            del sys.modules[name]
