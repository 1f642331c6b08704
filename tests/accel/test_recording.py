"""A replayed step is the step as written, to the bit, and nobody can tell but by the clock."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import strict_cupy
from cases import LAYERS, LOSSES, OPTIMIZERS, by_id
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import dispatch, recording
from xpnet.accel.program import Operations
from xpnet.accel.recording import Replay, is_replayable, record
from xpnet.backend import Backend, array_module, gather
from xpnet.data import Normalisation
from xpnet.errors import ConfigError, DivergenceError
from xpnet.layers.base import Layer
from xpnet.losses import MeanSquaredError, SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.schedules import Cosine, WarmUp
from xpnet.training import microbatch
from xpnet.training.callbacks import TrainingState
from xpnet.training.history import Record

FEATURES, CLASSES = 12, 3


def samples(rows: int = 50, features: int = FEATURES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (rows, features), np.uint8)
    return x, (x[:, :CLASSES].argmax(axis=1)).astype(np.int64)


def _id(value: object) -> str:
    """The same in every process: `str` of a function names its address."""
    if isinstance(value, dict):
        return "-".join(f"{key}={_id(item)}" for key, item in value.items())
    return getattr(value, "__name__", str(value))


def plain() -> list[Layer]:
    return [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Linear(7, CLASSES)]


def everything() -> list[Layer]:
    return [
        xn.GaussianNoise(0.1),
        xn.Linear(FEATURES, 9),
        xn.BatchNorm(9),
        xn.GaussianNoise(0.2),
        xn.LeakyReLU(0.1),
        xn.Dropout(0.3),
        xn.Linear(9, 8),
        xn.LayerNorm(8),
        xn.Tanh(),
        xn.Linear(8, 7),
        xn.GELU(),
        xn.Dropout(0.1),
        xn.Linear(7, 6),
        xn.Sigmoid(),
        xn.Linear(6, 5),
        xn.Softmax(),
        xn.Linear(5, CLASSES),
    ]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many steps ran `written`, `recorded` and `replayed` since it was cleared."""
    counts: Counter[str] = Counter()
    run, record = Replay.run, recording.record

    def counting_run(self: Replay, size: int, *step: Any, **options: Any) -> bool:
        counts["all"] += options.get("count", 1)
        replayed = run(self, size, *step, **options)
        counts["replayed"] += self.completed
        return replayed

    def counting_record(xp: Any, step: Any) -> Any:
        counts["recorded"] += 1
        return record(xp, step)

    monkeypatch.setattr(Replay, "run", counting_run)
    monkeypatch.setattr(recording, "record", counting_record)
    return counts


def test_an_error_in_a_call_of_several_steps_says_how_many_are_complete() -> None:
    seen: list[int] = []
    rows = np.arange(5).reshape(5, 1)

    def step() -> None:
        seen.append(int(rows[0, 0]))
        if seen[-1] == 3:
            raise KeyboardInterrupt

    counted: list[int] = []
    calls = recording._Calls(step, [rows], lambda: counted.append(1))
    assert calls.most == 5
    with pytest.raises(KeyboardInterrupt):
        calls(5)
    assert calls.completed == 3
    assert seen == [0, 1, 2, 3]
    assert len(counted) == 3


def test_ctrl_c_before_a_call_counts_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = xn.SGD()
    step = xn.TrainStep(xn.Sequential(3, 2, seed=0), "cross_entropy", optimizer)
    batch = np.ones((5, 3), np.float32), np.zeros(5, np.int64)
    for _ in range(4):
        step(*batch)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recording._Calls, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        step(*batch)
    assert optimizer.steps == 4


Trained = tuple[Any, ...]


def trained(
    backend: Backend,
    make: Callable[[], list[Layer]] = plain,
    optimizer: Callable[[], Any] = xn.Adam,
    *,
    rows: int = 50,
    dtype: str = "float32",
    targets: bool = False,
    callbacks: Callable[[], list[xn.Callback]] = list,
    augmentation: dict[str, float] | None = None,
    loss: Callable[[], Any] | None = None,
    validate: bool = True,
    **options: Any,
) -> Trained:
    """All that a training leaves: values, statistics, optimizer, history."""
    network = Sequential(make(), backend=backend, dtype=dtype, seed=1)
    x, labels = samples(rows)
    target = np.eye(CLASSES)[labels] if targets else labels
    held = xn.DeviceData(
        x,
        target,
        backend=backend,
        dtype=options.pop("data_dtype", dtype),
        normalisation=Normalisation(1 / 255, -0.25),
        image_shape=(3, 4),
    )
    distorts = xn.Augmentation(**augmentation) if augmentation else None
    used = optimizer()
    history = xn.fit(
        network,
        held,
        held if validate else None,
        optimizer=used,
        loss=loss() if loss else None,
        augmentation=distorts,
        callbacks=callbacks(),
        **({"epochs": 4, "batch_size": 16} | options),
    )
    arrays = [
        network.flat_parameters,
        network.flat_gradients,
        network.flat_buffers,
        *used.state.values(),
    ]
    records = [[getattr(r, name) for name in vars(r) if name != "seconds"] for r in history.records]
    return [backend.to_host(a).tobytes() for a in arrays], used.steps, records


