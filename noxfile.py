"""The sessions that continuous integration runs, and the ones for a machine with a GPU."""

from __future__ import annotations

import platform
import shutil
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "parity"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PARITY = ["layers/test_layers", "test_losses", "test_optimizers", "test_initializers"]
PARITY += ["network/test_network", "training/test_training", "test_metrics", "test_clipping"]
PARITY += ["training/test_augmentation", "accel/test_recording", "serialization/test_serialization"]
PARITY += ["training/test_checkpoints", "backend/test_backend", "layers/test_sparse_products"]
PARITY += ["training/test_sparse_training"]
OF_KERNELS = ["accel/test_cuda_kernels", "accel/test_cuda_graph", "accel/test_cublas"]
OF_KERNELS += ["backend/test_second_device"]

# What else is written for CuPy itself.
ON_CUPY = ["accel/test_on_device", "accel/test_capture", "accel/test_cub_capture"]
ON_CUPY += ["accel/test_lifetimes", "accel/test_precision", "accel/test_missing_library"]
ON_CUPY += ["backend/test_double_and_cupy", "backend/test_device_errors", "training/test_targets"]
ON_CUPY += ["distributed/test_nccl"]

# How many tests must execute on the pretended device.
LEAST_ON_CUPY = {"parity": 720, "kernels": 290, "all": 1450}

# Modes of the pretended device in which the parity suite holds: see its README.
ALL_AT_ONCE = "ASYNC=2 ORDER=1 SUM=2 ULP=2 MEMORY=1073741824 WITHOUT=curand"
MODES = ["ASYNC=1 SUM=1", "ASYNC=2 SUM=3", "ORDER=1 SUM=2", "POOL=0 ULP=2"]
MODES += ["MEMORY=1073741824", "WITHOUT=curand", ALL_AT_ONCE]

# The modules that users import, also to write their own layer, loss or callback.
MODULES = ["data", "distributed", "estimator", "gradcheck", "initializers", "metrics", "schedules"]
MODULES += ["errors", "layers.base", "losses", "optimizers", "training"]
MODULES += ["training.callbacks", "training.history"]

IS_WHOLE = """
import importlib.resources, sys, xpnet
root = importlib.resources.files("xpnet")
assert "site-packages" in str(root), root
for file in sys.argv[1:]:
    assert root.joinpath(file).is_file(), file
for name in xpnet.__all__:
    getattr(xpnet, name)
"""


def install(session: nox.Session, extras: str = "test,peers") -> None:
    """Xpnet and what it is tested with; with `--no-venv` the environment is as it is."""
    if session.virtualenv.is_sandboxed:
        session.install("-e", f".[{extras}]")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite: the command that the README gives, with all peers."""
    install(session)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """The same formulas on all backends: NumPy and the strict CuPy double, or a real GPU.

    `nox -s parity -- --device cuda` adds real CuPy (extra `cuda13`).
    """
    on_gpu = "cuda" in session.posargs
    install(session, "test,peers,cuda13" if on_gpu else "test,peers")
    files = [f"tests/{name}.py" for name in [*PARITY, *(OF_KERNELS if on_gpu else [])]]
    files.append("tests/backend/test_cupy_contract.py")
    session.run("python", "-m", "pytest", "--slow", *files, *session.posargs)


@nox.session
def kernels(session: nox.Session) -> None:
    """Every CUDA kernel × architecture, compiled by NVRTC, and run on the CPU; needs no GPU.

    Then the parity suite on the strict CuPy double, with the kernels.
    """
    install(session)
    session.run("python", "tests/support/compile_kernels.py")
    own = [f"tests/{name}.py" for name in OF_KERNELS]
    session.run("python", "-m", "pytest", "--slow", *own)
    others = {"training/test_checkpoints", "backend/test_backend", "test_initializers"}
    files = [f"tests/{name}.py" for name in PARITY if name not in others]
    on_kernels = ["--slow", "--device", "kernels", "-k", "kernels"]
    session.run("python", "-m", "pytest", *files, *on_kernels)


@nox.session
def cupy(session: nox.Session) -> None:
    """The stock CuPy wheel on a CPU, on a pretended CUDA device; needs no GPU.

    The tests of the kernels, and the parity suite with all modes of the pretended device at once.
    `nox -s cupy -- --modes` runs the parity suite in one mode after the other, `-- --all` the whole
    suite without any.
    """
    found = f"{platform.system()} {platform.machine()}"
    if found != "Linux x86_64":
        session.skip(f"the pretended device needs Linux on x86-64, found {found}")
    install(session, "test,peers,cupy-on-cpu")
    on_device = ["python", "tests/support/cupy_on_cpu", "python", "-m", "pytest"]
    on_device += ["-p", "cupy_on_cpu.pytest_plugin", "--device", "cuda", "--slow"]
    others = [argument for argument in session.posargs if argument not in ("--all", "--modes")]
    own = "tests/support/cupy_on_cpu/check_pretended_device.py"

    def run(part: str, files: list[str], mode: str = "", *only: str) -> None:
        settings = dict(setting.split("=") for setting in mode.split())
        variables = {f"PRETENDED_DEVICE_{name}": value for name, value in settings.items()}
        least = ["--at-least", str(LEAST_ON_CUPY[part])]
        session.run(*on_device, *files, *only, *least, *others, env=variables)

    if "--all" in session.posargs:
        run("all", ["tests", own])
        return
    parity = [f"tests/{name}.py" for name in PARITY]
    if "--modes" in session.posargs:
        for mode in MODES:
            run("parity", parity, mode, "--only-cupy")
        return
    run(
        "kernels",
        [*(f"tests/{name}.py" for name in [*OF_KERNELS, *ON_CUPY]), own],
        "",
        "--only-cupy",
    )
    run("parity", parity, ALL_AT_ONCE, "--only-cupy")


@nox.session
def faults(session: nox.Session) -> None:
    """Kill runs, fill the disk, want one folder twice: nothing is lost (about a minute)."""
    install(session)
    faults = ["tests/training/test_faults.py", "-s", "--slow", "--kills", "60"]
    session.run("python", "-m", "pytest", *faults, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Every reader of files against 200,000 hostile ones; writes `tests/FUZZ.md` (15 minutes)."""
    install(session, "fuzz")
    session.run("python", "tests/fuzz", *(session.posargs or ["--inputs", "200000", "--log"]))


