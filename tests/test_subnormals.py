"""No state stays subnormal: the rule of `Optimizer.count_step` on every backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from cases import OptimizerCase, place
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.backend import Backend
from xpnet.optimizers import Optimizer, base

TINY = {name: np.finfo(name).tiny for name in ("float32", "float64")}
with_state = pytest.mark.parametrize(
    "case", **cases.by_id([case for case in cases.OPTIMIZERS if case.make().state_names])
)


def is_subnormal(array: np.ndarray) -> np.ndarray:
    return (array != 0) & (abs(array) < TINY[array.dtype.name])


def states(optimizer: Optimizer, backend: Backend) -> dict[str, np.ndarray]:
    return {name: backend.to_host(array) for name, array in optimizer.state.items()}


def steps(backend: Backend) -> int:
    """5,000; 250 where a step takes milliseconds: 0.999²⁵⁰ = 0.78 is enough for what `trained` has.

    Both are multiples of `FLUSH_EVERY`.
    """
    return 5000 if backend.xp is np else 250


def trained(case: OptimizerCase, backend: Backend, dtype: str) -> tuple[Optimizer, np.ndarray]:
    """Updates by gradients of dead inputs, which are 0, from small states.

    The states begin at 1 to 10,000 times the smallest normal number, in steps of 1.12.
    """
    first = TINY[dtype] * np.geomspace(1, 1e4, 80)
    optimizer, values = case.make(), place(backend, np.ones(first.size), dtype)
    none = place(backend, np.zeros(first.size), dtype)
    for step in range(steps(backend)):
        optimizer.step(values, none, decay_size=0)
        if step == 0:
            for state in optimizer.state.values():
                backend.xp.copyto(state, place(backend, first, dtype))
    return optimizer, backend.to_host(values)


@with_state
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_state_is_subnormal_after_many_steps_with_dead_inputs(
    case: OptimizerCase, dtype: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, values = trained(case, backend, dtype)
    found = states(optimizer, backend)
    assert found.keys() == set(optimizer.state_names)
    for name, state in found.items():
        assert not is_subnormal(state).any(), name
    monkeypatch.setattr(base, "FLUSH_EVERY", steps(backend) + 1)
    optimizer, expected = trained(case, backend, dtype)
    assert any(is_subnormal(state).any() for state in states(optimizer, backend).values())
    assert np.array_equal(values, expected)


def test_only_subnormal_numbers_become_zero(backend: Backend) -> None:
    tiny = TINY["float32"]
    below = np.nextafter(tiny, np.float32(0))
    given = np.array([below, -below, 1e-45, tiny, -tiny, 1, -0.0, np.inf, -np.inf, np.nan])
    state = place(backend, given, "float32")
    base.flush_subnormals(state, backend.xp.empty_like(state))
    expected = np.array([0, 0, 0, tiny, -tiny, 1, 0, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(backend.to_host(state), expected)


DEAD = 5
"""Features that are always 0, except where a test says so."""


def samples(rows: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """`x (rows, 12)`, the first `DEAD` features of it 0, and labels."""
    x = np.random.default_rng(3).random((rows, 12), np.float32)
    x[:, :DEAD] = 0
    return x, np.arange(rows) % 3


def network(backend: Backend) -> xn.Sequential:
    return xn.Sequential(12, 7, "relu", 3, backend=backend, seed=1)


class Watched(xn.Callback):
    """Fills the moments with 1e-30 after the first update, and copies them after every update.

    With a momentum of 0.6 those of dead inputs are subnormal from the 37th update after that on.
    """

    def __init__(self, backend: Backend, end: int) -> None:
        self.backend, self.end, self.found = backend, end, []

    def on_step_end(self, run: Any) -> None:
        moments = run.optimizer.state["momentum"]
        if run.step == 1:
            moments.fill(1e-30)
        self.found.append(self.backend.to_host(moments).copy())
        run.stop = run.step == self.end


def fitted(backend: Backend, end: int, checkpoints: Any = None) -> list[np.ndarray]:
    """The moments after each update of `fit()`, which makes 4 updates per epoch and ends early."""
    watched = Watched(backend, end)
    xn.fit(
        network(backend),
        samples(),
        optimizer=xn.SGD(0.01, momentum=0.6),
        epochs=15,
        batch_size=8,
        callbacks=[watched],
        checkpoints=checkpoints,
    )
    return watched.found


@pytest.mark.parametrize("every", [2, base.FLUSH_EVERY])
def test_fit_gives_the_same_bits_recorded_or_not(
    every: int, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2 the recorded update, the second, is followed by a flush; it must not be replayed."""
    monkeypatch.setattr(base, "FLUSH_EVERY", every)
    replayed = fitted(backend, 60)
    monkeypatch.setattr(SETTINGS, "recording_enabled", False)
    expected = fitted(backend, 60)
    assert len(expected) == 60
    assert np.array_equal(replayed, expected)
    have_any = [is_subnormal(moments).any() for moments in expected]
    assert any(have_any)
    assert not any(have_any[every - 1 :: every])


