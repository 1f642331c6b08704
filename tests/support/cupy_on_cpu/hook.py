"""Puts the pretended device in place of CUDA when CuPy or nvmath-python is imported."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from cupy_on_cpu import kernels

MODULES = ("cupy_backends.cuda.api.runtime", "cupy.cuda.cub", "cupy.cuda.thrust")
LIBRARIES = {"cublas": "libcublas.so.13", "curand": "libcurand.so.10"}

library: ctypes.CDLL | None = None
"""libcuda.so.1, once it is loaded."""


def folder() -> Path:
    return Path(os.environ["PRETENDED_DEVICE_BUILD"])


def is_active() -> bool:
    return any(isinstance(finder, Finder) for finder in sys.meta_path)


def activate() -> None:
    """From now on an import of CuPy finds the pretended device. Nothing is loaded before."""
    wanted = os.environ.get("PRETENDED_DEVICE", "1") != "0"
    if wanted and "PRETENDED_DEVICE_BUILD" in os.environ and not is_active():
        if "cupy" in sys.modules:
            raise ImportError("pretended device: activate it before CuPy is imported")
        sys.meta_path.insert(0, Finder())


def load() -> ctypes.CDLL:
    global library
    if library is None:
        # A kernel's image is a path of this build, and says nothing to another process.
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
        library = ctypes.CDLL(str(folder() / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
        for name, file in LIBRARIES.items():
            if name not in missing_libraries():
                ctypes.CDLL(str(folder() / file), mode=ctypes.RTLD_GLOBAL)
        patch_pathfinder()
    return library


def missing_libraries() -> list[str]:
    return kernels.setting("WITHOUT", "").split(",")


def patch_pathfinder() -> None:
    """What cuda-pathfinder finds is ours, for CuPy and for nvmath-python."""
    import cuda.pathfinder as pathfinder

    original = pathfinder.load_nvidia_dynamic_lib

    def load_nvidia_dynamic_lib(name: str) -> object:
        if name in missing_libraries():
            message = f"pretended device: {name} is missing (PRETENDED_DEVICE_WITHOUT)"
            raise pathfinder.DynamicLibNotFoundError(message)
        if name not in LIBRARIES:
            return original(name)
        path = str(folder() / LIBRARIES[name])
        return pathfinder.LoadedDL(path, False, ctypes.CDLL(path)._handle, "pretended device")

    pathfinder.load_nvidia_dynamic_lib = load_nvidia_dynamic_lib
    for module in list(sys.modules.values()):
        if module.__dict__.get("load_nvidia_dynamic_lib") is original:
            module.load_nvidia_dynamic_lib = load_nvidia_dynamic_lib


class Finder:
    """Finds the rebuilt modules, and changes CuPy's compiler when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in MODULES:
            load()
            file = str(folder() / (name + importlib.machinery.EXTENSION_SUFFIXES[0]))
            loader = importlib.machinery.ExtensionFileLoader(name, file)
            return importlib.util.spec_from_file_location(name, file, loader=loader)
        if name in ("cupy_backends", "nvmath"):
            load()
        if name == "cupy":
            load()
            return followed_by(PathFinder.find_spec(name, path), after_cupy)
        if name == "cupy.cuda.compiler":
            change = lambda module: kernels.patch(module, folder())  # noqa: E731
            return followed_by(PathFinder.find_spec(name, path), change)
        return None


def followed_by(
    spec: ModuleSpec | None, change: Callable[[ModuleType], object]
) -> ModuleSpec | None:
    """The module, changed once it is imported."""
    if spec is None or spec.loader is None:
        return spec
    execute = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        change(module)

    spec.loader.exec_module = exec_module
    return spec


def after_cupy(cupy: ModuleType) -> None:
    if kernels.setting("POOL", "1") == "0":
        # Each array is then an allocation of its own, and what is freed is gone.
        cupy.cuda.set_allocator(None)