@nox.session
def soak(session: nox.Session) -> None:
    """A thousand epochs with flat memory and no more files open at the end (some minutes)."""
    install(session)
    session.run("python", "tests/support/soak.py", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known holes in what xpnet and its tests install; fails where nobody could be asked."""
    install(session, "test,peers,audit")
    session.run("python", "tests/support/audit.py")


@nox.session
def mutants(session: nox.Session) -> None:
    """Skip every line of mathematics in turn; each must turn the suite red (about 10 minutes)."""
    install(session)
    session.run("python", "tests/support/mutants.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and which module imports which."""
    install(session, "test")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of the package, and of programs that use it as it is installed."""
    install(session, "test")
    session.run("mypy")
    session.run("python", "tests/support/typed_for_users.py")


@nox.session
def build(session: nox.Session) -> None:
    """The source distribution in `dist/`, and the wheel made from it."""
    session.install("build")
    for old in Path("dist").glob("xpnet-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", "dist")


@nox.session(
    python=["3.11", "3.12", "3.13"], requires=["build"], reuse_venv=False, venv_backend="venv"
)
def package(session: nox.Session) -> None:
    """Sdist, then wheel, in a bare environment, used from outside; on the Pythons present."""
    (sdist,), (wheel,) = (Path("dist").resolve().glob(f"xpnet-*{end}") for end in (".gz", ".whl"))
    session.install("--no-compile", str(sdist))
    used_from_outside(session)
    session.run("python", "-m", "pip", "uninstall", "--yes", "xpnet", silent=True)
    session.install("--no-compile", str(wheel))
    used_from_outside(session)


def package_data() -> list[str]:
    """The files of the package that are no Python, and the data set that the wheel adds."""
    package = Path(__file__).with_name("xpnet")
    found = sorted(package.rglob("*.*"))
    found = [p for p in found if p.suffix != ".py" and p.parent.name != "__pycache__"]
    return [*(path.relative_to(package).as_posix() for path in found), "data/mnist_5k.csv.gz"]


def used_from_outside(session: nox.Session) -> None:
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run("python", "-W", "error", "-c", IS_WHOLE, *package_data())
        session.run("xpnet-train", "--epochs", "1", "--hidden", "16", silent=True)
        session.run("xpnet-predict", "--help", silent=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation in `site/`: a warning, a broken link and an undocumented name fail."""
    install(session, "docs")
    shutil.rmtree("site", ignore_errors=True)
    build = ["python", "-m", "sphinx", "--builder", "html", "--conf-dir", "docs"]
    strict = ["--nitpicky", "--fail-on-warning", "--keep-going", "--fresh-env", "--quiet"]
    session.run(*build, *strict, "--doctree-dir", f"{session.create_tmp()}/doctrees", ".", "site")
    modules = ["xpnet", *(f"xpnet.{name}" for name in MODULES)]
    session.run("python", "docs/check_site.py", "site", *modules)
    session.run("python", "-m", "doctest", "docs/extensions/markdown_docstrings.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Xpnet beside its peers: tables and plots in `bench/results/` (about 10 minutes)."""
    install(session, "bench")
    session.run("python", "-m", "bench", *session.posargs)
