"""What `fit()` and `evaluate()` are given: taken in every usual form, or refused in one line."""

from __future__ import annotations

import contextvars
import io
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import missing
import numpy as np
import pandas as pd
import pytest
import torch

import xpnet as xn
from xpnet.backend import Backend
from xpnet.data import Dataset, Normalisation
from xpnet.errors import ConfigError, DataError, DeviceMismatch, ShapeError, XpnetError
from xpnet.layers.base import Layer
from xpnet.losses import Loss
from xpnet.optimizers.clipping import ClipNorm
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback, TrainingState
from xpnet.training.sample_weights import SampleWeights

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
LABELS = np.arange(40) % 3
VALUES = X[:, :2] @ np.array([1.0, -2.0])


def net(outputs: int = 3, **options: Any) -> xn.Sequential:
    return xn.Sequential(4, 8, "relu", outputs, **options)


def train(network: xn.Sequential | None = None, x: Any = X, y: Any = LABELS, **options: Any) -> Any:
    network = network or net()
    xn.fit(network, (x, y), **({"optimizer": "adam", "epochs": 2, "batch_size": 16} | options))
    return network.backend.to_host(network.flat_parameters).copy()


# ------------------------------------------------------------------------------------ data


@pytest.mark.parametrize(
    "pair",
    [
        [X, LABELS],
        (X.tolist(), LABELS.tolist()),
        (pd.DataFrame(X), pd.Series(LABELS)),
        (pd.DataFrame(X).astype("Float32"), pd.Series(LABELS, dtype="Int64")),
        (np.asfortranarray(X), LABELS.astype(np.uint8)),
        (X.astype(">f4"), LABELS.reshape(-1, 1)),
        (X.reshape(40, 2, 2), pd.DataFrame({"label": LABELS})),
        *missing.cases("torch", 1, lambda: [(torch.from_numpy(X), torch.from_numpy(LABELS))]),
        Dataset(X, LABELS, ("a", "b", "c")),
    ],
    ids=["list", "lists", "frame", "nullable", "fortran", "big-endian", "images", "torch", "set"],
)
def test_the_same_samples_in_any_form_train_the_same_network(pair: Any) -> None:
    network = net()
    options: dict[str, Any] = {"optimizer": "adam", "epochs": 2, "batch_size": 16}
    history = xn.fit(network, pair, pair, **options)
    expected = net()
    xn.fit(expected, (X, LABELS), (X, LABELS), **options)
    assert np.array_equal(network.flat_parameters, expected.flat_parameters)
    assert history.records[-1].val_loss is not None
    assert xn.evaluate(network, pair).accuracy == xn.evaluate(expected, (X, LABELS)).accuracy


