"""A CUDA library that is not installed: one line says so, before anything is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("library", ["cublas", "nvrtc"])
def test_a_library_that_xpnet_needs(
    library: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    on_device = request.config.getoption("--device") == "cuda"
    if not on_device or "PRETENDED_DEVICE_BUILD" not in os.environ:
        pytest.skip("a library can only be left out on the pretended device (nox -s cupy)")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "xpnet.train", "--device", "cuda", "--run", str(run)]
    environment = os.environ | {"PRETENDED_DEVICE_WITHOUT": library}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("xpnet: error: device cuda:0 is there, but CuPy")
    assert f"{library} is missing" in done.stderr
    assert done.stderr.rstrip().endswith("or use --device cpu")
    assert done.stderr.count("\n") == 1
    assert not run.exists()
