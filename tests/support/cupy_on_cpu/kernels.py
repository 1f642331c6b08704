"""Each kernel is compiled by NVRTC, for validity, and by the C++ compiler, which makes what runs.

What was compiled stays in the folder of the build, for all processes.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cupy_on_cpu.toolchain import BuildError, compile_cpp

INCLUDE = Path(__file__).resolve().parent / "include"
IMAGE = "pretended device:"
"""Stands before a path in place of a CUBIN; sources/driver.cpp has the same."""

_DYNAMIC = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s*(\w+)\s*\[\s*\]\s*;")
_BOUNDS = r"(?:__launch_bounds__\([^)]*\)\s*)?"
_PLAIN = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')

used: set[str] = set()
"""The kernels' sources that this process asked for, by digest."""

compiled: set[str] = set()
"""Those of `used` that were not in the cache."""


def setting(name: str, otherwise: str = "0") -> str:
    return os.environ.get(f"PRETENDED_DEVICE_{name}") or otherwise


def patch(compiler: ModuleType, folder: Path) -> None:
    """CuPy's compiler gives a path to what the CPU executes."""
    by_nvrtc = compiler._compile_using_nvrtc_no_warning
    signature = inspect.signature(by_nvrtc)
    with_nvrtc = setting("NVRTC", "1") != "0"

    def compile_for_the_cpu(*arguments: Any, **keywords: Any) -> tuple[bytes, dict | None]:
        given = signature.bind(*arguments, **keywords)
        given.apply_defaults()
        source, options = given.arguments["source"], tuple(given.arguments["options"])
        names = given.arguments["name_expressions"]
        tags = tags_of(source, names)
        text = translated(source, tags)

        def check() -> None:
            if with_nvrtc:
                by_nvrtc(*arguments, **keywords)

        try:
            library = compiled_library(folder / "kernels", text, options, check)
        except BuildError as error:
            raise compiler.CompileException(
                f"pretended device: {error}", source, given.arguments["filename"], options
            ) from None
        mapping = {name: tag for tag, name in tags.items()} if names else None
        return f"{IMAGE}{library}".encode() + b"\0", mapping

    compiler._compile_using_nvrtc_no_warning = compile_for_the_cpu
    if not with_nvrtc:
        compiler._preprocess = lambda *_: ""
        compiler._get_nvrtc_version = lambda: (13, 0)


def tags_of(source: str, name_expressions: Sequence[str] | None) -> dict[str, str]:
    """A name for the linker for each kernel, and the kernel as it is written."""
    tags = {name: name for name in _PLAIN.findall(source)}
    for expression in name_expressions or ():
        tags["t" + hashlib.md5(expression.encode()).hexdigest()] = expression
    return tags


def translated(source: str, tags: dict[str, str]) -> str:
    """A kernel's source as C++."""
    source = _DYNAMIC.sub(r"\1* \2 = (\1*)pretended_device_shared_memory;", source)
    source = source.replace("#include <cupy/complex.cuh>", "")
    entries = [f"PRETENDED_KERNEL({tag}, {expression})" for tag, expression in tags.items()]
    return "\n".join(['#include "cuda_as_cpp.h"', source, *entries, ""])


def compiled_library(
    folder: Path, text: str, options: tuple[str, ...], check: Callable[[], object]
) -> Path:
    """The library of a text, from the cache if there."""
    ulp = setting("ULP")
    given = [option for option in options if option.startswith("-D") or is_include(option)]
    installed = sysconfig.get_paths()["purelib"]  # CuPy's version is in the name of the build
    checked = [option.replace(installed, "") for option in options]
    checked.append(f"NVRTC={setting('NVRTC', '1')}")
    digest = hashlib.sha256("\0".join([text, ulp, *checked]).encode()).hexdigest()[:32]
    library = folder / f"{digest}.so"
    used.add(digest)
    if library.exists():
        return library
    check()
    compiled.add(digest)
    folder.mkdir(exist_ok=True)
    own = folder / f"{digest}.{os.getpid()}"
    source = own.with_suffix(f"{own.suffix}.cpp")
    source.write_text(text)
    flags = ["-O1", "-ffp-contract=off", "-shared", f"-I{INCLUDE}", *given]
    if ulp != "0":
        flags.append(f"-DPRETENDED_DEVICE_ULP={ulp}")
    compile_cpp([*flags, str(source), "-o", str(own)], "a kernel")
    own.rename(library)
    source.rename(library.with_suffix(".cpp"))
    return library


def is_include(option: str) -> bool:
    """Folders of CuPy, not of CUDA, whose place include/ takes."""
    of_cuda = ("_cccl", "nvidia", "/usr/local")
    return option.startswith("-I") and not any(part in option for part in of_cuda)
