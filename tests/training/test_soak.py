"""A long training needs no more memory and no more files (`nox -s soak`: longer)."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from soak import FLAGS, Soak, soak

EPOCHS = 60
LEAK = 64_000
"""Bytes an epoch: less than a quarter of one batch of 100 digits as float32."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="what a process holds is read from /proc"
)


@pytest.mark.slow
def test_sixty_epochs_leave_memory_and_files_as_they_were(tmp_path: Path) -> None:
    few = ["--test", "4000", "--validation", "400", "--batch-size", "100", "--threads", "1"]
    flags = [*FLAGS, *few, "--log-every", "1"]
    late = soak(EPOCHS, tmp_path, *flags).settled()
    assert len(late.epochs) > EPOCHS / 2
    assert late.slope < LEAK
    assert late.more_files == 0


def test_a_leak_would_be_seen() -> None:
    epochs = numpy.arange(1, 101)
    files = numpy.full(100, 5)
    flat = Soak(epochs, numpy.where(epochs < 15, 50_000_000, 90_000_000), files)
    leaking = Soak(epochs, 90_000_000 + 313_600 * epochs, files + epochs // 50)
    assert abs(flat.settled().slope) < 1
    assert leaking.settled().slope == pytest.approx(313_600)
    assert flat.settled().more_files == 0
    assert leaking.settled().more_files == 1