@pytest.fixture
def same(
    backend: Backend, ran: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Counter[str]]:
    """Train twice, with and without replay; returns how the first one ran."""

    def compare(*args: Any, **options: Any) -> Counter[str]:
        with monkeypatch.context() as patch:
            patch.setattr(SETTINGS, "recording_enabled", False)
            ran.clear()
            expected = trained(backend, *args, **options)
            assert ran["recorded"] == ran["replayed"] == 0
        ran.clear()
        assert trained(backend, *args, **options) == expected
        return ran

    return compare


# The same bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [plain, everything])
def test_networks(make: Any, dtype: str, same: Any, compared: Callable[[str], None]) -> None:
    ran = same(make, dtype=dtype, l2=0.3)
    # Of each size one as written and one recorded: 16 rows twice in epoch 1, 2 rows in 1 and 2.
    assert ran == {"all": 16, "recorded": 2, "replayed": 12}
    compared("fit replayed")


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("case", **by_id(OPTIMIZERS))
def test_optimizers(case: Any, weight_decay: float, same: Any) -> None:
    assert same(optimizer=lambda: case.make(weight_decay=weight_decay))["replayed"] == 12


@pytest.mark.parametrize("case", **by_id(LOSSES))
def test_losses(case: Any, same: Any) -> None:
    targets = case.kind is not SoftmaxCrossEntropy
    assert same(loss=case.make, targets=targets)["replayed"] == 12


@pytest.mark.parametrize(
    ("options", "recorded", "steps"),
    [
        ({"batch_size": None}, 1, 4),
        ({"batch_size": 50}, 1, 4),
        ({"batch_size": 25}, 1, 8),
        ({"batch_size": 1}, 1, 200),
        ({"batch_size": 49}, 2, 8),
        ({"batch_size": 16, "log_every": "3 iterations"}, 2, 16),
        ({"batch_size": 16, "log_every": 3, "validate": False}, 2, 16),
        ({"batch_size": 16, "train_metrics": "evaluated"}, 2, 16),
        ({"batch_size": None, "train_metrics": "evaluated", "rows": 1500}, 1, 4),
        ({"optimizer": lambda: xn.Adam(WarmUp(Cosine(0.05, 9), 4))}, 2, 16),
        ({"loss": lambda: SoftmaxCrossEntropy(0.1)}, 2, 16),
    ],
    ids=_id,
)
def test_batches_and_records(options: dict[str, Any], recorded: int, steps: int, same: Any) -> None:
    ran = same(**options)
    assert ran["all"] == steps
    assert ran["recorded"] == recorded
    assert ran["replayed"] == steps - 2 * recorded


def test_a_full_batch_is_made_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes = xn.DeviceData.whole, []

    def counting(self: xn.DeviceData) -> Any:
        sizes.append(len(self))
        return whole(self)

    monkeypatch.setattr(xn.DeviceData, "whole", counting)
    monkeypatch.delattr(xn.DeviceData, "batch")
    trained(backend, batch_size=None, epochs=6)
    assert sizes == [50]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("batch_size", "steps", "recorded"), [(None, 4, 1), (40, 8, 2)])