def test_the_values_of_a_dataset_are_taken_as_they_are() -> None:
    pixels = RNG.integers(0, 256, (40, 4), np.uint8)
    dataset = Dataset(pixels, LABELS, ("a", "b", "c"))
    one, other = net(), net()
    for network, data in ((one, dataset), (other, (pixels, LABELS))):
        xn.fit(network, data, optimizer="sgd", epochs=1)
    assert np.array_equal(one.flat_parameters, other.flat_parameters)
    assert xn.evaluate(one, dataset).accuracy == (one.predict(pixels.astype("f4")) == LABELS).mean()


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ((X, LABELS, LABELS), r"found 3 parts: give \(x, y\); weights of samples go into sample_w"),
        ((X,), "found 1 parts"),
        (X, r"found one ndarray of shape \(40, 4\): put samples and targets into one pair"),
        (pd.DataFrame(X), "found one DataFrame of shape"),
        (None, "found None: give samples and targets in arrays"),
        ((row for row in X), "found <generator"),
        ("digits", "found 'digits'"),
        (xn.DeviceData, "found the class DeviceData"),
        (0.1, "found 0.1: cut the data first"),
        ({"x": X}, "found {'x'"),
        *missing.cases("torch", 2, lambda: [(torch.nn.Linear(2, 2), "found Linear")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_pair_is_named(train: Any, words: str) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "train": lambda: xn.fit(net(), train, optimizer="sgd", epochs=1),
        "validation": lambda: xn.fit(net(), (X, LABELS), train, optimizer="sgd", epochs=1),
        "data": lambda: xn.evaluate(net(), train),
    }
    if train is None:
        del calls["validation"]
    for name, call in calls.items():
        with pytest.raises(ConfigError, match=f"^{name} must be the pair .*{words}") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_samples_and_targets_as_two_arguments() -> None:
    with pytest.raises(ConfigError, match=r"^train must be .*as in fit\(network, \(x, y\), ...\)$"):
        xn.fit(net(), X, LABELS, optimizer="sgd", epochs=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("which", ["x", "y"])
def test_no_weight_moves_where_a_value_is_not_finite(value: float, part: str, which: str) -> None:
    network = net(1)
    x, y = X.copy(), VALUES.astype(np.float32)
    place = "x[3, 2]" if which == "x" else "y[3]"
    (x[3] if which == "x" else y)[2 if which == "x" else 3] = value
    good = X, VALUES
    before = network.flat_parameters.copy()
    parts = [(x, y)] if part == "train" else [good, (x, y)]
    with pytest.raises(DataError) as caught:
        xn.fit(network, *parts, optimizer="sgd", epochs=1, loss="mse")
    assert str(caught.value).startswith(f"{part} {place} is ")
    assert np.array_equal(network.flat_parameters, before)


def test_what_float32_cannot_hold_is_refused_by_place() -> None:
    x = X.astype(np.float64)
    x[5, 1] = 1e300
    with pytest.raises(DataError, match=r"^train x\[5, 1\] is 1e\+300, .*: scale the values"):
        train(x=x)
    train(net(dtype="float64"), x=x / 1e290)
    y = VALUES * 1e300
    with pytest.raises(DataError, match=r"^train y\[0\] is .*float32"):
        train(net(1), y=y, loss="mse")


def test_a_memory_map_is_looked_through(tmp_path: Path) -> None:
    x = X.copy()
    np.save(tmp_path / "right.npy", x)
    x[17, 3] = np.inf
    np.save(tmp_path / "wrong.npy", x)
    right, wrong = (np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in ("right", "wrong"))
    assert np.array_equal(train(x=right), train())
    with pytest.raises(DataError, match=r"^train x\[17, 3\] is inf"):
        train(x=wrong)


def test_rows_that_are_not_in_one_piece_are_copied_once_and_others_never() -> None:
    both = np.asfortranarray(np.column_stack([X, LABELS]).astype(np.float32))
    held = xn.DeviceData(both[:, :4], both[:, 4], backend="cpu", dtype=np.float32)
    assert held.x.flags.c_contiguous
    assert held.target.flags.c_contiguous
    assert np.array_equal(held.x, X)
    labels = np.ascontiguousarray(LABELS)
    held = xn.DeviceData(X, labels, backend="cpu", dtype="float64")
    assert np.shares_memory(held.x, X)
    assert np.shares_memory(held.target, labels)


def test_the_shape_of_images_is_held_against_the_features() -> None:
    wrong: Any
    for wrong in ((28,), (0, 4), "2x2", 4, (2.0, 2)):
        with pytest.raises(ConfigError, match=r"^image_shape must be \(height, width\)"):
            xn.DeviceData(X, LABELS, backend="cpu", dtype="float32", image_shape=wrong)
    held = xn.DeviceData(X, LABELS, backend="cpu", dtype="float32", image_shape=(3, 4))
    with pytest.raises(ConfigError, match=r"^image_shape \(3, 4\) does not hold the 4 features"):
        xn.fit(net(), held, optimizer="sgd", epochs=1, augmentation=Augmentation(shift=1))


# ------------------------------------------------------------------- targets, loss and network


@pytest.mark.parametrize(
    ("y", "loss", "prediction", "shape"),
    [
        (VALUES, "mse", "values", (40,)),
        (VALUES.reshape(-1, 1), "mse", "values", (40, 1)),
        (LABELS % 2, "bce", "labels", (40,)),
        (LABELS, None, "class", (40,)),
    ],
)
def test_a_network_remembers_what_it_was_trained_to_predict(
    y: Any, loss: Any, prediction: str, shape: tuple[int, ...]
) -> None:
    network = net(3 if loss is None else 1)
    xn.fit(network, (X, y), optimizer="sgd", epochs=1, loss=loss)
    assert network.prediction == prediction
    assert network.predict(X).shape == shape
    with pytest.raises(XpnetError):
        xn.fit(network, (X, np.ones((40, 7))), optimizer="sgd", epochs=1, loss="mse")
    assert network.prediction == prediction


def test_whole_numbers_and_one_column_are_values_of_a_regression(backend: Backend) -> None:
    ages = (10 * VALUES + 40).astype(int)
    expected = train(net(1, backend=backend), y=ages.astype(np.float32).reshape(-1, 1), loss="mse")
    for y in (ages, ages.reshape(-1, 1), pd.Series(ages), ages.astype(np.float32), ages.tolist()):
        assert np.array_equal(train(net(1, backend=backend), y=y, loss="mse"), expected)
    held = xn.DeviceData(X, ages, backend=backend, dtype="float32")
    network = net(1, backend=backend)
    xn.fit(network, held, held, optimizer="adam", epochs=2, batch_size=16, loss="mse")
    assert np.array_equal(backend.to_host(network.flat_parameters), expected)
    assert held.target.shape == (40,)
    assert held.target.dtype.kind == "i"


def test_bools_are_labels_and_probabilities() -> None:
    old = VALUES > 0
    for y in (old, old.tolist(), pd.Series(old).astype("boolean")):
        assert np.array_equal(train(net(2), y=y), train(net(2), y=old.astype(int)))
        values = train(net(1), y=y, loss="binary_cross_entropy")
        assert np.array_equal(values, train(net(1), y=old.astype("f4")[:, None], loss="bce"))


ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


@pytest.mark.parametrize(
    ("outputs", "y", "loss", "words"),
    [
        (
            3,
            LABELS.astype(float),
            None,
            r"targets of float32 .*give y.astype\(int\) if they",
        ),
        (3, VALUES, "cross_entropy", 'loss="mse" if they are values'),
        (3, ONE_HOT, None, r"give y.argmax\(axis=1\) if they are one-hot"),
        (3, ONE_HOT.astype(int), None, r"give y.argmax\(axis=1\)"),
        (3, np.ones((40, 2)), None, 'say loss="binary_cross_entropy"'),
        (3, VALUES, "mse", r"shape \(40,\), .*give y of shape \(N, 3\)"),
        (3, np.ones((40, 2)), "mse", r"shape \(40, 2\), and MeanSquaredError .*\(N, 3\)"),
        (3, LABELS, "mse", 'say loss="cross_entropy" if they are classes'),
        (2, ONE_HOT, "bce", r"SigmoidBinaryCrossEntropy takes the shape .*\(N, 2\)"),
        (
            2,
            LABELS,
            None,
            "labels 0 to 2, the network gives 2 classes, .*: label 2 is in row 2",
        ),
        (1, LABELS, "bce", "target 2 in row 2, column 0, and .* numbers from 0 to 1"),
        (1, VALUES, "bce", "numbers from 0 to 1"),
    ],
)
@pytest.mark.parametrize("part", ["train", "validation"])
def test_targets_that_a_loss_does_not_take_are_refused_with_what_to_do(
    outputs: int, y: Any, loss: str | None, words: str, part: str
) -> None:
    good = {1: LABELS % 2, 2: LABELS % 2, 3: LABELS}[outputs]
    if loss in ("mse", "bce"):
        good = np.ones((40, outputs))
    pairs = [(X, y)] if part == "train" else [(X, good), (X, y)]
    network = net(outputs)
    before = network.flat_parameters.copy()
    with pytest.raises(XpnetError, match=f"^{part} has .*{words}") as caught:
        xn.fit(network, *pairs, optimizer="sgd", epochs=1, loss=loss)
    assert "\n" not in str(caught.value)
    assert np.array_equal(network.flat_parameters, before)


def test_evaluate_says_what_it_measures() -> None:
    network = net(1)
    xn.fit(network, (X, VALUES), optimizer="sgd", epochs=1, loss="mse")
    for y in (VALUES, VALUES.reshape(-1, 1), LABELS * 0):
        with pytest.raises(
            ConfigError, match=r"^evaluate\(\) measures a classifier .* predicts values"
        ):
            xn.evaluate(network, (X, y))
    with pytest.raises(ShapeError, match="argmax"):
        xn.evaluate(net(), (X, ONE_HOT.astype(int)))
    assert xn.evaluate(net(), (X.tolist(), LABELS.tolist())).confusion.sum() == 40


def test_one_row_left_over_for_batch_norm_is_refused_before_training(tmp_path: Path) -> None:
    def network() -> xn.Sequential:
        return xn.Sequential(4, 8, xn.BatchNorm(8), "relu", 3)

    class Pair(Layer):
        def __init__(self) -> None:
            super().__post_init__()
            self.inside = [xn.ReLU(), xn.BatchNorm(4)]

    composite = xn.Sequential([Pair(), xn.Linear(4, 3)])
    for made in (network(), composite):
        before = made.flat_parameters.copy()
        for size in (13, 39, 3, 1):
            with pytest.raises(ConfigError, match=r"^BatchNorm cannot train on a batch of 1 row"):
                train(made, batch_size=size)
        with pytest.raises(ConfigError, match=r"batches of 39 leave 1 over.* such as 40, or"):
            train(made, batch_size=39, checkpoints=xn.Checkpoints(tmp_path / "c"))
        with pytest.raises(ConfigError, match=r"batch_size 1\).*give more samples"):
            train(made, x=X[:1], y=LABELS[:1])
        assert np.array_equal(made.flat_parameters, before)
    for size in (2, 16, 40, None, 100):
        train(network(), batch_size=size)
    train(batch_size=39)


def test_early_stopping_without_validation_is_refused_before_training() -> None:
    network = net()
    before = network.flat_parameters.copy()
    with pytest.raises(ConfigError, match="needs a validation set"):
        train(network, callbacks=xn.EarlyStopping(2))
    assert np.array_equal(network.flat_parameters, before)

    class ByTrainingLoss(xn.EarlyStopping):
        def on_log(self, run: TrainingState, record: Any) -> None:
            run.stop = True

    train(callbacks=ByTrainingLoss(1))


# ------------------------------------------------------------------------------- by name


@pytest.mark.parametrize(
    ("name", "made"),
    [("sgd", xn.SGD()), ("RMSprop", xn.RMSprop()), ("adam", xn.Adam()), ("AdamW", xn.AdamW())],
)
def test_an_optimizer_by_name_has_its_defaults(name: str, made: xn.optimizers.Optimizer) -> None:
    assert np.array_equal(train(optimizer=name), train(optimizer=made))


@pytest.mark.parametrize(
    ("names", "made", "y"),
    [
        (("cross_entropy", "cross-entropy", "CrossEntropy", "softmax_cross_entropy"), None, LABELS),
        (("mse", "MSE", "mean_squared_error"), xn.MeanSquaredError, ONE_HOT),
        (("bce", "binary_cross_entropy"), xn.SigmoidBinaryCrossEntropy, ONE_HOT),
        (("mae", "mean_absolute_error"), xn.MeanAbsoluteError, ONE_HOT),
        (("huber",), xn.Huber, ONE_HOT),
        (("poisson",), xn.Poisson, ONE_HOT),
        (("quantile",), xn.Quantile, ONE_HOT),
    ],
)
def test_a_loss_by_name(names: tuple[str, ...], made: Any, y: Any) -> None:
    expected = train(y=y, loss=made and made())
    for name in names:
        assert np.array_equal(train(y=y, loss=name), expected)


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'adamm' is not known: use one of sgd, rmsprop, adam, "):
        train(optimizer="adamm")
    with pytest.raises(ConfigError, match="'hinge' is not known: use one of cross_entropy, binary"):
        train(loss="hinge")


def test_numpy_numbers_are_as_good_as_pythons(tmp_path: Path) -> None:
    plain = {"epochs": 2, "batch_size": 16, "l2": 0.5, "clip_norm": 0.25, "log_every": 1, "seed": 3}
    kinds = {int: np.int64, float: np.float32}
    numpys = {name: kinds[type(value)](value) for name, value in plain.items()}
    folder = xn.Checkpoints(tmp_path, every=np.int64(1))  # type: ignore[arg-type]
    expected = train(**plain, checkpoints=folder)
    assert np.array_equal(train(**numpys), expected)
    plain["epochs"] = 2
    # The checkpoint is of the same training.
    assert np.array_equal(train(**numpys, checkpoints=folder), expected)
    assert Augmentation(shift=np.int64(2), rotation=np.float32(0.5)) is not None
    assert repr(Augmentation(shift=2)) == repr(Augmentation(shift=2)).replace("2.0", "2")


@pytest.mark.parametrize("callbacks", [None, xn.Progress(io.StringIO()), iter([Callback()]), ()])
def test_one_callback_or_some(callbacks: Any) -> None:
    assert np.array_equal(train(callbacks=callbacks), train())


# --------------------------------------------------------------------------------- weights


def test_sample_weights_of_any_kind() -> None:
    weights = np.linspace(0.5, 2, 40)
    expected = train(sample_weight=weights)
    for given in (weights.tolist(), pd.Series(weights), pd.Series(weights, dtype="Float64")):
        assert np.array_equal(train(sample_weight=given), expected)


@pytest.mark.parametrize("weight", [1e-60, 1e-300])
def test_a_weight_that_becomes_0_is_refused_by_row(weight: float) -> None:
    weights = np.ones(40)
    weights[7] = weight
    with pytest.raises(DataError, match=rf"^sample_weight\[7\] is {weight}, .* 0.0 in float32"):
        train(sample_weight=weights)
    train(net(dtype="float64"), sample_weight=weights)
    weights[7] = 1e308
    weights[8] = 1e308
    with pytest.raises(DataError, match=r"^sample_weight\[0\] is 1.0, .* becomes 0.0"):
        train(sample_weight=weights)


# ----------------------------------------------------------------------------------- rates


def test_rates_have_the_precision_of_the_network_not_of_its_data(backend: Backend) -> None:
    seen: list[np.ndarray] = []

    class Spy(xn.SGD):
        def update(self, values: Any, gradients: Any, scalars: Any) -> None:
            seen.append(backend.to_host(scalars).copy())
            super().update(values, gradients, scalars)

    held = xn.DeviceData(X, LABELS, backend=backend, dtype="float32")
    network = net(backend=backend, dtype="float64")
    xn.fit(network, held, optimizer=Spy(0.1), epochs=1)
    assert seen[0].dtype == np.float64
    assert seen[0][0] == 0.1


# --------------------------------------------------------------------------- several at once


class Meet(Layer):
    """The identity, where two trainings wait for each other in every pass."""

    def __init__(self, barrier: threading.Barrier | None) -> None:
        super().__post_init__()
        self.barrier = barrier

    def get_config(self) -> dict[str, Any]:
        return {}

    def wait(self, x: Any) -> Any:
        if self.barrier is not None:
            self.barrier.wait(60)
        return x

    def forward(self, x: Any, *, training: bool) -> Any:
        return self.wait(x)

    def backward(self, dy: Any) -> Any:
        return self.wait(dy)


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returned, or the error it raised."""
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:
            results[number] = error

    # In the test's own context: a new thread has the defaults, so kernels where the test has none.
    contexts = [contextvars.copy_context() for _ in calls]
    threads = [threading.Thread(target=c.run, args=(run, n)) for n, c in enumerate(contexts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("shared", ["data", "loss", "augmentation"])
def test_two_trainings_at_once_on_the_same_object_learn_what_each_learns_alone(
    shared: str, backend: Backend
) -> None:
    pixels = RNG.integers(0, 256, (40, 4), np.uint8)

    def made() -> dict[str, Any]:
        how = Normalisation(1 / 255, -0.5)
        data = xn.DeviceData(pixels, LABELS, backend=backend, dtype="float32", normalisation=how)
        loss, augmentation = xn.SoftmaxCrossEntropy(0.1), Augmentation(shift=1, rotation=20)
        return {"data": data, "loss": loss, "augmentation": augmentation}

    def learnt(seed: int, barrier: threading.Barrier | None, things: dict[str, Any]) -> Any:
        layers = [Meet(barrier), xn.Linear(4, 8), xn.ReLU(), xn.Linear(8, 3), Meet(barrier)]
        network = xn.Sequential(layers, backend=backend, seed=seed)
        history = xn.fit(
            network,
            things["data"],
            things["data"],
            optimizer=xn.Adam(),
            loss=things["loss"],
            augmentation=things["augmentation"],
            epochs=3,
            batch_size=16,
            seed=seed,
        )
        return backend.to_host(network.flat_parameters).copy(), history.column("val_loss")

    alone = [learnt(seed, None, made()) for seed in (0, 1)]
    both, own = threading.Barrier(2), (made(), made())
    own[1][shared] = own[0][shared]
    at_once = in_threads(*(lambda n=n: learnt(n, both, own[n]) for n in (0, 1)))
    for expected, found in zip(alone, at_once, strict=True):
        assert not isinstance(found, BaseException), found
        assert np.array_equal(found[0], expected[0])
        assert found[1] == expected[1]


class OwnLoss(Loss):
    """Somebody's own: what it keeps is not known."""

    def forward(self, logits: Any, target: Any, weights: Any = None) -> Any:
        self.logits = logits
        return np.asarray(logits.sum())

    def backward(self, scale: float = 1.0) -> Any:
        return self.logits


def test_what_a_callback_changes_in_the_loss_counts() -> None:
    loss = xn.SoftmaxCrossEntropy()

    class Smooth(Callback):
        def on_epoch_begin(self, run: TrainingState) -> None:
            loss.label_smoothing = 0.2

    smooth = train(loss=xn.SoftmaxCrossEntropy(0.2))
    assert np.array_equal(train(loss=loss, callbacks=Smooth()), smooth)
    assert not np.array_equal(train(), smooth)


@pytest.mark.parametrize(
    "name", ["network", "optimizer", "history", r"callbacks[0]", "loss", "augmentation"]
)
def test_what_belongs_to_one_training_is_refused_to_another_at_the_same_time(name: str) -> None:
    class OwnAugmentation(Augmentation):
        pass

    things: dict[str, Any] = {
        "network": net(),
        "optimizer": xn.SGD(),
        "history": xn.History(),
        "callbacks[0]": xn.Progress(io.StringIO()),
        "loss": OwnLoss(),
        "augmentation": OwnAugmentation(shift=1),
    }
    errors: list[Exception] = []

    def run(network: xn.Sequential, *callbacks: Callback, **options: Any) -> None:
        options = {"optimizer": xn.SGD()} | options
        xn.fit(network, (X, LABELS), epochs=1, callbacks=callbacks, **options)

    def again() -> None:
        options = {name: things[name]} if name in ("optimizer", "history", "loss") else {}
        if name == "augmentation":
            options[name] = things[name]
        network = things["network"] if name == "network" else net()
        run(network, *([things[name]] if name == "callbacks[0]" else []), **options)

    class Nested(Callback):
        def on_step_end(self, _: TrainingState) -> None:
            try:
                again()
            except ConfigError as error:
                errors.append(error)

    keywords = {key: things[key] for key in ("optimizer", "history", "loss", "augmentation")}
    run(things["network"], things["callbacks[0]"], Nested(), **keywords)
    assert [str(error) for error in errors] == [
        f"{name} is in use by another fit() or TrainStep at this moment: give each of them one of "
        f"its own, or let one end before the other begins"
    ]
    if name != "optimizer":
        again()


def test_data_on_another_device_is_refused(double: Backend, reference: Backend) -> None:
    held = xn.DeviceData(X, LABELS, backend=double, dtype="float32")
    with pytest.raises(DeviceMismatch, match=r"^train is on device cuda, the network on cpu"):
        xn.fit(net(), held, optimizer="sgd", epochs=1)


# ---------------------------------------------------------------------------- wrong kinds

WRONG: dict[str, Any] = {
    "class": xn.Adam,
    "text": "folder",
    "none": None,
    "list": [],
    "lists": [[1.0, 2.0], [3.0]],
    "float": 0.5,
    "nan": math.nan,
    "negative": -3,
    "zero": 0,
    "true": True,
    "complex": 1j,
    "large": 10**22,
    "dict": {},
    "array": np.ones((2, 3)),
    "bytes": b"x",
    "object": object(),
    "function": max,
    "path": Path("folder"),
    "frame": pd.DataFrame({"a": ["x", "y"]}),
    "network": net(),
    "generator": (n for n in range(3)),
}

OF_TORCH: dict[str, Callable[[], Any]] = {
    "torch module": lambda: torch.nn.Linear(2, 2),
    "torch optimizer": lambda: torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))]),
    "torch tensor": lambda: torch.ones(3, requires_grad=True),
}


