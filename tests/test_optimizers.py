"""Optimizers: PyTorch over many steps, hand-worked updates, decay, parity, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
import strict_cupy
import torch
from cases import OptimizerCase, as_written, error, place, tensor

from xpnet import schedules
from xpnet.backend import Backend
from xpnet.errors import ConfigError, ShapeError
from xpnet.network import Sequential
from xpnet.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

every_optimizer = pytest.mark.parametrize("case", **cases.by_id(cases.OPTIMIZERS))
STEPS, SIZE = 60, 23


def gradients(step: int, size: int = SIZE) -> np.ndarray:
    rng = np.random.default_rng(step)
    return rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size)


def start(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(99).standard_normal(size)


@every_optimizer
def test_nothing_depends_on_what_lay_in_the_buffers(case: OptimizerCase, backend: Backend) -> None:
    found = []
    for garbage in (0, 1):
        optimizer, values = case.make(weight_decay=0.1), place(backend, start())
        optimizer.step(values, place(backend, gradients(0)), decay_size=values.size)
        for memory in optimizer.workspace._memory.values():
            memory.fill(garbage)
        optimizer.step(values, place(backend, gradients(1)), decay_size=values.size)
        found.append(backend.to_host(values))
    assert np.array_equal(*found)


@every_optimizer
def test_many_steps_agree_with_torch(
    case: OptimizerCase, backend: Backend, compared: Callable[[str], None]
) -> None:
    optimizer, values = case.make(), place(backend, start())
    parameter = torch.nn.Parameter(tensor(start()))
    peer = case.torch([parameter])
    for step in range(STEPS):
        optimizer.step(values, place(backend, gradients(step)), decay_size=values.size)
        parameter.grad = tensor(gradients(step))
        peer.step()
        assert error(backend.to_host(values), parameter.detach()) <= 1e-12, f"step {step}"
    compared(f"{case.id}.step")


@every_optimizer
@pytest.mark.parametrize("decays", [SIZE, 9, 0])
def test_weight_decay_is_decoupled_and_spares_what_does_not_decay(
    case: OptimizerCase, decays: int, backend: Backend
) -> None:
    optimizer, values = case.make(weight_decay=0.3), place(backend, start())
    parameter = torch.nn.Parameter(tensor(start()))
    peer = case.torch([parameter])
    for group in peer.param_groups:
        group["weight_decay"] = 0.0
    for step in range(STEPS):
        optimizer.step(values, place(backend, gradients(step)), decay_size=decays)
        with torch.no_grad():
            parameter[:decays] *= 1 - peer.param_groups[0]["lr"] * 0.3
        parameter.grad = tensor(gradients(step))
        peer.step()
    assert error(backend.to_host(values), parameter.detach()) <= 1e-12


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept_and_backends_agree(
    case: OptimizerCase, dtype: str, backend: Backend
) -> None:
    here, there = case.make(weight_decay=0.1), case.make(weight_decay=0.1)
    values, wanted = place(backend, start(), dtype), start().astype(dtype)
    for step in range(STEPS):
        here.step(values, place(backend, gradients(step), dtype), decay_size=values.size)
        with as_written():
            there.step(wanted, gradients(step).astype(dtype), decay_size=wanted.size)
    assert values.dtype == np.dtype(dtype)
    assert set(here.state) == set(here.state_names)
    for name, state in here.state.items():
        assert state.dtype == np.dtype(dtype)
        assert error(backend.to_host(state), there.state[name]) <= 1e-5
    assert error(backend.to_host(values), wanted) <= (1e-5 if dtype == "float32" else 1e-13)
    assert here.steps == STEPS


@every_optimizer
def test_uploaded_scalars_give_the_same_bits(case: OptimizerCase, backend: Backend) -> None:
    eager, planned = case.make(weight_decay=0.2), case.make(weight_decay=0.2)
    for optimizer in (eager, planned):
        optimizer.learning_rate = schedules.WarmUp(schedules.Cosine(0.05, 20), 5)
    a, b = place(backend, start(), "float32"), place(backend, start(), "float32")
    table = planned.table(range(8), backend, "float32")
    for step in range(8):
        g = place(backend, gradients(step), "float32")
        eager.step(a, g, decay_size=a.size)
        planned.step(b, g, scalars=table[step], decay_size=b.size)
    assert np.array_equal(backend.to_host(a), backend.to_host(b))


@every_optimizer
def test_a_steady_step_touches_neither_host_nor_allocator(
    case: OptimizerCase, double: Backend
) -> None:
    optimizer = case.make(weight_decay=0.1)
    values, g = place(double, start(), "float32"), place(double, gradients(0), "float32")
    table = optimizer.table(range(3), double, "float32")
    optimizer.step(values, g, scalars=table[0], decay_size=values.size)
    optimizer.step(values, g, decay_size=values.size)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        optimizer.step(values, g, scalars=table[1], decay_size=values.size)
        optimizer.step(values, g, decay_size=values.size)


@every_optimizer
def test_a_schedule_agrees_with_torch(case: OptimizerCase, backend: Backend) -> None:
    optimizer, values = case.make(), place(backend, start())
    rates = schedules.OneCycle(0.05, STEPS)
    optimizer.learning_rate = rates
    parameter = torch.nn.Parameter(tensor(start()))
    peer = case.torch([parameter])
    for group in peer.param_groups:
        group["weight_decay"] = 0.0
    optimizer.weight_decay = 0.0
    for step in range(STEPS):
        for group in peer.param_groups:
            group["lr"] = rates(step)
        optimizer.step(values, place(backend, gradients(step)), decay_size=values.size)
        parameter.grad = tensor(gradients(step))
        peer.step()
    assert error(backend.to_host(values), parameter.detach()) <= 1e-12


def one_step(backend: Backend, optimizer: Optimizer, value: float, gradient: float) -> float:
    values = place(backend, [value])
    optimizer.step(values, place(backend, [gradient]), decay_size=values.size)
    return float(backend.to_host(values)[0])


def test_first_steps_by_hand(backend: Backend) -> None:
    assert one_step(backend, SGD(0.1), 1.0, 2.0) == pytest.approx(0.8)
    assert one_step(backend, SGD(0.1, momentum=0.5, nesterov=True), 1.0, 2.0) == pytest.approx(0.7)
    # Bias correction makes Adam's first step the whole rate, whatever the gradient's size.
    assert one_step(backend, Adam(0.1), 1.0, 1e-3) == pytest.approx(0.9, abs=2e-6)
    expected = 1.0 - 0.1 * 2 / ((0.01 * 4) ** 0.5 + 1e-8)
    assert one_step(backend, RMSprop(0.1), 1.0, 2.0) == pytest.approx(expected)
    expected = 1.0 * (1 - 0.1 * 0.01) - 0.1
    assert one_step(backend, AdamW(0.1), 1.0, 2.0) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_adam_without_memory(beta: float, backend: Backend) -> None:
    adam = Adam(0.1, beta1=beta, beta2=0.0)
    assert one_step(backend, adam, 1.0, -3.0) == pytest.approx(1.1)


def test_adam_scalars_keep_their_digits_at_large_steps() -> None:
    rate, _, epsilon = Adam(1.0, beta2=1 - 1e-12).scalars(0)
    assert rate == pytest.approx(1.0, rel=1e-4)
    assert epsilon == pytest.approx(1e-8, rel=1e-4)


def test_the_bits_do_not_depend_on_how_the_store_is_cut(backend: Backend) -> None:
    whole, part = Adam(0.01), Adam(0.01)
    a, b = place(backend, start(), "float32"), place(backend, start()[:11], "float32")
    for step in range(5):
        whole.step(a, place(backend, gradients(step), "float32"), decay_size=a.size)
        part.step(b, place(backend, gradients(step)[:11], "float32"), decay_size=b.size)
    assert np.array_equal(backend.to_host(a)[:11], backend.to_host(b))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: SGD(-0.1),
            "learning_rate must be a number of 0 or more, or a Schedule, found -0.1",
        ),
        (lambda: SGD(float("nan")), "learning_rate"),
        (
            lambda: SGD("fast"),
            "learning_rate must be a number of 0 or more, or a Schedule, found 'fast'",
        ),
        (lambda: SGD(0.1, momentum=1.0), r"momentum must be a number in \[0, 1\), found 1.0"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: SGD(0.1, weight_decay=-1), "weight_decay"),
        (lambda: RMSprop(decay_rate=1.5), "decay_rate"),
        (lambda: RMSprop(momentum=-0.5), "momentum"),
        (lambda: RMSprop(epsilon=-1.0), "epsilon"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=-0.1), "beta2"),
        (lambda: AdamW(epsilon=float("inf")), "epsilon"),
    ],
)
def test_hyperparameters_out_of_range_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(("size", "other"), [((3,), (4,)), ((2, 2), (2, 2))])
def test_arrays_that_are_not_flat_or_not_alike_are_named(
    size: tuple[int, ...], other: tuple[int, ...], backend: Backend
) -> None:
    with pytest.raises(ShapeError, match="flat and of one size"):
        SGD().step(place(backend, np.ones(size)), place(backend, np.ones(other)))


def test_one_optimizer_serves_one_network(backend: Backend) -> None:
    optimizer = Adam()
    optimizer.step(place(backend, np.ones(3)), place(backend, np.ones(3)))
    with pytest.raises(ConfigError, match=r"has made 1 updates of another network"):
        optimizer.step(place(backend, np.ones(4)), place(backend, np.ones(4)))


@every_optimizer
def test_of_a_network_the_biases_do_not_decay(case: OptimizerCase, backend: Backend) -> None:
    network = Sequential(4, 3, "relu", 2, dtype="float64", backend=backend)
    network.flat_parameters.fill(1)
    optimizer = case.make(weight_decay=0.5)
    optimizer.step(network)
    after = {n: backend.to_host(value) for n, value in network.parameters().items()}
    assert all((after[f"{n}.bias"] == 1).all() for n in (0, 2))
    assert all((after[f"{n}.weight"] < 1).all() for n in (0, 2))
    assert optimizer.steps == 1


def test_what_decays_has_to_be_told(backend: Backend) -> None:
    values = place(backend, np.ones(3))
    with pytest.raises(ConfigError, match=r"AdamW has weight_decay 0.01.*call step.network."):
        AdamW().step(values, place(backend, np.ones(3)))
    assert (backend.to_host(values) == 1).all()
    with pytest.raises(ConfigError, match=r"takes a network, or values and gradients, found None$"):
        SGD().step(None)


@every_optimizer
def test_another_network_of_the_same_size_is_refused(case: OptimizerCase, backend: Backend) -> None:
    first, second = (Sequential(4, 3, seed=seed, backend=backend) for seed in (0, 1))
    optimizer, before = case.make(), backend.to_host(second.flat_parameters).copy()
    optimizer.step(first)
    optimizer.step(first.flat_parameters[:], first.flat_gradients, decay_size=first.decay_size)
    with pytest.raises(ConfigError, match=r"has made 2 updates of another network.*make a new"):
        optimizer.step(second)
    assert np.array_equal(backend.to_host(second.flat_parameters), before)
    optimizer.step(first)
    state = {name: backend.to_host(array).copy() for name, array in optimizer.state.items()}
    for copied in (copy.deepcopy, copy.copy):
        again = copied(optimizer)
        again.step(Sequential(4, 3, seed=2, backend=backend))
        assert (optimizer.steps, again.steps) == (3, 4)
        for name, array in optimizer.state.items():
            assert np.array_equal(backend.to_host(array), state[name])


def test_an_optimizer_without_updates_may_still_be_given_to_another_network() -> None:
    optimizer = Adam()
    optimizer.require_same(Sequential(4, 3).flat_parameters)
    optimizer.step(Sequential(4, 5))
    assert optimizer.steps == 1


@pytest.mark.parametrize(
    "made",
    [
        SGD(np.float32(0.5), momentum=np.float64(0.5)),
        RMSprop(np.float32(0.5), decay_rate=np.float32(0.5), epsilon=np.float32(1e-8)),
        Adam(np.float32(0.5), beta1=np.float32(0.5), beta2=np.float64(0.5)),
        AdamW(np.array(0.5), weight_decay=np.float32(0.5)),
        SGD(schedules.WarmUp(np.float32(0.5), np.int64(3))),
        SGD(schedules.Cosine(np.float32(0.5), np.int32(3), np.float16(0))),
    ],
)
def test_numbers_of_numpy_become_pythons(made: Optimizer) -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, schedules.Schedule):
            return all(map(plain, vars(value).values()))
        return type(value) in (int, float, bool)

    assert all(map(plain, made.get_config().values()))
    values = np.ones(3, np.float32)
    made.step(values, values.copy(), decay_size=3)
    assert values.dtype == np.float32


def test_the_base_refuses_to_update() -> None:
    with pytest.raises(NotImplementedError, match="no update"):
        Optimizer(0.1).step(np.ones(2), np.ones(2))


def test_the_former_name_of_decay_size_warns_and_works(backend: Backend) -> None:
    values, expected, zeros = (place(backend, np.full(3, v)) for v in (1.0, 1.0, 0.0))
    with pytest.warns(DeprecationWarning, match=r"^step\(decays=\) is deprecated: use decay_size"):
        SGD(0.5, weight_decay=0.5).step(values, zeros, decays=2)
    SGD(0.5, weight_decay=0.5).step(expected, zeros, decay_size=2)
    assert backend.to_host(values).tolist() == [0.75, 0.75, 1.0]
    assert backend.to_host(expected).tolist() == [0.75, 0.75, 1.0]