def test_batches_in_blocks(
    batch_size: int | None,
    steps: int,
    recorded: int,
    dtype: str,
    same: Any,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of 9 rows; the 10 that are left over by batches of 40 stay whole."""
    monkeypatch.setattr(microbatch, "MICROBATCH_ROWS", 9)
    pieces: list[int] = []
    through = Sequential._through

    def counting(self: Sequential, x: Any, training: bool) -> Any:
        pieces.append(len(x))
        return through(self, x, training)

    monkeypatch.setattr(Sequential, "_through", counting)

    def make() -> list[Layer]:
        return [layer for layer in everything() if not layer.batch_dependent]

    ran = same(make, batch_size=batch_size, dtype=dtype, l2=0.3)
    assert ran == {"all": steps, "recorded": recorded, "replayed": steps - 2 * recorded}
    if backend.xp.__name__ != "cupy":
        assert set(pieces) == ({9, 4, 10} if batch_size else {9, 5})


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize(
    "strengths",
    [
        {"shift": 1.0, "rotation": 20.0, "scale": 0.1, "shear": 5.0, "elastic": 4.0},
        {"shift": 1.0, "probability": 0.5},
        {"elastic": 4.0, "probability": 0.5},
        {"shift": 0.0},
    ],
    ids=_id,
)
def test_augmentation(strengths: dict[str, float], batch_size: int | None, same: Any) -> None:
    ran = same(everything, augmentation=strengths, batch_size=batch_size)
    assert ran["replayed"] == (12 if batch_size else 2)


def test_early_stopping(same: Any) -> None:
    ran = same(optimizer=lambda: xn.Adam(0.3), callbacks=lambda: [xn.EarlyStopping(2)], epochs=100)
    assert 12 < ran["replayed"] == ran["all"] - 4 < 396


def test_a_second_fit_records_anew(backend: Backend, ran: Counter[str]) -> None:
    network = Sequential([*plain(), xn.Dropout(0.2)], backend=backend)
    x, labels = samples(48)
    for _ in range(2):
        xn.fit(network, (x / 255, labels), optimizer=xn.SGD(), epochs=2, batch_size=16)
    assert ran["recorded"] == 2


def test_divergence_is_noticed(backend: Backend, ran: Counter[str]) -> None:
    with pytest.raises(DivergenceError, match="epoch 3"):
        trained(
            backend,
            optimizer=lambda: xn.SGD(lambda_of(1e30, since=30)),
            rows=160,
            validate=False,
            log_every=3,
        )
    assert ran["replayed"] > 20


def lambda_of(rate: float, since: int) -> Any:
    @dataclass(frozen=True)
    class Jump(xn.schedules.Schedule):  # type: ignore[name-defined]
        def __call__(self, step: int) -> float:
            return rate if step >= since - 10 else 0.0

    return Jump()


# Everything is seen, and nothing else is done


@pytest.mark.parametrize("case", **by_id(LAYERS))
def test_a_replayed_step_makes_the_same_calls(
    case: Any, double: Backend, ran: Counter[str]
) -> None:
    """In-place methods and operators go past the recorder, but not past the double."""
    counts: list[Counter[str]] = []

    class Count(xn.Callback):
        def on_step_end(self, run: TrainingState) -> None:
            counts.append(strict_cupy.ledger.operations.copy())

    def make() -> list[Layer]:
        return case.between(FEATURES, CLASSES)

    trained(
        double,
        make,
        lambda: xn.AdamW(),
        callbacks=lambda: [Count()],
        augmentation={"shift": 1.0, "elastic": 4.0, "probability": 0.5},
        loss=lambda: SoftmaxCrossEntropy(0.1),
        validate=False,
        l2=0.1,
        rows=112,
        epochs=1,
    )
    steps = [after - before for before, after in zip(counts, counts[1:], strict=False)]
    # The first step made its arrays, the last one is followed by a record.
    assert steps[0].total() > 80
    assert steps[:-1] == [steps[0]] * 5
    assert ran == {"all": 7, "recorded": 1, "replayed": 5}


def test_a_replayed_step_touches_neither_host_nor_allocator(
    double: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, guarded = Replay.run, Counter[bool]()

    def guarding(self: Replay, size: int, *step: Any, **options: Any) -> bool:
        known = self._steps.get(size)
        if known is None or known.replay is None:
            return run(self, size, *step, **options)
        with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
            guarded[run(self, size, *step, **options)] += 1
        return True

    monkeypatch.setattr(Replay, "run", guarding)
    trained(double, everything, l2=0.1, augmentation={"shift": 1.0, "elastic": 4.0})
    assert guarded == {True: 12}


def wide(width: int) -> Callable[[], list[Layer]]:
    return lambda: [
        xn.Linear(FEATURES, width),
        xn.ReLU(),
        xn.LayerNorm(width),
        xn.Linear(width, 24),
        xn.Tanh(),
        xn.Linear(24, CLASSES),
    ]


def drawing(width: int) -> Callable[[], list[Layer]]:
    return lambda: [*wide(width)()[:3], xn.Dropout(0.3), xn.GaussianNoise(0.1), *wide(width)()[3:]]


def every_other_layer() -> list[Layer]:
    """The layers that the two above lack, among others."""
    return [
        xn.Linear(FEATURES, 300),
        xn.BatchNorm(300),
        xn.LeakyReLU(0.1),
        xn.Linear(300, 300),
        xn.LayerNorm(300),
        xn.GELU(),
        xn.Linear(300, 300),
        xn.Sigmoid(),
        xn.Linear(300, CLASSES),
    ]


MINI = {"rows": 410 * 64, "batch_size": 64, "epochs": 1}
BLOCKS = {"rows": 2100, "batch_size": None, "epochs": 410}
LIMIT = 64 * 1024


@pytest.mark.parametrize("with_kernels", [False, True])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(wide(300), MINI, id="mini-batches"),
        pytest.param(drawing(300), MINI, id="mini-batches with dropout"),
        pytest.param(every_other_layer, MINI, id="mini-batches with every other layer"),
        pytest.param(wide(32), BLOCKS, id="blocks"),
    ],
)
def test_replayed_steps_take_no_memory(
    make: Callable[[], list[Layer]],
    options: dict[str, Any],
    with_kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
    reference: Backend,
) -> None:
    """100 steps grow by 0 bytes, and at no time hold as much as one array of a hidden layer.

    Measured, of Python and of NumPy, is what is held at the end of step 400 and was not at the
    end of step 300: 100 turns of the loop of `fit()`, each with a replayed step, and for full
    batches with the beginning of an epoch. By step 300 all counts are above 256, from where on
    the next whole number takes as much memory as the one before.
    """
    monkeypatch.setattr(SETTINGS, "kernels_enabled", with_kernels)
    monkeypatch.setattr(SETTINGS, "compiled_enabled", False)
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 0)
    run, steps, found, walked = Replay.run, iter(range(1000)), [0, 0, 0], []

    def watching(self: Replay, size: int, *step: Any, **options: Any) -> bool:
        replayed, number = run(self, size, *step, **options), next(steps)
        if number == 280:
            gc.collect()
            tracemalloc.start()
        elif number in (290, 300):  # twice, so that the number to be kept has its place
            tracemalloc.reset_peak()
            found[0] = tracemalloc.get_traced_memory()[0]
        elif number == 400:
            found[1:] = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        if not replayed:
            walked.append(number)
        return replayed

    monkeypatch.setattr(Replay, "run", watching)
    trained(reference, make, validate=False, log_every=1000, l2=0.1, **options)
    before, after, peak = found
    assert not set(walked) & set(range(280, 401))
    assert after == before
    assert peak - before <= LIMIT


def test_a_recording_for_each_size_and_no_more(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    run = Replay.run

    def watching(self: Replay, size: int, *step: Any, **options: Any) -> bool:
        sizes.add(size)
        assert set(self._steps) <= sizes
        replayed = run(self, size, *step, **options)
        replays.setdefault(size, set()).add(self._steps[size].replay)
        return replayed

    replays: dict[int, set[Any]] = {}
    monkeypatch.setattr(Replay, "run", watching)
    trained(backend, epochs=6)
    assert replays.keys() == {16, 2}
    for found in replays.values():
        assert len(found) == 2, "a size was recorded again"


# Callbacks


class Watch(xn.Callback):
    """Keeps what a layer holds after each step, in any run."""

    seen: ClassVar[list[bytes]] = []

    def on_step_end(self, run: TrainingState) -> None:
        layer: Any = run.network.layers[1]
        self.seen.append(run.network.backend.to_host(layer.y).tobytes())


@pytest.mark.parametrize("validate", [False, True])
def test_callbacks_see_what_layers_hold(
    validate: bool, backend: Backend, monkeypatch: pytest.MonkeyPatch, ran: Counter[str]
) -> None:
    """The buffers of a recording are no longer the layer's once other rows have gone through it."""

    def make() -> list[Layer]:
        return [xn.Linear(FEATURES, 7), xn.Tanh(), xn.Linear(7, CLASSES)]

    found = []
    for enabled in (False, True):
        monkeypatch.setattr(SETTINGS, "recording_enabled", enabled)
        monkeypatch.setattr(Watch, "seen", [])
        trained(backend, make, callbacks=lambda: [Watch()], rows=100, validate=validate)
        found.append(Watch.seen)
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) == 28
    assert ran["replayed"] >= 12


