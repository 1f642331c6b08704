"""Training on several ranks gives the network of one process; ranks are threads here."""

from __future__ import annotations

import copy
import hashlib
import pickle
import threading

import numpy as np
import pytest
import threadpoolctl
from thread_ranks import ThreadGroup, on_ranks

import xpnet as xn
from xpnet.accel import dispatch
from xpnet.accel.cpu import executor
from xpnet.backend.context import changed
from xpnet.errors import ConfigError, RankError
from xpnet.training.ranks import RankBatch, Ranks

SAMPLES, BATCH = 203, 20  # the last batch has 3 rows: fewer than ranks
STEPS = 200


def layers(*, conv=False, norm=False, drop=False, noise=False):
    if conv:
        yield from (xn.Unflatten((8, 8)), xn.Conv2d(4, 3, bias=not norm))
        if norm:
            yield xn.BatchNorm2d(4)
        yield from (xn.MaxPool2d(2), xn.ReLU())
        if drop:
            yield xn.Dropout2d(0.2)
        yield from (xn.Flatten(), xn.Linear(36, 16))
    else:
        if noise:
            yield xn.GaussianNoise(0.1)
        yield xn.Linear(64, 16)
        if norm:
            yield xn.BatchNorm(16)
    yield xn.ReLU()
    if drop:
        yield xn.Dropout(0.3)
    yield xn.Linear(16, 10)


CASES = {
    "plain": {},
    "dropout and noise": {"drop": True, "noise": True},
    "L2 and clipping": {"l2": 0.1, "clip_norm": 0.05},
    "sample weights": {"weights": True, "drop": True},
    "label smoothing": {"loss": xn.SoftmaxCrossEntropy(0.1)},
    "augmentation": {"augmentation": True, "drop": True},
    "convolution": {"conv": True, "drop": True},
    "full batch": {"batch_size": None, "drop": True},
    "large batch": {"samples": 4500, "batch_size": 4300},
    "momentum": {"optimizer": xn.SGD(0.1, momentum=0.9), "drop": True},
    "batch norm": {"norm": True, "drop": True, "samples": 206},
    "batch norm, weights": {"norm": True, "weights": True, "samples": 206},
    "batch norm, images": {"norm": True, "conv": True, "drop": True, "samples": 206},
}
WITHOUT_NORM = {name: case for name, case in CASES.items() if "norm" not in case}


def train(
    group=None, parts=0, *, dtype="float64", samples=SAMPLES, weights=False, backend="cpu", **how
):
    """Weights and history after some epochs."""
    kind = {name: how.pop(name) for name in ("conv", "norm", "drop", "noise") if name in how}
    draw = np.random.default_rng(0)
    x, y = draw.random((samples, 64)).astype(dtype), draw.integers(0, 10, samples)
    network = xn.Sequential(layers(**kind), dtype=dtype, seed=3, backend=backend)
    if how.pop("augmentation", False):
        how["augmentation"] = xn.Augmentation(shift=1, rotation=8, elastic=3)
    if weights:
        how["sample_weight"] = draw.uniform(0.1, 3, samples)
    # Each rank has its own, as a process has. With Adam, gradients that are pure rounding, such as
    # that of a bias before BatchNorm, would decide about updates.
    plain = xn.SGD(0.1) if kind.get("norm") else xn.Adam(1e-2)
    how = {"optimizer": plain, "epochs": 6, "batch_size": BATCH} | how
    how["optimizer"] = type(how["optimizer"])(**how["optimizer"].get_config())
    history = xn.fit(network, (x, y), (x, y), distributed=group, reproducible_parts=parts, **how)
    return network, history


