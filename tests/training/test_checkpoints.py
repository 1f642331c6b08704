"""Checkpoints: a training that ended anywhere continues to the same bits, or says why it cannot."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import error

import xpnet as xn
from xpnet import schedules
from xpnet.backend import Backend
from xpnet.cli.train import main
from xpnet.data import Normalisation, load_dataset
from xpnet.errors import CheckpointError, ConfigError, DivergenceError
from xpnet.network import Sequential
from xpnet.runs import factory
from xpnet.schedules import Cosine, WarmUp
from xpnet.serialization import TRAINING, describe, read, write
from xpnet.training import checkpoints
from xpnet.training.callbacks import Interrupted, StopAtInterrupt, TrainingState
from xpnet.training.checkpoints import KEPT, Checkpoints
from xpnet.training.history import Record
from xpnet.tune.__main__ import main as search
from xpnet.utils.intervals import parse_checkpoint_every

FEATURES, CLASSES, ROWS = 12, 3, 50
EACH_STEP = "0.000001 seconds"


def samples(rows: int = ROWS, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (rows, FEATURES), np.uint8)
    return x, x[:, :CLASSES].argmax(axis=1).astype(np.int64)


def on(backend: Backend, x: np.ndarray, labels: np.ndarray, dtype: str) -> xn.DeviceData:
    how = Normalisation(1 / 255, -0.25)
    return xn.DeviceData(
        x, labels, backend=backend, dtype=dtype, normalisation=how, image_shape=(3, 4)
    )


def plain() -> list[Any]:
    return [xn.Linear(FEATURES, 7), xn.ReLU(), xn.Dropout(0.2), xn.Linear(7, CLASSES)]


def everything() -> list[Any]:
    return [
        xn.GaussianNoise(0.1),
        xn.Linear(FEATURES, 9),
        xn.BatchNorm(9),
        xn.GELU(),
        xn.Dropout(0.3),
        xn.Linear(9, 8),
        xn.LayerNorm(8),
        xn.Tanh(),
        xn.Linear(8, CLASSES),
    ]


class End(xn.Callback):
    """End training as a signal would, after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run: TrainingState) -> None:
        if run.step == self.step:
            run.interrupted = signal.SIGINT


@dataclass
class Trained:
    network: Sequential
    optimizer: Any
    history: xn.History
    stopping: xn.EarlyStopping | None

    def arrays(self) -> list[np.ndarray]:
        to_host = self.network.backend.to_host
        state = self.optimizer.state
        kept = [
            self.network.flat_parameters,
            self.network.flat_buffers,
            *(state[name] for name in sorted(state)),
        ]
        return [to_host(array) for array in kept]

    def numbers(self) -> list[Any]:
        """All else that training leaves, but for seconds."""
        best = self.stopping.best if self.stopping else None
        waited = self.stopping.waited if self.stopping else None
        return [[self.line(r) for r in self.history.records], best and self.line(best), waited]

    def line(self, record: Record) -> list[Any]:
        return [getattr(record, name) for name in vars(record) if name != "seconds"]


def trained(
    backend: Backend,
    folder: Path | None = None,
    end: int = 0,
    *,
    make: Callable[[], list[Any]] = plain,
    optimizer: Callable[[], Any] = xn.Adam,
    dtype: str = "float32",
    loss: Callable[[], Any] = xn.SoftmaxCrossEntropy,
    augmentation: dict[str, float] | None = None,
    patience: int = 0,
    rows: int = ROWS,
    data: tuple[np.ndarray, np.ndarray] | None = None,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    network_seed: int = 1,
    every: int | str = 1,
    **options: Any,
) -> Trained:
    network = Sequential(make(), backend=backend, dtype=dtype, seed=network_seed)
    stopping = xn.EarlyStopping(patience) if patience else None
    made = Trained(network, optimizer(), xn.History(), stopping)
    xn.fit(
        network,
        on(backend, *(data or samples(rows)), dtype),
        on(backend, *(held_out or samples(30, 6)), dtype),
        optimizer=made.optimizer,
        loss=loss(),
        augmentation=xn.Augmentation(**augmentation) if augmentation else None,
        callbacks=[*([stopping] if stopping else []), *([End(end)] if end else [])],
        history=made.history,
        checkpoints=Checkpoints(folder, every) if folder else None,
        **({"epochs": 4, "batch_size": 16, "seed": 3} | options),
    )
    return made


