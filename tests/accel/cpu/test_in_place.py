"""Operations that work in place in compiled steps: the same bits, and only where nothing can tell.

The bits are those of the same steps in which no operation was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import is_not
from typing import Any

import numpy as np
import pytest
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import dispatch, numba_kernels
from xpnet.accel.cpu import executor
from xpnet.accel.cpu.executor import CompiledSteps
from xpnet.accel.cpu.in_place import in_place
from xpnet.accel.program import Op, Program, operation
from xpnet.backend import Array, array_module
from xpnet.layers.base import Layer
from xpnet.training import microbatch
from xpnet.training.callbacks import TrainingState

Changed = list[list[str]]


class Watch(xn.Callback):
    """Keeps the arrays that layers hold after each step, under some names."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, ...]] = []

    def on_step_end(self, run: TrainingState) -> None:
        held = [vars(layer).get(name) for layer in run.network.layers for name in ("x", "y", "dy")]
        # The batch itself may lie elsewhere while compiled steps run.
        arrays = [a for a in held[1:] if isinstance(a, np.ndarray)]
        self.seen.append(tuple(array.tobytes() for array in arrays))


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 0)
    monkeypatch.setattr(SETTINGS, "kernels_enabled", True)
    monkeypatch.setattr(executor, "MOST_CALLS", 1000)


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Changed:
    """The kernels that work in place, of each compiled step."""
    found: Changed = []

    def noting(program: Program) -> Program:
        after = in_place(program)
        pairs = zip(program, after, strict=True)
        kernels = [op.name for before, op in pairs if op is not before and op.is_kernel]
        assert sum(map(is_not, program, after)) == 2 * len(kernels)
        found.append(kernels)
        return after

    monkeypatch.setattr(executor, "in_place", noting)
    return found


def train(layers: list[Layer], features: int, **options: Any) -> list[Any]:
    """All that a training leaves, and what a callback saw."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((75, features)).astype(np.float32)
    network, optimizer, watch = xn.Sequential(layers, seed=1), xn.Adam(), Watch()
    settings = {"epochs": 3, "batch_size": 16} | options
    history = xn.fit(
        network,
        (x, x[:, :3].argmax(axis=1)),
        optimizer=optimizer,
        callbacks=watch,
        **settings,
    )
    arrays = [network.flat_parameters, network.flat_buffers, *optimizer.state.values()]
    losses = [(r.step, r.loss) for r in history.records]
    return [*(array.tobytes() for array in arrays), losses, watch.seen]


def of_sizes(*sizes: int) -> list[Layer]:
    pairs = zip(sizes, sizes[1:], strict=False)
    return [layer for pair in pairs for layer in (xn.Linear(*pair), xn.ReLU())][:-1]


FORWARD, BACKWARD = "add_relu", "relu_backward"

NETWORKS: dict[str, tuple[Callable[[], list[Layer]], list[str]]] = {
    "three layers": (lambda: of_sizes(12, 40, 30, 3), [FORWARD] * 2 + [BACKWARD] * 2),
    "products in groups": (lambda: of_sizes(300, 130, 140, 3), [FORWARD] * 2 + [BACKWARD] * 2),
    "dropout": (
        lambda: [*of_sizes(12, 40, 30)[:2], xn.Dropout(0.3), *of_sizes(40, 30, 3)],
        [FORWARD] * 2 + [BACKWARD],
    ),
    "dropout before": (
        lambda: [xn.Linear(12, 40), xn.Dropout(0.3), xn.ReLU(), xn.Linear(40, 3)],
        [BACKWARD],
    ),
    "batch normalisation": (
        lambda: [xn.Linear(12, 40), xn.BatchNorm(40), xn.ReLU(), xn.Linear(40, 3)],
        [BACKWARD],
    ),
    "leaky ReLU": (lambda: [xn.Linear(12, 40), xn.LeakyReLU(), xn.Linear(40, 3)], []),
    "tanh": (lambda: [xn.Linear(12, 40), xn.Tanh(), xn.Linear(40, 3)], []),
    "no ReLU": (lambda: [xn.Linear(12, 40), xn.Linear(40, 3)], []),
    "ReLU twice": (
        lambda: [xn.Linear(12, 40), xn.ReLU(), xn.ReLU(), xn.Linear(40, 3)],
        [FORWARD, BACKWARD],
    ),
    # Its input is read by the sum too, and so is the gradient of its output.
    "a block that begins with ReLU": (
        lambda: [xn.Linear(12, 40), xn.Residual(xn.ReLU(), xn.Linear(40, 40)), xn.Linear(40, 3)],
        [BACKWARD],
    ),
    "a block that ends with ReLU": (
        lambda: [xn.Linear(12, 40), xn.Residual(xn.Linear(40, 40), xn.ReLU()), xn.Linear(40, 3)],
        [FORWARD],
    ),
    "images": (
        lambda: [
            xn.Unflatten((4, 3)),
            xn.Conv2d(1, 2, 3, padding=1),
            xn.ReLU(),
            xn.Flatten(),
            *of_sizes(4, 10, 3),
        ],
        [FORWARD, BACKWARD],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("threads", [1, 2])
def test_networks(
    name: str, threads: int, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of full batches, and of the short last one."""
    make, expected = NETWORKS[name]
    features = 300 if name == "products in groups" else 12
    monkeypatch.setattr(executor, "threads", lambda: threads)
    found = train(make(), features)
    assert [sorted(kernels) for kernels in changed] == [expected, expected]
    monkeypatch.setattr(executor, "in_place", lambda program: program)
    assert train(make(), features) == found
    assert len(set(found[-1])) == len(found[-1]) == 15


