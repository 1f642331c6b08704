"""A batch of images in parts, on several threads: the step in one piece, but for rounding."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from cases import error
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel import part_threads, small_gemm
from xpnet.accel.program import trace
from xpnet.errors import ConfigError
from xpnet.layers.base import Layer
from xpnet.losses import Loss, MeanSquaredError, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.training import gradients, parts, train_step

SIDE, CLASSES = 10, 3


def images(rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.random((rows, SIDE * SIDE)), rng.integers(0, CLASSES, rows)


def layers() -> list[Any]:
    return [
        xn.GaussianNoise(0.1),
        xn.Unflatten((SIDE, SIDE)),
        xn.Conv2d(4, 3),
        xn.MaxPool2d(2),
        xn.ReLU(),
        xn.Dropout2d(0.2),
        xn.Residual([xn.Conv2d(4, 3, padding=1), xn.Tanh()]),
        xn.Flatten(),
        xn.Dropout(0.3),
        xn.Linear(64, 9),
        xn.ReLU(),
        xn.Linear(9, CLASSES),
    ]


def made(dtype: str = "float64", list_of: Callable[[], list[Any]] = layers) -> Sequential:
    return Sequential(list_of(), dtype=dtype, seed=5)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`whole()`: from now on batches are computed in one piece."""
    return lambda: monkeypatch.setattr(gradients.parts, "can_split", lambda *_: False)


@contextmanager
def on(threads: int) -> Iterator[None]:
    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        yield


LOSSES: list[tuple[Callable[[], Loss], Callable[[np.ndarray], np.ndarray]]] = [
    (SoftmaxCrossEntropy, lambda labels: labels),
    (lambda: SoftmaxCrossEntropy(0.2), lambda labels: labels),
    (MeanSquaredError, lambda labels: np.eye(CLASSES)[labels]),
    (SigmoidBinaryCrossEntropy, lambda labels: np.eye(CLASSES)[labels]),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [32, 47, 64, 300])
@pytest.mark.parametrize(("loss", "targets"), LOSSES, ids=["ce", "smoothed", "mse", "sigmoid"])
def test_loss_outputs_and_gradients_are_those_of_the_whole_batch(
    loss: Any, targets: Any, rows: int, threads: int
) -> None:
    x, labels = images(rows)
    target = targets(labels)
    one, other, own, plain = made(), made(), loss(), loss()
    for _ in range(3):  # of which each has new random numbers
        assert parts.can_split(one, own, rows)
        with on(threads):
            value, outputs = parts.forward_backward(one, own, x, target)
        expected = other.forward(x, training=True)
        assert error(value, plain.forward(expected, target)) < 1e-14
        assert error(outputs, expected) < 1e-13
        other.backward(plain.backward())
        # Sums of a few hundred float64 numbers in another order.
        assert error(one.flat_gradients, other.flat_gradients) < 1e-12


def large() -> list[Any]:
    """With products that OpenBLAS would cut for several threads."""
    return [
        xn.Unflatten((20, 20)),
        xn.Conv2d(24, 5),
        xn.ReLU(),
        xn.Conv2d(24, 5, stride=2),
        xn.Flatten(),
        xn.Dropout(0.2),
        xn.Linear(864, 200),
        xn.Tanh(),
        xn.Linear(200, CLASSES),
    ]


