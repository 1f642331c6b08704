"""`fit()` with steps of compiled loops, against the same training call by call."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from cases import LOSSES, OPTIMIZERS, ROW_LAYERS, by_id
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import dispatch
from xpnet.accel.cpu import executor, lower_products, runner
from xpnet.accel.cpu.lower_base import NotLowered
from xpnet.accel.program import trace_only
from xpnet.backend import Array, array_module
from xpnet.layers.base import Layer
from xpnet.optimizers import base
from xpnet.training import update
from xpnet.training.callbacks import Interrupted, TrainingState

EPSILON = float(np.finfo(np.float32).eps)
Made = list[executor.CompiledSteps]


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The compiled steps that a test has made, which every `fit()` makes."""
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 0)
    monkeypatch.setattr(SETTINGS, "kernels_enabled", True)
    monkeypatch.setattr(executor, "MOST_CALLS", 1000)
    found: Made = []
    init = executor.CompiledSteps.__init__

    def keeping(self: executor.CompiledSteps, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        found.append(self)

    monkeypatch.setattr(executor.CompiledSteps, "__init__", keeping)
    return found


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda count: monkeypatch.setattr(executor, "threads", lambda: count)


def samples(features: int, rows: int = 75) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, features)).astype(np.float32)
    return x, x[:, :3].argmax(axis=1)


def plain(features: int = 12) -> list[Layer]:
    return [xn.Linear(features, 40), xn.ReLU(), xn.Linear(40, 3)]


class Result:
    """What a training leaves."""

    def __init__(self, network: xn.Sequential, optimizer: Any, history: xn.History) -> None:
        arrays = [network.flat_parameters, network.flat_buffers, *optimizer.state.values()]
        self.arrays = [array.copy() for array in arrays]
        self.steps = optimizer.steps
        self.records = [(r.step, r.loss, r.accuracy) for r in history.records]
        self.losses = [r.loss for r in history.records]

    def __eq__(self, other: object) -> bool:
        """Bit for bit."""
        assert isinstance(other, Result)
        bits = [[a.tobytes() for a in one.arrays] for one in (self, other)]
        return bits[0] == bits[1] and (self.steps, self.records) == (other.steps, other.records)

    __hash__ = None  # type: ignore[assignment]


def train(
    layers: list[Layer],
    optimizer: Any = "sgd",
    *,
    dtype: str = "float32",
    data: tuple[np.ndarray, np.ndarray] | None = None,
    rows: int = 75,
    **options: Any,
) -> Result:
    network = xn.Sequential(layers, dtype=dtype, seed=1)
    x, y = data or samples(network.in_features, rows)
    given = xn.DeviceData(x, y, backend="cpu", dtype=dtype)
    used = xn.training.options.optimizer_of(optimizer) if isinstance(optimizer, str) else optimizer
    settings = {"epochs": 3, "batch_size": 16} | options
    return Result(network, used, xn.fit(network, given, optimizer=used, **settings))


