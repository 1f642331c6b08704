"""The sessions that continuous integration runs, and the ones for a machine with a GPU."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests", "parity"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PARITY = ["layers", "losses", "optimizers", "initializers", "network", "training", "metrics"]
PARITY += ["augmentation", "replay", "checkpoint", "backend"]


def install(session: nox.Session, extras: str = "test") -> None:
    """Xpnet and what it is tested with; with `--no-venv` the environment is as it is."""
    if session.virtualenv.is_sandboxed:
        session.install("-e", f".[{extras}]")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite: the command that the README gives."""
    install(session)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """The same formulas on all backends: NumPy and the strict CuPy double, or a real GPU.

    `nox -s parity -- --device cuda` adds real CuPy (extra `cuda13`).
    """
    extras = "test,cuda13" if "cuda" in session.posargs else "test"
    install(session, extras)
    files = [f"tests/test_{name}.py" for name in PARITY]
    session.run("python", "-m", "pytest", *files, "tests/test_cupy_contract.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Skip every line of mathematics in turn; each must turn the suite red (about 10 minutes)."""
    install(session)
    session.run("python", "tests/mutants.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of the package."""
    install(session)
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Xpnet beside its peers: tables and pictures in `bench/results/` (about 10 minutes)."""
    install(session, "bench")
    session.run("python", "-m", "bench", *session.posargs)