def long_enough(*, samples=SAMPLES, batch_size=BATCH, **case):
    """The case with as many epochs as have 200 steps."""
    in_epoch = 1 if batch_size is None else -(-samples // batch_size)
    sizes = {"samples": samples, "batch_size": batch_size}
    return case | sizes | {"epochs": -(-STEPS // in_epoch)}


def difference(one, other):
    values, reference = other.flat_parameters, one.flat_parameters
    return np.linalg.norm(values - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", CASES)
def test_ranks_train_the_network_of_one_process(name, size):
    case = long_enough(**CASES[name])
    alone, history = train(**case)
    found = on_ranks(size, lambda group: train(group, **case))
    # Sums in another order: a few roundings a step of 2^-53, which BatchNorm amplifies.
    limit = 1e-10 if "norm" in CASES[name] else 1e-12
    for network, of_rank in found:
        assert difference(alone, network) < limit
        assert len({n.flat_parameters.tobytes() for n, _ in found}) == 1
        for one, other in zip(history.records, of_rank.records, strict=True):
            assert (one.epoch, one.step) == (other.epoch, other.step)
            assert (one.accuracy, one.val_accuracy) == (other.accuracy, other.val_accuracy)
            assert one.loss == pytest.approx(other.loss, rel=limit * 100)
            assert one.val_loss == pytest.approx(other.val_loss, rel=limit * 100)


@pytest.mark.parametrize("name", WITHOUT_NORM)
def test_float32(name):
    case = long_enough(**CASES[name]) | {"dtype": "float32"}
    alone, _ = train(**case)
    for network, _ in on_ranks(4, lambda group: train(group, **case)):
        assert difference(alone, network) < 1e-5


@pytest.mark.parametrize("name", WITHOUT_NORM)
def test_parts_give_the_same_bits_for_every_number_of_ranks(name):
    case = WITHOUT_NORM[name]
    alone, _ = train(parts=4, **case)
    bits = {hashlib.sha256(alone.flat_parameters.tobytes()).hexdigest()}
    for size in (2, 4):
        for network, _ in on_ranks(size, lambda group: train(group, parts=4, **case)):
            bits.add(hashlib.sha256(network.flat_parameters.tobytes()).hexdigest())
    assert len(bits) == 1
    assert difference(train(**case)[0], alone) < 1e-12


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("augmentation", 0),
        ("augmentation", 2),
        ("sample weights", 0),
        ("sample weights", 2),
        ("batch norm, images", 0),
    ],
)
def test_ranks_of_a_device_give_the_same(double, name, parts):
    alone, _ = train(**CASES[name])
    found = on_ranks(2, lambda group: train(group, parts, backend=double, **CASES[name]))
    for network, _ in found:
        values = double.to_host(network.flat_parameters)
        reference = alone.flat_parameters
        limit = 1e-10 if "norm" in name else 1e-12
        assert np.linalg.norm(values - reference) < limit * np.linalg.norm(reference)


def test_a_network_that_ranks_have_trained_can_be_copied():
    def run(group):
        network, _ = train(group, **CASES["batch norm"])
        return network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))

    for network, *copies in on_ranks(2, run):
        for other in copies:
            assert difference(network, other) == 0


@pytest.mark.parametrize("steps", [3, 12])
def test_a_training_is_resumed_with_another_number_of_ranks(tmp_path, steps):
    def until(group=None, stop=None):
        callback = StopAfter(stop) if stop else ()
        checkpoints = xn.Checkpoints(tmp_path / "run", every=1)
        return train(group, 4, drop=True, callbacks=callback, checkpoints=checkpoints)

    class StopAfter(xn.Callback):
        def __init__(self, steps):
            self.steps = steps

        def on_step_end(self, run):
            if run.step == self.steps:
                run.interrupted = 15

    alone, history = train(None, 4, drop=True)
    with pytest.raises(KeyboardInterrupt):
        on_ranks(4, lambda group: until(group, steps))
    with pytest.raises(KeyboardInterrupt):
        until(None, 2 * steps)
    for network, of_rank in on_ranks(2, until):
        assert network.flat_parameters.tobytes() == alone.flat_parameters.tobytes()
        assert [r.accuracy for r in of_rank.records] == [r.accuracy for r in history.records]


def test_the_rows_of_all_ranks_are_the_batch():
    for count in (1, 2, 3, 20, 64):
        for size in (1, 2, 3, 4):
            ranks = []
            for rank in range(size):
                group = xn.distributed.Group()
                group.rank, group.size = rank, size
                ranks.append(RankBatch(group, 0, count))
            rows = [row for one in ranks if one.counted for row in range(count)[one.rows]]
            assert rows == list(range(count))
            assert all(len(range(count)[one.rows]) == max(one.counted, 1) for one in ranks)


