"""A step of few rows: one thread of the BLAS, as before afterwards; products in small pieces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from cases import place

import xpnet as xn
from xpnet.accel import program, recording, small_gemm
from xpnet.accel.recording import record
from xpnet.backend import Array, Backend, array_module
from xpnet.layers.base import Layer
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.training import train_step
from xpnet.training.callbacks import TrainingState

BEFORE = 4


class Pool:
    """Stands for threadpoolctl's controller of a BLAS."""

    def __init__(self) -> None:
        self.number, self.calls = BEFORE, []
        self.interrupt_at: int | None = None

    def get_num_threads(self) -> int:
        return self.number

    def set_num_threads(self, number: int) -> None:
        self.number = number
        self.calls.append(number)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    made = Pool()
    monkeypatch.setattr(small_gemm, "_pool", lambda: made)
    return made


class Look(Layer):
    """Notes the number of threads as it is passed, forward and back; may fail."""

    replayable = True
    pool: Any
    seen: list[tuple[str, int]]
    fails: BaseException | None = None

    def forward(self, x: Array, *, training: bool) -> Array:
        self.seen.append(("forward" if training else "predict", self.pool.get_num_threads()))
        if self.fails is not None and training:
            raise self.fails
        return array_module(x).multiply(x, 1, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        self.seen.append(("backward", self.pool.get_num_threads()))
        return array_module(dy).multiply(dy, 1, out=self.like(dy, "dx"))


def network(
    pool: Any, backend: Backend | str = "cpu", features: int = 12, hidden: int = 7
) -> Sequential:
    look = Look()
    look.pool, look.seen = pool, []
    return Sequential([xn.Linear(features, hidden), look, xn.Linear(hidden, 3)], backend=backend)


def seen(network: Sequential) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = network.layers[1].seen  # type: ignore[attr-defined]
    return found


def samples(rows: int, features: int = 12) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((rows, features)).astype(np.float32)
    return x, np.arange(rows) % 3


def step(
    network: Sequential, rows: int, features: int = 12, loss: SoftmaxCrossEntropy | None = None
) -> None:
    x, labels = (place(network.backend, part) for part in samples(rows, features))
    train_step(network, loss or SoftmaxCrossEntropy(), xn.SGD(), x, labels)


@pytest.mark.parametrize("rows", [1, 32])
def test_few_rows_go_forward_and_back_in_one_thread(rows: int, pool: Pool) -> None:
    made = network(pool)
    step(made, rows)
    assert seen(made) == [("forward", 1), ("backward", 1)]
    assert pool.calls == [1, BEFORE]


@pytest.mark.parametrize(
    ("rows", "features", "hidden"), [(33, 12, 7), (128, 12, 7), (16, 1100, 257), (32, 784, 179)]
)
def test_many_rows_or_large_weights_change_nothing(
    rows: int, features: int, hidden: int, pool: Pool
) -> None:
    made = network(pool, features=features, hidden=hidden)
    step(made, rows, features)
    assert seen(made) == [("forward", BEFORE), ("backward", BEFORE)]
    assert pool.calls == []


def test_weights_that_just_fit(pool: Pool) -> None:
    made = network(pool, features=1100, hidden=254)
    assert 16 * made.flat_parameters.size <= 4_500_000 < 16 * (made.flat_parameters.size + 1104)
    step(made, 16, 1100)
    assert pool.calls == [1, BEFORE]


def test_arrays_of_another_module_change_nothing(pool: Pool, double: Backend) -> None:
    made = network(pool, double)
    step(made, 16)
    assert seen(made) == [("forward", BEFORE), ("backward", BEFORE)]
    xn.fit(made, samples(64), optimizer=xn.SGD(), epochs=2, batch_size=16)
    assert set(pool.calls) <= {BEFORE}


def test_one_thread_stays_one(pool: Pool) -> None:
    pool.number = 1
    step(network(pool), 16)
    assert pool.calls == []


def test_without_a_blas_that_can_be_told(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    monkeypatch.setattr(small_gemm, "_pool", lambda: None)
    made = network(pool)
    step(made, 16)
    xn.fit(made, samples(64), optimizer=xn.SGD(), epochs=2, batch_size=16)
    assert pool.calls == []


def test_predicting_and_evaluating_take_all_threads(pool: Pool) -> None:
    made = network(pool)
    made.forward(samples(16)[0])
    xn.evaluate(made, samples(16))
    xn.fit(made, samples(16), samples(16), optimizer=xn.SGD(), epochs=1, batch_size=16)
    assert [number for what, number in seen(made) if what == "predict"] == [BEFORE] * 3


@pytest.mark.parametrize("fails", [KeyboardInterrupt(), RuntimeError("no")])
def test_a_step_that_fails_leaves_the_number_as_it_was(fails: BaseException, pool: Pool) -> None:
    made = network(pool)
    made.layers[1].fails = fails  # type: ignore[attr-defined]
    with pytest.raises(type(fails)):
        step(made, 16)
    assert pool.number == BEFORE
    with pytest.raises(type(fails)):
        xn.fit(made, samples(64), optimizer=xn.SGD(), epochs=2, batch_size=16)
    assert pool.number == BEFORE


class At(xn.Callback):
    """Does something once so many steps are over."""

    def __init__(self, step: int, do: Callable[[TrainingState], None]) -> None:
        self.step, self.do = step, do

    def on_step_end(self, run: TrainingState) -> None:
        if run.step == self.step:
            self.do(run)


def test_a_recording_that_fails_leaves_the_number_as_it_was(pool: Pool) -> None:
    made = network(pool)

    def break_it(run: TrainingState) -> None:
        Look.fails = KeyboardInterrupt()

    try:
        with pytest.raises(KeyboardInterrupt):
            xn.fit(
                made,
                samples(64),
                optimizer=xn.SGD(),
                epochs=2,
                batch_size=16,
                callbacks=[At(1, break_it)],
            )
    finally:
        Look.fails = None
    assert [what for what, _ in seen(made)] == ["forward", "backward", "forward"]
    assert pool.number == BEFORE


def test_a_replayed_step_is_told_too(pool: Pool) -> None:
    """Two steps walk the layers; the others repeat what those did, threads included."""
    made, numbers = network(pool), []
    xn.fit(
        made,
        samples(64),
        optimizer=xn.SGD(),
        epochs=2,
        batch_size=16,
        callbacks=[At(step, lambda run: numbers.append(pool.number)) for step in range(1, 9)],
    )
    assert seen(made) == [("forward", 1), ("backward", 1)] * 2
    assert pool.calls == [1, BEFORE] * 8
    assert numbers == [BEFORE] * 8


@pytest.mark.parametrize("call", [9, 10])
def test_an_interrupt_in_a_replayed_step_leaves_the_number_as_it_was(
    call: int, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two calls of a recorded step, where no `finally` is."""
    recorded, record = [], recording.record
    monkeypatch.setattr(recording, "record", lambda *step: recorded.append(1) or record(*step))
    pool.interrupt_at = call  # in the fifth step, which is a replayed one
    made, history = network(pool), xn.History()
    with pytest.raises(KeyboardInterrupt):
        xn.fit(
            made,
            samples(64),
            optimizer=xn.SGD(),
            epochs=3,
            batch_size=16,
            history=history,
        )
    assert recorded == [1]
    assert pool.calls[call:] == ([BEFORE] if call == 9 else [])  # by `fit`, where it is needed
    assert pool.number == BEFORE
    assert history.column("step")[0] == 4


@pytest.mark.parametrize("first_ends", ["first", "last"])
def test_trainings_side_by_side_leave_the_number_as_it_was(first_ends: str, pool: Pool) -> None:
    """The second begins while the first is on one thread."""
    first, second = small_gemm.on_one_thread(), small_gemm.on_one_thread()
    end = partial(first.__exit__, None, None, None), partial(second.__exit__, None, None, None)
    with ThreadPoolExecutor(1) as other:
        assert first.__enter__() == other.submit(second.__enter__).result() == BEFORE
        ends = [end[0], lambda: other.submit(end[1]).result()]
        for one in ends if first_ends == "first" else reversed(ends):
            assert pool.number == 1
            one()
    assert pool.number == BEFORE
    pool.number, pool.interrupt_at = 2, len(pool.calls) + 1
    with pytest.raises(KeyboardInterrupt), small_gemm.on_one_thread():
        pass
    assert pool.number == 2


def few(x: Array) -> None:
    with small_gemm.if_few(x, x):
        pass


def test_the_usual_number_is_known_in_a_block_on_one_thread(pool: Pool) -> None:
    assert small_gemm.usual_threads() == BEFORE
    with small_gemm.on_one_thread():
        assert (small_gemm.usual_threads(), pool.number) == (BEFORE, 1)
        x = np.empty((1, 1))
        recorded = record(np, lambda: few(x))
        assert [op.inputs for op in recorded] == [(1,), (BEFORE,)]
    pool.set_num_threads(3)
    assert small_gemm.usual_threads() == 3


def in_another_thread(call: Callable[[], Any]) -> None:
    thread = Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("replayed", [False, True])
def test_a_pass_of_few_rows_stays_on_one_thread_when_that_of_another_thread_ends(
    replayed: bool, pool: Pool
) -> None:
    """Else its products are rounded differently from those of the same training alone."""
    x = np.empty((1, 1))
    begin, end = (op.call for op in record(np, lambda: few(x)))
    with small_gemm.kept():
        if replayed:
            begin()
            in_another_thread(lambda: few(x))
            assert pool.number == 1
            end()
        else:
            with small_gemm.if_few(x, x):
                in_another_thread(lambda: [begin(), end()])
                assert pool.number == 1
        assert pool.number == BEFORE


@pytest.mark.parametrize("block", [few, None])
def test_a_block_on_one_thread_that_begins_while_another_ends(block: Any, pool: Pool) -> None:
    """The number is read and set at once."""
    begun, last, seen = Event(), Event(), []

    def on_one() -> None:
        with small_gemm.on_one_thread():
            begun.set()
            assert last.wait(10)
            seen.append(pool.number)

    other, set_number = Thread(target=on_one), pool.set_num_threads

    def slow(number: int) -> None:
        if number == BEFORE and other.ident is None:
            other.start()
            begun.wait(0.1)
        set_number(number)

    pool.set_num_threads = slow  # type: ignore[method-assign]
    if block is None:
        with small_gemm.on_one_thread():
            pass
    else:
        block(np.empty((1, 1)))
    assert begun.wait(10)
    last.set()
    other.join()
    assert (seen, pool.number) == ([1], BEFORE)


def test_a_limit_that_ends_while_a_training_runs(pool: Pool) -> None:
    """One that began before it, such as those that scikit-learn sets for a moment."""
    pool.number, seen = 1, []

    def end(run: TrainingState) -> None:
        seen.append(small_gemm.usual_threads())
        pool.number = 2

    made = network(pool)
    xn.fit(made, samples(64), optimizer="sgd", epochs=2, batch_size=16, callbacks=[At(1, end)])
    assert (seen, pool.number) == ([1], 2)


def test_a_limit_that_ends_after_a_step_was_recorded(pool: Pool) -> None:
    """Later steps take one thread all the same, as they do without the limit."""
    pool.number = 1
    step = xn.TrainStep(network(pool), "cross_entropy", "sgd")
    for _ in range(3):
        step(*samples(16))
    pool.number = BEFORE
    step(*samples(16))
    assert pool.calls == [1, BEFORE]


def test_a_limit_that_ends_in_a_block_on_one_thread(pool: Pool) -> None:
    """The number that it restores is the usual one, also for a block that begins then."""
    pool.number = 1
    with small_gemm.on_one_thread() as threads:
        pool.number = 2
        with small_gemm.on_one_thread() as more:
            assert (threads, more, pool.number) == (1, 2, 1)
        assert pool.number == 1
    assert pool.number == 2
    with small_gemm.on_one_thread():
        pool.number = 3
    assert pool.number == 3


def test_another_thread_may_set_the_number_while_a_block_runs(own: Any) -> None:
    """Although threadpoolctl lets only the first thread that does so set it again."""
    with small_gemm.on_one_thread():
        assert own.get_num_threads() == 1
        in_another_thread(lambda: own.set_num_threads(3))
        assert own.get_num_threads() == 3
    assert own.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows lacks")
def test_a_fork_while_another_thread_is_in_a_block() -> None:
    """The child has its own blocks left, and can end them though the lock was held."""
    program = """
import os, signal, threading, warnings
from xpnet.accel import small_gemm
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork and threads
small_gemm._pool().set_num_threads(2)
begun, last = threading.Event(), threading.Event()

def other():
    with small_gemm.on_one_thread(), small_gemm._blocks.lock:
        begun.set()
        last.wait(60)

thread = threading.Thread(target=other)
with small_gemm.kept():
    thread.start()
    begun.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(20)
        assert small_gemm.blas_threads() == 2
        with small_gemm.on_one_thread():
            assert small_gemm.blas_threads() == 1
    last.set()
assert small_gemm.blas_threads() == 2 or child
if child:
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    assert small_gemm.blas_threads() == 2
    print("both")
else:
    os._exit(0)
"""
    variables = {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


# The pieces


def products(step: Callable[[], Any]) -> list[tuple[str, int, int, int]]:
    """The products of two matrices in `step`: name and sizes `(M, K, N)`."""
    pairs = [(op.name, op.inputs) for op in record(np, step) if op.name in ("dot", "matmul")]
    return [(name, *a.shape, b.shape[1]) for name, (a, b) in pairs if a.ndim == b.ndim == 2]


def check_product(rows: int, inner: int, columns: int) -> None:
    random = np.random.default_rng(rows * columns)
    a = random.standard_normal((rows, inner)).astype(np.float32)
    b = random.standard_normal((inner, columns)).astype(np.float32)
    out = np.full((rows, columns), np.nan, np.float32)
    assert array_module(a, b).dot(a, b, out=out) is out
    assert np.allclose(out, a.astype(float) @ b.astype(float), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        ((16, 784, 128), [(16, 784, 64)] * 2),  # W3's first layer, forward
        ((784, 16, 128), [(480, 16, 128), (304, 16, 128)]),  # and its weights' gradient
        ((16, 128, 784), [(16, 128, 480), (16, 128, 304)]),  # and what it would hand back
        ((32, 784, 100), [(32, 784, 32)] * 3 + [(32, 784, 4)]),
        ((16, 500, 126), [(16, 500, 112), (16, 500, 14)]),
        ((16, 500, 125), [(16, 500, 125)]),  # a million exactly
        ((32, 4000, 40), [(32, 4000, 40)]),  # sixteen columns would be too many
        ((0, 784, 128), [(0, 784, 128)]),
    ],
)
def test_a_product_of_few_rows_is_made_in_pieces(
    sizes: tuple[int, int, int], pieces: list[tuple[int, int, int]], pool: Pool
) -> None:
    def step() -> None:
        with small_gemm.if_few(np.empty((1, 1)), np.empty(1)):
            check_product(*sizes)

    step()  # also where nothing is recorded
    name = "matmul" if np.prod(sizes) > 1_000_000 else "dot"
    assert products(step) == [(name, *piece) for piece in pieces]
    assert products(lambda: check_product(*sizes)) == [("dot", *sizes)], "outside it is whole"


def test_other_products_stay_whole(pool: Pool) -> None:
    a, ones = np.ones((2000, 600), np.float32), np.ones(2000, np.float32)
    with small_gemm.if_few(np.empty((1, 1)), np.empty(1)):
        xp = array_module(a)
        assert np.array_equal(xp.dot(ones, a, out=np.empty(600, np.float32)), [2000] * 600)
        assert np.array_equal(xp.dot(a, np.ones(600, np.float32), out=None), [600] * 2000)
        assert xp.dot(a, a.T, out=None).shape == (2000, 2000)
        stack = np.ones((2, 900, 600), np.float32)
        assert xp.dot(stack, a.T, out=np.empty((2, 900, 2000), np.float32)).all()
    for whole in (a, ones), (a, np.ones(600)), (np.ones((2, 900, 600)), a.T):
        shape = np.dot(*whole).shape if whole[1] is not ones else (600,)
        op = program.operation(np, "dot", whole, {"out": np.empty(shape)})
        assert small_gemm.in_pieces(op) == (op,)


class Products(Layer):
    """Two products, written as a user may write them."""

    def forward(self, x: Array, *, training: bool) -> Array:
        xp, square = array_module(x), np.eye(x.shape[1], dtype=x.dtype)
        return xp.dot(xp.dot(x, b=square), square, self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        return array_module(dy).matmul(dy, np.eye(dy.shape[1], dtype=dy.dtype), self.like(dy, "dx"))


def test_products_of_a_layer_of_ones_own(pool: Pool) -> None:
    """`b=` by name, `out` by position."""
    made = Sequential([xn.Linear(12, 300), Products(), xn.Linear(300, 3)], seed=1)
    plain = Sequential([xn.Linear(12, 300), xn.Dropout(0.0), xn.Linear(300, 3)], seed=1)
    for network in (made, plain):
        step(network, 16)
    assert pool.calls == [1, BEFORE] * 2
    assert np.allclose(made.flat_parameters, plain.flat_parameters, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("number", [1, BEFORE])
@pytest.mark.parametrize(("rows", "name"), [(16, "matmul"), (33, "dot")])
def test_a_step_makes_its_products_so(rows: int, name: str, number: int, pool: Pool) -> None:
    """Those of a layer forward and back, however many threads the BLAS had."""
    pool.number = number
    made = network(pool, features=784, hidden=128)
    loss = SoftmaxCrossEntropy()
    step(made, rows, 784, loss)  # makes the buffers
    found = products(lambda: step(made, rows, 784, loss))
    whole = [product for product in found if np.prod(product[1:]) > 50_000]
    assert {product[0] for product in whole} == {name}
    assert len(whole) == (4 if name == "matmul" else 2)
    assert sum(np.prod(product[1:]) for product in whole) == 2 * rows * 784 * 128


def test_buffers_made_in_such_a_step_are_aligned_too(pool: Pool) -> None:
    made = network(pool)
    step(made, 16)
    buffers = [buffer for layer in made.layers for buffer in layer.workspace._memory.values()]
    addresses = [buffer.ctypes.data % 64 for buffer in buffers if len(buffer) > 16]
    assert len(addresses) > 3
    assert set(addresses) == {0}


def test_a_pass_of_few_rows_is_its_own_thread_s(pool: Pool) -> None:
    asked: list[Any] = []
    x = np.empty((1, 1))
    with small_gemm.if_few(x, x):
        other = Thread(target=lambda: asked.append(array_module(x)))
        other.start()
        other.join()
        assert array_module(x) is not np
        assert array_module(x) == np
    assert [asked[0], array_module(x)] == [np, np]
    assert asked[0] is np


# NumPy's own BLAS


@pytest.fixture
def own() -> Iterator[Any]:
    """The real one, with two threads also where there is one core."""
    small_gemm._pool.cache_clear()
    pool = small_gemm._pool()
    assert pool is not None, "threadpoolctl knows no BLAS of NumPy's"
    before = pool.get_num_threads()
    pool.set_num_threads(2)
    release = getattr(pool, "clear_controlling_thread", None)
    if release is not None:
        release()  # so that other threads may set it, too
    assert small_gemm._pool() is pool
    yield pool
    pool.set_num_threads(before)


PACKAGES = Path(np.__file__).parent.parent


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        (["scipy.libs/a.so", "numpy.libs/b.so", "torch/lib/c.so"], "numpy.libs/b.so"),
        (["scipy.libs/a.so", "numpy/.dylibs/b.dylib"], "numpy/.dylibs/b.dylib"),
        (["scipy.libs/a.so", "torch/lib/c.so"], "scipy.libs/a.so"),
        ([], None),
    ],
)
def test_numpys_own_blas_is_chosen(
    loaded: list[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SciPy and PyTorch have one too; where NumPy brought none, it uses what is there."""

    class Controller:
        def select(self, *, user_api: str) -> Any:
            assert user_api == "blas"
            pools = [SimpleNamespace(filepath=str(PACKAGES / path)) for path in loaded]
            return SimpleNamespace(lib_controllers=pools)

    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", Controller)
    chosen = small_gemm._pool.__wrapped__()
    assert (chosen and chosen.filepath) == (expected and str(PACKAGES / expected))


def test_numpys_own_blas_is_told(own: Any) -> None:
    made = network(own)
    step(made, 16)
    step(made, 64)
    assert seen(made) == [("forward", 1), ("backward", 1), ("forward", 2), ("backward", 2)]
    xn.fit(made, samples(64), optimizer=xn.SGD(), epochs=2, batch_size=16)
    assert own.get_num_threads() == 2


def test_the_results_are_those_of_all_threads(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BLAS may sum in another order when it shares the work out: the last digits may differ."""

    def trained() -> np.ndarray:
        made = network(own, features=784, hidden=128)
        x, labels = samples(96, 784)
        xn.fit(made, (x, labels), optimizer=xn.SGD(0.05), epochs=2, batch_size=32)
        return made.flat_parameters

    few = trained()
    assert np.array_equal(trained(), few)
    monkeypatch.setattr(small_gemm, "FEW_ROWS", 0)
    assert np.allclose(trained(), few, rtol=1e-4, atol=1e-6)
