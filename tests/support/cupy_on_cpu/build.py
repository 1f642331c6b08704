"""Builds the pretended device into a folder of the cache."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cupy_on_cpu.toolchain import (
    BuildError,
    check_platform,
    compile_cpp,
    compiler_version,
    cuda_includes,
    python_include,
)

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"
CUPY = "14.2.0"
"""The version whose modules are rebuilt; another one may call other functions."""

NEEDED = ("cupy-cuda13x", "Cython", "setuptools", "nvidia-cuda-cccl", "nvidia-cuda-crt")
NEEDED += ("nvidia-cuda-profiler-api", "nvidia-cuda-runtime")

MODULES = {
    "cupy_backends.cuda.api.runtime": (),
    "cupy.cuda.cub": ("cub.cpp",),
    "cupy.cuda.thrust": ("thrust.cpp",),
}
"""The modules of CuPy that are linked with CUDA's static libraries, and what they call of ours."""

_CUDA = ("counters", "memory", "faults", "streams", "graphs", "launch", "driver", "runtime")
LIBRARIES = {
    "libcuda.so.1": _CUDA,
    "libcublas.so.13": ("cublas", "cublas_vectors"),
    "libcurand.so.10": ("curand",),
}
FUNCTIONS = {
    "libcuda.so.1": ("cuda_not_pretended.txt", 801),
    "libcublas.so.13": ("cublas_functions.txt", 15),
    "libcurand.so.10": ("curand_functions.txt", 204),
}
"""The functions that CuPy looks up in each library, and the error of those not pretended."""

EXPORTS = "cu*; pretended_device_*;"
OF_KERNELS = " __syncthreads; threadIdx; blockIdx; blockDim; gridDim;"
"""What libcuda.so.1 exports beside them; lld refuses a name that a library does not define."""

CYTHONIZE = """
import sys
from Cython.Build import cythonize
from setuptools import Extension
names = sys.argv[1:]
made = [Extension(n, [n.replace(".", "/") + ".pyx"], language="c++") for n in names]
directives = {"embedsignature": True, "c_api_binop_methods": True, "binding": False}
directives |= {"warn.deprecated.IF": False, "freethreading_compatible": True}
names_of_cupy = {"CUPY_USE_CUDA_PYTHON": False, "CUPY_CUFFT_STATIC": False, "CUPY_HIP_VERSION": 0}
names_of_cupy |= {"CUPY_CYTHON_VERSION": "3.2.4", "CUPY_CUDA_VERSION": 13000}
cythonize(made, language_level=3, compiler_directives=directives, compile_time_env=names_of_cupy)
"""


def cache_folder() -> Path:
    if own := os.environ.get("PRETENDED_DEVICE_CACHE"):
        return Path(own).resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pretended-device"


def built() -> Path:
    """The folder of the libraries and modules, which are built if they are not there yet."""
    check_platform()
    check_packages()
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / key()
    with locked(root / f"{folder.name}.lock"):
        if folder.is_dir():
            return folder
        print(f"pretended device: building into {folder} (some minutes)", flush=True)
        with tempfile.TemporaryDirectory(dir=root) as temporary:
            build(Path(temporary))
            (Path(temporary) / "work").rename(folder)
    return folder


def check_packages() -> None:
    try:
        found = importlib.metadata.version("cupy-cuda13x")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(f"CuPy is missing: pip install cupy-cuda13x=={CUPY}") from None
    if found != CUPY:
        raise BuildError(f"CuPy {CUPY} is needed, found {found}: pip install cupy-cuda13x=={CUPY}")
    for package in NEEDED:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise BuildError(f"{package} is missing: pip install {package}") from None