def test_a_step_makes_one_sum_and_three_of_each_batch_norm():
    def sums(group, **case):
        train(group, epochs=1, **case)
        return group.sums

    steps = -(-206 // BATCH)
    assert on_ranks(2, lambda group: sums(group, samples=206)) == [steps] * 2
    # Two of the forward pass, two of the backward pass.
    found = on_ranks(2, lambda group: sums(group, samples=206, norm=True))
    assert found == [5 * steps] * 2


def test_early_stopping_ends_all_ranks():
    def stopped(group=None):
        stopping = xn.EarlyStopping(1)
        _, history = train(group, callbacks=stopping, epochs=60, drop=True, l2=3.0)
        return len(history.records), stopping.best.epoch

    alone = stopped()
    assert alone[0] < 60
    assert on_ranks(3, stopped) == [alone] * 3


class Different(xn.Callback):
    def on_epoch_begin(self, run):
        if run.epoch == 2:
            raise ZeroDivisionError("on this rank")


def test_an_error_of_one_rank_ends_the_others():
    errors = []

    def run(group):
        try:
            train(group, callbacks=Different() if group.rank == 1 else ())
        except BaseException as error:
            errors.append(type(error))
            raise

    with pytest.raises(ZeroDivisionError):
        on_ranks(3, run)
    assert len(errors) == 3
    assert errors.count(threading.BrokenBarrierError) == 2


def test_ranks_whose_weights_differ_end():
    class Change(xn.Callback):
        def on_epoch_begin(self, run):
            if run.epoch == 3:
                run.network.flat_parameters[5] += 1e-9

    def run(group):
        train(group, callbacks=Change() if group.rank == 2 else ())

    # The error of each rank is that of rank 0.
    with pytest.raises(RankError, match="rank 2 has other weights than rank 0 after step 33:"):
        on_ranks(3, run)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"norm": True}, "the smallest batch has 3 rows, and BatchNorm needs one on each of 4"),
        ({"norm": True, "conv": True}, "3 rows, and BatchNorm2d needs one on each of 4 ranks"),
        ({"norm": True, "parts": 4}, "reproducible_parts: the statistics of BatchNorm"),
        ({"parts": 3}, "reproducible_parts must be a power of two, such as 8, or 0, found 3"),
        ({"parts": 2}, "must be a multiple of the number of ranks, found 2 for 4 ranks"),
        ({"parts": -1}, "reproducible_parts must be a whole number of 0 or more, found -1"),
    ],
)
def test_what_ranks_cannot_train(how, message):
    with pytest.raises(ConfigError, match=message):
        on_ranks(4, lambda group: train(group, **how))


def test_another_kind_of_group_is_refused():
    with pytest.raises(ConfigError, match=r"distributed must be a Group such as xpnet\.distr"):
        train("mpi")


def test_a_trainer_with_its_own_step_is_refused():
    class Own(xn.Trainer):
        def train_step(self, x, target, **given):
            return super().train_step(x, target, **given)

    def run(group):
        network = xn.Sequential(layers(), dtype="float64")
        trainer = Own(network, optimizer="sgd", distributed=group)
        trainer.fit((np.zeros((8, 64)), np.zeros(8, int)), epochs=1)

    with pytest.raises(ConfigError, match=r"Own.train_step\(\) computes on one rank alone"):
        on_ranks(2, run)


@pytest.mark.parametrize("what", ["seed", "data", "rate", "weights", "checkpoints", "parts"])
def test_ranks_that_would_train_something_else_are_refused(tmp_path, what):
    def run(group):
        draw = np.random.default_rng(group.rank if what == "data" else 0)
        x, y = draw.random((40, 64)), draw.integers(0, 10, 40)
        network = xn.Sequential(layers(), seed=group.rank if what == "seed" else 0)
        rate = 0.1 + (group.rank if what == "rate" else 0)
        if what == "weights":
            network.flat_parameters[7] += group.rank
        given = {"checkpoints": xn.Checkpoints(tmp_path)} if what == "checkpoints" else {}
        given = {} if group.rank else given
        if what == "parts":
            given = {"reproducible_parts": 2 + 2 * group.rank}
        how = {"optimizer": xn.SGD(rate), "epochs": 1, "distributed": group}
        xn.fit(network, (x, y), **how, **given)

    named = {"seed": "seed of the network", "data": "training data", "rate": "optimizer"}
    named |= {
        "weights": "the digest of weights and optimizer state",
        "checkpoints": "the checkpoints argument",
    }
    named["parts"] = "reproducible_parts"
    with pytest.raises(ConfigError, match=f"distributed: {named[what]} is .* on rank 0 and"):
        on_ranks(2, run)