@pytest.mark.parametrize("option", [{"clip_norm": 0.5}, {"l2": 0.3}, {"batch_size": 1}])
def test_options(option: dict[str, Any], changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = NETWORKS["three layers"]
    found = train(make(), 12, **option)
    assert changed
    assert all(sorted(kernels) == expected for kernels in changed)
    monkeypatch.setattr(executor, "in_place", lambda program: program)
    assert train(make(), 12, **option) == found


def test_microbatches_share_their_arrays(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microbatch, "MICROBATCH_ROWS", 8)
    train(of_sizes(12, 40, 3), 12, batch_size=75)
    assert changed == [[]]


class Probe(Layer):
    """A user's layer that computes nothing and keeps what it is given."""

    replayable = True

    def forward(self, x: Array, *, training: bool) -> Array:
        self.x = x
        return x

    def backward(self, dy: Array) -> Array:
        self.dy = dy
        return dy


class Doubling(Layer):
    """A user's layer that is called in Python."""

    replayable = True

    def forward(self, x: Array, *, training: bool) -> Array:
        return array_module(x).ldexp(x, 1, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        return array_module(dy).ldexp(dy, 1, out=self.like(dy, "dx"))


def with_probes() -> list[Layer]:
    return [xn.Linear(12, 40), Probe(), xn.ReLU(), Probe(), xn.Linear(40, 3)]


def with_own_layer() -> list[Layer]:
    return [xn.Linear(12, 40), xn.ReLU(), Doubling(), *of_sizes(40, 30, 3)]


@pytest.mark.parametrize("make", [with_probes, with_own_layer])
def test_a_layer_of_the_user_still_holds_what_it_was_given(
    make: Callable[[], list[Layer]], changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = train(make(), 12)
    assert changed == []
    monkeypatch.setattr(executor, "in_place", lambda program: program)
    assert train(make(), 12) == found


class Adding(xn.Callback):
    """Puts a layer of the user into the network once its steps are compiled."""

    def on_epoch_begin(self, run: TrainingState) -> None:
        if run.epoch == 2:
            first, *others = run.network.layers
            run.network._layers = first, Probe(), *others  # no public way keeps the parameters


def test_a_layer_of_the_user_that_comes_later_holds_what_it_was_given(
    changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operations are the same ones as before, in the same memory."""

    def seen() -> tuple[list[str], list[Any]]:
        watch, network = Watch(), xn.Sequential(of_sizes(12, 40, 3), seed=1)
        x = np.linspace(0, 1, 900, dtype="f4")
        data = x.reshape(75, 12), np.arange(75) % 3
        settings = {"optimizer": xn.Adam(), "callbacks": [Adding(), watch]}
        xn.fit(network, data, epochs=3, batch_size=25, **settings)
        return [type(layer).__name__ for layer in network.layers], watch.seen

    found = seen()
    assert found[0] == ["Linear", "Probe", "ReLU", "Linear"]
    assert [sorted(kernels) for kernels in changed] == [[FORWARD, BACKWARD]]
    monkeypatch.setattr(executor, "in_place", lambda program: program)
    assert seen() == found


def test_what_works_in_place_around_a_call_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not used for layers of the user; it would give the same bits there, too."""
    init, made = CompiledSteps.__init__, []

    def always(self: CompiledSteps, *arguments: Any, own_layers: bool) -> None:
        made.append(own_layers)
        init(self, *arguments, own_layers=True)

    expected = train(with_own_layer(), 12)
    monkeypatch.setattr(CompiledSteps, "__init__", always)
    assert train(with_own_layer(), 12) == expected
    assert made == [False, False]


# Programs that no layer of xpnet asks for

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-42, 1.5], np.float32)
ROWS, COLUMNS = 6, len(SPECIAL) ** 2


class Arrays:
    """Those of one layer, of the same numbers each time."""

    def __init__(self, dtype: str = "float32") -> None:
        # Sums of one product each, so that every special value meets every other one.
        self.x = np.array([[1], [-1], [0], [0.5], [-2], [1]], dtype)
        self.weight = np.tile(SPECIAL, (1, len(SPECIAL))).astype(dtype)
        self.back = np.repeat(SPECIAL, len(SPECIAL)).reshape(1, -1).astype(dtype)
        self.bias = np.where(np.arange(COLUMNS) % 16 < 14, 0, 1).astype(dtype)
        self.y, self.r, self.given, self.dx, self.other = (self.empty(dtype) for _ in range(5))

    def empty(self, dtype: str) -> np.ndarray:
        return np.full((ROWS, COLUMNS), 7, dtype)

    def product(self) -> Op:
        made = operation(np, "dot", (self.x, self.weight), {"out": self.y})
        return replace(made, origin="Layer.forward", part=3)

    def biased(self, *arrays: np.ndarray) -> Op:
        return kernel("add_relu", *(arrays or (self.y, self.bias, self.r)))

    def all(self) -> list[Op]:
        return [
            self.product(),
            self.biased(),
            operation(np, "matmul", (self.x, self.back), {"out": self.given}),
            kernel("relu_backward", self.given, self.r, self.dx),
        ]


def kernel(name: str, *arrays: np.ndarray) -> Op:
    call = partial(numba_kernels.KERNELS[name], *arrays)
    return Op(name, arrays, None, call, is_kernel=True, origin=f"Layer.{name}", part=3)


def by_loops(program: Program, own_layers: bool) -> None:
    CompiledSteps(program, [], own_layers=own_layers)(1)


def by_calls(program: Program, own_layers: bool) -> None:
    for op in in_place(program) if own_layers else program:
        op.call()


@pytest.mark.parametrize("run", [by_loops, by_calls])
def test_special_values(run: Callable[[Program, bool], None]) -> None:
    """Whether loops or, after an error, calls of Python run the operations."""
    found = []
    for own_layers in (False, True):
        a = Arrays()
        with np.errstate(all="ignore"):
            run(tuple(a.all()), own_layers)
        assert (a.y == 7).all() == (a.given == 7).all() == own_layers
        found.append((a.r.tobytes(), a.dx.tobytes()))
    assert found[0] == found[1]
    for array in (a.r, a.dx):
        for number in (np.isnan(array), np.isinf(array), array == 0, array == 1e-45, array > 0):
            assert number.any()


def test_what_takes_the_place_of_an_operation_says_the_same_of_itself() -> None:
    a = Arrays()
    before = a.all()
    after = in_place(tuple(before))
    for old, new in zip(before, after, strict=True):
        assert new is not old
        kept = [(op.name, op.is_kernel, op.origin, op.part, op.options) for op in (old, new)]
        assert kept[0] == kept[1]
    assert after[0].output is after[1].inputs[0] is after[1].inputs[2] is a.r
    assert after[2].output is after[3].inputs[0] is after[3].inputs[2] is a.dx
    assert after[1].inputs[1] is a.bias
    assert after[3].inputs[1] is a.r


def reading(array: np.ndarray) -> Op:
    return operation(np, "copyto", (np.zeros(array.shape, array.dtype), array), {})


def joined(arrays: Any) -> Op:
    return operation(np, "concatenate", (arrays,), {"out": np.zeros((2 * ROWS, COLUMNS), "f4")})


def in_an_option(a: Arrays) -> list[Op]:
    options = {"out": a.other, "where": a.y.view(bool)[:, ::4]}
    return [a.product(), a.biased(), operation(np, "add", (a.other, 1), options)]


def written_by_a_sum(a: Arrays) -> list[Op]:
    return [operation(np, "add", (a.dx, 1), {"out": a.y}), a.biased()]


def with_a_part(a: Arrays) -> list[Op]:
    product = operation(np, "dot", (a.x[:4], a.weight), {"out": a.y[:4]})
    return [product, a.biased()]


def in_one_memory(a: Arrays) -> list[Op]:
    memory = np.zeros((ROWS + 1, COLUMNS), np.float32)
    a.y, a.r = memory[:-1], memory[1:]
    return [a.product(), a.biased()]


def transposed(a: Arrays) -> list[Op]:
    a.y, a.r = (np.zeros((COLUMNS, ROWS), np.float32).T for _ in range(2))
    return [a.product(), a.biased()]


def in_columns(a: Arrays) -> list[Op]:
    a.r = np.zeros((ROWS, 2 * COLUMNS), np.float32)[:, :COLUMNS]
    return [a.product(), a.biased()]


def in_float64(a: Arrays) -> list[Op]:
    a = Arrays("float64")
    return [a.product(), a.biased()]


def recurrent(a: Arrays) -> list[Op]:
    """The product reads the result of the step before."""
    square = np.zeros((COLUMNS, COLUMNS), np.float32)
    return [operation(np, "dot", (a.r, square), {"out": a.y}), a.biased()]


def of_itself(a: Arrays) -> list[Op]:
    square = np.zeros((COLUMNS, COLUMNS), np.float32)
    return [operation(np, "dot", (a.y, square), {"out": a.y}), a.biased()]


ALONE: dict[str, Callable[[Arrays], list[Op]]] = {
    "read before": lambda a: [reading(a.y), a.product(), a.biased()],
    "read between": lambda a: [a.product(), reading(a.y), a.biased()],
    "read after": lambda a: [a.product(), a.biased(), reading(a.y)],
    "read as another view": lambda a: [a.product(), a.biased(), reading(a.y.T[2:])],
    "read in a list": lambda a: [a.product(), a.biased(), joined([a.other, a.y])],
    "read in an option": in_an_option,
    "read by the kernel of the gradient": lambda a: [
        a.product(),
        a.biased(),
        kernel("relu_backward", a.given, a.y, a.dx),
    ],
    "written twice": lambda a: [a.product(), a.product(), a.biased()],
    "two results": lambda a: [a.product(), a.biased(), a.biased(a.y, a.bias, a.other)],
    "written later": lambda a: [a.biased(), a.product()],
    "no product": lambda a: [a.biased()],
    "no product, but a sum": written_by_a_sum,
    "a product of a part": with_a_part,
    "the result is read between": lambda a: [a.product(), reading(a.r), a.biased()],
    "the result is written between": lambda a: [
        a.product(),
        operation(np, "copyto", (a.r, a.dx), {}),
        a.biased(),
    ],
    "the product reads the result": recurrent,
    "the product reads what it writes": of_itself,
    "the bias is in the result": lambda a: [a.product(), a.biased(a.y, a.r[2], a.r)],
    "the bias is in the sum": lambda a: [a.product(), a.biased(a.y, a.y[2], a.r)],
    "in place already": lambda a: [a.product(), a.biased(a.y, a.bias, a.y)],
    "arrays that overlap": in_one_memory,
    "transposed": transposed,
    "not contiguous": in_columns,
    "float64": in_float64,
}


@pytest.mark.parametrize("name", ALONE)
def test_left_alone(name: str) -> None:
    program = tuple(ALONE[name](Arrays()))
    assert list(map(id, in_place(program))) == list(map(id, program))


def test_others_may_read_the_result() -> None:
    """Before and after: outside of the two operations it has the same values as ever."""
    a = Arrays()
    program = reading(a.r), a.product(), reading(a.dx), a.biased(), reading(a.r)
    after = in_place(program)
    assert [new is old for new, old in zip(after, program, strict=True)] == [
        True,
        False,
        True,
        False,
        True,
    ]