def wrong(kind: str) -> Any:
    return OF_TORCH[kind]() if kind in OF_TORCH else WRONG[kind]


KEYWORDS = [
    "train",
    "validation",
    "optimizer",
    "loss",
    "sample_weight",
    "epochs",
    "batch_size",
    "l2",
    "clip_norm",
    "augmentation",
    "seed",
    "precision",
    "log_every",
    "train_metrics",
    "callbacks",
    "history",
    "checkpoints",
]


def refused_or_right(call: Callable[[], Any], *names: str) -> bool:
    """Whether `call` raised one line that has one of `names` in it; other errors pass through."""
    try:
        call()
    except XpnetError as error:
        said = str(error)
    else:
        return False
    assert "\n" not in said
    assert any(name in said for name in names), said
    return True


@pytest.mark.parametrize("kind", [*WRONG, *OF_TORCH])
@pytest.mark.parametrize("name", KEYWORDS)
def test_fit_takes_an_argument_or_names_it(name: str, kind: str) -> None:
    network = net()
    before = network.flat_parameters.copy()
    arguments: dict[str, Any] = {"train": (X, LABELS), "optimizer": xn.SGD(), "epochs": 1}
    value = wrong(kind)
    if name == "epochs" and kind == "large":
        return  # it would train that long
    other = {"augmentation": "Augmentation", "sample_weight": "torch.Tensor"}.get(name, name)
    if refused_or_right(lambda: xn.fit(network, **arguments | {name: value}), name, other):
        assert np.array_equal(network.flat_parameters, before)