def ended(backend: Backend, folder: Path, *ends: int, **options: Any) -> None:
    """Train, end and resume, once for each of `ends`."""
    for end in ends:
        with pytest.raises(Interrupted):
            trained(backend, folder, end, **options)
        assert checkpoint(folder).name == f"checkpoint-{end:09}.safetensors"


def checkpoint(folder: Path) -> Path:
    return Checkpoints(folder).paths()[-1]


# The same bits

DISTORTED = {"shift": 1.0, "rotation": 20.0, "elastic": 4.0, "elastic_sigma": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "make": everything,
        "optimizer": lambda: xn.SGD(WarmUp(Cosine(0.1, 9), 4), momentum=0.9, nesterov=True),
        "loss": lambda: xn.SoftmaxCrossEntropy(0.1),
        "l2": 0.5,
        "clip_norm": 0.3,
    },
    "float64 and decay": {
        "dtype": "float64",
        "optimizer": lambda: xn.RMSprop(0.01, momentum=0.5, weight_decay=0.1),
    },
    "distorted images": {"augmentation": DISTORTED | {"probability": 0.7}},
    "by iterations": {"log_every": "3 iterations", "optimizer": xn.AdamW},
    "full batch": {"batch_size": None, "epochs": 16, "log_every": 5},
    "full batch of distorted images": {
        "batch_size": None,
        "epochs": 16,
        "augmentation": {"shift": 1.0},
    },
    "one left over": {"batch_size": 13, "rows": 53, "epochs": 4},
    "evaluated": {"train_metrics": "evaluated", "make": everything, "l2": 0.1},
    "rate without state": {"optimizer": lambda: xn.SGD(Cosine(0.5, 16)), "patience": 9},
}


@pytest.mark.parametrize("case", CASES)
def test_training_that_ended_anywhere_ends_with_the_same_bits(
    case: str, backend: Backend, tmp_path: Path, compared: Callable[[str], None]
) -> None:
    options = CASES[case]
    expected = trained(backend, **options)
    # After the first step, in mid-epoch, at the end of an epoch, before the end, at the end.
    ended(backend, tmp_path, 1, 6, 8, 15, 16, **options)
    found = trained(backend, tmp_path, **options)
    assert found.optimizer.steps == expected.optimizer.steps
    assert found.history.column("step") == expected.history.column("step")
    for there, here in zip(expected.arrays(), found.arrays(), strict=True):
        assert here.dtype == there.dtype
        # On a GPU the first step after each end is made by other kernels than a replayed one.
        assert here.tobytes() == there.tobytes() or (is_gpu(backend) and error(here, there) < 1e-3)
    assert found.numbers() == expected.numbers() or is_gpu(backend)
    compared("fit resumed")


def is_gpu(backend: Backend) -> bool:
    """Whether it is CuPy itself."""
    return bool(backend.xp.__name__ == "cupy")


def test_early_stopping_goes_on_waiting_and_keeps_the_best(
    backend: Backend, tmp_path: Path
) -> None:
    options = {"patience": 3, "epochs": 60, "optimizer": lambda: xn.Adam(0.05), "make": everything}
    # Labels that cannot be learnt: the validation loss soon rises.
    options["held_out"] = samples(30, 6)[0], np.arange(30) % CLASSES
    expected = trained(backend, **options)
    steps = expected.history.records[-1].step
    assert steps < 60 * 4
    # Rounding decides about the last epochs, and is another one on a GPU.
    late = () if is_gpu(backend) else (steps - 6, steps - 4, steps)
    ended(backend, tmp_path, 5, *late, **options)
    found = trained(backend, tmp_path, **options)
    assert found.stopping is not None
    assert found.stopping.waited == 3
    if not is_gpu(backend):
        assert found.numbers() == expected.numbers()
        assert [a.tobytes() for a in found.arrays()] == [a.tobytes() for a in expected.arrays()]


