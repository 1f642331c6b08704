"""What stands in for a peer (PyTorch, scikit-learn, ...) that is not installed.

A test that needs it is skipped by its name, and all others run. With `--no-missing`, or
`XPNET_ALL_PEERS=1` in the environment as in `.ci/run`, what is missing is an error. A peer that
Python finds is never missing: nothing is skipped for it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

PEERS = ("torch", "numba", "sklearn", "onnx", "onnxruntime", "playwright", "optuna", "scipy")
PEERS += ("cuda.bindings", "nvmath", "coverage", "atheris", "jax", "keras", "thinc", "ziglang")
PEERS += ("pip_audit", "nox", "joblib", "mpi4py", "nvidia.cu13", "nbclient", "nbformat")
PEERS += ("ipykernel", "IPython", "llvmlite")


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
        """A base whose classes can be defined and not be made."""
        return (type(self._name, (), {"__new__": lambda *_, **__: skip(self._name)}),)

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
    """Finds peers that nobody else has found, and modules inside of them.

    Not the missing modules of an installed package: PyTorch, for one, tries to import
    `torch._rocm_init`, which most of its wheels lack.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        parent = sys.modules.get(name.rpartition(".")[0])
        # `cuda` is a peer's parent: without it `cuda.bindings` would not even be looked for.
        is_peer = any(peer == name or peer.startswith(f"{name}.") for peer in PEERS)
        if is_peer or type(parent) is _Module:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def is_error(config: pytest.Config) -> bool:
    """Whether nothing is skipped: a peer that is missing is an error."""
    return bool(config.getoption("--no-missing")) or os.environ.get("XPNET_ALL_PEERS", "0") != "0"


def blamed(error: BaseException | None) -> str | None:
    """The missing peer that `error`, or one that it was raised from, was about."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (peer := missing_peer(error.name)):
            return peer
        error = error.__cause__ or error.__context__
    return None


def missing_peer(name: str | None) -> str | None:
    """The peer that the module `name` belongs to, if that peer is not installed; else None."""
    for peer in PEERS:
        if f"{name}.".startswith(f"{peer}."):
            return None if _is_installed(peer) else peer
    return None


def _is_installed(peer: str) -> bool:
    try:
        spec = importlib.util.find_spec(peer)
    except ModuleNotFoundError:  # its parent is missing
        return False
    return spec is not None and not isinstance(spec.loader, Finder)


def skip(name: str) -> None:
    """Skip this test, or this file, and say what it needs."""
    peer = missing_peer(name)
    if peer is None:
        raise RuntimeError(f"{name} was about to be skipped, but it belongs to no missing peer")
    pytest.skip(f"needs {peer}, which is not installed here", allow_module_level=True)


def cases(peer: str, width: int, make: Callable[[], list[Any]]) -> list[Any]:
    """`make()`, cases of `width` arguments; without `peer` one case, which is skipped."""
    if missing_peer(peer) is None:
        return make()
    mark = pytest.mark.skip(reason=f"needs {peer}, which is not installed here")
    return [pytest.param(*[None] * width, marks=mark)]


def begin() -> None:
    """While tests are collected, files that import a peer may continue without it."""
    sys.meta_path.append(Finder())


def end() -> None:
    """From now on what is missing is missing."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    for name, module in list(sys.modules.items()):
        if type(module) is _Module:  # to ask a lazy one for more would load it
            del sys.modules[name]
