"""`fit()`: what is learnt, recorded, stopped, restored, repeated, and refused."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict_cupy
from cases import as_written, error

import xpnet as xn
from xpnet import (
    Callback,
    DeviceData,
    Dropout,
    EarlyStopping,
    History,
    Linear,
    Progress,
    ReLU,
    Sequential,
)
from xpnet.backend import Backend
from xpnet.data import Normalisation
from xpnet.errors import ConfigError, DataError, DivergenceError
from xpnet.losses import MeanSquaredError, SoftmaxCrossEntropy
from xpnet.schedules import Cosine
from xpnet.training.callbacks import StopAtInterrupt, TrainingState, format_record
from xpnet.training.history import Record
from xpnet.utils.intervals import parse_log_every


def blobs(rows: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around three corners: uint8 `(rows, 8)`, labels `(rows,)`."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    centre = np.eye(3)[labels] @ rng.integers(60, 200, (3, 8))
    return np.clip(centre + rng.normal(0, 20, (rows, 8)), 0, 255).astype(np.uint8), labels


def small(backend: Backend | str = "cpu", dropout: float = 0.1, **options: Any) -> Sequential:
    layers = [Linear(8, 16), ReLU(), Dropout(dropout), Linear(16, 3)]
    return Sequential(layers, backend=backend, **options)


def data(backend: Backend, rows: int = 120, seed: int = 0, dtype: str = "float32") -> DeviceData:
    normalisation = Normalisation(1 / 255, 0.0)
    return DeviceData(*blobs(rows, seed), backend=backend, dtype=dtype, normalisation=normalisation)


@pytest.mark.parametrize(
    ("batch_size", "steps"), [(None, 1), (32, 4), (1, 120), (120, 1), (1000, 1)]
)
def test_full_mini_and_single_batches_all_learn(
    batch_size: int | None, steps: int, backend: Backend
) -> None:
    network = small(backend, dropout=0.0)
    epochs = {1: 60, 4: 20, 120: 3}[steps]
    history = xn.fit(
        network,
        data(backend),
        data(backend, 30, seed=0),
        optimizer=xn.Adam(0.02 if steps < 100 else 0.01),
        epochs=epochs,
        batch_size=batch_size,
    )
    assert history.column("epoch") == list(range(1, epochs + 1))
    assert history.column("step") == [steps * e for e in range(1, epochs + 1)]
    assert history.records[-1].loss < 0.5 * history.records[0].loss
    assert history.records[-1].val_accuracy > 0.95
    assert xn.evaluate(network, data(backend)).accuracy > 0.95


def test_a_short_last_batch_counts_by_its_size(reference: Backend) -> None:
    network = small(dropout=0.0)
    history = xn.fit(network, data(reference), optimizer=xn.SGD(0.0), epochs=1, batch_size=50)
    expected = xn.evaluate(network, data(reference))
    assert history.records[0].loss == pytest.approx(expected.loss, rel=1e-5)
    assert history.records[0].accuracy == expected.accuracy


def test_the_batches_of_an_epoch_are_every_sample_once(reference: Backend) -> None:
    seen: list[np.ndarray] = []

    class Spy(MeanSquaredError):
        def forward(self, logits: Any, target: Any, weights: Any = None) -> Any:
            seen.append(target[:, 0].copy())
            return super().forward(logits, target, weights)

    x = np.zeros((23, 2), np.float32)
    target = np.arange(23, dtype=np.float32)[:, None]
    network = Sequential([Linear(2, 1)])
    xn.fit(network, (x, target), optimizer=xn.SGD(0.0), loss=Spy(), epochs=2, batch_size=5)
    first, second = np.concatenate(seen[:5]), np.concatenate(seen[5:])
    assert sorted(first) == sorted(second) == list(range(23))
    assert list(first) != list(second)
    assert list(first) != list(range(23))


def test_same_seed_same_bits_and_other_seed_other_bits(backend: Backend) -> None:
    def trained(seed: int) -> np.ndarray:
        network = small(backend, seed=seed)
        xn.fit(network, data(backend), optimizer=xn.Adam(), epochs=3, batch_size=32, seed=seed)
        return backend.to_host(network.flat_parameters)

    assert np.array_equal(trained(0), trained(0))
    assert not np.array_equal(trained(0), trained(1))


def test_backends_train_alike(backend: Backend, compared: Callable[[str], None]) -> None:
    def trained(where: Backend) -> tuple[np.ndarray, History]:
        network = small(where, dtype="float64")
        history = xn.fit(
            network,
            data(where, dtype="float64"),
            data(where, 30, dtype="float64"),
            optimizer=xn.Adam(Cosine(0.01, 12)),
            epochs=3,
            batch_size=32,
            l2=0.1,
        )
        return where.to_host(network.flat_parameters), history

    with as_written():
        there, expected = trained(Backend("cpu"))
    here, records = trained(backend)
    assert error(here, there) <= 1e-12
    assert records.column("accuracy") == expected.column("accuracy")
    assert records.column("val_loss") == pytest.approx(expected.column("val_loss"), rel=1e-12)
    compared("fit")


def test_epochs_after_the_first_transfer_a_few_times_each(double: Backend) -> None:
    """Per epoch: up with the order and the table of scalars, down with loss and hits."""
    moved: list[tuple[int, int]] = []

    class Count(Callback):
        def on_log(self, run: TrainingState, record: Record) -> None:
            moved.append((strict_cupy.ledger.counts["h2d"], strict_cupy.ledger.counts["d2h"]))

    xn.fit(
        small(double),
        data(double),
        optimizer=xn.Adam(),
        epochs=4,
        batch_size=16,
        callbacks=[Count()],
    )
    for before, after in zip(moved[1:-1], moved[2:], strict=True):
        assert after[0] - before[0] == 2
        assert after[1] - before[1] == 2


def test_steps_within_an_epoch_touch_neither_host_nor_allocator(double: Backend) -> None:
    class Guard(Callback):
        guard: Any = None

        def on_step_end(self, run: TrainingState) -> None:
            self.release()
            if run.epoch == 2 and run.step % run.steps_per_epoch not in (
                0,
                run.steps_per_epoch - 1,
            ):
                self.guard = strict_cupy.forbid("sync", "h2d", "d2h", "alloc")
                self.guard.__enter__()
                self.guarded = getattr(self, "guarded", 0) + 1

        def release(self) -> None:
            if self.guard is not None:
                self.guard.__exit__(None, None, None)
                self.guard = None

    guard = Guard()
    xn.fit(
        small(double), data(double), optimizer=xn.Adam(), epochs=2, batch_size=16, callbacks=[guard]
    )
    assert guard.guarded == 6


def test_l2_is_in_the_loss_and_in_the_gradient(backend: Backend) -> None:
    def trained(l2: float) -> tuple[float, np.ndarray]:
        network = small(backend, dropout=0.0, dtype="float64")
        start = backend.to_host(network.flat_parameters).copy()
        history = xn.fit(
            network,
            data(backend, dtype="float64"),
            optimizer=xn.SGD(1.0),
            epochs=1,
            batch_size=None,
            l2=l2,
        )
        return history.records[0].loss, backend.to_host(network.flat_parameters) - start

    (plain, step), (penalised, shrunk) = trained(0.0), trained(6.0)
    network = small(backend, dtype="float64")
    weights = backend.to_host(network.flat_parameters)[: network.decay_size]
    assert penalised - plain == pytest.approx(6.0 / (2 * 120) * weights @ weights, rel=1e-12)
    assert error((shrunk - step)[: network.decay_size], -6.0 / 120 * weights) <= 1e-11
    assert error(shrunk[network.decay_size :], step[network.decay_size :]) <= 1e-15


def test_training_figures_can_be_evaluated_after_the_epoch(
    backend: Backend, compared: Callable[[str], None]
) -> None:
    def trained(how: str, epochs: int = 2) -> tuple[Sequential, Record]:
        network = small(backend, dropout=0.5, dtype="float64")
        history = xn.fit(
            network,
            data(backend, dtype="float64"),
            data(backend, dtype="float64"),
            optimizer=xn.SGD(0.3),
            epochs=epochs,
            batch_size=50,
            l2=3.0,
            train_metrics=how,
        )
        return network, history.records[-1]

    network, record = trained("evaluated")
    # The validation set is the training set here, and the penalty belongs to training alone.
    weights = backend.to_host(network.flat_parameters)[: network.decay_size]
    penalty = 3.0 / (2 * 120) * weights @ weights
    assert record.loss == pytest.approx(record.val_loss + penalty, rel=1e-12)
    assert record.accuracy == record.val_accuracy
    running, other = trained("running")
    assert np.array_equal(
        backend.to_host(running.flat_parameters), backend.to_host(network.flat_parameters)
    )
    assert other.val_loss == record.val_loss
    assert other.loss > record.loss
    compared("fit evaluated")


def test_evaluating_the_training_part_leaves_a_full_batch_alone(backend: Backend) -> None:
    """A full batch is made once; passes over the data take more than one block of rows."""

    def trained(how: str) -> np.ndarray:
        network, train = small(backend), data(backend, 1500)
        xn.fit(
            network,
            train,
            train,
            optimizer=xn.SGD(0.5),
            epochs=3,
            batch_size=None,
            train_metrics=how,
        )
        return backend.to_host(network.flat_parameters)

    def alone() -> np.ndarray:
        network = small(backend)
        xn.fit(network, data(backend, 1500), optimizer=xn.SGD(0.5), epochs=3, batch_size=None)
        return backend.to_host(network.flat_parameters)

    assert np.array_equal(trained("evaluated"), alone())
    assert np.array_equal(trained("running"), alone())


def distorted(**options: Any) -> xn.Augmentation:
    return xn.Augmentation(shift=1.0, rotation=20.0, elastic=4.0, elastic_sigma=1.0, **options)


def image_data(backend: Backend, normalisation: Normalisation, rows: int = 30) -> DeviceData:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 256, (rows, 12), np.uint8)
    return DeviceData(
        x,
        np.arange(rows) % 3,
        backend=backend,
        dtype="float32",
        normalisation=normalisation,
        image_shape=(3, 4),
    )


@pytest.mark.parametrize("batch_size", [None, 8])
def test_training_sees_distorted_images_each_epoch_anew(
    batch_size: int | None, backend: Backend, compared: Callable[[str], None]
) -> None:
    normalisation = Normalisation(1 / 255, -0.25)
    seen: list[np.ndarray] = []

    class Watch(Linear):
        def forward(self, x: Any, *, training: bool) -> Any:
            if training:
                seen.append(backend.to_host(x).copy())
            return super().forward(x, training=training)

    network = Sequential([Watch(12, 3)], backend=backend)
    train = image_data(backend, normalisation)
    history = xn.fit(
        network,
        train,
        train,
        optimizer=xn.SGD(0.0),
        epochs=2,
        batch_size=batch_size,
        augmentation=distorted(),
        seed=9,
    )
    # By hand: all images of both epochs, in the order of training, distorted at once.
    raw = backend.to_host(train.x).astype(np.float32)
    if batch_size is None:
        order = np.tile(np.arange(30), 2)
    else:
        order = np.concatenate([xn.random.permutation(9, epoch, 30) for epoch in (1, 2)])
    augmentation = distorted()
    augmentation.begin((3, 4), 9)
    wanted = augmentation.apply(raw[order], out=np.empty_like(raw[order]))
    wanted = (wanted * np.float32(1 / 255) - np.float32(0.25)).reshape(60, 12)
    assert error(np.concatenate(seen), wanted) <= 1e-6
    assert not np.array_equal(wanted[:30][np.argsort(order[:30])], wanted[30:])
    # What is held out stays as it is, and so do losses of training figures evaluated on it.
    losses = history.column("val_loss")
    assert losses[0] == losses[1]
    assert history.records[0].loss != history.records[1].loss
    compared("fit with augmentation")


def test_augmented_steps_touch_neither_host_nor_allocator(double: Backend) -> None:
    train = image_data(double, Normalisation(1 / 255, -0.25))
    augmentation = distorted(probability=0.5)
    train.begin(augmentation, 0)
    order = double.asarray(np.arange(30))
    for _ in range(2):
        train.batch(order[:8], augmentation)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        for rows in (order[8:16], order[16:20], order[20:28]):
            train.batch(rows, augmentation)


def test_augmentation_needs_images(reference: Backend) -> None:
    network = small()
    before = network.flat_parameters.copy()
    with pytest.raises(ConfigError, match="8 features are no square: give DeviceData their"):
        xn.fit(network, data(reference), optimizer=xn.SGD(1.0), epochs=1, augmentation=distorted())
    assert np.array_equal(network.flat_parameters, before)


def test_early_stopping_keeps_the_best_weights(backend: Backend) -> None:
    best: list[np.ndarray] = []

    class Watch(Callback):
        def on_log(self, run: TrainingState, record: Record) -> None:
            losses = run.history.column("val_loss")
            if record.val_loss == min(losses):
                best.append(backend.to_host(run.network.flat_parameters).copy())

    x, labels = blobs(60)
    noisy = DeviceData(x, np.roll(labels, 1), backend=backend, dtype="float32")
    stopping, network = EarlyStopping(patience=3), small(backend, dropout=0.0)
    history = xn.fit(
        network,
        data(backend, 60),
        noisy,
        optimizer=xn.Adam(0.05),
        epochs=200,
        batch_size=16,
        callbacks=[Watch(), stopping],
    )
    losses = history.column("val_loss")
    lowest = losses.index(min(losses))
    assert len(history) == lowest + 1 + 3 < 200
    assert stopping.best == history.records[lowest]
    assert np.array_equal(backend.to_host(network.flat_parameters), best[-1])


def test_early_stopping_needs_validation(reference: Backend) -> None:
    with pytest.raises(ConfigError, match="needs a validation set"):
        xn.fit(small(), data(reference), optimizer=xn.SGD(), epochs=2, callbacks=[EarlyStopping(2)])
    with pytest.raises(ConfigError, match="patience must be"):
        EarlyStopping(0)


@pytest.mark.parametrize(
    ("log_every", "steps"),
    [
        (1, [4, 8, 12, 16, 20]),
        (2, [8, 16, 20]),
        ("5 epochs", [20]),
        ("7 iterations", [7, 14, 20]),
        ("100 iterations", [20]),
        ("10 iterations", [10, 20]),
    ],
)
def test_records_come_when_asked_for_and_at_the_end(
    log_every: int | str, steps: list[int], reference: Backend
) -> None:
    history = xn.fit(
        small(), data(reference), optimizer=xn.SGD(), epochs=5, batch_size=32, log_every=log_every
    )
    assert history.column("step") == steps
    assert history.column("epoch") == [-(-step // 4) for step in steps]


@pytest.mark.parametrize("bad", [0, -1, "often", "3 days", "", "1.5", "iterations"])
def test_bad_log_every_is_named(bad: Any) -> None:
    with pytest.raises(ConfigError, match="log_every"):
        parse_log_every(bad)


def test_rates_of_the_schedule_are_recorded(reference: Backend) -> None:
    history = xn.fit(
        small(), data(reference), optimizer=xn.SGD(Cosine(0.1, 8)), epochs=2, batch_size=32
    )
    assert history.column("learning_rate") == [Cosine(0.1, 8)(3), Cosine(0.1, 8)(7)]


@pytest.mark.parametrize("epochs", [5])
def test_divergence_names_epoch_step_and_rate(epochs: int, backend: Backend) -> None:
    history = History()
    with pytest.raises(
        DivergenceError, match=r"epoch \d \(by step \d+\).*learning rate 1e\+30"
    ) as e:
        xn.fit(
            small(backend),
            data(backend),
            optimizer=xn.SGD(1e30),
            epochs=epochs,
            batch_size=32,
            history=history,
        )
    assert e.value.exit_code == 3
    assert all(np.isfinite(record.loss) for record in history.records)


class Interrupt(Callback):
    def __init__(self, step: int, by_signal: bool) -> None:
        self.step, self.by_signal = step, by_signal

    def on_step_end(self, run: TrainingState) -> None:
        if run.step == self.step:
            if self.by_signal:
                signal.raise_signal(signal.SIGINT)
            else:
                raise KeyboardInterrupt


@pytest.mark.parametrize("by_signal", [True, False])
def test_an_interrupt_keeps_the_history_so_far(by_signal: bool, reference: Backend) -> None:
    history, network = History(), small()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        xn.fit(
            network,
            data(reference),
            data(reference, 30),
            optimizer=xn.Adam(),
            epochs=5,
            batch_size=32,
            callbacks=[Interrupt(6, by_signal), StopAtInterrupt()],
            history=history,
        )
    assert history.column("step") == [4, 6]
    assert history.records[1].val_loss is None
    assert history.records[1].loss > 0
    assert signal.getsignal(signal.SIGINT) is before
    other = small()
    xn.fit(
        other, data(reference), optimizer=xn.Adam(), epochs=2, batch_size=32, callbacks=[Stop(6)]
    )
    assert np.array_equal(network.flat_parameters, other.flat_parameters), (
        "not the weights of a whole update"
    )


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run: TrainingState) -> None:
        run.stop = run.step == self.step


def test_an_optimizer_goes_on_counting_in_a_second_fit(reference: Backend) -> None:
    optimizer, network = xn.Adam(Cosine(0.01, 8)), small(dropout=0.0)
    for _ in range(2):
        history = xn.fit(network, data(reference), optimizer=optimizer, epochs=1, batch_size=32)
    assert optimizer.steps == 8
    assert history.records[0].learning_rate == Cosine(0.01, 8)(7)


def test_history_as_csv(reference: Backend, tmp_path: Path) -> None:
    history = xn.fit(small(), data(reference), optimizer=xn.SGD(), epochs=2)
    history.to_csv(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [float(row["loss"]) for row in rows] == history.column("loss")
    assert rows[0]["val_loss"] == ""


def test_regression_has_no_accuracy(reference: Backend) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    y = x @ [[1.0], [-2.0], [0.5]]
    network = Sequential([Linear(3, 1)], dtype="float64")
    history = xn.fit(
        network,
        (x, y),
        (x, y),
        optimizer=xn.SGD(0.1),
        loss=MeanSquaredError(),
        epochs=60,
        batch_size=10,
    )
    assert history.records[-1].accuracy is history.records[-1].val_accuracy is None
    assert history.records[-1].val_loss < 1e-6
    assert network.parameters()["0.weight"] == pytest.approx(np.array([[1.0, -2.0, 0.5]]), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"epochs": 0}, ConfigError, "epochs must be a whole number above 0, found 0"),
        ({"batch_size": -3}, ConfigError, "batch_size must be a whole number above 0, found -3"),
        ({"l2": -0.5}, ConfigError, "l2 must be a number of 0 or more, found -0.5"),
        ({"train": (np.zeros((4, 5)), np.zeros(4, int))}, DataError, "train has 5 features"),
        (
            {"train": (np.zeros((4, 8)), np.array([0, 1, 2, 3]))},
            DataError,
            "train has labels 0 to 3, the network gives 3 classes",
        ),
        (
            {"validation": (np.zeros((2, 8)), np.array([-1, 0]))},
            DataError,
            "validation has labels -1 to 0",
        ),
        (
            {"train": (np.zeros((4, 8)), np.zeros(3, int))},
            DataError,
            r"x \(4, 8\) and targets \(3,\)",
        ),
        ({"train": (np.zeros((0, 8)), np.zeros(0, int))}, DataError, "N above 0"),
        ({"train_metrics": "after"}, ConfigError, "running or evaluated, found 'after'"),
    ],
)
def test_arguments_that_cannot_be_are_named_before_training(
    change: dict[str, Any], kind: type[Exception], words: str, reference: Backend
) -> None:
    network = small()
    before = network.flat_parameters.copy()
    arguments: dict[str, Any] = {
        "train": data(reference),
        "validation": None,
        "optimizer": xn.SGD(),
        "epochs": 1,
    }
    with pytest.raises(kind, match=words):
        xn.fit(network, **(arguments | change))
    assert np.array_equal(network.flat_parameters, before)


def test_batches_scale_pixels_by_one_multiplication(
    backend: Backend, compared: Callable[[str], None]
) -> None:
    x = np.arange(256, dtype=np.uint8).repeat(2).reshape(256, 2)
    labels = np.arange(256)
    held = DeviceData(
        x, labels, backend=backend, dtype="float32", normalisation=Normalisation(1 / 255, -0.5)
    )
    assert held.x.dtype == np.uint8
    rows = backend.asarray(np.array([255, 0, 7]))
    batch, target = held.batch(rows)
    expected = x[[255, 0, 7]].astype(np.float32) * np.float32(1 / 255) + np.float32(-0.5)
    assert batch.dtype == np.float32
    assert np.array_equal(backend.to_host(batch), expected)
    assert backend.to_host(target).tolist() == [255, 0, 7]
    blocks = [(backend.to_host(b).copy(), backend.to_host(t)) for b, t in held.blocks(100)]
    assert [len(b) for b, _ in blocks] == [100, 100, 56]
    together = np.concatenate([b for b, _ in blocks])
    assert np.array_equal(together, x.astype(np.float32) * np.float32(1 / 255) + np.float32(-0.5))
    compared("DeviceData.batch")


def test_progress_prints_a_line_for_each_record(
    reference: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    xn.fit(
        small(),
        data(reference),
        data(reference, 30),
        optimizer=xn.SGD(),
        epochs=10,
        batch_size=32,
        log_every=5,
        callbacks=[Progress()],
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch  5/10  loss ")
    assert "  val acc " in lines[1]
    assert lines[1].endswith(" s")
    assert "\r" not in "".join(lines)


def test_progress_on_a_terminal_draws_a_bar_and_clears_it(reference: Backend) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    xn.fit(
        small(),
        data(reference),
        optimizer=xn.SGD(),
        epochs=2,
        batch_size=4,
        callbacks=[Progress(screen)],
    )
    text = screen.getvalue()
    assert "\r" in text
    assert "epoch 2/2" in text
    assert (
        sum(
            line.startswith("epoch") and line.endswith(" s")
            for line in text.replace("\r", "\n").split("\n")
        )
        == 2
    )


def test_a_line_in_mid_epoch_says_which_iteration() -> None:
    run = TrainingState(small(), xn.SGD(), History(), epochs=3, steps_per_epoch=10)
    record = Record(2, 15, 0.1, 0.5, 0.25, None, None, 1.25)
    assert (
        format_record(run, record) == "epoch 2/3  iteration 15/30  loss 0.5000  acc 25.00 %  1.2 s"
    )


def test_evaluation_of_a_perfect_network() -> None:
    network = Sequential([Linear(3, 3)], dtype="float64")
    network.load_state_dict({"0.weight": 50 * np.eye(3), "0.bias": np.zeros(3)})
    result = xn.evaluate(network, (np.eye(3), np.arange(3)))
    assert result.accuracy == 1.0
    assert result.confusion.tolist() == np.eye(3, dtype=int).tolist()
    assert result.loss < 1e-20
    assert isinstance(SoftmaxCrossEntropy(), xn.SoftmaxCrossEntropy)
