"""Ranks with a GPU each, by NCCL: on doubles of CuPy and of NCCL, or on the pretended device."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import threading
import time
import types
from functools import cache
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest
import strict_cupy
import test_ranks
from nccl_double import Nccl, OnStrictCupy
from strict_graphs import graphs_on_the_double
from test_mpi import command, needs_mpiexec, run
from thread_ranks import ThreadGroup, on_ranks

import xpnet as xn
from xpnet.backend import Backend
from xpnet.cli.train import device_of_rank, train
from xpnet.config import TrainConfig
from xpnet.distributed import nccl_group
from xpnet.distributed.nccl_group import NcclGroup
from xpnet.errors import BackendUnavailable, ConfigError, RankError

PROGRAM = Path(__file__).resolve().parents[1] / "support/nccl_program.py"
CASES = ("plain", "augmentation", "sample weights", "batch norm, images")
IN_PARTS = ("augmentation@4", "sample weights@4")
STEPS, FIRST = 6 * 11, 2 * 3
"""Of a training, and those before a graph: three of each of the two sizes of a batch."""


@pytest.fixture
def device(request):
    """Where `nccl_program.py` computes: on the strict double, or with `--device cuda` on CuPy."""
    return "cupy" if request.config.getoption("--device") == "cuda" else "double"


def place(device, ranks):
    """`device`, or `nccl` for NCCL itself where there are several GPUs, one for each rank."""
    gpus = len(nccl_group.gpus_here()) if device == "cupy" else 0
    return "nccl" if gpus > 1 and ranks <= gpus else device


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained(device, ranks)`: what `nccl_program.py` has written."""

    @cache
    def results(device, ranks):
        where = place(device, ranks)
        out = tmp_path_factory.mktemp("ranks") / "found.npz"
        cases = IN_PARTS if ranks == 1 else CASES + IN_PARTS
        code, _, err = run(command(ranks, PROGRAM, where, out, *cases))
        assert code == 0, err
        with np.load(out) as found:
            return dict(found)

    return results


@needs_mpiexec
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_ranks_train_the_network_of_one_process(device, trained, case, ranks):
    found = trained(device, ranks)
    dtype = {"dtype": "float32"} if case == "plain" else {}
    network, history = test_ranks.train(**test_ranks.CASES[case] | dtype)
    own = network.flat_parameters
    # As in `test_ranks`: sums in another order, whose rounding BatchNorm amplifies.
    limit = 1e-5 if dtype else 1e-10 if "norm" in case else 1e-12
    assert np.linalg.norm(found[f"{case} weights"] - own) < limit * np.linalg.norm(own)
    losses = [record.loss for record in history.records]
    assert found[f"{case} losses"] == pytest.approx(losses, rel=100 * limit)
    # Each step adds the gradients, and for BatchNorm two sums forward and two backward.
    sums = STEPS * (5 if "norm" in case else 1)
    if place(device, ranks) != "nccl":
        assert found[f"{case} sums"].tolist() == [sums, 0, 0]


@pytest.mark.slow
@needs_mpiexec
@pytest.mark.parametrize("case", IN_PARTS)
def test_parts_give_the_same_bits_for_every_number_of_ranks(device, trained, case):
    several = [ranks for ranks in (1, 2, 4) if place(device, ranks) == place(device, 2)]
    found = [trained(device, ranks)[f"{case} weights"] for ranks in several]
    assert len({hashlib.sha256(weights.tobytes()).hexdigest() for weights in found}) == 1
    own = test_ranks.train(**test_ranks.CASES[case.partition("@")[0]])[0].flat_parameters
    assert np.linalg.norm(found[0] - own) < 1e-12 * np.linalg.norm(own)
    if place(device, 2) != "nccl":
        exchanges = [trained(device, ranks)[f"{case} sums"].tolist() for ranks in several]
        assert exchanges == [[0, n * STEPS, n * STEPS] for n in (0, 1, 2)]


@pytest.mark.slow
@needs_mpiexec
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_recorded_step_contains_its_sums(trained, ranks):
    found = trained("double", ranks)
    for case in CASES + IN_PARTS:
        assert found[f"{case} launches"] == STEPS - FIRST  # and all sums were made, as seen above


@pytest.mark.slow
@needs_mpiexec
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "RankError: rank 1 failed: ZeroDivisionError: on this rank"),
        ("stops", "RankError: rank 1 does not answer: exited, stopped or unreachable"),
        ("stops at once", "RankError: rank 1 does not answer: exited, stopped or unreachable"),
        ("reports", "RankError: NCCL reports NCCL_ERROR_REMOTE_ERROR: another rank, or the conn"),
        ("other", "AssertionError: ranks add something else"),
    ],
)
def test_a_rank_that_fails_ends_those_whose_device_waits(tmp_path, how, message):
    code, out, err = run(command(2, PROGRAM, "double", tmp_path / "found.npz", how), seconds=120)
    assert code != 0
    assert message in err
    assert "rank 0 has aborted: True" in out
    # Rank 0 had made the last sum of its epoch, which its device cannot complete.
    assert ("in wait_for_device" in err) == (how not in ("other", "stops at once"))
    assert not (tmp_path / "found.npz").exists()