def change_rate(run: TrainingState) -> None:
    run.network.layers[2].rate = 0.8  # type: ignore[attr-defined]


def put(run: TrainingState, layer: Layer) -> None:
    """The layer in the place of number 1, which no public way leads to."""
    run.network._layers = (run.network.layers[0], layer, *run.network.layers[2:])


def change_layer(run: TrainingState) -> None:
    put(run, xn.Sigmoid())


def change_to_a_subclass(run: TrainingState) -> None:
    put(run, Doubling())


def seek(run: TrainingState) -> None:
    run.network.set_sample_counter(7)


def change_beta(run: TrainingState) -> None:
    run.optimizer.beta1 = 0.5  # type: ignore[attr-defined]


def start_decay(run: TrainingState) -> None:
    run.optimizer.weight_decay = 0.5


def forget_state(run: TrainingState) -> None:
    run.optimizer.state = {}


def replace_state(run: TrainingState) -> None:
    for name, array in run.optimizer.state.items():
        run.optimizer.state[name] = array * 0.5


def write_values(run: TrainingState) -> None:
    run.network.flat_parameters[...] = run.network.flat_parameters * 0.5


def wrap_a_method(run: TrainingState) -> None:
    layer = run.network.layers[1]
    forward = layer.forward
    layer.forward = lambda x, *, training: forward(x * 0.5, training=training)  # type: ignore[method-assign]


CHANGES = [
    change_rate,
    change_layer,
    change_to_a_subclass,
    seek,
    change_beta,
    start_decay,
    forget_state,
    replace_state,
    write_values,
    wrap_a_method,
]


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_begin", "on_log"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_callback_changes_takes_effect(
    change: Callable[[TrainingState], None], hook: str, same: Any, backend: Backend
) -> None:
    class Change(xn.Callback):
        def once(self, run: TrainingState, record: Record | None = None) -> None:
            if run.step >= 9 and not getattr(self, "done", False):
                self.done = True
                change(run)

    setattr(Change, hook, Change.once)

    def make() -> list[Layer]:
        return [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Dropout(0.2), xn.Linear(7, CLASSES)]

    ran = same(make, callbacks=lambda: [Change()], validate=False, rows=96)
    # Of 24 steps the first two are not replayed, nor are two after a change of what was recorded,
    # or all where what runs now cannot be trusted.
    after = {"on_step_end": 9, "on_epoch_begin": 12, "on_log": 12}[hook]
    wanted = {write_values: 22, change_to_a_subclass: after - 2, wrap_a_method: after - 2}
    assert ran["replayed"] == wanted.get(change, 20)
    changed = trained(backend, make, callbacks=lambda: [Change()], validate=False, rows=96)
    assert changed != trained(backend, make, validate=False, rows=96)


