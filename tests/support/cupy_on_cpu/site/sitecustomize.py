"""Makes the pretended device active in every Python process that has this folder in PYTHONPATH."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACKAGE = _HERE.parent


def _activate() -> None:
    spec = importlib.util.spec_from_file_location(
        "cupy_on_cpu", _PACKAGE / "__init__.py", submodule_search_locations=[str(_PACKAGE)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["cupy_on_cpu"] = package
    spec.loader.exec_module(package)
    importlib.import_module("cupy_on_cpu.hook").activate()


def _run_the_next_sitecustomize() -> None:
    others = [path for path in sys.path if Path(path or ".").resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_activate()
_run_the_next_sitecustomize()
