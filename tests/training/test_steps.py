"""`TrainStep` and `Trainer`: steps of one's own give what `fit()` gives, recorded or not."""

from __future__ import annotations

import contextlib
import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strict_cupy
from cases import place
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import recording
from xpnet.backend import Array, Backend
from xpnet.errors import CheckpointError, ConfigError, DataError, ShapeError
from xpnet.training.step import MOST_SIZES
from xpnet.utils.exclusive import ExclusiveUse

ROWS = 12


def batches(count: int = 6, dtype: str = "float64") -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((ROWS, 5)).astype(dtype), rng.integers(0, 3, ROWS))
        for _ in range(count)
    ]


def network(backend: Backend | str = "cpu", dtype: str = "float64") -> xn.Sequential:
    return xn.Sequential(5, 4, "relu", xn.Dropout(0.3), 3, backend=backend, dtype=dtype, seed=2)


def by_hand(backend: Backend) -> tuple[list[float], bytes]:
    made, loss, optimizer = network(backend), xn.SoftmaxCrossEntropy(), xn.Adam(0.01)
    values = []
    for x, y in batches():
        outputs = made.forward(place(backend, x), training=True)
        values.append(float(backend.to_host(loss.forward(outputs, place(backend, y)))))
        made.backward(loss.backward())
        optimizer.step(made)
    return values, backend.to_host(made.flat_parameters).tobytes()


@pytest.mark.parametrize("on_device", [False, True])
def test_steps_are_those_written_by_hand(on_device: bool, backend: Backend, compared: Any) -> None:
    made = network(backend)
    step = xn.TrainStep(made, "cross_entropy", xn.Adam(0.01))
    values = []
    for x, y in batches():
        given = (place(backend, x), place(backend, y)) if on_device else (x, y)
        values.append(float(backend.to_host(step(*given))))
    expected, parameters = by_hand(backend)
    # Compiled loops sum in another order; without them the two are equal to the bit.
    assert np.allclose(values, expected, rtol=1e-12)
    found = np.frombuffer(backend.to_host(made.flat_parameters).tobytes())
    assert np.allclose(found, np.frombuffer(parameters), rtol=1e-9, atol=1e-12)
    assert step.optimizer.steps == 6
    compared("TrainStep")


def test_a_step_is_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, record = [], recording.record
    monkeypatch.setattr(recording, "record", lambda *a: recorded.append(1) or record(*a))
    made = network()
    step = xn.TrainStep(made, "cross_entropy", xn.Adam(0.01))
    for x, y in batches():
        step(x, y)
        made.predict(x)
    assert len(recorded) == 1
    made.layers[2].rate = 0.9  # type: ignore[attr-defined]
    for x, y in batches(3):
        step(x, y)
    assert len(recorded) == 2


def test_a_value_is_kept_and_the_batch_is_not_needed_any_more() -> None:
    step = xn.TrainStep(network(), "cross_entropy", "sgd")
    (x, y), (other, labels), *_ = batches()
    first = step(x, y)
    kept = float(first)
    x[...], y[...] = 0, 0
    step(other, labels)
    assert float(first) == kept


def test_a_steady_step_only_brings_the_batch(double: Backend) -> None:
    step = xn.TrainStep(network(double), "cross_entropy", xn.Adam())
    given = [(place(double, x), place(double, y)) for x, y in batches()]
    for x, y in given[:3]:
        step(x, y)
    with strict_cupy.forbid("sync", "d2h"):
        for x, y in given[3:]:
            step(x, y)


@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        ((np.zeros((3, 4)), [0, 1, 2]), (DataError, ShapeError), "4 features"),
        ((np.zeros((3, 5)), [0, 1]), DataError, "one target a row"),
        ((np.zeros((3, 5)), [0, 1, 7]), DataError, "7"),
        ((np.full((3, 5), np.nan), [0, 1, 2]), DataError, "is NaN"),
        ((np.zeros((3, 5)), [0.5, 1, 2]), ShapeError, "labels"),
    ],
)
def test_a_batch_that_does_not_fit(batch: Any, error: Any, match: str) -> None:
    step = xn.TrainStep(network(), "cross_entropy", "sgd")
    with pytest.raises(error, match=match):
        step(*batch)


def test_labels_are_checked_in_every_batch() -> None:
    step = xn.TrainStep(network(), "cross_entropy", "sgd")
    for x, y in batches(3):
        step(x, y)
    x, y = batches(1)[0]
    y[4] = 3
    with pytest.raises(DataError, match=r"batch has labels.*row 4"):
        step(x, y)