def test_data_that_a_callback_wraps(backend: Backend, ran: Counter[str]) -> None:
    seen: list[int] = []
    x, labels = samples(96)
    data = xn.DeviceData(x / 255, labels, backend=backend, dtype="float32")

    class Wrap(xn.Callback):
        def on_epoch_begin(self, run: TrainingState) -> None:
            batch = data.batch
            if run.epoch == 2:
                data.batch = lambda *a: (seen.append(run.step), batch(*a))[1]  # type: ignore

    network = Sequential(plain(), backend=backend)
    xn.fit(network, data, optimizer=xn.SGD(), epochs=3, batch_size=16, callbacks=[Wrap()])
    assert seen == list(range(6, 18))
    assert ran["replayed"] == 4


def test_smoothing_that_begins_after_the_first_step(same: Any) -> None:
    """The second step, which is recorded, would need an array that the first did not make."""
    loss: list[SoftmaxCrossEntropy] = []

    class Smooth(xn.Callback):
        def on_step_end(self, run: TrainingState) -> None:
            loss[-1].label_smoothing = 0.2

    def make() -> SoftmaxCrossEntropy:
        loss.append(SoftmaxCrossEntropy())
        return loss[-1]

    assert same(loss=make, callbacks=lambda: [Smooth()], validate=False)["replayed"] > 0


def test_a_hook_put_into_an_own_callback_is_watched(same: Any) -> None:
    def make() -> list[xn.Callback]:
        callback = xn.Callback()
        callback.on_log = lambda run, record: change_rate(run)  # type: ignore[method-assign]
        return [callback]

    def layers() -> list[Layer]:
        return [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Dropout(0.2), xn.Linear(7, CLASSES)]

    assert same(layers, callbacks=make, validate=False, rows=96)["replayed"] == 20


def test_own_callbacks_are_not_watched(backend: Backend, ran: Counter[str]) -> None:
    trained(backend, callbacks=lambda: [xn.EarlyStopping(50), xn.Progress()])
    assert ran == {"all": 16, "recorded": 2, "replayed": 12}
    ran.clear()
    # A record is an evaluation, after which the layers hold something else.
    trained(backend, callbacks=lambda: [xn.Callback(), Watcher()])
    assert 0 < ran["replayed"] < 12


class Watcher(xn.Callback):
    """Does nothing."""