@pytest.fixture
def compiled(monkeypatch):
    """Every training uses compiled loops; the list of what was compiled."""
    made = []
    monkeypatch.setattr(dispatch, "ENOUGH_STEPS", 0)
    compile_steps = executor.CompiledSteps.__init__

    def noting(self, *arguments, **options):
        compile_steps(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(executor.CompiledSteps, "__init__", noting)
    return made


def test_ranks_of_which_some_compile_nothing(compiled):
    case = {"dtype": "float32", "samples": 2000, "epochs": 3}
    alone, _ = train(**case)

    def run(group):
        with changed(compiled_enabled=group.rank != 1):
            return train(group, **case)

    for network, _ in on_ranks(2, run):
        assert difference(alone, network) < 1e-5


def test_ranks_with_one_rank_are_one_process():
    assert Ranks(xn.distributed.Group()).batch(7).rows == slice(0, 7)


@pytest.mark.parametrize("name", ["plain", "dropout and noise", "batch norm"])
def test_compiled_loops_add_over_ranks_too(compiled, name):
    case = CASES[name] | {"dtype": "float32"}
    alone, _ = train(**case)
    made = len(compiled)
    found = on_ranks(2, lambda group: train(group, **case))
    assert len(compiled) > made > 0
    # BatchNorm amplifies rounding.
    limit = 1e-2 if name == "batch norm" else 1e-5
    for network, _ in found:
        assert difference(alone, network) < limit
    assert len({network.flat_parameters.tobytes() for network, _ in found}) == 1


def test_parts_use_no_compiled_loops(compiled):
    case = {"dtype": "float32", "drop": True, "parts": 4}
    bits = {train(**case)[0].flat_parameters.tobytes()}
    for size in (2, 4):
        found = on_ranks(size, lambda group: train(group, **case))
        bits |= {network.flat_parameters.tobytes() for network, _ in found}
    assert not compiled  # whether a step is compiled would depend on the number of ranks
    assert len(bits) == 1


def test_parts_do_not_depend_on_the_number_of_blas_threads():
    bits = set()
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads, user_api="blas"):
            network, _ = train(None, 4, dtype="float32", samples=640, batch_size=320)
        bits.add(network.flat_parameters.tobytes())
    assert len(bits) == 1


class PlainNumber(xn.Loss):
    """A mean squared error, as a user writes it."""

    def forward(self, logits, target, weights=None):
        self.difference = logits - np.eye(10)[target]
        w = np.ones(len(target)) if weights is None else weights
        self.share = (w / w.sum())[:, None]
        return float((self.share * self.difference**2).sum())

    def backward(self):
        return 2 * self.share * self.difference


@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize("weights", [False, True])
def test_a_loss_of_a_user_that_gives_a_plain_number(parts, weights):
    def run(group=None):
        return train(group, parts if group else 0, loss=PlainNumber(), weights=weights)

    alone, history = run()
    for network, of_rank in on_ranks(2, run):
        assert difference(alone, network) < 1e-12
        losses = [record.loss for record in of_rank.records]
        assert losses == pytest.approx([record.loss for record in history.records], rel=1e-10)


def test_a_layer_of_a_user_that_mixes_rows_is_refused():
    class Centred(xn.Layer):
        batch_dependent = True

        def forward(self, x, *, training):
            return x - x.mean(0)

        def backward(self, dy):
            return dy - dy.mean(0)

    def run(group):
        network = xn.Sequential([xn.Linear(64, 10), Centred()], dtype="float64")
        data = np.zeros((8, 64)), np.zeros(8, int)
        xn.fit(network, data, optimizer="sgd", epochs=1, distributed=group)

    with pytest.raises(ConfigError, match="a row of the output of Centred depends on other rows"):
        on_ranks(2, run)


def test_a_signal_that_comes_while_ranks_agree_is_not_lost(tmp_path):
    class Late(ThreadGroup):
        def all_gather(self, value):
            found = super().all_gather(value)
            is_agreement = isinstance(value, tuple) and isinstance(value[-1], bool)
            if is_agreement and not self.sent:
                self.run.interrupted, self.sent = 15, True
            return found

        sent = False

    class Keep(xn.Callback):
        def __init__(self, group):
            self.group = group

        def on_train_begin(self, run):
            self.group.run = run

    def run(group):
        group.__class__ = Late
        checkpoints = xn.Checkpoints(tmp_path, every=50)
        with pytest.raises(KeyboardInterrupt):
            train(group, callbacks=Keep(group), checkpoints=checkpoints)
        return len(list(tmp_path.glob("checkpoint-*")))

    assert on_ranks(2, run) == [1, 1]
