"""NVIDIA's bindings of cuBLAS, without the rest of the package they come in."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_NAME = "nvmath.bindings.cublas"
_PACKAGES = {"nvmath": ".", "nvmath.bindings": "bindings"}


def cublas_bindings() -> Any:
    """The module `nvmath.bindings.cublas`. Raises `ImportError` where it cannot be imported.

    The `__init__` of its packages imports all of nvmath-python, which takes half a second. The
    bindings need nothing of it, so the packages are empty while they are imported.
    """
    if "nvmath" in sys.modules:
        return import_module("nvmath.bindings").cublas
    if _NAME not in sys.modules:
        spec = find_spec("nvmath")
        if spec is not None and spec.submodule_search_locations:
            _import_alone(list(spec.submodule_search_locations))
    return import_module(_NAME)


def _import_alone(folders: list[str]) -> None:
    """Import the bindings from the `folders` of nvmath, if they need no other module of it."""
    for package, below in _PACKAGES.items():
        empty = ModuleType(package)
        empty.__path__ = [str(Path(folder) / below) for folder in folders]
        sys.modules[package] = empty
    try:
        import_module(_NAME)
    except (ImportError, AttributeError):
        return  # they do: they are imported with the whole package
    finally:
        for package in _PACKAGES:
            del sys.modules[package]