def key() -> str:
    """Whatever the build depends on, as a name."""
    parts = [sysconfig.get_config_var("EXT_SUFFIX"), compiler_version()]
    parts += [f"{package} {importlib.metadata.version(package)}" for package in NEEDED]
    files = sorted([*SOURCES.iterdir(), *(HERE / "include").rglob("*.*h")])
    files += [HERE / "build.py", HERE / "kernels.py"]
    digest = hashlib.sha256("\n".join(parts).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:20]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A second process waits here until the first has built."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(temporary: Path) -> None:
    folder = temporary / "work"
    folder.mkdir()
    source = cupy_source(temporary)
    cythonize = [sys.executable, "-c", CYTHONIZE, *MODULES]
    run(cythonize, "CuPy's modules cannot be translated by Cython", cwd=source)
    includes = [python_include(), *cuda_includes(), f"-I{SOURCES}"]
    includes += [f"-I{source / name}" for name in ("cupy_backends", "cupy/cuda")]
    includes += [f"-I{source / 'cupy/_core/include'}"]
    jobs = [(SOURCES / f"{name}.cpp", "-O3") for names in LIBRARIES.values() for name in names]
    jobs += [(source / (name.replace(".", "/") + ".cpp"), "-O1") for name in MODULES]
    extra = [SOURCES / name for names in MODULES.values() for name in names]
    jobs += [(path, "-O1") for path in extra]

    def compile_one(job: tuple[Path, str]) -> None:
        path, optimization = job
        flags = [optimization, "-ffp-contract=off", *includes]
        compile_cpp([*flags, "-c", str(path), "-o", str(temporary / object_of(path))], path.name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, jobs))
    for library in LIBRARIES:
        link_library(library, temporary)
    for module, own in MODULES.items():
        paths = [Path(module.replace(".", "/") + ".cpp"), *(SOURCES / name for name in own)]
        objects = [str(temporary / object_of(path)) for path in paths]
        target = folder / (module + sysconfig.get_config_var("EXT_SUFFIX"))
        link(target, objects, folder, needs_cuda=True)


def object_of(path: Path) -> str:
    """Two files have one name: cub.cpp and thrust.cpp are ours and CuPy's."""
    return ("ours-" if path.parent == SOURCES else "cupy-") + path.with_suffix(".o").name


def link_library(library: str, temporary: Path) -> None:
    """With stubs for the functions that its sources do not define."""
    names, error = FUNCTIONS[library]
    sources = [SOURCES / f"{name}.cpp" for name in LIBRARIES[library]]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    defined = set(re.findall(r"\b(cu\w+)\(", text))
    missing = [n for n in (SOURCES / names).read_text().split() if n not in defined]
    lines = ['extern "C" int pretended_device_refuse(const char*, int);']
    lines += [
        f'extern "C" int {name}(...) {{ return pretended_device_refuse("{name}", {error}); }}'
        for name in missing
    ]
    stubs = temporary / f"stubs-{library}.cpp"
    stubs.write_text("\n".join(lines) + "\n")
    compile_cpp(["-O1", "-c", str(stubs), "-o", str(stubs.with_suffix(".o"))], stubs.name)
    exported = temporary / f"{library}.map"
    # No symbol of C++ must be visible: NVRTC would take it for its own. Nor cuInit, since NVRTC
    # would then ask for more of a driver.
    names = EXPORTS + (OF_KERNELS if library == "libcuda.so.1" else "")
    exported.write_text("{ global: " + names + " local: *; };\n")
    objects = [str(temporary / object_of(path)) for path in sources]
    objects += [str(stubs.with_suffix(".o")), f"-Wl,--version-script,{exported}"]
    objects += [f"-Wl,-soname,{library}"]
    target = temporary / "work" / library
    link(target, objects, target.parent, needs_cuda=library != "libcuda.so.1")


def link(target: Path, objects: list[str], folder: Path, needs_cuda: bool) -> None:
    needed = [f"-L{folder}", "-l:libcuda.so.1", "-Wl,-rpath,$ORIGIN"] if needs_cuda else ["-ldl"]
    compile_cpp(["-shared", "-o", str(target), *objects, *needed], target.name)


def cupy_source(temporary: Path) -> Path:
    """CuPy's source distribution, unpacked; downloaded once for all builds."""
    archive = cache_folder() / f"cupy-{CUPY}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-binary", "cupy", f"cupy=={CUPY}"]
        failed = f"the source of CuPy {CUPY} cannot be downloaded by pip"
        environment = os.environ | {"CUPY_INSTALL_USE_STUB": "1"}
        # pip is a process of its own: the pretended device must not be active in it.
        environment["PRETENDED_DEVICE"] = "0"
        run(command, failed, cwd=temporary, env=environment)
        shutil.copy(temporary / archive.name, temporary / "copy")
        (temporary / "copy").rename(archive)
    with tarfile.open(archive) as packed:
        packed.extractall(temporary, filter="data")
    return temporary / f"cupy-{CUPY}"


def run(command: list[str], failed: str, **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise BuildError(f"{failed}: {lines[-1]}")