@pytest.mark.parametrize("recording", [True, False])
def test_bits_do_not_depend_on_threads_or_recording(
    recording: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = np.random.default_rng(0).random((160, 400)), images(160)[1]

    def trained(threads: int, recording: bool) -> np.ndarray:
        network = made("float32", large)
        monkeypatch.setattr(SETTINGS, "recording_enabled", recording)
        with on(threads):
            xn.fit(network, (x, labels), optimizer="adam", epochs=3, batch_size=80)
        return network.flat_parameters

    one = trained(1, True)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(trained(threads, recording), one)


def test_training_is_that_of_whole_batches(whole: Callable[[], None]) -> None:
    def trained() -> Sequential:
        network = made()
        # Batches of 64, 64 and 22 samples, the last one in one piece.
        how: dict[str, Any] = {"optimizer": xn.SGD(0.1), "epochs": 3, "batch_size": 64}
        xn.fit(network, images(150), l2=0.1, clip_norm=1.0, **how)
        return network

    found = trained()
    whole()
    assert error(found.flat_parameters, trained().flat_parameters) < 1e-12


def test_several_threads_work(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int | None, set[int]] = {}
    run = part_threads.run

    def noting(program: Any) -> Any:
        call, number = run(program), program[0].part

        def noted() -> None:
            seen.setdefault(number, set()).add(threading.get_ident())
            if number is not None:
                meeting.wait()  # until four threads are here
            call()

        return noted

    meeting = threading.Barrier(4, timeout=60)
    monkeypatch.setattr(part_threads, "run", noting)
    step = xn.TrainStep(made(), "cross_entropy", "sgd")
    with on(4):
        for _ in range(4):
            step(*images())
    assert set(seen) == {None, 0, 1, 2, 3}
    assert len(set.union(*(seen[number] for number in range(4)))) >= 4
    assert seen[None] == {threading.get_ident()}


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(("loss", "targets"), LOSSES, ids=["ce", "smoothed", "mse", "sigmoid"])
def test_the_number_of_threads_changes_between_the_first_step_and_the_recorded_one(
    loss: Any, targets: Any, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies of the layers that only the recorded step uses have no buffers yet."""
    monkeypatch.setattr(SETTINGS, "kernels_enabled", kernels)
    x, labels = images()
    steps = [xn.TrainStep(made(), loss(), "sgd") for _ in range(2)]
    for threads in (1, 2, 2, 1):
        with on(threads):
            found = float(steps[0](x, targets(labels)))
        with on(2):
            assert found == float(steps[1](x, targets(labels)))


def test_each_part_has_its_copy_while_another_training_is_on_one_thread() -> None:
    network, (x, labels) = made(), images()
    with on(2), small_gemm.on_one_thread():
        assert small_gemm.blas_threads() == 1
        parts.forward_backward(network, SoftmaxCrossEntropy(), x, labels)
    assert len(network.replicas._made) == parts.number_of_parts(network, len(x)) > 1


def test_the_number_of_blas_threads_is_restored() -> None:
    step = xn.TrainStep(made(), "cross_entropy", "sgd")
    with on(2):
        for _ in range(3):
            step(*images())
            assert {pool["num_threads"] for pool in _blas()} == {2}


def _blas() -> list[dict[str, Any]]:
    home = str(Path(np.__file__).parent)
    found = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return [pool for pool in found if pool["filepath"].startswith(home)] or found


class Own(Layer):
    replayable = True

    def forward(self, x: Any, *, training: bool) -> Any:
        return x

    def backward(self, dy: Any) -> Any:
        return dy


def of_rows() -> list[Any]:
    return [xn.Linear(100, 5), xn.ReLU(), xn.Linear(5, CLASSES)]


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        (layers, 31),
        (of_rows, 64),
        (lambda: [*layers()[:3], xn.BatchNorm2d(4), *layers()[3:]], 64),
        (lambda: [*layers(), Own()], 64),
    ],
    ids=["few rows", "rows", "BatchNorm2d", "own layer"],
)
def test_what_stays_in_one_piece(changed: Callable[[], list[Any]], rows: int) -> None:
    assert not parts.can_split(made(list_of=changed), SoftmaxCrossEntropy(), rows)


def test_a_replaced_method_is_called() -> None:
    network = made()
    network.layers[4].forward = lambda x, *, training: 1 / 0
    with pytest.raises(ZeroDivisionError):
        xn.fit(network, images(), optimizer="sgd", epochs=1, batch_size=64)


def test_changed_settings_reach_the_parts(whole: Callable[[], None]) -> None:
    class Drops(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            run.network.layers[8].rate = 0.1 * (run.step % 5)

    def trained() -> np.ndarray:
        network = made()
        how: dict[str, Any] = {"optimizer": xn.SGD(0.1), "epochs": 8, "batch_size": 64}
        xn.fit(network, images(), callbacks=[Drops()], **how)
        return network.flat_parameters

    found = trained()
    whole()
    assert error(found, trained()) < 1e-12


@pytest.mark.parametrize("frozen", [(2,), (9,), (6, 0)])
def test_frozen_and_new_layers(frozen: tuple[int, ...], whole: Callable[[], None]) -> None:
    """Whatever gives a network another store; the first layer, one in the middle, one inside."""

    def trained() -> np.ndarray:
        network = made()
        train: dict[str, Any] = {"epochs": 2, "batch_size": 64}
        xn.fit(network, images(), optimizer=xn.SGD(0.1), **train)
        layer: Any = network
        for place in frozen:
            layer = layer.layers[place]
        layer.trainable = False
        xn.fit(network, images(), optimizer=xn.SGD(0.1), **train)
        network.append("relu").append(CLASSES)
        xn.fit(network, images(), optimizer=xn.SGD(0.1), **train)
        return np.concatenate([p.ravel() for p in network.parameters().values()])

    found = trained()
    whole()
    assert error(found, trained()) < 1e-12


def test_a_network_within_a_network(whole: Callable[[], None]) -> None:
    def trained() -> np.ndarray:
        inner = made()
        xn.fit(inner, images(), optimizer=xn.SGD(0.1), epochs=1, batch_size=64)
        network = Sequential([inner, xn.ReLU(), xn.Linear(CLASSES, CLASSES)], seed=3)
        assert "replicas" not in vars(inner)
        xn.fit(network, images(), optimizer=xn.SGD(0.1), epochs=2, batch_size=64)
        return network.flat_parameters

    found = trained()
    whole()
    # float32, as the outer network is.
    assert error(found, trained()) < 1e-5


def test_a_new_seed_reaches_the_parts(whole: Callable[[], None]) -> None:
    def outputs() -> np.ndarray:
        network, loss = made(), SoftmaxCrossEntropy()
        x, labels = images()
        found = []
        for seed in (1, 2):
            network.layers[8].set_seed(seed, 8)
            _, logits = train_step(network, loss, xn.SGD(0.0), x, labels)
            found.append(logits.copy())
        return np.concatenate(found)

    found = outputs()
    whole()
    assert error(found, outputs()) < 1e-12


def test_a_training_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """In the middle of an epoch, to the bit."""

    class Stops(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.step == 6:
                raise KeyboardInterrupt

    def trained(*callbacks: Any, interrupted: bool = True) -> np.ndarray:
        network = made("float32")
        how: dict[str, Any] = {"optimizer": "adam", "epochs": 3, "batch_size": 64}
        kept = xn.Checkpoints(tmp_path, every="0.001 seconds") if interrupted else None
        xn.fit(network, images(200), callbacks=callbacks, checkpoints=kept, **how)
        return network.flat_parameters

    with pytest.raises(KeyboardInterrupt):
        trained(Stops())
    assert sorted(tmp_path.glob("*5.safetensors"))  # the second step of four in epoch 2
    np.testing.assert_array_equal(trained(), trained(interrupted=False))


def test_the_gradients_of_large_networks_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made()
    assert parts.number_of_parts(network, 64) == 4
    monkeypatch.setattr(parts, "MOST_GRADIENTS", 2 * network.flat_parameters.size)
    assert parts.number_of_parts(network, 64) == 3
    network.layers[9].trainable = False  # has gradients that nobody reads
    assert parts.number_of_parts(network, 64) == 3
    monkeypatch.setattr(parts, "MOST_GRADIENTS", network.count_parameters() - 1)
    assert not parts.can_split(network, SoftmaxCrossEntropy(), 64)


def test_backward_after_a_step_in_parts_needs_a_forward_pass() -> None:
    network, (x, labels) = made(), images()
    network.forward(x, training=True)
    _, outputs = train_step(network, SoftmaxCrossEntropy(), xn.SGD(0.1), x, labels)
    with pytest.raises(ConfigError, match=r"backward\(\) needs forward"):
        network.backward(outputs)


def test_nothing_runs_after_ctrl_c() -> None:
    begun, ended, main = threading.Event(), [], threading.get_ident()

    def slow() -> None:
        if threading.get_ident() == main:
            begun.wait(60)  # a helper is at work
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.3)
        ended.append(None)

    with on(2), pytest.raises(KeyboardInterrupt):
        part_threads.run_together([slow] * 3)
    assert len(ended) == 1


def test_ctrl_c_does_not_end_the_wait_for_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended, main = threading.Event(), [], threading.get_ident()
    wait_for, times = threading.Condition.wait_for, iter(range(3))

    def interrupted(self: threading.Condition, *arguments: Any) -> Any:
        if threading.get_ident() == main and next(times, None) is not None:
            raise KeyboardInterrupt
        return wait_for(self, *arguments)

    def slow() -> None:
        if threading.get_ident() == main:
            begun.wait(60)
            return
        begun.set()
        time.sleep(0.3)
        ended.append(None)

    with on(2):
        monkeypatch.setattr(threading.Condition, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            part_threads.run_together([slow] * 2)
    assert len(ended) == 1


def test_steps_that_are_not_replayed_use_several_threads() -> None:
    class Mine(xn.SGD):
        pass

    seen: set[str] = set()
    forward = xn.MaxPool2d.forward

    def noting(self: Any, x: Any, *, training: bool) -> Any:
        seen.add(threading.current_thread().name)
        time.sleep(0.05)  # until the other thread has begun
        return forward(self, x, training=training)

    with pytest.MonkeyPatch.context() as patch, on(2):
        patch.setattr(xn.MaxPool2d, "forward", noting)
        xn.fit(made(), images(), optimizer=Mine(0.1), epochs=3, batch_size=64)
    assert len(seen) == 2


def test_an_error_in_a_part_names_the_layer_and_ends_the_step() -> None:
    x, labels = images()
    network, loss = made(), SoftmaxCrossEntropy()
    with on(2):
        parts.forward_backward(network, loss, x, labels)  # makes constants
        program = trace(np, lambda: parts.forward_backward(network, loss, x, labels))
    in_pool = [op.part == 2 and op.origin == "MaxPool2d.forward" for op in program]
    place = in_pool.index(True)

    def fail() -> None:
        raise MemoryError("too large")

    broken = dataclasses.replace(program[place], call=fail)
    call = part_threads.run_parts((*program[:place], broken, *program[place + 1 :]))
    for threads in (1, 3):
        with on(threads), pytest.raises(MemoryError) as caught:
            call()
        (note,) = set(caught.value.__notes__)
        assert "MaxPool2d.forward" in note


TRAINS = """
import threading
import numpy as np
import xpnet as xn
from xpnet.accel import small_gemm

def trained(into):
    network = xn.Sequential((20, 20), xn.Conv2d(24, 5), "relu", xn.Flatten(), 3, seed=1)
    x, y = np.random.default_rng(0).random((64, 400)), np.arange(64) % 3
    xn.fit(network, (x, y), optimizer="adam", epochs=8, batch_size=64, callbacks=[Looks()])
    into.append(network.flat_parameters)

class Looks(xn.Callback):
    def on_step_end(self, run):
        with small_gemm.on_one_thread() as threads:
            assert (threads, small_gemm.blas_threads()) == (2, 1), threads

assert small_gemm.blas_threads() == 2
alone, together = [], []
trained(alone)
threads = [threading.Thread(target=trained, args=(together,)) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(together) == 6
for found in together:
    assert np.array_equal(found, alone[0])
assert small_gemm.blas_threads() == 2
print("done")
"""


def run_on_two_threads(program: str) -> list[str]:
    variables = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_two_trainings_at_a_time() -> None:
    assert run_on_two_threads(TRAINS) == ["done"]


FORKS = """
import os
import numpy as np
import xpnet as xn
images = xn.Sequential((10, 10), xn.Conv2d(4, 3), xn.Flatten(), 3)
step = xn.TrainStep(images, "cross_entropy", "sgd")
x, y = np.random.default_rng(0).random((64, 100)), np.arange(64) % 3
for _ in range(4):
    step(x, y)
child = os.fork()
loss = float(step(x, y))
if child == 0:
    print(loss, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(loss)
"""


def test_a_forked_child_trains_on() -> None:
    """It has none of the threads of its parent, and would wait for them."""
    own, of_child = run_on_two_threads(FORKS)
    assert own == of_child


LATE = """
import threading
import numpy as np
import xpnet as xn
def train():
    images = xn.Sequential((10, 10), xn.Conv2d(4, 3), xn.Flatten(), 3)
    x, y = np.random.default_rng(0).random((64, 100)), np.arange(64) % 3
    xn.fit(images, (x, y), optimizer="sgd", epochs=200, batch_size=64)
    print("trained", flush=True)
threading.Thread(target=train).start()
"""


def test_a_thread_trains_on_when_the_main_thread_has_ended() -> None:
    assert run_on_two_threads(LATE) == ["trained"]