@pytest.mark.parametrize(
    ("hook", "turns"),
    [("on_train_begin", 0), ("on_epoch_begin", 3), ("on_log", 3), ("on_step_end", 23)],
)
def test_only_a_callback_that_had_a_turn_is_watched(
    hook: str, turns: int, backend: Backend, ran: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 steps in 4 epochs: before how many the parts were compared with what they were."""
    compared: list[object] = []
    compare = recording._Snapshot.still_holds
    monkeypatch.setattr(
        recording._Snapshot, "still_holds", lambda *two: compared.append(two) or compare(*two)
    )

    class Turn(xn.Callback):
        def turn(self, run: TrainingState, record: Record | None = None) -> None:
            """Looks, and changes nothing."""

    setattr(Turn, hook, Turn.turn)
    trained(backend, callbacks=lambda: [Watcher(), Turn()], validate=False, rows=96)
    assert ran == {"all": 24, "recorded": 1, "replayed": 22}
    assert len(compared) == turns
    compared.clear()
    trained(backend, callbacks=lambda: [Watcher()], validate=False, rows=96)
    assert compared == []


def test_a_change_at_the_beginning_of_an_epoch_is_there_in_its_first_step(
    backend: Backend, ran: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates by the step at which a forward pass was written: epochs of 6 steps."""
    written: list[tuple[float, int]] = []
    forward = xn.Dropout.forward

    def watching(self: Any, x: Any, *, training: bool) -> Any:
        written.append((self.rate, ran["all"]))
        return forward(self, x, training=training)

    class Anneal(xn.Callback):
        def on_epoch_begin(self, run: TrainingState) -> None:
            run.network.layers[2].rate = 0.5 / run.epoch  # type: ignore[attr-defined]

    def make() -> list[Layer]:
        return [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Dropout(0.1), xn.Linear(7, CLASSES)]

    monkeypatch.setattr(xn.Dropout, "forward", watching)
    trained(backend, make, callbacks=lambda: [Anneal()], validate=False, rows=96)
    assert written == [(0.5 / e, step) for e in range(1, 5) for step in (6 * e - 5, 6 * e - 4)]
    assert ran == {"all": 24, "recorded": 4, "replayed": 16}


# Whom to trust


class Doubling(xn.ReLU):
    """`y = 2 max(x, 0)`, in a way that no recorder can see."""

    def forward(self, x: Any, *, training: bool) -> Any:
        y = super().forward(x, training=training)
        y *= 2
        return y

    def backward(self, dy: Any) -> Any:
        dx = super().backward(dy)
        dx *= 2
        return dx


class Scale(Layer):
    """`y = 3 x`, as a user would write it who knows the rule."""

    replayable = True

    def forward(self, x: Any, *, training: bool) -> Any:
        return array_module(x).multiply(x, 3.0, out=self.like(x, "y"))

    def backward(self, dy: Any) -> Any:
        return array_module(dy).multiply(dy, 3.0, out=self.like(dy, "dx"))


class ScaleAndCount(Scale):
    def forward(self, x: Any, *, training: bool) -> Any:
        self.seen = getattr(self, "seen", 0) + len(x)
        return super().forward(x, training=training)


class Loss(SoftmaxCrossEntropy):
    pass


class Momentum(xn.SGD):
    def update(self, values: Any, gradients: Any, scalars: Any) -> None:
        gradients *= 0.5
        super().update(values, gradients, scalars)


@pytest.mark.parametrize(
    "options",
    [
        {"make": lambda: [xn.Linear(FEATURES, 7), Doubling(), xn.Linear(7, 3)]},
        {"make": lambda: [xn.Linear(FEATURES, 7), ScaleAndCount(), xn.Linear(7, 3)]},
        {"loss": Loss},
        {"optimizer": Momentum},
        {"data_dtype": "float64"},
    ],
    ids=_id,
)
def test_what_cannot_be_trusted_runs_as_written(options: dict[str, Any], same: Any) -> None:
    ran = same(**options)
    assert ran["recorded"] == ran["replayed"] == 0


def test_a_class_may_ask_to_be_replayed(same: Any) -> None:
    def make() -> list[Layer]:
        return [xn.Linear(FEATURES, 7), Scale(), xn.Linear(7, 3)]

    assert same(make)["replayed"] == 12


def test_trust_is_in_the_class_itself() -> None:
    assert all(map(is_replayable, [*everything(), Sequential(plain()), xn.Adam(), Scale()]))
    assert not any(map(is_replayable, [Doubling(), ScaleAndCount(), Loss(), Momentum(), 1.0j]))
    for name in ("forward", "backward", "like"):
        layer = xn.ReLU()
        setattr(layer, name, getattr(layer, name))
        assert not is_replayable(layer)

    class Refusing(xn.ReLU):
        replayable = False

    class Elsewhere(xn.ReLU):
        __module__ = "xpnets.layers"

    assert not is_replayable(Refusing())
    assert not is_replayable(Elsewhere())


def test_other_networks_data_and_distortions_are_not_trusted(
    backend: Backend, ran: Counter[str]
) -> None:
    class Network(Sequential):
        pass

    class Data(xn.DeviceData):
        pass

    class Distortion(xn.Augmentation):
        pass

    x, labels = samples(48)
    for kinds in (
        (Network, xn.DeviceData, xn.Augmentation),
        (Sequential, Data, xn.Augmentation),
        (Sequential, xn.DeviceData, Distortion),
    ):
        network = kinds[0](plain(), backend=backend)
        data = kinds[1](x, labels, backend=backend, dtype="float32", image_shape=(3, 4))
        xn.fit(
            network,
            data,
            optimizer=xn.SGD(1e-4),
            epochs=2,
            batch_size=16,
            augmentation=kinds[2](shift=1.0),
        )
    assert ran == Counter(all=18)


# The recorder


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda xp, x: xp.exp(x), r"xp\.exp\(\) without out= cannot be recorded"),
        (lambda xp, x: xp.exp(x, out=None), r"xp\.exp\(\) without out="),
        (lambda xp, x: xp.empty(3), r"xp\.empty\(\) without out="),
        (lambda xp, x: xp.zeros(3), r"xp\.zeros\(\) without out="),
        (lambda xp, x: xp.result_type(x), r"xp\.result_type\(\) without out="),
        (lambda xp, x: xp.linalg.norm(x), r"xp\.linalg cannot be recorded"),
    ],
)
def test_a_call_without_out_is_named(
    wrong: Callable[[Any, Any], Any], words: str, backend: Backend
) -> None:
    class Wrong(Scale):
        replayable = True

        def forward(self, x: Any, *, training: bool) -> Any:
            if training:
                wrong(array_module(x), x)
            return super().forward(x, training=training)

    with pytest.raises(ConfigError, match=words) as caught:
        trained(backend, lambda: [xn.Linear(FEATURES, 3), Wrong()])
    assert "\n" not in str(caught.value)
    assert array_module(backend.xp.zeros(3)) is backend.xp


class InPlace(xn.Optimizer):
    """Updates the values without `xp`, which no recording contains."""

    replayable = True

    def update(self, values: Any, gradients: Any, scalars: Any) -> None:
        values -= scalars[0] * gradients


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_an_update_that_cannot_be_recorded_is_refused(
    hidden: bool, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 0)
    monkeypatch.setattr(SETTINGS, "kernels_enabled", kernels)

    def train(optimizer: xn.Optimizer) -> None:
        # With numba, the bias, which is a part of the values, is an argument of a kernel.
        first = [xn.Linear(FEATURES, 4), xn.ReLU(), xn.Linear(4, 3)]
        made = Sequential(first if hidden else [xn.Linear(FEATURES, 3)])
        data = np.ones((12, FEATURES), "float32"), np.arange(12) % 3
        xn.fit(made, data, optimizer=optimizer, epochs=3, batch_size=4)

    words = r"^InPlace\.update\(\) does not write to values by an xp call with out=values"
    with pytest.raises(ConfigError, match=words):
        train(InPlace(0.1))

    class NotReplayable(InPlace):
        replayable = False

    train(NotReplayable(0.1))


