"""How fast a run was trained, and how durations are written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

from xpnet.config import TrainConfig
from xpnet.figures.curves import LARGEST_VALUE, Curve
from xpnet.figures.plots import horizontal
from xpnet.report.diagrams import curves_diagram
from xpnet.training.history import History


def timing_values(config: TrainConfig, history: History, samples: int) -> dict[str, Any] | None:
    """The median pace of training on `samples` samples an epoch, and its diagram if there is one.

    None where nothing was measured.
    """
    paces = list(_paces(config, history, samples))
    if not paces:
        return None
    diagram = None
    if len(paces) > 1:
        x, unit = horizontal(history)
        curve = Curve("", [(x[number], seconds) for number, seconds, _ in paces])
        diagram = curves_diagram("Seconds per epoch", [curve], unit=unit, floor=0)
    return {
        "epoch": duration_text(median(seconds for _, seconds, _ in paces)),
        "rate": f"{median(rate for _, _, rate in paces):,.0f}",
        "diagram": diagram,
    }


def _paces(
    config: TrainConfig, history: History, samples: int
) -> Iterator[tuple[int, float, float]]:
    """For each record: its index, the seconds of an epoch, and the samples in a second."""
    size = samples if config.batch_size == "full" else min(config.batch_size, samples)
    steps = -(-samples // size)

    def seen(step: int) -> int:
        # The last batch of an epoch may be short.
        return step // steps * samples + step % steps * size

    ends = [0, *(seen(step) for step in history.column("step"))]
    for number, (before, after) in enumerate(pairwise(ends)):
        seconds = history.records[number].seconds
        if after > before and seconds > 0:
            rate = (after - before) / seconds
            if 1 / LARGEST_VALUE < rate < LARGEST_VALUE:
                yield number, samples / rate, rate


def duration_text(seconds: float) -> str:
    """A duration with three digits, or in hours, minutes and seconds."""
    if seconds > LARGEST_VALUE:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
