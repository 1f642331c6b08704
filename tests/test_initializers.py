"""Initial weights: their spread against the formula and PyTorch, and the same on all devices."""

from __future__ import annotations

from collections.abc import Callable

import cases
import numpy as np
import pytest
import torch
from cases import InitializerCase, error

from xpnet import Linear, Sequential, random
from xpnet.backend import Backend
from xpnet.initializers import Initializer

every_initializer = pytest.mark.parametrize("case", **cases.by_id(cases.INITIALIZERS))
FAN_OUT, FAN_IN = 300, 500


def draw(case: InitializerCase, counter: int = 0) -> np.ndarray:
    return case.make()(random.generator(1, "test", counter), (FAN_OUT, FAN_IN))


@every_initializer
def test_spread_is_that_of_the_formula_and_of_torch(case: InitializerCase) -> None:
    drawn, deviation = draw(case), case.deviation(FAN_IN, FAN_OUT)
    peer = torch.empty(FAN_OUT, FAN_IN, dtype=torch.float64)
    torch.manual_seed(0)
    case.torch(peer)
    if deviation == 0:
        assert np.array_equal(drawn, peer.numpy())
        return
    # The deviation of a sample deviation is at most 1/√(2n) of it: 0.2 % here.
    assert drawn.std() == pytest.approx(deviation, rel=0.01)
    assert drawn.std() == pytest.approx(float(peer.std()), rel=0.01)
    assert abs(drawn.mean()) < 5 * deviation / drawn.size**0.5


@every_initializer
def test_bounds_are_kept_and_reached(case: InitializerCase) -> None:
    drawn = draw(case)
    if case.bound is None:
        share = (np.abs(drawn) < case.deviation(FAN_IN, FAN_OUT)).mean()
        assert share == pytest.approx(0.6827, abs=0.01), "not normal"
        return
    bound = case.bound(FAN_IN, FAN_OUT)
    assert np.abs(drawn).max() <= bound
    assert np.abs(drawn).max() >= 0.999 * bound


@every_initializer
def test_draws_are_a_function_of_the_generator(case: InitializerCase) -> None:
    assert draw(case).dtype == np.float64
    assert np.array_equal(draw(case), draw(case))
    if case.deviation(FAN_IN, FAN_OUT):
        assert not np.array_equal(draw(case), draw(case, counter=1))


@pytest.mark.without_kernels
@every_initializer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_start_alike_on_all_backends_and_dtypes(
    case: InitializerCase, dtype: str, backend: Backend, compared: Callable[[str], None]
) -> None:
    def network(where: Backend, kind: str) -> Sequential:
        return Sequential([Linear(7, 5, case.make(), case.make())], backend=where, dtype=kind)

    here, there = network(backend, dtype), network(Backend("cpu"), "float64")
    assert here.flat_parameters.dtype == np.dtype(dtype)
    assert np.array_equal(
        backend.to_host(here.flat_parameters), there.flat_parameters.astype(dtype)
    )
    compared(f"{case.id} initial weights")


def test_layers_and_seeds_draw_differently() -> None:
    def weights(seed: int) -> dict[str, np.ndarray]:
        return Sequential([Linear(6, 6), Linear(6, 6)], seed=seed).parameters()

    assert error(weights(0)["0.weight"], weights(0)["1.weight"]) > 0.5
    assert error(weights(0)["0.weight"], weights(1)["0.weight"]) > 0.5


def test_the_base_draws_nothing() -> None:
    with pytest.raises(TypeError, match=r"^Initializer defines no __call__\("):
        Initializer()(random.generator(0, "test"), (2, 2))