@pytest.mark.parametrize("kind", [*WRONG, *OF_TORCH])
def test_others_take_an_argument_or_name_it(kind: str, tmp_path: Path) -> None:
    value: Any = wrong(kind)
    device = Backend("cpu")
    if kind != "network":
        refused_or_right(lambda: xn.fit(value, (X, LABELS), optimizer="sgd", epochs=1), "network")
        refused_or_right(lambda: xn.evaluate(value, (X, LABELS)), "network")
    refused_or_right(lambda: xn.evaluate(net(), value), "data")
    for x in (value, (value, LABELS), (X, value)):
        refused_or_right(lambda x=x: xn.evaluate(net(), x), "data", "torch.Tensor")
    right: dict[str, Any] = {"x": X, "target": LABELS, "backend": device, "dtype": "float32"}
    for name in (*right, "normalisation", "image_shape"):
        names = (
            ("y", "target", "torch.Tensor")
            if name == "target"
            else (name, "device", "torch.Tensor")
        )
        refused_or_right(lambda name=name: xn.DeviceData(**right | {name: value}), *names)
    refused_or_right(lambda: xn.DeviceData.of(value, Normalisation(1, 0), **on(device)), "dataset")
    refused_or_right(lambda: xn.EarlyStopping(value), "patience")
    refused_or_right(lambda: xn.Progress(value), "stream")
    refused_or_right(lambda: ClipNorm(value), "clip_norm")
    refused_or_right(lambda: xn.Checkpoints(value), "folder")
    refused_or_right(lambda: xn.Checkpoints(tmp_path, value), "every must be")
    refused_or_right(lambda: xn.History(value), "records")
    refused_or_right(lambda: xn.History().column(value), "record")
    weights = "sample_weight", "torch.Tensor"
    refused_or_right(lambda: SampleWeights(value, 40, **on(device)), *weights)
    if kind not in ("text", "path"):
        refused_or_right(lambda: xn.History().to_csv(value), "path")
        refused_or_right(lambda: xn.History.from_csv(value), "path")
    for name in ("shift", "rotation", "scale", "shear", "elastic", "elastic_sigma", "probability"):
        refused_or_right(lambda name=name: Augmentation(**{name: value}), name)
    refused_or_right(lambda: Augmentation().begin(value, 0), "image_shape")
    refused_or_right(lambda: Backend(value), "device")


