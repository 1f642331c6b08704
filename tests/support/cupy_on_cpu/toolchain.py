"""The C++ compiler, and the folders of headers."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path


class BuildError(Exception):
    """Why the pretended device cannot be built, in one line."""


def check_platform() -> None:
    found = f"{platform.system()} {platform.machine()}"
    if found != "Linux x86_64":
        raise BuildError(f"it needs Linux on x86-64, found {found}: run it in a container or VM")


@cache
def compiler() -> tuple[str, ...]:
    """The system's C++ compiler, or the one of the Python package `ziglang`."""
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return (found,)
    if importlib.util.find_spec("ziglang"):
        # Its sanitizer would end the process at what CUDA defines and C++ does not.
        return (sys.executable, "-m", "ziglang", "c++", "-fno-sanitize=undefined")
    raise BuildError("no C++ compiler found: install g++ or clang, or pip install ziglang")


def compiler_version() -> str:
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def compile_cpp(arguments: list[str], what: str, folder: Path | None = None) -> None:
    command = [*compiler(), "-std=c++17", "-fPIC", "-w", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((line for line in lines if "error" in line), "no message")
        raise BuildError(f"{what} cannot be compiled by {compiler()[0]}: {first}")


def cuda_includes() -> list[str]:
    """`-I` for the headers of the packages nvidia-cuda-runtime, -cccl, -crt, -profiler-api."""
    spec = importlib.util.find_spec("nvidia.cu13")
    roots = [Path(place) / "include" for place in (spec.submodule_search_locations if spec else [])]
    return [f"-I{root}{inside}" for root in roots for inside in ("", "/cccl")]


def python_include() -> str:
    return f"-I{sysconfig.get_paths()['include']}"
