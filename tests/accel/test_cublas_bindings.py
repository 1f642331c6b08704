"""The bindings of cuBLAS are imported without the rest of nvmath-python, and beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from strict_graphs import graphs_on_the_double

from xpnet.accel.cublas_bindings import cublas_bindings

ALONE = """
import sys
from xpnet.accel.cublas_bindings import cublas_bindings
cublas = cublas_bindings()
print(sorted({name for name in sys.modules if name.startswith("nvmath")} & {
    "nvmath", "nvmath.bindings", "nvmath.bindings.cublas", "nvmath.linalg", "nvmath.fft"
}))
print(callable(cublas.gemm_ex), cublas_bindings() is cublas)
"""
THEN_ALL = """
import nvmath
print(nvmath.bindings.cublas is cublas, cublas_bindings() is cublas, hasattr(nvmath, "linalg"))
"""
ALL_FIRST = """
import nvmath
from xpnet.accel.cublas_bindings import cublas_bindings
print(cublas_bindings() is nvmath.bindings.cublas)
"""


def printed(script: str, *path: Path) -> list[str]:
    """What a new Python prints that runs `script`, with `path` before all other folders."""
    script = f"import sys; sys.path[:0] = {[str(folder) for folder in path]}\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.needs("nvmath")
def test_nothing_else_of_nvmath_is_imported() -> None:
    assert printed(ALONE) == ["['nvmath.bindings.cublas']", "True True"]


@pytest.mark.needs("nvmath")
def test_the_whole_package_can_be_imported_before_or_after() -> None:
    assert printed(ALONE + THEN_ALL)[-1] == "True True True"
    assert printed(ALL_FIRST) == ["True"]


def pretended(folder: Path, bindings: str) -> Path:
    """A package `nvmath` in `folder` whose module of cuBLAS is the text `bindings`."""
    below = folder / "nvmath" / "bindings"
    below.mkdir(parents=True)
    (folder / "nvmath" / "__init__.py").write_text("version = 1\nfrom nvmath import bindings\n")
    (below / "__init__.py").write_text("kinds = 2\nfrom nvmath.bindings import cublas\n")
    (below / "cublas.py").write_text(bindings)
    return folder


@pytest.mark.parametrize("needed", ["nvmath import version", "nvmath.bindings import kinds"])
def test_bindings_that_need_the_package_are_imported_with_it(tmp_path: Path, needed: str) -> None:
    """As those of another version may."""
    folder = pretended(tmp_path, f"from {needed}\n")
    script = "from xpnet.accel.cublas_bindings import cublas_bindings\nprint(cublas_bindings())"
    (found,) = printed(script, folder)
    assert str(folder) in found


def test_an_error_says_what_is_missing(tmp_path: Path) -> None:
    folder = pretended(tmp_path, "import libcublas_is_missing")
    script = "from xpnet.accel.cublas_bindings import cublas_bindings\n"
    script += "try: cublas_bindings()\nexcept ImportError as error: print(error)"
    assert printed(script, folder) == ["No module named 'libcublas_is_missing'"]
    script = f"import sys; sys.modules['nvmath'] = None\n{script}"
    (found,) = printed(script)
    assert "nvmath" in found


def test_the_double_has_its_own() -> None:
    with graphs_on_the_double() as cublas:
        assert cublas_bindings() is cublas
    with graphs_on_the_double(bindings=False), pytest.raises(ImportError, match="nvmath"):
        cublas_bindings()