class Halved(xn.Loss):
    """Says nothing about its targets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = xn.SoftmaxCrossEntropy()

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        return self.inner.forward(logits, target, weights)

    def backward(self, scale: float = 1.0) -> Array:
        return self.inner.backward(scale / 2)


def test_every_batch_is_checked_as_the_first_one() -> None:
    for loss in (xn.SoftmaxCrossEntropy(), Halved()):
        step = xn.TrainStep(network(), loss, "sgd")
        for x, y in batches(3):
            step(x, y)
        before = step.network.flat_parameters.copy()
        with pytest.raises(DataError, match=r"batch has labels.*row 4"):
            step(x, np.where(np.arange(ROWS) == 4, 3, y))
        x[2, 1] = np.nan
        with pytest.raises(DataError, match=r"batch x\[2, 1\] is NaN"):
            step(x, y)
        assert np.array_equal(step.network.flat_parameters, before)


def test_lists_are_recorded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, record = [], recording.record
    monkeypatch.setattr(recording, "record", lambda *a: recorded.append(1) or record(*a))
    step = xn.TrainStep(xn.Sequential(5, 2), "mse", "sgd")
    for x, _ in batches():
        step(x.tolist(), x[:, :2].tolist())
    assert len(recorded) == 1
    assert step.network.target_shape == (2,)


def test_what_fit_refuses() -> None:
    made = network()
    with pytest.raises(ConfigError, match="optimizer"):
        xn.TrainStep(made, "cross_entropy", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="network must be"):
        xn.TrainStep([made], "cross_entropy", "sgd")  # type: ignore[arg-type]
    made.trainable = False
    with pytest.raises(ConfigError, match="no parameters to train"):
        xn.TrainStep(made, "cross_entropy", "sgd")


class Counting(xn.Trainer):
    """Overrides both methods, and does in them what the base class does."""

    def train_step(
        self,
        x: Array,
        target: Array,
        *,
        weights: Array | None = None,
        scalars: Array | None = None,
    ) -> tuple[Array, Array]:
        self.steps = getattr(self, "steps", 0) + 1
        outputs = self.network.forward(x, training=True)
        value = self.loss.forward(outputs, target, weights)
        self.network.backward(self.loss.backward())
        self.optimizer.step(self.network, scalars=scalars)
        return value, outputs

    def evaluate(self, data: xn.DeviceData, loss: xn.Loss) -> tuple[float, float | None]:
        self.evaluated = getattr(self, "evaluated", 0) + 1
        return super().evaluate(data, loss)


def test_a_trainer_with_methods_of_its_own(backend: Backend) -> None:
    x = np.concatenate([x for x, _ in batches()])
    y = np.concatenate([y for _, y in batches()])
    ends = []
    for kind in (xn.Trainer, Counting):
        made = network(backend)
        trainer = kind(made, optimizer=xn.Adam(0.01))
        history = trainer.fit((x, y), (x, y), epochs=3, batch_size=16)
        assert len(history) == 3
        ends.append((backend.to_host(made.flat_parameters).tobytes(), history.records[-1].val_loss))
    assert ends[0] == ends[1]
    assert isinstance(trainer, Counting)
    assert (trainer.steps, trainer.evaluated) == (15, 3)


@pytest.mark.parametrize("method", ["train_step", "evaluate"])
def test_a_method_that_returns_something_else(method: str) -> None:
    kind = type("Mine", (xn.Trainer,), {method: lambda self, *given, **more: 0.5})
    x, y = batches(1)[0]
    with pytest.raises(ConfigError, match=rf"Mine\.{method}\(\) must return \(loss, .*found 0\.5"):
        kind(network(), optimizer="sgd").fit((x, y), (x, y), epochs=1)


def test_fit_is_a_trainer() -> None:
    x, y = batches(1)[0]
    one, other = network(), network()
    xn.fit(one, (x, y), optimizer=xn.SGD(0.1), epochs=2, l2=0.1, clip_norm=0.5, seed=3)
    trainer = xn.Trainer(other, optimizer=xn.SGD(0.1), l2=0.1, clip_norm=0.5, seed=3)
    trainer.fit((x, y), epochs=2)
    assert one.flat_parameters.tobytes() == other.flat_parameters.tobytes()


def test_a_callback_with_the_former_name_of_its_hook() -> None:
    with pytest.warns(DeprecationWarning, match=r"Old\.on_record\(\) is deprecated: use on_log"):

        class Old(xn.Callback):
            def __init__(self) -> None:
                self.seen: list[float] = []

            def on_record(self, run: Any, record: Any) -> None:
                super().on_record(run, record)
                self.seen.append(record.loss)

    x, y = batches(1)[0]
    old = Old()
    with pytest.warns(DeprecationWarning, match="on_log"):
        xn.fit(network(), (x, y), optimizer="sgd", epochs=2, callbacks=old)
    assert len(old.seen) == 2


def test_former_names_of_a_network_warn_and_work() -> None:
    made = network()
    for old, new in (
        ("values", "flat_parameters"),
        ("gradients", "flat_gradients"),
        ("buffers", "flat_buffers"),
        ("decays", "decay_size"),
    ):
        with pytest.warns(DeprecationWarning, match=new):
            found = getattr(made, old)
        assert found is getattr(made, new) or found == getattr(made, new)
    with pytest.warns(DeprecationWarning, match="set_sample_counter"):
        made.seek(3)
    with pytest.warns(DeprecationWarning, match="flat_parameters"):
        made.values = 0.5
    assert (made.flat_parameters == 0.5).all()


def test_what_a_network_predicts_is_what_it_was_last_trained_for() -> None:
    x, labels = batches(1)[0]
    network, values = xn.Sequential(x.shape[1], 3, dtype="float64"), np.eye(3)[labels % 3]
    steps = {
        "values": xn.TrainStep(network, "mse", xn.SGD(0.1)),
        "class": xn.TrainStep(network, None, xn.SGD(0.1)),
    }
    for _ in range(3):
        for kind, step in steps.items():
            step(x, values if kind == "values" else labels % 3)
            assert network.prediction == kind
    xn.fit(network, (x, labels % 3), optimizer="sgd", epochs=1)
    steps["values"](x, values)
    assert network.prediction == "values"
    assert network.predict(x).shape == (len(x), 3)


def test_the_learning_rate_is_set_by_a_number() -> None:
    x, y = batches(1)[0]
    made, other = network(), network()
    step = xn.TrainStep(made, None, xn.SGD(0.5))
    by_hand = xn.TrainStep(other, None, xn.SGD(0.5))
    for rate in (0.5, 0.25, 0.125, 0.0625):
        step.optimizer.learning_rate = rate  # type: ignore[assignment]
        by_hand.optimizer.learning_rate = xn.schedules.Constant(rate)
        assert step(x, y) == by_hand(x, y)
    assert made.flat_parameters.tobytes() == other.flat_parameters.tobytes()
    with pytest.raises(ConfigError, match="learning_rate must be"):
        step.optimizer.learning_rate = "fast"  # type: ignore[assignment]


def test_a_step_is_copied_and_pickled_with_its_parts() -> None:
    x, y = batches(1)[0]
    step = xn.TrainStep(network(), None, xn.Adam(0.1))
    for _ in range(3):
        step(x, y)
    for made in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert made.optimizer.steps == 3
        assert made(x, y) == xn.TrainStep(copy.deepcopy(step.network), None, xn.SGD(0))(x, y)
    with pytest.raises(AttributeError):
        step.loss = xn.MeanSquaredError()  # type: ignore[misc]


def test_a_loss_serves_one_training_at_a_time() -> None:
    """Else each would overwrite what the other's backward pass reads."""
    x, y = batches(1)[0]
    loss = xn.SoftmaxCrossEntropy()
    step = xn.TrainStep(network(), loss, "sgd")
    found: list[str] = []

    class Other(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            with pytest.raises(ConfigError) as caught:
                step(x, y)
            found.append(str(caught.value))

    xn.fit(network(), (x, y), loss=loss, optimizer="sgd", epochs=1, callbacks=Other())
    assert found
    assert set(found) == {
        "loss is in use by another fit() or TrainStep at this moment: give each of them one of its "
        "own, or let one end before the other begins"
    }
    step(x, y)


@pytest.mark.parametrize("interrupted", ["__exit__", "acquire"])
def test_what_ctrl_c_leaves_in_use_is_free(
    interrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python handles a signal at the beginning of each call of a method, also at that of these."""
    x, y = batches(1)[0]
    step = xn.TrainStep(network(), None, "sgd")
    acquire = ExclusiveUse.acquire

    def interrupt(self: ExclusiveUse, *things: Any) -> None:
        if interrupted == "acquire":
            acquire(self, *things)
            self._acquired.clear()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExclusiveUse, interrupted, interrupt)
        with contextlib.suppress(KeyboardInterrupt):  # `pytest.raises` would keep the traceback
            step(x, y)
            pytest.fail("Ctrl-C was lost")
    step(x, y)
    step.network.append(xn.ReLU())


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("low", "mean loss as a number"),
        (np.ones(3), "mean loss as a number"),
        (None, "mean loss as a number"),
    ],
)
def test_a_trainer_whose_step_returns_no_loss(value: Any, match: str) -> None:
    class Wrong(xn.Trainer):
        def train_step(self, x: Any, target: Any, **options: Any) -> Any:
            return value, super().train_step(x, target, **options)[1]

    with pytest.raises(ConfigError, match=rf"Wrong\.train_step\(\) must return the {match}"):
        Wrong(network(), optimizer="sgd").fit(batches(1)[0], epochs=1)


@pytest.mark.parametrize("number", [float, np.float32])
def test_a_trainer_may_return_plain_numbers(number: Any, tmp_path: Path) -> None:
    class Plain(xn.Trainer):
        def train_step(self, x: Any, target: Any, **options: Any) -> Any:
            value, outputs = super().train_step(x, target, **options)
            return number(value), outputs

        def evaluate(self, data: Any, loss: Any) -> Any:
            value, accuracy = super().evaluate(data, loss)
            return np.float32(value), np.float64(accuracy)

    part, places = batches(1)[0], [xn.Checkpoints(tmp_path / n, every=1) for n in "ab"]
    one = Plain(network(), optimizer="sgd").fit(part, part, epochs=3, checkpoints=places[0])
    two = xn.fit(network(), part, part, optimizer="sgd", epochs=3, checkpoints=places[1])
    # Each loss above 0 is rounded to `number`: by at most 2⁻²⁴ of it to float32.
    rounding = 2**-24 if number is np.float32 else 0
    np.testing.assert_allclose(one.column("loss"), two.column("loss"), rtol=rounding)
    np.testing.assert_allclose(one.column("val_loss"), two.column("val_loss"), rtol=1e-6)

    class Silent(Plain):
        def train_step(self, x: Any, target: Any, **options: Any) -> Any:
            return super().train_step(x, target, **options)[0], None

        def evaluate(self, data: Any, loss: Any) -> Any:
            return None, None

    with pytest.raises(ConfigError, match=r"Silent\.train_step\(\) must return outputs with a row"):
        Silent(network(), optimizer="sgd").fit(part, epochs=1)
    Silent.train_step = Plain.train_step  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"Silent\.evaluate\(\) must return the loss as a number"):
        Silent(network(), optimizer="sgd").fit(part, part, epochs=1)


def test_a_checkpoint_knows_the_trainer(tmp_path: Path) -> None:
    class Mixed(xn.Trainer):
        share = 0.6

        def __init__(self, *args: Any, strength: float = 1.0, **options: Any) -> None:
            super().__init__(*args, **options)
            self.strength = strength

    part, place = batches(1)[0], xn.Checkpoints(tmp_path, every=1)

    def run(kind: Any, **options: Any) -> None:
        kind(network(), optimizer="sgd", **options).fit(part, epochs=2, checkpoints=place)

    run(Mixed, strength=0.5)
    run(Mixed, strength=0.5)
    for kind, options in ((xn.Trainer, {}), (Mixed, {"strength": 0.25})):
        with pytest.raises(CheckpointError, match=r"trainer is Mixed\(strength=0\.5\) there and"):
            run(kind, **options)


class Times(xn.Layer):
    """`y = steps · x`, and then what `inner` makes of it."""

    replayable = True

    def __init__(self, steps: float) -> None:
        self.steps = steps

    def forward(self, x: Array, *, training: bool) -> Array:
        y = xn.array_module(x).multiply(x, self.steps, out=self.like(x, "y"))
        inner = vars(self).get("inner")
        return y if inner is None else inner.forward(y, training=training)

    def backward(self, dy: Array) -> Array:
        inner = vars(self).get("inner")
        dy = dy if inner is None else inner.backward(dy)
        return xn.array_module(dy).multiply(dy, self.steps, out=self.like(dy, "dx"))


class Wrapped(xn.Loss):
    replayable = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = xn.SoftmaxCrossEntropy()

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        return self.inner.forward(logits, target, weights)

    def backward(self, scale: float = 1.0) -> Array:
        return self.inner.backward(scale)


@pytest.mark.parametrize("changed", ["steps", "inner loss", "inner layer", "its slope", "rate"])
def test_what_changes_between_two_steps_is_seen(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attribute called as the optimizer's count, a loss within a loss, a layer added later."""

    def losses() -> list[float]:
        times, loss = Times(1.0), Wrapped()
        made = xn.Sequential(5, 4, times, 3, dtype="float64", seed=2)
        step = xn.TrainStep(made, loss, xn.Adam(0.1))
        found = []
        for number, (x, y) in enumerate(batches(12)):
            if number == 4 and changed in ("inner layer", "its slope"):
                times.inner = xn.LeakyReLU(0.5)  # type: ignore[attr-defined]
            if number in (4, 8):
                if changed == "steps":
                    times.steps = float(number)
                elif changed == "inner loss":
                    loss.inner.label_smoothing = number / 10
                elif changed == "rate":
                    step.optimizer.learning_rate = 1 / number  # type: ignore[assignment]
                elif changed == "its slope" and number == 8:
                    times.inner.slope = 0.1  # type: ignore[attr-defined]
            found.append(float(step(x, y)))
        return found

    replayed = losses()
    monkeypatch.setattr(SETTINGS, "recording_enabled", False)
    assert replayed == losses()


def test_what_a_trainer_changes_in_its_evaluation_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Softer(xn.Trainer):
        replayable = True

        def evaluate(self, data: Any, loss: Any) -> Any:
            self.loss.label_smoothing += 0.1  # type: ignore[attr-defined]
            return super().evaluate(data, loss)

    def weights() -> bytes:
        made, part = network(), batches(1)[0]
        Softer(made, optimizer=xn.Adam(0.1)).fit(part, part, epochs=5, batch_size=4)
        return made.flat_parameters.tobytes()

    replayed = weights()
    monkeypatch.setattr(SETTINGS, "recording_enabled", False)
    assert replayed == weights()


def test_the_memory_of_a_step_does_not_grow_with_the_sizes_of_its_batches() -> None:
    x, y = np.ones((400, 5)), np.zeros(400, int)
    made, other = network(), network()
    step, other_step = (xn.TrainStep(n, None, xn.SGD(0.1)) for n in (made, other))
    sizes = [*range(1, 60), *range(1, 60), 7, 7, 7, 1, 1, 59]
    for size in sizes:
        value = step(x[:size], y[:size])
        if size == sizes[-1]:
            fresh = xn.TrainStep(other, None, other_step.optimizer)
            assert value == fresh(x[:size], y[:size])
        else:
            xn.TrainStep(other, None, other_step.optimizer)(x[:size], y[:size])
    assert len(step._buffers) == len(step._replay._steps) == MOST_SIZES
    assert made.flat_parameters.tobytes() == other.flat_parameters.tobytes()


class Broadcast(xn.Loss):
    """Outputs `(N, 1)` less targets `(N,)` are `(N, N)`."""

    def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Array:
        self.difference = logits - target
        return (self.difference**2).mean()

    def backward(self, scale: float = 1.0) -> Array:
        return 2 * scale * self.difference / self.difference.size


def test_a_loss_whose_gradient_has_another_shape() -> None:
    made, x = xn.Sequential(5, 1, dtype="float64"), batches(1)[0][0]
    wanted = r"^dlogits must have the shape of the outputs, \(N, 1\), found \(12, 12\): does"
    for train in (
        lambda: xn.fit(made, (x, x[:, 0]), loss=Broadcast(), optimizer="sgd", epochs=1),
        lambda: xn.TrainStep(made, Broadcast(), "sgd")(x, x[:, 0]),
    ):
        with pytest.raises(ShapeError, match=wanted):
            train()


def test_a_hook_that_there_is_not() -> None:
    with pytest.warns(
        UserWarning, match=r"Mine\.on_epoch_end\(\) is never called: the hooks are on_"
    ):

        class Mine(xn.Callback):
            def on_epoch_end(self, run: Any) -> None:
                """As in Keras."""


def test_a_loss_that_gives_a_plain_number_is_checked() -> None:
    class Plain(xn.MeanSquaredError):
        def forward(self, logits: Array, target: Array, weights: Array | None = None) -> Any:
            return float(super().forward(logits, target, weights))

    made, x = xn.Sequential(5, 2, dtype="float64"), batches(1)[0][0]
    assert max(xn.gradcheck.check_network(made, Plain(), x, x[:, :2].copy()).values()) < 1e-7