def test_what_is_no_call_comes_from_the_module(backend: Backend) -> None:
    recorder = Operations(backend.xp, [])
    for name in ("float32", "uint64", "dtype", "pi", "newaxis"):
        assert getattr(recorder, name) is getattr(backend.xp, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = recorder.nothing
    assert recorder.program == []


def test_calls_run_once_when_recorded_and_once_for_each_replay(backend: Backend) -> None:
    xp = backend.xp
    one, total, copied = xp.ones(3), xp.zeros(3), xp.zeros(3)

    def step() -> None:
        module = array_module(one, total)
        assert module == xp
        assert module is not xp
        assert hash(module) == hash(xp)
        assert module.add(total, one, out=total) is total
        assert module.copyto(copied, total) is copied

    program = record(xp, step)
    assert backend.to_host(total).tolist() == [1, 1, 1]
    for op in 2 * program:
        op.call()
    assert backend.to_host(total).tolist() == backend.to_host(copied).tolist() == [3, 3, 3]
    assert [op.name for op in program] == ["add", "copyto"]
    assert array_module(one) is xp


def test_arrays_of_another_module_are_not_recorded(double: Backend) -> None:
    host, device = np.ones(3), double.xp.ones(3)

    def step() -> None:
        assert array_module(host) is np
        assert Backend.of(device).xp is double.xp
        assert Backend.of(host).device == "cpu"
        with pytest.raises(xn.errors.DeviceMismatch):  # type: ignore[attr-defined]
            array_module(host, device)

    assert record(double.xp, step) == ()


def test_another_thread_is_neither_heard_nor_disturbed(backend: Backend) -> None:
    xp = backend.xp
    here, there = xp.ones(3), xp.ones(3)
    found: list[Any] = []

    def other() -> None:
        module = array_module(there)
        found.append(module)
        module.add(there, 1, out=there)
        found.extend(record(xp, lambda: array_module(there).add(there, 1, out=there)))

    def step() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        array_module(here).add(here, 1, out=here)

    (op,) = record(xp, step)
    assert found[0] is xp
    assert len(found) == 2
    op.call()
    assert backend.to_host(here).tolist() == backend.to_host(there).tolist() == [3, 3, 3]


def test_two_trainings_in_two_threads(reference: Backend) -> None:
    alone = trained(reference, everything, epochs=3)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(trained(reference, everything, epochs=3)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone, alone]


def test_an_exception_ends_the_recording(backend: Backend, ran: Counter[str]) -> None:
    class Failing(Scale):
        replayable = True
        calls = 0

        def forward(self, x: Any, *, training: bool) -> Any:
            Failing.calls += training
            if Failing.calls == 2:
                raise KeyboardInterrupt
            return super().forward(x, training=training)

    with pytest.raises(KeyboardInterrupt):
        trained(backend, lambda: [xn.Linear(FEATURES, 3), Failing()])
    assert ran["recorded"] == 1
    assert array_module(backend.xp.zeros(3)) is backend.xp


# NumPy without its wrappers

A = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
I = np.random.default_rng(0).integers(0, 200, (5, 4)).astype(np.uint8)  # noqa: E741
FLAT = np.empty(4, np.float32)


@pytest.mark.parametrize(
    ("name", "args", "out", "options"),
    [
        ("multiply", (A, 0.1), A, {}),
        ("multiply", (A, 3), A, {}),
        ("subtract", (1, A), A, {}),
        ("add", (A, True), A, {}),
        ("add", (A, A[0]), A, {}),
        ("add", (A.astype(np.float64), 0.1), A, {}),
        ("multiply", (I, 0.1), A.astype(np.float64), {}),
        ("multiply", (I, 3), I, {}),
        ("multiply", (I, 0.1), A, {"dtype": np.float32}),
        ("multiply", (I, A), A, {}),
        ("multiply", (A > 0, 0.7), A, {"dtype": np.float32}),
        ("multiply", (A > 0, 3), A, {"dtype": "float32"}),
        ("multiply", (A > 0, True), A, {"dtype": np.dtype("float32")}),
        ("maximum", (A > 0, 0.01), A, {"dtype": np.float32}),
        ("multiply", (A, 60_000), A.astype(np.float64), {"dtype": np.float64}),
        ("subtract", (1, A), A.astype(np.float64), {"dtype": np.float64}),
        ("multiply", (A, 0.1), A.astype(np.float64), {"dtype": np.float32}),
        ("multiply", (A.astype(np.float64), 0.1), A, {"dtype": np.float32, "casting": "same_kind"}),
        ("multiply", (I, 1 / 255), A, {"dtype": np.float32, "casting": "same_kind"}),
        ("multiply", (I.astype(np.uint32), 0.1), A, {"dtype": np.float32}),
        ("multiply", (I, 3), I.astype(np.int64), {"dtype": np.int64}),
        ("sqrt", (I,), A, {"dtype": np.float32}),
        ("add", (A, 1), A, {"casting": "same_kind"}),
        ("add", (I, 0.5), I, {"casting": "unsafe"}),
        ("add", (A.astype(np.float64), 0.5), I, {"casting": "unsafe"}),
        ("multiply", (A, np.float64(0.1)), A, {"dtype": np.float32}),
        ("multiply", ([1.0, 2.0, 3.0, 4.0], 0.5), FLAT, {"dtype": np.float32}),
        ("greater", (A, 0), A > 0, {}),
        ("greater", (I, -1), A > 0, {}),
        ("less", (I, 1000), A > 0, {}),
        ("maximum", (A, 0), A, {}),
        ("minimum", (A, 0.25), A, {}),
        ("exp", (A,), A, {}),
        ("sum", (A,), FLAT[0, ...], {}),
        ("sum", (A,), FLAT, {"axis": 0}),
        ("sum", (A,), A[:, :1].copy(), {"axis": 1, "keepdims": True}),
        ("sum", (A > 0,), np.empty((1, 1), np.int64), {"keepdims": True, "where": A > 1}),
        ("sum", (A > 0,), np.empty(4, np.int64), {"axis": 0}),
        ("sum", (A, 0), FLAT, {}),
        ("sum", (I,), np.empty(4, np.uint64), {"axis": 0}),
        ("max", (A,), FLAT[0, ...], {}),
        ("max", (A,), A[:, :1].copy(), {"axis": 1, "keepdims": True}),
        ("min", (A,), FLAT, {"axis": 0}),
        ("mean", (A,), FLAT, {"axis": 0}),
        ("mean", (A,), A[:, :1].copy(), {"axis": 1, "keepdims": True}),
        ("argmax", (A,), np.empty(5, np.int64), {"axis": 1}),
        ("argmin", (A,), np.empty(5, np.int64), {"axis": 1}),
        ("clip", (A, -0.5, 0.5), A, {}),
        ("take", (A, np.array([2, 0])), A[:2], {"axis": 0}),
        ("take", (A, np.array([2, 70])), A[:2], {"axis": 0, "mode": "clip"}),
        ("dot", (A, A.T), np.empty((5, 5), np.float32), {}),
        ("dot", (A[0], A[1]), FLAT[0, ...], {}),
        ("matmul", (A, A.T), np.empty((5, 5), np.float32), {}),
        ("cumsum", (A,), A, {"axis": 0}),
        ("take", (), A[:2], {"a": A, "axis": 0, "indices": np.array([2, 0])}),
        ("dot", (A,), np.empty((5, 5), np.float32), {"b": A.T}),
        ("sum", ([1.0, 2.0],), FLAT[0, ...], {}),
        ("mean", ([1.0, 2.0],), FLAT[0, ...], {}),
    ],
)
def test_a_call_to_numpy_gives_the_same_bits(
    name: str, args: tuple[Any, ...], out: np.ndarray, options: dict[str, Any]
) -> None:
    expected, found, again = (np.full_like(out, 7) for _ in range(3))
    getattr(np, name)(*args, out=expected, **options)

    def step() -> None:
        array_module(found).__getattr__(name)(*args, out=found, **options)

    (op,) = record(np, step)
    assert found.tobytes() == expected.tobytes()
    found[...] = again
    op.call()
    assert found.tobytes() == expected.tobytes()


def test_several_arrays_to_write_to() -> None:
    parts = np.empty_like(A), np.empty_like(A)
    copied = np.empty_like(A)

    def step() -> None:
        module = array_module(A)
        assert module.modf(A, out=parts) is parts
        assert module.copyto(dst=copied, src=A) is copied

    assert len(record(np, step)) == 2
    assert np.array_equal(parts, np.modf(A))
    assert np.array_equal(copied, A)


def test_numbers_become_arrays_once() -> None:
    (op,) = record(np, lambda: array_module(A).multiply(A, 0.1, out=np.empty_like(A)))
    number = op.call.args[1]  # type: ignore[attr-defined]
    assert type(number) is np.ndarray
    assert number.dtype == np.float32
    assert number == np.float32(0.1)


def test_rows_are_gathered_without_a_detour(reference: Backend) -> None:
    out, indices = np.empty((2, 4), np.float32), np.array([2, 0])

    def step() -> None:
        assert gather(A, indices, out=out) is out

    (op,) = record(np, step)
    assert op.options == {"axis": 0, "mode": "clip"}
    indices[...] = [4, 1]
    op.call()
    assert np.array_equal(out, A[[4, 1]])
    with pytest.raises(IndexError):
        record(np, lambda: array_module(A).take(A, np.array([70, 0]), axis=0, out=out))


def test_the_mean_of_a_squared_error_has_no_accuracy(backend: Backend) -> None:
    *_, records = trained(backend, loss=MeanSquaredError, targets=True)
    assert [record[4] for record in records] == [None] * 4