def require_exact(make: Callable[[str], Result]) -> Result:
    """Compiled, it is as near to float64 as call by call.

    Both round each result to float32, in another order, so neither is nearer by rule; a wrong
    formula is a thousand times farther away. Eight times, since errors of so few numbers vary.
    """
    compiled = make("float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SETTINGS, "compiled_enabled", False)
        by_calls, exact = make("float32"), make("float64")
    assert compiled.steps == by_calls.steps
    assert [r[0] for r in compiled.records] == [r[0] for r in by_calls.records]
    for (*_, accuracy), (*_, called) in zip(compiled.records, by_calls.records, strict=True):
        # Rounding may decide between two equal logits of a sample or two, of 75 or more.
        assert (accuracy is None) == (called is None)
        assert accuracy is None or abs(accuracy - called) <= 2 / 75
    for found, called, wanted in zip(
        [*compiled.arrays, np.array(compiled.losses)],
        [*by_calls.arrays, np.array(by_calls.losses)],
        [*exact.arrays, np.array(exact.losses)],
        strict=True,
    ):
        size = np.abs(wanted).max(initial=0)
        bound = 8 * np.abs(called - wanted).max(initial=0) + 8 * EPSILON * size
        assert np.abs(found - wanted).max(initial=0) <= bound
    return compiled


def require_same_bits(make: Callable[[], Result], threads: Callable[[int], None]) -> None:
    results = []
    for count in (1, 2, 4):
        threads(count)
        results.append(make())
    assert results[1] == results[0]
    assert results[2] == results[0]


@pytest.mark.parametrize("case", **by_id(ROW_LAYERS))
def test_every_layer(case: Any, threads: Callable[[int], None], made: Made) -> None:
    def make(dtype: str = "float32") -> Result:
        body = [case.make(), xn.Tanh()]
        return train([xn.Linear(5, 5), *body, xn.Linear(out_features(body), 3)], dtype=dtype)

    require_exact(make)
    assert len(made) == 2  # of full batches, and of the last one
    assert all(steps._lowering.calls == [] for steps in made)
    require_same_bits(make, threads)


def out_features(layers: list[Layer]) -> int:
    return 3 if isinstance(layers[0], xn.Linear) else 5


@pytest.mark.parametrize("case", **by_id(OPTIMIZERS))
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_every_optimizer(
    case: Any, weight_decay: float, threads: Callable[[int], None], made: Made
) -> None:
    def make(dtype: str = "float32") -> Result:
        return train(plain(), case.make(weight_decay=weight_decay), dtype=dtype)

    require_exact(make)
    assert made
    assert all(steps._lowering.calls == [] for steps in made)
    require_same_bits(make, threads)


@pytest.mark.parametrize("case", **by_id(LOSSES))
def test_every_loss(case: Any, threads: Callable[[int], None], made: Made) -> None:
    x, _ = samples(12)
    target = case.target(np.random.default_rng(3), (len(x), 3))

    def make(dtype: str = "float32") -> Result:
        return train(plain(), loss=case.make(), data=(x, target), dtype=dtype)

    require_exact(make)
    assert made
    assert all(steps._lowering.calls == [] for steps in made)
    require_same_bits(make, threads)


WIDE = {
    "sum over features in groups": [300, 130, 10],
    "all products in groups": [270, 530, 260, 10],
    "odd sizes": [197, 83, 67, 3],
    "wide output": [20, 300],
    "a batch in two arrays, gradients in panels": [400, 140, 10],
}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_wide_networks(
    name: str, optimizer: str, threads: Callable[[int], None], made: Made
) -> None:
    sizes = WIDE[name]

    def make(dtype: str = "float32") -> Result:
        layers = [
            layer
            for n, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
            for layer in ([xn.ReLU()] if n else []) + [xn.Linear(a, b)]
        ]
        return train(layers, optimizer, dtype=dtype, epochs=1)

    if optimizer == "sgd":  # Adam takes a step of full size where a gradient is nearly 0
        require_exact(make)
    require_same_bits(make, threads)
    assert all(steps._lowering.calls == [] for steps in made)
    is_split = [any(steps._lowering.splits.values()) for steps in made]
    assert all(is_split) == any(is_split) == (sizes[0] * sizes[1] > 16_384 and sizes[0] >= 64)


@pytest.mark.parametrize("rows", [16, 150])
def test_many_weights(
    rows: int, threads: Callable[[int], None], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from half a million on, with fewer: no sum over features, cells of some rows from 100."""
    monkeypatch.setattr(lower_products, "MANY_WEIGHTS", 4000)
    monkeypatch.setattr(lower_products, "MANY_ROWS", 100)

    def make(dtype: str = "float32") -> Result:
        sizes = [(90, 290), (290, 75), (75, 3)]
        layers: list[Layer] = [layer for pair in sizes for layer in (xn.Linear(*pair), xn.ReLU())]
        return train(layers[:-1], dtype=dtype, rows=2 * rows + 5, batch_size=rows, epochs=2)

    require_exact(make)
    require_same_bits(make, threads)
    assert made
    assert not any(any(steps._lowering.splits.values()) for steps in made)


OPTIONS: dict[str, dict[str, Any]] = {
    "l2": {"l2": 0.3},
    "clip_norm": {"clip_norm": 0.5},
    "sample_weight": {"sample_weight": np.linspace(0.1, 2, 75)},
    "one batch": {"batch_size": None},
    "records within an epoch": {"log_every": "2 iterations"},
    "a batch of one row at the end": {"batch_size": 37},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_fit(name: str, threads: Callable[[int], None], made: Made) -> None:
    def make(dtype: str = "float32") -> Result:
        return train(plain(), dtype=dtype, **OPTIONS[name])

    require_exact(make)
    assert made
    require_same_bits(make, threads)


def test_augmentation_and_pixels(threads: Callable[[int], None], made: Made) -> None:
    x = np.random.default_rng(2).integers(0, 256, (75, 12), np.uint8)
    y = x[:, :3].argmax(axis=1)

    def make() -> Result:
        network = xn.Sequential([xn.Linear(12, 8), xn.Dropout(0.3), xn.Linear(8, 3)], seed=1)
        data = xn.DeviceData(
            x,
            y,
            backend="cpu",
            dtype="float32",
            image_shape=(3, 4),
            normalisation=xn.data.Normalisation(1 / 255, -0.25),
        )
        used = xn.Adam()
        distorts = xn.Augmentation(shift=1.0)
        options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "augmentation": distorts}
        return Result(network, used, xn.fit(network, data, optimizer=used, **options))

    require_same_bits(make, threads)
    assert made


def test_pixels_in_a_batch_of_two_arrays(threads: Callable[[int], None], made: Made) -> None:
    x = np.random.default_rng(2).integers(0, 256, (75, 192), np.uint8)
    y = x[:, :3].argmax(axis=1)

    def make() -> Result:
        network, used = xn.Sequential([xn.Linear(192, 130), xn.Linear(130, 3)], seed=1), xn.Adam()
        scale = xn.data.Normalisation(1 / 255, -0.25)
        data = xn.DeviceData(x, y, backend="cpu", dtype="float32", normalisation=scale)
        options: dict[str, Any] = {"epochs": 3, "batch_size": 16}
        return Result(network, used, xn.fit(network, data, optimizer=used, **options))

    require_same_bits(make, threads)
    assert all(any(steps._lowering.splits.values()) for steps in made)


def test_a_batch_that_another_operation_reads_is_one_array(made: Made) -> None:
    train([xn.LayerNorm(300), xn.Linear(300, 130), xn.Linear(130, 3)])
    assert made
    assert not any(any(steps._lowering.splits.values()) for steps in made)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
@pytest.mark.parametrize("most", [1, 4, 64])
def test_state_is_flushed_within_a_call(
    name: str, most: int, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = samples(12)
    x[:, :5] = 0

    def subnormal_after(every: int, most: int) -> tuple[list[int], list[bytes]]:
        monkeypatch.setattr(base, "FLUSH_EVERY", every)
        monkeypatch.setattr(update, "MOST_STEPS", most)
        optimizers = {"sgd": xn.SGD(0.01, momentum=0.6), "rmsprop": xn.RMSprop(decay_rate=0.6)}
        used = optimizers.get(name) or xn.Adam(beta1=0.6, beta2=0.7)
        network = xn.Sequential(plain(), seed=1)
        options: dict[str, Any] = {"optimizer": used, "batch_size": 15}
        xn.fit(network, (x, y), epochs=1, **options)
        for state in used.state.values():
            state += 1e-37  # those of dead inputs are 0
        xn.fit(network, (x, y), epochs=2, **options)
        assert used.steps == 15
        states = list(used.state.values())
        tiny = np.finfo(np.float32).tiny
        below = [int(((abs(s) < tiny) & (s != 0)).sum()) for s in states]
        return below, [array.tobytes() for array in (network.flat_parameters, *states)]

    without, _ = subnormal_after(1000, most)
    below, bits = subnormal_after(5, most)
    assert all(without)
    assert not any(below)
    # Nothing but the number of steps of a call differs.
    assert subnormal_after(5, 2)[1] == bits
    assert all(steps._lowering.calls == [] for steps in made)


def test_a_batch_in_blocks_with_dropout(threads: Callable[[int], None], made: Made) -> None:
    """Each block of rows goes through the layers on its own, and draws masks of its own."""

    def make(dtype: str = "float32") -> Result:
        layers = [xn.Linear(12, 9), xn.Dropout(0.4), xn.Linear(9, 3)]
        return train(layers, dtype=dtype, rows=4200, batch_size=2100)

    require_exact(make)
    assert made
    require_same_bits(make, threads)


def test_a_plain_step_needs_no_interpreter(made: Made) -> None:
    layers = [xn.Linear(12, 40), xn.ReLU(), xn.Dropout(0.2), xn.Linear(40, 9), xn.Tanh()]
    for optimizer in ("sgd", "adam", "adamw", xn.SGD(0.1, momentum=0.9)):
        train([layer.copy() for layer in layers] + [xn.Linear(9, 3)], optimizer)
    assert len(made) == 8
    assert all(steps._lowering.calls == [] for steps in made)


NORMALISED = {
    "narrow": [12, 9, 3],
    "groups of columns": [300, 130, 100, 3],
    "columns of one part": [40, 256, 256, 3],
}


@pytest.mark.parametrize("name", NORMALISED)
def test_layer_norm_and_noise_of_several_layers(
    name: str, threads: Callable[[int], None], made: Made
) -> None:
    """Products cut by columns, and between them rows, each of which is read by one part."""
    sizes = NORMALISED[name]

    def make(dtype: str = "float32") -> Result:
        layers: list[Layer] = [xn.GaussianNoise(0.2)]
        for a, b in zip(sizes[:-1], sizes[1:-1], strict=False):
            layers += [xn.Linear(a, b), xn.LayerNorm(b), xn.ReLU(), xn.GaussianNoise(0.1)]
        layers += [xn.LayerNorm(sizes[-2]), xn.Linear(sizes[-2], 3)]
        return train(layers, dtype=dtype, epochs=1)

    require_exact(make)
    require_same_bits(make, threads)
    assert made
    assert all(steps._lowering.calls == [] for steps in made)


def test_a_call_keeps_nothing(made: Made, threads: Callable[[int], None]) -> None:
    """Without Python's garbage collector, which would hide what it has to collect."""
    threads(2)
    train([xn.Linear(12, 9), Halving(), xn.Linear(9, 3)], "adam")
    gc.collect()
    gc.disable()
    try:
        for _ in range(300):
            made[0](2)
        kept = sum(type(one) is runner._Run for one in gc.get_objects())
    finally:
        gc.enable()
    # The last one of each of the two programs, and one of which the helper has not heard yet.
    assert kept <= 3


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_number_of_steps_of_a_call_changes_no_bit(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 epochs of 5 steps, so that subnormal numbers are removed several times."""
    layers = [xn.Linear(12, 9), xn.BatchNorm(9), xn.Dropout(0.2), xn.Linear(9, 3)]
    expected = train([layer.copy() for layer in layers], "adam", epochs=60)
    monkeypatch.setattr(update, "MOST_STEPS", most)
    assert train(layers, "adam", epochs=60) == expected


def test_a_callback_of_the_user_sees_every_step(made: Made) -> None:
    seen = []

    class Watching(xn.Callback):
        def on_step_end(self, run: TrainingState) -> None:
            seen.append((run.step, run.optimizer.steps, run.network.flat_parameters.sum()))

    expected = train(plain(), "adam")
    assert train(plain(), "adam", callbacks=Watching()) == expected
    assert [s[:2] for s in seen] == [(n, n) for n in range(1, 16)]
    assert len({s[2] for s in seen}) == 15
    assert len(made) == 4


class Halving(Layer):
    """Code of a user between compiled loops."""

    replayable = True
    calls = 0

    def forward(self, x: Array, *, training: bool) -> Array:
        Halving.calls += 1
        return array_module(x).ldexp(x, -1, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        return array_module(dy).ldexp(dy, -1, out=self.like(dy, "dx"))


def test_a_layer_of_the_user_is_called_between_loops(
    made: Made, threads: Callable[[int], None]
) -> None:
    def make(dtype: str = "float32") -> Result:
        return train([xn.Linear(12, 9), Halving(), xn.Linear(9, 3)], dtype=dtype)

    require_exact(make)
    require_same_bits(make, threads)
    names = {op.name for steps in made for ops in steps._lowering.calls for op in ops}
    assert names == {"ldexp"}


class Repeating(Layer):
    """Draws two masks of one `Dropout` in a step, and adds a constant that it fills once."""

    replayable = True

    def __init__(self) -> None:
        self.dropout = xn.Dropout(0.4)
        self.constant: Array | None = None

    def forward(self, x: Array, *, training: bool) -> Array:
        xp = array_module(x)
        if self.constant is None:
            self.constant = xp.empty(x.shape[1], dtype=x.dtype)
            xp.copyto(self.constant, 3)
        y = self.dropout.forward(self.dropout.forward(x, training=True), training=True)
        return xp.add(y, self.constant, out=self.like(x, "y"))

    def backward(self, dy: Array) -> Array:
        return self.dropout.backward(dy)


def test_constants_and_a_layer_that_runs_twice(made: Made, threads: Callable[[int], None]) -> None:
    def make(dtype: str = "float32") -> Result:
        return train([xn.Linear(12, 9), Repeating(), xn.Linear(9, 3)], dtype=dtype)

    require_exact(make)
    assert made
    require_same_bits(make, threads)


class Normed(xn.optimizers.Optimizer):
    """The gradient times its own squared norm, computed in the step."""

    replayable = True

    def update(self, values: Array, gradients: Array, scalars: Array) -> None:
        xp = array_module(values)
        square = self.workspace.array(xp, "square", (1,), values.dtype)
        change = self._scratch(values)
        xp.dot(gradients, gradients, out=square.reshape(()))
        xp.multiply(gradients, square, out=change)
        xp.multiply(change, scalars[0:1], out=change)
        xp.subtract(values, change, out=values)


def test_a_scalar_that_the_step_computes(made: Made, threads: Callable[[int], None]) -> None:
    def make(dtype: str = "float32") -> Result:
        return train(plain(), Normed(0.01), dtype=dtype)

    require_exact(make)
    assert made
    require_same_bits(make, threads)


class Unrecorded(Halving):
    """A layer that says nothing about replay: its Python must run in every step."""

    replayable = False


def test_a_layer_that_is_not_replayable_runs_in_every_step(made: Made) -> None:
    Halving.calls = 0
    train([xn.Linear(12, 9), Unrecorded(), xn.Linear(9, 3)])
    assert Halving.calls == 15
    assert made == []


def test_an_error_within_a_step_is_raised_with_the_operation(
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    threads(2)

    class Failing(Layer):
        replayable = True

        def forward(self, x: Array, *, training: bool) -> Array:
            return array_module(x).take(x, ORDER[: len(x)], axis=0, out=self.like(x, "y"))

        def backward(self, dy: Array) -> Array:
            return dy

    class Spoiling(xn.Callback):
        def on_log(self, run: TrainingState, record: Any) -> None:
            ORDER[2] = 77

    monkeypatch.setitem(globals(), "ORDER", np.arange(16))
    optimizer = xn.SGD()
    with pytest.raises(IndexError, match="out of bounds") as caught:
        train([xn.Linear(12, 9), Failing(), xn.Linear(9, 3)], optimizer, callbacks=Spoiling())
    (note,) = caught.value.__notes__
    assert note.startswith("in a recorded step, Failing.forward: take(float32[16, 9], int64[16], ")
    assert optimizer.steps == 5


ORDER = np.arange(16)


@pytest.fixture
def interrupted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call of compiled loops is ended by Ctrl-C after two steps."""
    run, calls = runner.Program.run, iter(range(1000))

    def ended(self: runner.Program, first: int, last: int, threads: int) -> int:
        if next(calls) == 1:
            run(self, first, first + 2, threads)
            raise KeyboardInterrupt
        return run(self, first, last, threads)

    monkeypatch.setattr(runner.Program, "run", ended)


@pytest.mark.usefixtures("interrupted_run")
def test_ctrl_c_within_a_call_counts_the_steps_that_were_made() -> None:
    history, optimizer = xn.History(), xn.Adam()
    network = xn.Sequential(plain(), seed=1)
    with pytest.raises(KeyboardInterrupt):
        xn.fit(
            network,
            samples(12, 400),
            optimizer=optimizer,
            epochs=2,
            batch_size=16,
            history=history,
        )
    assert optimizer.steps == history.records[-1].step == 3
    assert np.isfinite(history.records[-1].loss)


def test_ctrl_c_before_a_call_counts_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before made several."""
    made: list[int] = []
    run = runner.Program.run

    def counting(self: runner.Program, first: int, last: int, threads: int) -> int:
        made.append(run(self, first, last, threads) - first)
        return first + made[-1]

    def threads() -> int:
        if made and made[-1] > 1:
            raise KeyboardInterrupt
        return 1

    monkeypatch.setattr(runner.Program, "run", counting)
    monkeypatch.setattr(executor, "threads", threads)
    history, optimizer = xn.History(), xn.Adam()
    with pytest.raises(KeyboardInterrupt):
        xn.fit(
            xn.Sequential(plain(), seed=1),
            samples(12, 400),
            optimizer=optimizer,
            epochs=9,
            batch_size=16,
            history=history,
        )
    assert made[-1] > 1
    assert optimizer.steps == history.records[-1].step == sum(made)


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_between_operations_in_python_is_not_lost(
    count: int, made: Made, threads: Callable[[int], None]
) -> None:
    """It comes while compiled loops run; Python handles it when these call Python."""
    threads(count)
    main, data = threading.get_ident(), samples(200, 1024)
    for _ in range(5):
        optimizer, history, sent = xn.Adam(), xn.History(), threading.Event()

        def send(optimizer: xn.Adam = optimizer, sent: threading.Event = sent) -> None:
            while optimizer.steps < 4:
                time.sleep(0.001)
            sent.set()
            signal.pthread_kill(main, signal.SIGINT)

        sender = threading.Thread(target=send)
        sender.start()
        layers = [xn.Linear(200, 300), xn.ReLU(), xn.Linear(300, 3)]
        with pytest.raises(KeyboardInterrupt):
            xn.fit(
                xn.Sequential(layers, seed=1),
                data,
                optimizer=optimizer,
                epochs=20_000,
                batch_size=512,
                clip_norm=1.0,
                history=history,
            )
        sender.join()
        assert sent.is_set()
        assert optimizer.steps < 39_000  # of 40,000, about half a minute
        assert made[-1]._lowering.calls


class Stopping(xn.Callback):
    """Asks training to end after step 7, as SIGTERM does."""

    def on_step_end(self, run: TrainingState) -> None:
        if run.step == 7:
            run.interrupted = 15


def test_a_resumed_training_has_the_same_bits(tmp_path: Path, made: Made) -> None:
    layers = [xn.Linear(12, 9), xn.BatchNorm(9), xn.ReLU(), xn.Dropout(0.2), xn.Linear(9, 3)]
    options: dict[str, Any] = {"checkpoints": xn.Checkpoints(tmp_path)}
    expected = train([layer.copy() for layer in layers], "adam")
    with pytest.raises(Interrupted):
        train([layer.copy() for layer in layers], "adam", callbacks=Stopping(), **options)
    made.clear()
    assert train(layers, "adam", callbacks=Stopping(), **options) == expected
    assert len(made) == 2


def test_two_trainings_at_once_have_the_bits_of_each_alone(threads: Callable[[int], None]) -> None:
    threads(2)

    def make(features: int) -> Result:
        with dispatch.use_kernels():
            return train(plain(features), "adam", epochs=40)

    expected = [make(features) for features in (12, 70)]
    found: dict[int, Result] = {}
    both = [
        threading.Thread(target=lambda n=n, size=size: found.update({n: make(size)}))
        for n, size in enumerate((12, 70))
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [found[0], found[1]] == expected


def test_settings_leave_compiled_steps_out(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("compiled_enabled", "kernels_enabled", "recording_enabled"):
        with monkeypatch.context() as patch:
            patch.setattr(SETTINGS, setting, False)
            train(plain())
        assert made == []
    train(plain(), dtype="float64")
    train([xn.Linear(12, 5), xn.Linear(5, 3)], dtype="float64")
    assert made == []


def test_many_operations_without_a_loop_are_run_call_by_call(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layers() -> list[Layer]:
        return [xn.Linear(12, 9), Halving(), xn.Linear(9, 3)]

    train(layers())
    calls = len(made[0]._lowering.calls)
    monkeypatch.setattr(executor, "MOST_CALLS", calls)
    train(layers())
    assert len(made) == 4
    monkeypatch.setattr(executor, "MOST_CALLS", calls - 1)
    train(layers())
    assert len(made) == 4


def test_a_step_of_very_many_operations_is_run_call_by_call(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(rows: int) -> int:
        train([xn.Linear(12, 3)], rows=2 * rows, batch_size=rows, epochs=1)
        return len(made)

    assert of(2048) == 1
    most = len(made[0]._recorded)
    monkeypatch.setattr(executor, "MOST_OPERATIONS", most)
    assert (of(2048), of(3072)) == (2, 2)


def test_threads_with_a_small_stack_run_call_by_call(made: Made) -> None:
    small = executor.LEAST_STACK // 2
    before = threading.stack_size(small)
    try:
        train(plain())
    finally:
        assert threading.stack_size(before) == small
    assert made == []
    train(plain())
    assert made


def test_one_batch_size_without_loops_changes_nothing_for_another(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = executor.CompiledSteps.__init__

    def refuses_full_batches(self: Any, *arguments: Any, **options: Any) -> None:
        _, tables, *_ = arguments
        if tables[0].shape[1] == 16:
            raise NotLowered("a full batch")
        init(self, *arguments, **options)

    monkeypatch.setattr(executor.CompiledSteps, "__init__", refuses_full_batches)
    train([xn.Linear(12, 9), xn.ReLU(), xn.Linear(9, 3)])
    # The short last batch comes after full ones; in a training that is resumed, it may come first.
    assert {steps._tables[0].shape[1] for steps in made} == {75 % 16}


def test_a_listed_step_changes_nothing_but_python() -> None:
    network = xn.Sequential([xn.Linear(4, 5), xn.BatchNorm(5), xn.Linear(5, 3)], seed=1)
    x, y = np.ones((6, 4), np.float32), np.zeros(6, np.int64)
    optimizer, loss = xn.Adam(), xn.SoftmaxCrossEntropy()
    before = [a.copy() for a in (network.flat_parameters, network.flat_buffers)]

    def step() -> None:
        xn.training.step.train_step(network, loss, optimizer, x, y)

    with dispatch.use_kernels():
        program = trace_only(np, step)
    after = [network.flat_parameters, network.flat_buffers]
    assert [a.tobytes() for a in after] == [b.tobytes() for b in before]
    assert not any(state.any() for state in optimizer.state.values())
    assert optimizer.steps == 2
    assert [op.name for op in program if op.is_kernel][-1] == "adam"
    assert program[0].origin == "Linear.forward"


def test_the_number_of_threads_is_that_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    for blas, count in ((1, 1), (3, 3), (64, 16)):
        monkeypatch.setattr(executor.small_gemm, "blas_threads", lambda blas=blas: blas)
        assert executor.threads() == count
    monkeypatch.setattr(executor.small_gemm, "blas_threads", lambda: None)
    monkeypatch.setattr(executor.os, "cpu_count", lambda: None)
    assert executor.threads() == 1


def test_the_number_of_threads_while_another_training_is_on_one_thread() -> None:
    limits = threadpoolctl.threadpool_limits(3, user_api="blas")
    with limits, executor.small_gemm.on_one_thread():
        assert executor.small_gemm.blas_threads() == 1
        assert executor.threads() == 3
