"""The device of tests that need graphs: CuPy, or the double with simulated graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import strict_cupy
from strict_graphs import graphs_on_the_double

from xpnet.backend import Backend


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """CuPy with `--device cuda`, else the double with graphs."""
    if request.config.getoption("--device") == "cuda":
        yield Backend("cuda")
        return
    with graphs_on_the_double():
        yield Backend.of(strict_cupy.xp)