@pytest.mark.slow
@needs_mpiexec
def test_the_command(device, tmp_path):
    words = ["--epochs", "2", "--hidden", "32", "--threads", "1", "--no-report"]
    on_gpus = [*words, "--device", "cuda", "--run", tmp_path / "two"]
    where = place(device, 2)
    code, out, err = run(command(2, PROGRAM, where, tmp_path / "none", "command", *on_gpus))
    assert (code, err) == (0, "")
    assert out.count("test accuracy") == out.count("epoch 1/2") == 1
    alone = [sys.executable, "-m", "xpnet.train", *words, "--run", tmp_path / "one"]
    code, _, err = run(alone)
    assert code == 0, err
    one, two = (xn.load(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    # float32, as in `test_ranks`.
    assert test_ranks.difference(one, two) < 1e-5


@needs_mpiexec
def test_the_double_is_strict(tmp_path):
    code, _, err = run(command(2, PROGRAM, "double", tmp_path / "found.npz", "rules"))
    assert code == 0, err


REAL = """
import ctypes, json, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
from cupy.cuda import nccl
assert nccl.available
made = vars(nccl.NcclCommunicator)
found = {name: getattr(value, "__doc__", "") for name, value in made.items()}
found |= {"NcclCommunicator": nccl.NcclCommunicator.__doc__}
found |= {name: getattr(nccl, name).__doc__ for name in ("get_unique_id", "groupStart", "groupEnd")}
found |= {name: getattr(nccl, name) for name in dir(nccl) if name.startswith("NCCL_")}
print(json.dumps({**found, "NcclError": [base.__name__ for base in nccl.NcclError.__mro__]}))
"""


def test_the_double_has_the_signatures_of_cupy(tmp_path):
    """CuPy's own module, loaded with a library that has NCCL's names, and does nothing."""
    module = importlib.util.find_spec("cupy_backends.cuda.libs.nccl").origin
    names = set(re.findall(rb"\0(nccl[A-Z]\w+)(?=\0)", Path(module).read_bytes()))
    source, library = tmp_path / "nccl.cpp", tmp_path / "libnccl.so.2"
    lines = [f'extern "C" int {name.decode()}(...) {{ return 0; }}\n' for name in sorted(names)]
    source.write_text("".join(lines))
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnccl.so.2", "-o", str(library), str(source)]
    subprocess.run([*cuda_on_cpu.compiler(), *flags], check=True, capture_output=True)
    shown = subprocess.run(
        [sys.executable, "-c", REAL, library], check=True, capture_output=True, text=True
    )
    real, double = json.loads(shown.stdout), Nccl(OnStrictCupy())

    def parameters(name):
        text = real[name].partition("\n")[0]
        inside = text[text.index("(") + 1 : text.index(")")]
        # Types come before names.
        return [part.split(" ")[-1] for part in inside.split(", ") if part not in ("", "self")]

    def own(function):
        found = inspect.signature(function).parameters.values()
        return [str(p).partition(":")[0] + "=None" * (p.default is None) for p in found]

    assert own(double.NcclCommunicator) == parameters("NcclCommunicator")
    for name in ("allReduce", "send", "recv", "abort", "destroy", "check_async_error"):
        assert own(getattr(double.NcclCommunicator, name))[1:] == parameters(name)
    for name in ("get_unique_id", "groupStart", "groupEnd"):
        assert own(getattr(double, name)) == parameters(name)
    for name in ("NCCL_SUM", "NCCL_FLOAT32", "NCCL_FLOAT64"):
        assert getattr(double, name) == real[name]
    assert "RuntimeError" in real["NcclError"]
    assert issubclass(double.NcclError, RuntimeError)
    assert "bytes" in real["get_unique_id"]


# ---- ranks that are threads ----


class OnThreads(NcclGroup, ThreadGroup):
    """A rank among threads, with what a group of GPUs adds to it."""

    def __init__(self, rank):
        NcclGroup.__init__(self)
        ThreadGroup.__init__(self, rank._shared, rank.rank)

    def _wait(self, *requests):
        while not all(request.Test() for request in requests):
            if self._shared.barrier.broken:
                raise threading.BrokenBarrierError
            time.sleep(0.01)

    def _sum_on_host(self, array):
        ThreadGroup._sum(self, array)


@pytest.fixture
def gpus(monkeypatch):
    """`gpus([["a", "b"], ["a", "b"]])`: what each rank sees; rank r is a thread of that name."""
    seen = threading.local()
    monkeypatch.setattr(nccl_group, "gpus_here", lambda: seen.gpus)

    def on_gpus(lists, function):
        def run(rank):
            seen.gpus = lists[rank.rank]
            return function(OnThreads(rank))

        return on_ranks(len(lists), run)

    return on_gpus


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([["a", "b"], ["a", "b"]], ["cuda", "cuda:1"]),
        ([["a", "b"], ["a", "b"], ["c", "d"], ["c", "d"]], ["cuda", "cuda:1"] * 2),
        ([["a"], ["b"]], ["cuda", "cuda"]),  # the launcher has given each rank its own
        ([["a", "b"], ["b", "a"]], ["cuda", "cuda"]),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(gpus, lists, expected):
    assert gpus(lists, lambda group: device_of_rank("cuda", group)) == expected
    assert gpus(lists, lambda group: device_of_rank("auto", group)) == expected


def test_more_ranks_than_gpus_are_an_error_before_a_folder_is_made(gpus, tmp_path):
    config = TrainConfig(device="cuda", run=tmp_path / "run", report=False)
    message = r"3 ranks on .* have 2 GPU\(s\) between them, .* \(rank 2 has none\): start fewer"
    with pytest.raises(BackendUnavailable, match=message):
        gpus([["a", "b"]] * 3, lambda group: train(config, group))
    assert not (tmp_path / "run").exists()
    for name, expected in [("auto", "cpu"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]:
        assert gpus([["a"]] * 2, lambda group, name=name: device_of_rank(name, group)) == (
            [expected] * 2
        )


def test_one_process_takes_the_device_that_it_is_given():
    assert device_of_rank("cuda", xn.distributed.Group()) == "cuda"


def test_ranks_that_share_a_gpu_add_on_the_host():
    case = test_ranks.CASES["sample weights"]
    alone, _ = test_ranks.train(**case)

    def run(rank):
        group = OnThreads(rank)
        network, _ = test_ranks.train(group, backend=Backend.of(strict_cupy.xp), **case)
        assert not group.is_recorded
        assert group.sums == STEPS
        return network.backend.to_host(network.flat_parameters)

    with graphs_on_the_double():
        for weights in on_ranks(2, run):
            reference = alone.flat_parameters
            assert np.linalg.norm(weights - reference) < 1e-12 * np.linalg.norm(reference)


def connect(monkeypatch, nccl, ranks=2):
    """Ranks on devices of their own connect by the module `nccl`."""
    monkeypatch.setattr(nccl_group, "_gpu_of", lambda backend: threading.current_thread().name)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", nccl)
    double = Backend.of(strict_cupy.xp)

    def run(rank):
        group = OnThreads(rank)
        with group.training():
            if nccl is None:
                del sys.modules["cupy.cuda.nccl"]
            group.connect(double)

    return on_ranks(ranks, run)


def test_nccl_that_cupy_cannot_load(monkeypatch):
    # CuPy's own module then warns.
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.nccl", None)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", None)
    del sys.modules["cupy.cuda.nccl"]
    message = r"2 ranks, each with a GPU .* need NCCL, .* pip install nvidia-nccl-cu13 \(or nvid"
    with pytest.raises(BackendUnavailable, match=message):
        nccl_group._import_nccl(2)
    missing = types.SimpleNamespace(available=False)
    with pytest.raises(BackendUnavailable, match=message):
        connect(monkeypatch, missing)


class Refusing:
    """NCCL that cannot connect."""

    available = True
    NcclError = Nccl.NcclError

    def get_unique_id(self):
        return bytes(range(128))

    def NcclCommunicator(self, ndev, commId, rank):
        assert commId == bytes(range(128))
        raise self.NcclError(5)


def test_ranks_that_nccl_cannot_connect(monkeypatch):
    with pytest.raises(RankError, match="NCCL reports NCCL_ERROR_INVALID_USAGE: another rank"):
        connect(monkeypatch, Refusing())


def test_a_rank_that_fails_ends_one_that_connects(monkeypatch):
    ended = threading.Event()

    class Waiting(Refusing):
        def NcclCommunicator(self, ndev, commId, rank):
            if rank == 0:
                ended.wait(60)
            raise ZeroDivisionError("on rank 1")

    with pytest.raises(ZeroDivisionError):
        connect(monkeypatch, Waiting())
    assert not ended.is_set()  # rank 0 has not waited for it
    ended.set()


@pytest.mark.parametrize(
    ("shape", "dtype", "found"),
    [((4,), "int64", "a contiguous array of int64"), ((4, 2), "float32", "not a contiguous array")],
)
def test_arrays_that_nccl_does_not_add(shape, dtype, found):
    group = NcclGroup()
    group.size, group._nccl, group._communicator = 2, Nccl(OnStrictCupy()), object()
    array = strict_cupy.xp.zeros(shape, dtype)
    with pytest.raises(ConfigError, match=f"contiguous, and float32 or float64, found {found}"):
        group.all_reduce(array.transpose())