def test_kernels_are_used_as_the_whole_training_asks(
    reference: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 steps are enough here, the 10 that are left would not be."""
    asked: list[int] = []
    use_kernels = xn.training.trainer.dispatch.use_kernels

    def asking(steps: int, *rest: Any) -> Any:
        asked.append(steps)
        return use_kernels(steps, *rest)

    monkeypatch.setattr(xn.training.trainer.dispatch, "use_kernels", asking)
    ended(reference, tmp_path, 6)
    trained(reference, tmp_path)
    assert asked == [16, 16]


# The gradient of a bias before `BatchNorm` is 0 but for rounding, about 1e-17. Adam divides it by
# its epsilon: with 1e-8 rounding alone would move the bias by 1e-9 of the rate in each step.
@pytest.mark.parametrize(
    ("make", "optimizer"), [(plain, xn.Adam), (everything, lambda: xn.Adam(epsilon=1e-3))]
)
def test_a_checkpoint_goes_on_where_another_backend_left_it(
    make: Any, optimizer: Any, backend: Backend, tmp_path: Path, compared: Callable[[str], None]
) -> None:
    options: dict[str, Any] = {"make": make, "optimizer": optimizer, "dtype": "float64"}
    options |= {"patience": 9, "augmentation": {"shift": 1.0}}
    # 16 steps, in each of which a weight goes through sums of at most 12 + 9 + 8 + 16 terms, forth
    # and back. A sum of n terms is off by n units of rounding (1.1e-16), and as many again are for
    # exp, tanh and the divisions: 16 · 4 · 45 · 1.1e-16 = 3.2e-13.
    tolerance = 3.2e-13
    expected = trained(Backend("cpu"), **options)
    here = Backend("cpu")
    ended(here, tmp_path, 3, **options)
    ended(backend, tmp_path, 6, 9, **options)
    ended(here, tmp_path, 13, **options)
    found = trained(backend, tmp_path, **options)
    for there, array in zip(expected.arrays(), found.arrays(), strict=True):
        assert error(array, there) <= tolerance
    losses = expected.history.column("val_loss")
    assert found.history.column("val_loss") == pytest.approx(losses, rel=tolerance)
    assert found.history.column("accuracy") == expected.history.column("accuracy")
    compared("checkpoint of another backend")


def test_seconds_go_on_as_well(reference: Backend, tmp_path: Path) -> None:
    ended(reference, tmp_path, 3)
    about, tensors = read(checkpoint(tmp_path))
    about[TRAINING].pop("sha256")
    about[TRAINING]["measured"]["seconds"] = 1000.0
    rewrite(checkpoint(tmp_path), about, tensors)
    found = trained(reference, tmp_path)
    assert 1000 < found.history.records[0].seconds < 2000
    assert found.history.records[1].seconds < 1000


# What is written, and when


def test_the_last_ones_stay(reference: Backend, tmp_path: Path) -> None:
    trained(reference, tmp_path, every=1)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"checkpoint-{step:09}.safetensors" for step in (12, 16)]
    assert len(names) == KEPT


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_then_the_folder(
    reference: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loss of power would ask for; only the order can be tested."""
    flushed: list[tuple[bool, bool]] = []
    flush = os.fsync

    def watch(handle: int) -> None:
        is_there = bool(Checkpoints(tmp_path).paths())
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), is_there))
        flush(handle)

    monkeypatch.setattr(os, "fsync", watch)
    trained(reference, tmp_path, every=4)
    assert flushed == [(False, False), (True, True)]


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [4, 8, 12, 16]), ("2 epochs", [8, 16]), ("3 epochs", [12]), (EACH_STEP, [*range(1, 17)])],
)
def test_checkpoints_come_when_asked_for(
    every: int | str,
    steps: list[int],
    reference: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []

    def watch(path: Path, *rest: Any) -> None:
        written.append(path.name)
        write(path, *rest)

    monkeypatch.setattr(checkpoints, "write", watch)
    trained(reference, tmp_path, every=every)
    assert written == [f"checkpoint-{step:09}.safetensors" for step in steps]


def test_seconds_count_from_the_end_of_the_last_one(
    reference: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk so slow that a checkpoint takes longer than they are apart lets training continue."""
    now = [0.0]
    written: list[str] = []

    def slowly(path: Path, *rest: Any) -> None:
        now[0] += 100.0
        written.append(path.name)
        write(path, *rest)

    class Pass(xn.Callback):
        def on_step_end(self, run: TrainingState) -> None:
            now[0] += 1.0

    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoints, "write", slowly)
    xn.fit(
        Sequential(plain()),
        on(reference, *samples(), "float32"),
        optimizer=xn.Adam(),
        epochs=3,
        batch_size=16,
        callbacks=[Pass()],
        checkpoints=Checkpoints(tmp_path, "5 seconds"),
    )
    assert [int(name[11:20]) for name in written] == [5, 10]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (1, (1, False)),
        ("3", (3, False)),
        (" 2 epochs ", (2, False)),
        ("1 epoch", (1, False)),
        ("30 seconds", (30.0, True)),
        ("0.5 seconds", (0.5, True)),
        ("1 second", (1.0, True)),
    ],
)
def test_how_often(text: Any, value: tuple[float, bool]) -> None:
    assert parse_checkpoint_every(text) == value


@pytest.mark.parametrize(
    "bad",
    [0, -1, "often", "", "1.5", "1.5 epochs", "0 seconds", "inf seconds", "3 days", "seconds"],
)
def test_bad_checkpoint_every_is_named(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^every must be .*, found"):
        Checkpoints(tmp_path, bad)


def test_a_checkpoint_is_a_model_as_well(backend: Backend, tmp_path: Path) -> None:
    ended(backend, tmp_path, 6, make=everything, patience=2)
    at_six: list[np.ndarray] = []

    class Look(End):
        def on_step_end(self, run: TrainingState) -> None:
            if run.step == self.step:
                state = run.network.state_dict().values()
                at_six.extend(backend.to_host(array).copy() for array in state)

    network = Sequential(everything(), backend=backend, seed=1)
    data = on(backend, *samples(), "float32")
    how = {"epochs": 4, "batch_size": 16, "seed": 3}
    xn.fit(network, data, optimizer=xn.Adam(), callbacks=[Look(6)], **how)
    read_back = xn.load(checkpoint(tmp_path), device=backend).state_dict().values()
    for there, here in zip(at_six, read_back, strict=True):
        assert there.tobytes() == backend.to_host(here).tobytes()


def test_what_a_callback_remembers_comes_back(backend: Backend, tmp_path: Path) -> None:
    class Memory(xn.Callback):
        """A number, a text, nothing, and the sum of all weights so far."""

        def __init__(self) -> None:
            self.count, self.sum = 0, None

        def on_step_end(self, run: TrainingState) -> None:
            self.count += 1
            values = run.network.flat_parameters
            self.sum = values.copy() if self.sum is None else self.sum + values

        def state(self, run: TrainingState) -> dict[str, Any]:
            return {"count": self.count, "text": "ä", "nothing": None, "sum": self.sum}

        def restore(self, run: TrainingState, state: dict[str, Any]) -> None:
            assert (state["text"], state["nothing"]) == ("ä", None)
            self.count, self.sum = state["count"], state["sum"]

    def run_with(*callbacks: xn.Callback, folder: Path | None) -> None:
        xn.fit(
            Sequential(plain(), backend=backend, seed=1),
            on(backend, *samples(), "float32"),
            optimizer=xn.Adam(),
            epochs=3,
            batch_size=16,
            callbacks=callbacks,
            checkpoints=Checkpoints(folder) if folder else None,
        )

    expected, first, second = Memory(), [Memory(), Memory()], [Memory(), Memory()]
    run_with(expected, folder=None)
    with pytest.raises(Interrupted):
        run_with(*first, End(6), folder=tmp_path)
    first[1].count = 7
    run_with(*second, folder=tmp_path)
    for memory in second:
        assert memory.count == expected.count == 12
        assert np.array_equal(backend.to_host(memory.sum), backend.to_host(expected.sum))


# What is refused


def other_pixels() -> tuple[np.ndarray, np.ndarray]:
    x, labels = samples()
    x[-1, -1] ^= 1
    return x, labels


def other_labels() -> tuple[np.ndarray, np.ndarray]:
    x, labels = samples()
    labels[7] = (labels[7] + 1) % CLASSES
    return x, labels


def wider() -> list[Any]:
    return [xn.Linear(FEATURES, 8), xn.ReLU(), xn.Dropout(0.2), xn.Linear(8, CLASSES)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"make": wider}, r"layer 0 is Linear\(in_features=12, out_features=7\) there and .*=8\)"),
        ({"make": lambda: [*plain()[:-1], xn.ReLU(), xn.Linear(7, 3)]}, "layer 4 is none there"),
        ({"make": lambda: [*plain()[:2], xn.Dropout(0.3), plain()[3]]}, "rate=0.2.*rate=0.3"),
        ({"dtype": "float64"}, "dtype is float32 there and float64 here"),
        ({"data": other_pixels()}, "training data is 50 samples of 12 uint8 .* SHA-256 .* there"),
        ({"data": other_labels()}, "training data is"),
        ({"rows": 49}, "training data is 50 samples .* and 49 samples"),
        ({"held_out": samples(30, 7)}, "validation data is"),
        ({"network_seed": 2}, "seed of the network is 1 there and 2 here"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"epochs": 5}, "epochs is 4 there and 5 here"),
        ({"batch_size": 15}, "batch_size is 16 there and 15 here"),
        ({"l2": 0.1}, "l2 is 0.0 there and 0.1 here"),
        ({"clip_norm": 1.0}, "clip_norm is None there and 1.0 here"),
        ({"optimizer": xn.AdamW}, r"optimizer is Adam\(.* there and AdamW\("),
        ({"optimizer": lambda: xn.Adam(0.1)}, r"Constant\(rate=0.001\).*Constant\(rate=0.1\)"),
        ({"loss": lambda: xn.SoftmaxCrossEntropy(0.1)}, "loss is .*smoothing=0.0.*smoothing=0.1"),
        ({"augmentation": {"shift": 1.0}}, r"augmentation is None there and .*shift=1.0"),
        ({"log_every": "4 iterations"}, "log_every is .*epochs.* there and .*iterations"),
        ({"train_metrics": "evaluated"}, "train_metrics is running there and evaluated here"),
        ({"patience": 2}, "callbacks is none there and EarlyStopping here"),
        ({"seed": 4, "epochs": 5, "l2": 1.0, "network_seed": 2, "batch_size": 9}, "and 1 more"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_checkpoint_of_another_training_is_refused(
    change: dict[str, Any], words: str, reference: Backend, tmp_path: Path
) -> None:
    ended(reference, tmp_path, 6)
    path = checkpoint(tmp_path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=words) as caught:
        trained(reference, tmp_path, **change)
    assert str(caught.value).startswith(f"{path}: is of another training: ")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_refusal_leaves_the_network_as_it_was(reference: Backend, tmp_path: Path) -> None:
    ended(reference, tmp_path, 6)
    network, optimizer = Sequential(wider(), seed=1), xn.Adam()
    before = network.flat_parameters.copy()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(CheckpointError):
        xn.fit(
            network,
            on(reference, *samples(), "float32"),
            optimizer=optimizer,
            epochs=4,
            callbacks=[StopAtInterrupt()],
            checkpoints=Checkpoints(tmp_path),
        )
    assert np.array_equal(network.flat_parameters, before)
    assert optimizer.steps == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_data_that_is_larger_than_what_is_hashed_counts_by_some_rows(
    reference: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.arange(100 * 8, dtype=np.uint8).reshape(100, 8)
    labels = np.arange(100) % 3

    def said(row: int | None = None, label: int | None = None) -> str:
        changed, other = x.copy(), labels.copy()
        if row is not None:
            changed[row] += 1
        if label is not None:
            other[label] += 1
        return checkpoints._describe_data(on(reference, changed, other, "float32"))

    expected = said()
    assert all(said(row) != expected for row in range(100))
    monkeypatch.setattr(checkpoints, "_HASHED_BYTES", 8 * 25)
    expected = said()
    assert [row for row in range(100) if said(row) != expected] == list(range(0, 100, 4))
    assert all(said(label=label) != expected for label in range(100))


def rewrite(path: Path, about: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """What someone wrote who knows the format."""
    training = about[TRAINING]
    if isinstance(training, dict):
        training["sha256"] = checkpoints._digest(training, tensors)
    write(path, tensors, about)


def test_damage_is_noticed(reference: Backend, tmp_path: Path) -> None:
    ended(reference, tmp_path, 4, 6)
    path = checkpoint(tmp_path)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    of_json = content.replace(b'\\"step\\": 6', b'\\"step\\": 7')
    assert of_json != content
    for damaged, words in [
        (bytes(flipped), "is damaged, its SHA-256 is not that of its content"),
        (of_json, "is damaged, its SHA-256 is not that of its content"),
        (content[:-1], "not a readable safetensors file"),
        (content[8:], "not a readable safetensors file"),
        (b"", "not a readable safetensors file"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{words}.*: remove it, and training"):
            trained(reference, tmp_path)
    # As the message says.
    path.unlink()
    assert checkpoint(tmp_path).name == "checkpoint-000000004.safetensors"
    expected = trained(reference)
    assert trained(reference, tmp_path).numbers() == expected.numbers()


@pytest.mark.parametrize(
    "change",
    [
        lambda training, tensors: training.pop("history"),
        lambda training, tensors: training.update(history=[[1, 2]]),
        lambda training, tensors: training.update(history=[["a"] * 8]),
        lambda training, tensors: training.update(history=7),
        lambda training, tensors: training.update(step="many"),
        lambda training, tensors: training.update(step=0),
        lambda training, tensors: training.update(step=10**9),
        lambda training, tensors: training.update(step=float("inf")),
        lambda training, tensors: training.update(updates=-1),
        lambda training, tensors: training.update(optimizer=["third"]),
        lambda training, tensors: training.update(optimizer=3),
        lambda training, tensors: training.update(measured=None),
        lambda training, tensors: training["measured"].pop("hits"),
        lambda training, tensors: training.update(callbacks=[]),
        lambda training, tensors: training["callbacks"]["EarlyStopping"].update(best=99),
        lambda training, tensors: training["callbacks"]["EarlyStopping"].pop("waited"),
        lambda training, tensors: tensors.pop("0.weight"),
        lambda training, tensors: tensors.pop(f"{TRAINING}.optimizer.first.0.weight"),
        lambda training, tensors: tensors.pop(f"{TRAINING}.EarlyStopping.0.weight"),
        lambda training, tensors: tensors.update({"0.weight": np.zeros(3, np.float32)}),
        lambda training, tensors: tensors.update(
            {f"{TRAINING}.optimizer.first.0.weight": np.zeros(3, np.float32)}
        ),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_one_line(
    change: Any, reference: Backend, tmp_path: Path
) -> None:
    ended(reference, tmp_path, 6, patience=3)
    path = checkpoint(tmp_path)
    about, tensors = read(path)
    about[TRAINING].pop("sha256")
    change(about[TRAINING], tensors)
    rewrite(path, about, tensors)
    with pytest.raises(CheckpointError) as caught:
        trained(reference, tmp_path, patience=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("training", [None, 7, []])
def test_a_model_is_no_checkpoint(training: Any, reference: Backend, tmp_path: Path) -> None:
    network = Sequential(plain())
    path = tmp_path / "checkpoint-000000003.safetensors"
    rewrite(path, describe(network) | {TRAINING: training}, network.state_dict())
    with pytest.raises(CheckpointError, match="is a model and no checkpoint"):
        trained(reference, tmp_path)


# Divergence


class Leap(schedules.Schedule):
    """0.01, and from step 6 on far too much."""

    def __call__(self, step: int) -> float:
        return 0.01 if step < 6 else 1e30


@pytest.mark.parametrize("every", [1, EACH_STEP])
def test_a_diverged_state_never_replaces_a_good_one(
    every: Any, backend: Backend, tmp_path: Path
) -> None:
    with pytest.raises(DivergenceError) as caught:
        trained(backend, tmp_path, optimizer=lambda: xn.SGD(Leap()), every=every)
    assert re.search(
        r"diverged in epoch 2 \(by step \d\): .* at learning rate 1e\+30, and the largest gradient "
        r"is that of layer \d, Linear\(\d+, \d\), (of norm [\d.e+]+|which is not finite): use a "
        r"smaller learning_rate, or clip_norm",
        str(caught.value),
    )
    paths = Checkpoints(tmp_path).paths()
    assert paths
    for path in paths:
        assert all(np.isfinite(tensor).all() for tensor in read(path)[1].values())
        assert int(path.stem[-9:]) < 8


def test_a_validation_loss_that_is_not_finite_is_divergence(reference: Backend) -> None:
    """The last update spoils the weights: the batches before it knew nothing of it."""
    with pytest.raises(DivergenceError, match=r"the validation loss is (nan|inf)"):
        trained(reference, optimizer=lambda: xn.SGD(Leap()), epochs=1, batch_size=8)


def test_the_largest_gradient_is_named(backend: Backend) -> None:
    network = Sequential(plain(), backend=backend)
    run = TrainingState(network, xn.SGD(0.25), xn.History(), 1, 1, epoch=1, step=1)
    running = xn.training.trainer.RunningMetrics(
        run, xn.SoftmaxCrossEntropy(), None, None, None, xn.Trainer.evaluate
    )
    gradients = network.parameter_gradients()
    gradients["0.weight"].fill(1)
    gradients["3.bias"].fill(2)
    assert "that of layer 0, Linear(12, 7), of norm 9.17:" in str(running.diverged("x"))
    gradients["3.bias"].fill(float("nan"))
    assert "that of layer 3, Linear(7, 3), which is not finite:" in str(running.diverged("x"))
    gradients["0.bias"].fill(float("inf"))
    assert "that of layer 3," in str(running.diverged("x"))


def test_the_command_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(factory, "build_schedule", lambda config, steps: Leap())
    argv = ["--optimizer", "sgd", "--checkpoint-every", EACH_STEP, "--run", "r", *dataset(tmp_path)]
    assert main(argv) == 3
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    last = checkpoint(Path("r"))
    assert f"history so far: r/history.csv, last good checkpoint: {last})" in message[0]
    assert np.isfinite(xn.load(last).flat_parameters).all()


# Signals


class Raise(xn.Callback):
    """Signals, in the middle of training."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.step, self.numbers = step, numbers

    def on_step_end(self, run: TrainingState) -> None:
        if run.step == self.step:
            for number in self.numbers:
                signal.raise_signal(number)


def interrupted(folder: Path, *numbers: int) -> xn.History:
    history = xn.History()
    x, labels = samples()
    xn.fit(
        Sequential(plain()),
        (x / np.float32(255), labels),
        optimizer=xn.Adam(),
        epochs=4,
        batch_size=16,
        callbacks=[StopAtInterrupt(), Raise(6, *numbers)],
        history=history,
        checkpoints=Checkpoints(folder),
    )
    return history


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_lets_the_step_end_and_leaves_a_checkpoint(
    number: int, code: int, word: str, tmp_path: Path
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=word) as caught:
        interrupted(tmp_path, number)
    assert caught.value.exit_code == code
    assert checkpoint(tmp_path).name == "checkpoint-000000006.safetensors"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_sigint_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(tmp_path, signal.SIGINT, signal.SIGINT)
    assert not isinstance(caught.value, Interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_the_last_step_is_not_forgotten(reference: Backend) -> None:
    class Late(xn.Callback):
        def on_train_end(self, run: TrainingState) -> None:
            signal.raise_signal(signal.SIGTERM)

    x, labels = samples()
    history = xn.History()
    with pytest.raises(Interrupted, match="terminated"):
        xn.fit(
            Sequential(plain()),
            (x / np.float32(255), labels),
            optimizer=xn.Adam(),
            epochs=2,
            callbacks=[Late(), StopAtInterrupt()],
            history=history,
        )
    assert len(history) == 2


@pytest.mark.needs("torch")
def test_a_second_sigterm_ends_the_process_at_once(tmp_path: Path) -> None:
    program = (
        "import signal, sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from test_checkpoints import interrupted\n"
        "interrupted(Path(sys.argv[3]), signal.SIGTERM, signal.SIGTERM)\n"
    )
    here = Path(__file__).parent
    paths = str(here), str(here.parent / "support")
    argv = [sys.executable, "-c", program, *paths, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == -signal.SIGTERM


def test_signals_that_are_to_be_ignored_stay_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert len(interrupted(tmp_path, signal.SIGINT)) == 4
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# The command


def dataset(folder: Path) -> list[str]:
    """600 of the embedded digits, which are read in no time, and a network for them."""
    source = load_dataset("digits")
    chosen = np.arange(0, 5000, 8)
    np.savez(folder / "few.npz", x=source.train.x[chosen], y=source.train.labels[chosen])
    flags = ["--dataset", str(folder / "few.npz"), "--hidden", "8", "--batch-size", "25"]
    return [*flags, "--epochs", "4", "--threads", "1", "--dropout", "0.2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Flags, and a run with them that nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    flags = ["--no-report", *dataset(folder), "--augment-shift", "1", "--patience", "3"]
    assert main([*flags, "--run", str(folder / "run")]) == 0
    return flags, folder / "run"


def lines(run: Path) -> list[dict[str, str]]:
    """`history.csv`, but for seconds."""
    with (run / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def require_equal(run: Path, expected: Path) -> None:
    assert lines(run) == lines(expected)
    names = {path.name for path in run.iterdir() if not path.name.startswith("checkpoint-")}
    assert names == {path.name for path in expected.iterdir()}
    for name in names - {"history.csv", "metrics.json", "report.html"}:
        assert (run / name).read_bytes() == (expected / name).read_bytes(), name
    mine, theirs = (json.loads((r / "metrics.json").read_text()) for r in (run, expected))
    assert mine | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_command_and_resume_goes_on(
    number: int, code: int, word: str, finished: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, expected = finished
    program = (
        "import signal, sys\n"
        "from xpnet.cli import train\n"
        "from xpnet.training.callbacks import Progress\n"
        "class End(Progress):\n"
        "    def on_step_end(self, run):\n"
        "        super().on_step_end(run)\n"
        f"        if run.step == 37: signal.raise_signal({int(number)})\n"
        "train.Progress = End\n"
        "sys.exit(train.main(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-W", "error", "-c", program, *flags, "--run", "a run"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.splitlines() == [f"xpnet: {word}"]
    assert done.stdout.endswith("to resume:   python -m xpnet.train --resume 'a run'\n")
    run = tmp_path / "a run"
    assert checkpoint(run).name == "checkpoint-000000037.safetensors"
    assert xn.load(run / "model.safetensors").out_features == 10
    assert main(["--resume", str(run)]) == 0
    require_equal(run, expected)


def test_a_run_without_a_checkpoint_begins_again(
    finished: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected = finished
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(expected / "config.toml", run)
    (run / ".model.safetensors.123").write_text("cut off")
    (run / ".lock").write_text("")
    assert main(["--resume", str(run), "--checkpoint-every", "1"]) == 0
    assert "resumes" not in capsys.readouterr().out
    steps = [int(path.stem[-9:]) for path in Checkpoints(run).paths()]
    require_equal(run, expected)
    (run / "metrics.json").unlink()
    (run / "model.safetensors").write_text("cut off")
    assert main(["--resume", str(run)]) == 0
    assert f"resumes after iteration {steps[-1]}/" in capsys.readouterr().out
    require_equal(run, expected)


def test_a_finished_run_is_left_alone(
    finished: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = finished
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["--resume", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/ is finished: there is nothing to do\n"
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize("argv", [["--epochs", "4"], ["--threads", "1"], ["--device", "cpu"]])
def test_a_finished_run_may_be_asked_for_what_it_did(
    argv: list[str], finished: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--resume", str(finished[1]), *argv]) == 0
    assert "is finished: there is nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "9"], "epochs is 4 there and 9 here"),
        (["--learning-rate", "0.5", "--epochs", "9"], "learning_rate is .* and 0.5 here; epochs"),
        (["--hidden", "9"], "hidden is .8,. there and .9,. here"),
        (["--split-seed", "9"], "split_seed is None there and 9 here"),
        (["--dataset", "other.csv"], "dataset is .* and 'other.csv' here"),
    ],
)
def test_a_finished_run_is_not_trained_on_with_other_settings(
    argv: list[str],
    words: str,
    finished: tuple[list[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, run = finished
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["--resume", str(run), *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert f"resume: {run} is finished and cannot be continued with other settings" in line
    assert re.search(words, line), line
    assert line.endswith(f"--config {run}/config.toml --initial-model {run}")
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epochs", "9"], "resume: .* other settings .epochs is 4 there and 9 here.: leave"),
        (["--hidden", "9", "--seed", "1"], "hidden is .8,. there and .9,. here; seed is 0 there"),
        (["--run", "other"], "resume: the run is resumed in its own folder: leave run out"),
        (["--config", "c.toml"], "resume: the run has its own settings: leave config out"),
    ],
)
def test_resume_takes_the_settings_of_the_run(
    argv: list[str],
    words: str,
    finished: tuple[list[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished[1] / "config.toml", run)
    assert main(["--resume", str(run), *argv]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert re.search(words, message[0]), message[0]
    assert [path.name for path in run.iterdir()] == ["config.toml"]


def test_a_search_is_not_resumed_so(
    finished: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.toml").write_text("hidden = [[4], [8]]\n")
    assert search([str(tmp_path / "space.toml"), "--resume", str(finished[1])]) == 2
    assert "resume: the same command resumes a search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "there is no folder {}: give the folder of a run"),
        ("empty", "{} is not a run that can be resumed"),
        ("file", "{} is not a run that can be resumed"),
        ("a" * 300, "{} is not a run that can be resumed"),
    ],
)
def test_resume_needs_a_run(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["--resume", str(tmp_path / name)]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert f"resume: {words.format(tmp_path / name)}" in message[0]
    assert not (tmp_path / "absent").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_other_data_under_the_same_name_is_refused(
    finished: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = dataset(tmp_path)
    assert main([*flags, "--run", str(tmp_path / "run"), "--checkpoint-every", "1"]) == 0
    (tmp_path / "run" / "metrics.json").unlink()
    with np.load(tmp_path / "few.npz") as file:
        x, y = file["x"], file["y"]
    x[0, 400] ^= 1
    np.savez(tmp_path / "few.npz", x=x, y=y)
    capsys.readouterr()
    assert main(["--resume", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1
    assert "is of another training: " in message[0]
    assert " data is " in message[0]


def test_resume_may_move_to_another_device(
    finished: tuple[list[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is typed to resume names the device, which `config.toml` does not."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished[1] / "config.toml", run)
    monkeypatch.setattr("xpnet.cli.train.Progress", lambda: Raise(30, signal.SIGINT))
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["--resume", str(run), "--device", "auto"]) == 130
    out = capsys.readouterr().out
    assert out.endswith(f"to resume:   python -m xpnet.train --resume {run} --device auto\n")
    monkeypatch.undo()
    assert main(["--resume", str(run)]) == 0
    require_equal(run, finished[1])
