"""Learning-rate schedules against PyTorch's, by hand, and their bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from cases import ScheduleCase

from xpnet.errors import ConfigError
from xpnet.schedules import Constant, Cosine, OneCycle, Schedule, StepDecay, WarmUp

every_schedule = pytest.mark.parametrize("case", **cases.by_id(cases.SCHEDULES))


@every_schedule
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_rates_agree_with_torch(case: ScheduleCase) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    peer = case.torch(optimizer)
    for step in range(50):
        assert case.schedule(step) == pytest.approx(peer.get_last_lr()[0], rel=1e-11), step
        optimizer.step()
        if step < 49:
            peer.step()


@every_schedule
def test_rates_are_finite_python_floats_for_ever(case: ScheduleCase) -> None:
    for step in (0, 1, 49, 50, 51, 10_000, 10**9):
        rate = case.schedule(step)
        assert type(rate) is float
        assert 0 <= rate <= 0.3


def test_rates_by_hand() -> None:
    assert [StepDecay(1.0, 2, 0.5)(s) for s in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert Cosine(2.0, 4, 1.0)(2) == pytest.approx(1.5)
    assert Cosine(2.0, 4, 1.0)(99) == 1.0
    assert [WarmUp(Constant(4.0), 3)(s) for s in range(5)] == [1, 2, 3, 4, 4]
    assert OneCycle(1.0, 3)(2) == pytest.approx(1 / 25e4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant(-1.0), "rate of Constant must be a number of 0 or more, found -1.0"),
        (lambda: StepDecay(1.0, 0), "every of StepDecay must be a whole number above 0, found 0"),
        (lambda: Cosine(1.0, 2.5), "steps of Cosine"),
        (lambda: Cosine(1.0, 2, float("nan")), "final of Cosine"),
        (lambda: OneCycle(1.0, 5, rise=1.0), "rise of OneCycle"),
        (lambda: OneCycle(1.0, 5, divisor=0.0), "divisor and final_divisor"),
        (lambda: WarmUp(Constant(1.0), 0), "steps of WarmUp"),
    ],
)
def test_bad_schedules_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_the_base_gives_no_rate() -> None:
    with pytest.raises(TypeError, match=r"^Schedule defines no __call__\(step\)"):
        Schedule()(0)
