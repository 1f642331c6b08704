"""A complete run with `--device cuda` that executes too few tests fails.

A test that is skipped by mistake looks like one that is skipped for a reason. So where every peer
is installed, a run of all of `tests` has to execute at least these numbers of tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from missing import PEERS, missing_peer

LEAST = 10_000
"""Tests, of all backends."""

LEAST_ON_CUPY = 1150
"""Of them on CuPy, by the fixture `backend`."""

NOT_NEEDED = {"atheris", "coverage", "keras", "pip_audit", "thinc"}
"""Peers that are neither in the extra `test` nor in `peers`: tests that need them are few."""


def is_complete(config: pytest.Config) -> bool:
    """Whether all tests were asked for, on a machine that has what they need."""
    asked_for = {Path(config.invocation_params.dir, arg).resolve() for arg in config.args}
    options = config.option
    return (
        config.getoption("--device") == "cuda"
        and not asked_for.isdisjoint({config.rootpath, config.rootpath / "tests"})
        and not (options.keyword or options.markexpr or options.deselect or options.ignore)
        and not (options.collectonly or getattr(options, "lf", False))
        and not any(map(missing_peer, set(PEERS) - NOT_NEEDED))
    )


def complaint(passed: Sequence[str]) -> str | None:
    """What a complete run says of the names of the tests that passed, if they are too few."""
    executed = len(passed)
    on_cupy = sum("[cupy" in name for name in passed)
    if executed >= LEAST and on_cupy >= LEAST_ON_CUPY:
        return None
    return (
        f"too few tests: {executed} executed, {on_cupy} of them on CuPy, expected at least {LEAST} "
        f"and {LEAST_ON_CUPY}: see the skipped ones above (tests/support/least_tests.py)"
    )