def on(backend: Backend) -> dict[str, Any]:
    return {"backend": backend, "dtype": "float32"}


def test_a_class_or_a_name_in_the_place_of_an_object_is_answered_with_what_to_write() -> None:
    for options, words in (
        (
            {"optimizer": xn.Adam},
            r"^optimizer must be .* the class Adam: write Adam\(...\)$",
        ),
        ({"loss": xn.MeanSquaredError}, r"^loss .*write MeanSquaredError\(...\)$"),
        ({"callbacks": xn.Progress}, r"^callbacks must be .*write Progress\(...\)$"),
        ({"callbacks": [xn.Progress]}, r"^callbacks\[0\] must be .*write Progress\(...\)$"),
        ({"checkpoints": "folder"}, r"^checkpoints .*found 'folder': Checkpoints\('folder'\)$"),
        ({"history": []}, r"^history must be a History or None, found \[\]$"),
        ({"optimizer": wrong("torch optimizer")}, r"^optimizer must be an optimizer such as Adam"),
        ({"seed": 1.5}, "^seed must be a whole number of 0 or more, found 1.5$"),
        ({"batch_size": 0}, "^batch_size must be a whole number above 0, found 0$"),
    ):
        with pytest.raises(ConfigError, match=words):
            train(**options)


@pytest.mark.parametrize("kind", [list, tuple, np.ndarray.tolist, np.asarray])
def test_images_keep_their_shape(kind: Any) -> None:
    images = np.arange(48, dtype=np.float32).reshape(4, 2, 6)
    held = xn.DeviceData(kind(images), [0, 1, 0, 1], backend="cpu", dtype="float32")
    assert held.image_shape == (2, 6)
    rows = xn.DeviceData(kind(images[:, 0, :4]), [0, 1, 0, 1], backend="cpu", dtype="float32")
    assert rows.image_shape == (2, 2)