def test_a_loop_by_hand_and_a_replayed_step_give_the_same_bits(backend: Backend) -> None:
    found = []
    x, y = map(backend.asarray, samples())
    for is_replayed in (False, True):
        net, optimizer, loss = (
            network(backend),
            xn.SGD(0.01, momentum=0.6),
            xn.SoftmaxCrossEntropy(),
        )

        def by_hand(net: Any = net, optimizer: Any = optimizer, loss: Any = loss) -> None:
            loss.forward(net.forward(x, training=True), y)
            net.backward(loss.backward())
            optimizer.step(net)

        step = partial(xn.TrainStep(net, loss, optimizer), x, y) if is_replayed else by_hand
        moments = []
        for number in range(60):
            step()
            if number == 0:
                optimizer.state["momentum"].fill(1e-30)
            moments.append(states(optimizer, backend)["momentum"].copy())
        found.append(moments)
    assert np.array_equal(*found)
    assert is_subnormal(found[0][base.FLUSH_EVERY - 2]).any()
    assert not is_subnormal(found[0][base.FLUSH_EVERY - 1]).any()


def test_a_checkpoint_with_subnormal_moments_resumes_to_the_same_bits(
    backend: Backend, tmp_path: Path
) -> None:
    """The 45th update leaves subnormal moments, as every checkpoint of an older xpnet may have."""
    expected = fitted(backend, 60)
    first = fitted(backend, 45, xn.Checkpoints(tmp_path, 1))
    assert is_subnormal(first[-1]).any()
    rest = fitted(backend, 60, xn.Checkpoints(tmp_path, 1))
    assert len(rest) < 60
    assert np.array_equal(rest, expected[-len(rest) :])
    assert not is_subnormal(rest[base.FLUSH_EVERY - 61]).any()


@pytest.mark.parametrize("activation", [xn.ReLU, xn.GELU, xn.Tanh, xn.Sigmoid])
def test_of_the_layers_only_the_variance_of_dead_features_is_subnormal(
    activation: Callable[[], Any], backend: Backend
) -> None:
    """It starts where 0.9 times per step leads within 30 steps, and predicts as 0 would."""
    layers = [xn.BatchNorm(12), xn.Linear(12, 7), xn.LayerNorm(7), activation(), xn.Linear(7, 3)]
    net, (x, y) = xn.Sequential(layers, backend=backend, seed=1), map(backend.asarray, samples())
    variance = net.layers[0].statistics["running_var"]
    variance[:DEAD] = 1e-37
    step = xn.TrainStep(net, "softmax_cross_entropy", xn.Adam())
    for _ in range(60):
        step(x, y)
    assert is_subnormal(backend.to_host(variance)).tolist() == [True] * DEAD + [False] * 7
    assert not is_subnormal(backend.to_host(net.flat_gradients)).any()
    for layer in net.layers:
        for array in layer.workspace._memory.values():
            assert array.dtype != "float32" or not is_subnormal(backend.to_host(array)).any()
    found = backend.to_host(net.forward(x, training=False)).copy()
    variance[:DEAD] = 0
    assert np.array_equal(backend.to_host(net.forward(x, training=False)), found)
