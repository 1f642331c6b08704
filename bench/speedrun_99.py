"""`python -m bench speedrun-99`: the least time to 99 % on MNIST; see `bench.speedrun`."""

from __future__ import annotations

import argparse

from bench import speedrun

TO_99 = speedrun.Speedrun("speedrun-99", "speedrun_99.toml", 0.99, ("PyTorch",))


def run(options: argparse.Namespace) -> int:
    """The command."""
    return speedrun.run(options, TO_99)
