"""Training on sparse samples is training on the same samples, dense."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from thread_ranks import on_ranks

import xpnet as xn
from xpnet.accel import dispatch, recording
from xpnet.backend import Backend
from xpnet.data import Normalisation
from xpnet.errors import ConfigError, DataError, ShapeError
from xpnet.training.device_memory import bytes_per_sample

SAMPLES, FEATURES, CLASSES = 90, 40, 3


def samples(dtype: str = "float64", count: int = SAMPLES) -> tuple[Any, np.ndarray]:
    """CSR rows, of which some are empty, as some columns are, and some entries are 0 or double."""
    draw = np.random.default_rng(4)
    dense = draw.standard_normal((count, FEATURES)) * (draw.random((count, FEATURES)) < 0.1)
    dense[::7] = 0
    dense[:, ::9] = 0
    x = sparse.csr_array(dense).astype(dtype)
    x.data[::11] = 0
    x.indices[1] = x.indices[0]
    x.has_canonical_format = False
    return x, draw.integers(0, CLASSES, count)


def network(
    dtype: str = "float64",
    backend: Backend | str = "cpu",
    layers: Callable[[], list[xn.Layer]] = list,
) -> xn.Sequential:
    """`layers`: between the first one and its activation."""
    made = [xn.Linear(FEATURES, 8), *layers(), xn.ReLU(), xn.Linear(8, CLASSES)]
    return xn.Sequential(made, dtype=dtype, seed=3, backend=backend)


WEIGHTS = np.random.default_rng(2).uniform(0.1, 3, SAMPLES)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "SGD": {"optimizer": lambda: xn.SGD(0.1, momentum=0.9)},
    "weights": {"sample_weight": WEIGHTS},
    "dropout": {"layers": lambda: [xn.Dropout(0.3)]},
    "noise": {"layers": lambda: [xn.GaussianNoise(0.3)]},
    # With Adam, rounding would decide about the updates of a bias before BatchNorm.
    "batch norm": {"layers": lambda: [xn.BatchNorm(8)], "optimizer": lambda: xn.SGD(0.1)},
    "L2": {"l2": 0.3},
    "clipping": {"clip_norm": 0.01},
    "full batch": {"batch_size": None},
    "full batch, weights": {"batch_size": None, "sample_weight": WEIGHTS},
    "evaluated": {"train_metrics": "evaluated"},
    "by step": {"log_every": "3 iterations"},
    "smoothing": {"loss": lambda: xn.SoftmaxCrossEntropy(0.1)},
}


def trained(
    kind: Callable[[Any], Any],
    *,
    dtype: str = "float64",
    backend: Backend | str = "cpu",
    layers: Callable[[], list[xn.Layer]] = list,
    optimizer: Callable[[], Any] = xn.Adam,
    loss: Callable[[], Any] = xn.SoftmaxCrossEntropy,
    count: int = SAMPLES,
    **options: Any,
) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """Weights and records; `kind` makes of CSR samples what is trained on."""
    made = network(dtype, backend, layers)
    x, y = samples(dtype, count)
    data = kind(x), y
    how = {"epochs": 5, "batch_size": 16} | options
    history = xn.fit(made, data, data, optimizer=optimizer(), loss=loss(), **how)
    records = [(r.step, r.loss, r.accuracy, r.val_loss, r.val_accuracy) for r in history.records]
    return made.backend.to_host(made.flat_parameters), records


def dense(x: Any) -> np.ndarray:
    return x.toarray()


def same(x: Any) -> Any:
    return x


def assert_close(found: Any, expected: Any, limit: float) -> None:
    difference = np.linalg.norm(found[0] - expected[0])
    assert np.linalg.norm(expected[0]) > 0
    assert difference <= limit * np.linalg.norm(expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        assert one == pytest.approx(other, rel=100 * limit)


@pytest.mark.parametrize("name", CASES)
def test_it_trains_as_on_dense_samples(backend: Backend, name: str) -> None:
    """30 steps, each of which rounds sums of some terms in another order."""
    expected = trained(dense, **CASES[name])
    assert_close(trained(same, backend=backend, **CASES[name]), expected, 1e-12)


@pytest.mark.parametrize("name", ["plain", "weights", "dropout"])
def test_it_does_in_float32(name: str) -> None:
    expected = trained(dense, dtype="float32", **CASES[name])
    assert_close(trained(same, dtype="float32", **CASES[name]), expected, 1e-5)


def with_index(kind: str) -> Callable[[Any], Any]:
    def convert(x: Any) -> Any:
        x.indices, x.indptr = x.indices.astype(kind), x.indptr.astype(kind)
        return x

    return convert


@pytest.mark.parametrize(
    "kind",
    [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix, sparse.lil_array, with_index("int64")],
)
def test_every_format_gives_the_same_bits_but_for_doubles(kind: Callable[[Any], Any]) -> None:
    def summed(x: Any) -> Any:
        x.sum_duplicates()
        return x

    expected = trained(summed)
    assert trained(lambda x: kind(summed(x)))[0].tobytes() == expected[0].tobytes()


def test_the_same_training_gives_the_same_bits() -> None:
    one, two = trained(same), trained(same)
    assert one[0].tobytes() == two[0].tobytes()
    assert one[1] == two[1]


def test_whole_numbers_and_floats_of_another_width_are_converted() -> None:
    def counts(x: Any) -> Any:
        x.data = np.rint(3 * x.data)
        return x

    expected = trained(counts)[0]
    for dtype in (np.int64, np.int8, np.float32):
        assert trained(lambda x, t=dtype: counts(x).astype(t))[0].tobytes() == expected.tobytes()


def test_large_batches_are_cut_into_microbatches() -> None:
    case = {"count": 4500, "batch_size": 4300, "epochs": 3}
    assert_close(trained(same, **case), trained(dense, **case), 1e-12)


def test_its_steps_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a sparse batch was recorded")

    monkeypatch.setattr(recording, "record", refuse)
    trained(same)
    with pytest.raises(AssertionError, match="was recorded"):
        trained(dense)


@pytest.mark.parametrize("name", ["plain", "weights", "dropout", "full batch"])
@pytest.mark.parametrize("parts", [0, 2])
def test_several_ranks_train_the_network_of_one_process(name: str, parts: int) -> None:
    alone = trained(same, **CASES[name])
    ranks = {"reproducible_parts": parts}
    found = on_ranks(2, lambda g: trained(same, distributed=g, **ranks, **CASES[name]))
    for of_rank in found:
        assert_close(of_rank, alone, 1e-12)
    if parts:
        in_parts = trained(same, **ranks, **CASES[name])
        assert {values.tobytes() for values, _ in found} == {in_parts[0].tobytes()}


def test_it_is_resumed_from_a_checkpoint_and_only_with_the_same_data(tmp_path: Any) -> None:
    class Stop(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step == 8:
                run.interrupted = 15

    expected = trained(same)
    checkpoints = xn.Checkpoints(tmp_path / "run", every=1)
    with pytest.raises(KeyboardInterrupt):
        trained(same, checkpoints=checkpoints, callbacks=Stop())
    with pytest.raises(xn.errors.CheckpointError, match="training data"):
        trained(lambda x: 2 * x, checkpoints=checkpoints)
    found = trained(same, checkpoints=checkpoints)
    assert found[0].tobytes() == expected[0].tobytes()


def test_a_loop_of_its_own(backend: Backend) -> None:
    made, other = network(backend=backend), network()
    x, y = samples()
    steps = [xn.TrainStep(n, "cross_entropy", xn.SGD(0.1)) for n in (made, other)]
    for start in (0, 20, 40, 41):
        rows = slice(start, start + 20)
        losses = [float(s(a[rows], y[rows])) for s, a in zip(steps, (x, dense(x)), strict=True)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert [step.optimizer.steps for step in steps] == [4, 4]
    found = backend.to_host(made.flat_parameters)
    np.testing.assert_allclose(found, other.flat_parameters, rtol=0, atol=1e-13)

    loss = xn.SoftmaxCrossEntropy()
    labels = backend.asarray(y)
    before = float(loss.forward(made.forward(x, training=True), labels))
    made.backward(loss.backward())
    made.flat_parameters -= 0.1 * made.flat_gradients
    assert float(loss.forward(made.forward(x, training=True), labels)) < before


def test_predictions_and_figures_are_those_of_the_dense_samples(backend: Backend) -> None:
    made = network(backend=backend)
    x, y = samples(count=1000)  # more than are predicted at once
    data = x, y
    xn.fit(made, data, optimizer="adam", epochs=2)
    for method in (made, made.forward, made.predict, made.predict_proba):
        found, expected = (backend.to_host(method(a)) for a in (x, dense(x)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(backend.to_host(method(x[:1])), found[:1], rtol=0, atol=1e-14)
    found, expected = (xn.evaluate(made, (a, y)) for a in (x, dense(x)))
    assert found.loss == pytest.approx(expected.loss, rel=1e-14)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    held = xn.DeviceData(x, y, backend=backend, dtype="float64")
    assert xn.evaluate(made, held).loss == found.loss


def test_a_trainer_of_ones_own(backend: Backend) -> None:
    class Halved(xn.Trainer):
        def train_step(self, x: Any, target: Any, *, weights: Any = None, scalars: Any = None):
            assert x.shape[1] == FEATURES
            outputs = self.network.forward(x, training=True)
            value = self.loss.forward(outputs, target, weights)
            self.network.backward(self.loss.backward(0.5))
            self.optimizer.step(self.network, scalars=scalars)
            return value, outputs

    made, other = network(backend=backend), network()
    x, y = samples()
    for n, a in ((made, x), (other, dense(x))):
        Halved(n, optimizer=xn.SGD(0.1)).fit((a, y), epochs=2, batch_size=16)
    found = backend.to_host(made.flat_parameters)
    np.testing.assert_allclose(found, other.flat_parameters, rtol=0, atol=1e-13)


def test_a_frozen_first_layer_and_a_network_of_float32(backend: Backend) -> None:
    x, y = samples()
    made, other = network("float32", backend), network("float32")
    for n, a in ((made, x), (other, dense(x))):
        n.layers[0].trainable = False
        xn.fit(n, (a, y), optimizer=xn.SGD(0.1), epochs=2, batch_size=16)
    for name, expected in other.parameters().items():
        found = backend.to_host(made.parameters()[name])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_with_kernels_it_differs_by_rounding_alone() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "ENOUGH_STEPS", 12)
        found = trained(same, **CASES["dropout"])
    assert_close(found, trained(same, **CASES["dropout"]), 1e-12)


# What cannot be trained on


def starts_with(*layers: xn.Layer) -> xn.Sequential:
    return xn.Sequential([*layers, xn.Linear(FEATURES, CLASSES)])


class OfOnesOwn(xn.Linear):
    def forward(self, x: Any, *, training: bool) -> Any:
        return super().forward(2 * x, training=training)


NOT_FIRST: dict[str, Callable[[], xn.Sequential]] = {
    "BatchNorm": lambda: starts_with(xn.BatchNorm(FEATURES)),
    "Dropout": lambda: starts_with(xn.Dropout(0.1)),
    "Sequential": lambda: starts_with(xn.Sequential(FEATURES, FEATURES)),
    "OfOnesOwn": lambda: xn.Sequential([OfOnesOwn(FEATURES, CLASSES)]),
    "Unflatten": lambda: xn.Sequential(
        [xn.Unflatten((5, 8)), xn.Conv2d(2, 3), xn.Flatten(), xn.Linear(36, CLASSES)]
    ),
}


@pytest.mark.parametrize("name", NOT_FIRST)
def test_the_first_layer_has_to_be_linear(name: str) -> None:
    made, (x, y) = NOT_FIRST[name](), samples()
    held = xn.DeviceData(x, y, backend="cpu", dtype="float32")
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("x", lambda: made(x)),
        ("x", lambda: made.predict(x)),
        ("x", lambda: made.forward(x, training=True)),
        ("data x", lambda: xn.evaluate(made, (x, y))),
        ("batch x", lambda: xn.TrainStep(made, None, "sgd")(x, y)),
        ("train x", lambda: xn.fit(made, (x, y), optimizer="sgd", epochs=1)),
        ("train x", lambda: xn.fit(made, held, optimizer="sgd", epochs=1)),
        ("validation x", lambda: xn.fit(made, (dense(x), y), held, optimizer="sgd", epochs=1)),
    ]
    for what, call in calls:
        says = rf"^{what} is sparse \(\w+\), which only .* \.toarray\(\)$"
        with pytest.raises(DataError, match=says) as e:
            call()
        assert f"this one begins with {name}" in str(e.value)
        assert "\n" not in str(e.value)


def test_a_linear_layer_with_a_forward_of_its_own_is_not_taken() -> None:
    made, (x, _) = starts_with(), samples()
    made.layers[0].forward = lambda x, *, training: x @ made.layers[0].values["weight"].T
    with pytest.raises(DataError, match=r"^x is sparse \(csr_array\), which only"):
        made(x)


def changed(place: int, value: Any) -> Any:
    x, _ = samples()
    x.data[place] = value
    return x


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "is NaN"), (-np.inf, "is -inf"), (1e39, r"is 1e\+39, and float32")]
)
def test_values_that_are_not_finite_are_named_by_row_and_column(value: float, says: str) -> None:
    x = changed(50, value)
    row = int(np.searchsorted(x.indptr, 50, side="right")) - 1
    where, made, y = rf"\[{row}, {x.indices[50]}\]", network("float32"), samples()[1]
    with pytest.raises(DataError, match=rf"^x{where} {says}"):
        made.predict(x)
    with pytest.raises(DataError, match=rf"^train x{where} {says}"):
        xn.fit(made, (x, y), optimizer="sgd", epochs=1)
    with pytest.raises(DataError, match=rf"^validation x{where} {says}"):
        xn.fit(made, samples(), (x, y), optimizer="sgd", epochs=1)
    with pytest.raises(DataError, match=rf"^batch x{where} {says}"):
        xn.TrainStep(made, None, "sgd")(x, y)


def test_other_shapes_and_kinds_are_named() -> None:
    made, (x, y) = network(), samples()
    how: dict[str, Any] = {"optimizer": "sgd", "epochs": 1}
    with pytest.raises(ShapeError, match=r"^the network takes x of shape \(N, 40\), found \(90, 3"):
        made.predict(x[:, :30])
    with pytest.raises(DataError, match=r"^train has 30 features a sample, the network takes 40"):
        xn.fit(made, (x[:, :30], y), **how)
    with pytest.raises(DataError, match=r"^x is empty, shape \(0, 40\)"):
        made.predict(x[:0])
    with pytest.raises(DataError, match=r"^train x holds complex numbers"):
        xn.fit(made, (x.astype(complex), y), **how)
    with pytest.raises(DataError, match=r"^train x must be .* one target a row, found x \(90, 40"):
        xn.fit(made, (x, y[:-1]), **how)
    with pytest.raises(
        DataError, match=r"^train y is sparse \(csr_array\), and targets have to be"
    ):
        xn.fit(made, (x, x), **how)
    with pytest.raises(ConfigError, match=r"^augmentation takes images, and x is sparse"):
        xn.fit(made, (x, y), augmentation=xn.Augmentation(shift=1), **how)
    with pytest.raises(ConfigError, match=r"^x is sparse, and normalisation would make it dense"):
        xn.DeviceData(x, y, backend="cpu", dtype="float32", normalisation=Normalisation(0.5, 0.0))


# Its memory


def test_the_memory_of_a_sample_is_not_that_of_a_dense_one() -> None:
    """Where a batch does not fit into a GPU, the size that fits is derived from this."""
    draw = np.random.default_rng(0)
    x = sparse.random_array((50, 20_000), density=1e-4, random_state=draw, format="csr")
    held = xn.DeviceData(x, np.zeros(50, int), backend="cpu", dtype="float64")
    made = xn.Sequential(20_000, 4, "relu", 2, dtype="float64")
    found = bytes_per_sample(made, xn.SoftmaxCrossEntropy(), held)
    assert 100 < found < 8 * 1000


MEASURED = """
import numpy as np
from scipy.sparse import csr_array
from xpnet.estimator import XpnetClassifier

def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

rows, features, entries = 100_000, 50_000, 50
draw = np.random.default_rng(0)
values = draw.standard_normal(rows * entries)
columns = draw.integers(0, features, rows * entries, dtype=np.int32)
starts = np.arange(0, rows * entries + 1, entries, dtype=np.int32)
x = csr_array((values, columns, starts), shape=(rows, features))
y = draw.integers(0, 2, rows)
model = XpnetClassifier((100,), batch_size=2_000, max_iter=1, early_stopping=True,
                        n_iter_no_change=float("inf"), random_state=0)
model.fit(x, y)
assert model.predict(x).shape == (rows,)
print(memory())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_matrix_that_would_take_40_gb_if_it_were_dense_trains_in_less_than_one() -> None:
    """Of 0.1 % entries, 5 million, and a first layer with as many weights."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1000
