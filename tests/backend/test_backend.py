"""The `xp` dispatch, its transfers, scratch memory, and randomness that both backends share."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from pathlib import Path

import cupy
import numpy
import pytest
import strict_cupy
from hypothesis import given
from hypothesis import strategies as st

from xpnet import random
from xpnet.backend import Backend, add_array_module, array_module, gather
from xpnet.errors import BackendUnavailable, ConfigError, DeviceMismatch
from xpnet.workspace import Workspace

# Nothing here uses a kernel.
pytestmark = pytest.mark.without_kernels

ROOT = Path(__file__).parents[2]
NO_DEVICE, OLD_DRIVER = 100, 35  # cudaErrorNoDevice, cudaErrorInsufficientDriver


# The one question.


def test_array_module_answers_from_the_arrays(backend):
    xp = backend.xp
    assert array_module(xp.zeros(2)) is xp
    assert array_module(xp.zeros(2), xp.ones((3, 1)), xp.zeros(())) is xp


def test_mixed_arrays_are_refused_by_both_names():
    arrays = [numpy.zeros(2), strict_cupy.xp.zeros(2)]
    for mixed in (arrays, arrays[::-1], [arrays[0], *arrays]):
        with pytest.raises(DeviceMismatch) as caught:
            array_module(*mixed)
        message = str(caught.value)
        assert "numpy" in message
        assert "strict_cupy" in message
        assert "\n" not in message


@pytest.mark.parametrize("thing", [[1.0], 1.0, numpy.float32(1), None, "cpu"])
def test_what_is_no_array_is_refused(thing):
    with pytest.raises(TypeError, match=type(thing).__name__):
        array_module(thing)
    with pytest.raises(TypeError, match=type(thing).__name__):
        array_module(numpy.zeros(1), thing)


def test_a_module_enters_once():
    add_array_module(strict_cupy.ndarray, strict_cupy.xp)
    assert array_module(strict_cupy.xp.zeros(1)) is strict_cupy.xp


# Words for devices.


def test_cpu_is_numpy():
    assert Backend().xp is Backend("cpu").xp is numpy
    assert repr(Backend("cpu")) == "Backend('cpu')"


@pytest.mark.parametrize("word", ["gpu", "", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda0"])
def test_other_words_are_refused(word):
    with pytest.raises(ConfigError, match=r"use cpu, cuda, cuda:N or auto") as caught:
        Backend(word)
    assert repr(word) in str(caught.value)


def test_backend_of_an_array_and_of_a_module(backend):
    for thing in (backend.xp, backend.xp.zeros(3)):
        assert Backend.of(thing).xp is backend.xp
        assert Backend.of(thing).device == backend.device
    with pytest.raises(TypeError, match="list"):
        Backend.of([1.0])


@pytest.fixture
def devices(monkeypatch):
    """`devices(count or status)`: what the CUDA runtime says when it is asked for devices."""
    runtime = cupy.cuda.runtime
    chosen = []

    class Device:
        def __init__(self, number):
            self.number = number

        def use(self):
            chosen.append(self.number)

    def say(count=0, status=None):
        def answer():
            if status is not None:
                raise runtime.CUDARuntimeError(status)
            return count

        monkeypatch.setattr(runtime, "getDeviceCount", answer)
        return chosen

    monkeypatch.setattr(cupy.cuda, "Device", Device)
    monkeypatch.setattr("xpnet.backend._try_out", lambda _: None)
    return say


def why_no_cuda(device="cuda"):
    with pytest.raises(BackendUnavailable) as caught:
        Backend(device)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cuda_without_a_driver(devices):
    devices(status=OLD_DRIVER)
    message = why_no_cuda()
    assert "NVIDIA driver" in message
    assert "install or update" in message
    assert "cudaErrorInsufficientDriver" in message


def test_cuda_without_a_device(devices):
    devices(status=NO_DEVICE)
    message = why_no_cuda()
    devices(count=0)
    assert message == why_no_cuda()
    assert "0 CUDA device" in message
    assert "CUDA_VISIBLE_DEVICES" in message
    assert "install" not in message


def test_a_device_that_is_not_there_is_named(devices):
    devices(count=2)
    message = why_no_cuda("cuda:2")
    assert "cuda:2" in message
    assert "2 CUDA device" in message


def test_cuda_words_choose_a_device(devices):
    chosen = devices(count=2)
    for word, number in (("cuda", 0), ("cuda:1", 1), ("auto", 0)):
        backend = Backend(word)
        assert backend.xp is cupy
        assert backend.device == (word if word != "auto" else "cuda")
        assert chosen.pop() == number


def test_auto_says_that_it_chose_the_cpu(devices):
    for failure in ({"status": OLD_DRIVER}, {"status": NO_DEVICE}, {"count": 0}):
        devices(**failure)
        backend = Backend("auto")
        assert backend.device == "cpu"
        assert backend.xp is numpy


def python(script):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITHOUT_CUPY = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
sys.meta_path.insert(0, Blocker())
from xpnet.backend import Backend
from xpnet.errors import BackendUnavailable
assert Backend("auto").device == "cpu"
try:
    Backend("cuda")
except BackendUnavailable as error:
    print(error)
"""


def test_cuda_without_cupy_and_three_failures_differ(devices):
    message = python(WITHOUT_CUPY)
    assert "CuPy" in message
    assert "pip install 'cupy-cuda13x[ctk]'" in message
    assert "\n" not in message
    devices(status=OLD_DRIVER)
    no_driver = why_no_cuda()
    devices(count=0)
    assert len({message, no_driver, why_no_cuda()}) == 3


@pytest.mark.parametrize("module", ["xpnet", "xpnet.backend", "xpnet.random"])
def test_a_numpy_user_imports_nothing_heavy(module):
    script = f"""
import sys, numpy
import {module}
from xpnet.backend import Backend, array_module
assert array_module(Backend("cpu").zeros(3, "float32")) is numpy
print([name for name in ("cupy", "pandas", "matplotlib", "torch") if name in sys.modules])
"""
    assert python(script) == "[]"


# Transfers, and where NumPy and CuPy differ.


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4)])
def test_there_and_back(backend, dtype, shape):
    host = numpy.arange(math.prod(shape)).reshape(shape).astype(dtype)
    array = backend.asarray(host)
    assert array_module(array) is backend.xp
    back = backend.to_host(array)
    assert type(back) is numpy.ndarray
    assert back.dtype == host.dtype
    assert back.shape == host.shape
    assert numpy.array_equal(back, host)


def test_asarray_takes_numbers_and_lists_and_a_dtype(backend):
    assert backend.to_host(backend.asarray(1.5)).item() == 1.5
    array = backend.asarray([[1, 2], [3, 4]], dtype=backend.xp.float32)
    assert array.dtype == numpy.float32
    assert backend.to_host(array).tolist() == [[1, 2], [3, 4]]


def test_the_doors_are_one_transfer_each(double):
    array = double.asarray(numpy.ones(3))
    assert strict_cupy.ledger.counts["h2d"] == 1
    with strict_cupy.forbid("h2d"):
        double.asarray(array)
        double.to_host(array)
    assert strict_cupy.ledger.counts["d2h"] == 1
    double.synchronize()
    assert strict_cupy.ledger.counts["sync"] == 2


@given(
    size=st.integers(1, 3000),
    dtype=st.sampled_from(["float32", "float64", "int32", "int64", "uint8", "uint64"]),
)
def test_zeros_on_the_cpu_begin_at_a_cache_line(reference, size, dtype):
    array = reference.zeros(size, dtype)
    assert array.shape == (size,)
    assert array.dtype == dtype
    assert not array.any()
    assert array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_no_zeros(backend):
    assert backend.zeros(0, numpy.float32).shape == (0,)


def test_zeros(backend):
    array = backend.zeros(7, numpy.float32)
    assert array_module(array) is backend.xp
    assert array.dtype == numpy.float32
    assert backend.to_host(array).tolist() == [0] * 7


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64"])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_gather(backend, dtype, index):
    host = numpy.arange(20).reshape(5, 4).astype(dtype)
    order = numpy.array([3, 0, 3, 4], dtype=index)
    source, indices = backend.asarray(host), backend.asarray(order)
    out = backend.asarray(numpy.zeros((4, 4), dtype))
    assert gather(source, indices, out) is out
    assert numpy.array_equal(backend.to_host(out), host[order])


def test_gather_moves_nothing(double):
    source, indices = double.asarray(numpy.ones((5, 4))), double.asarray(numpy.array([1, 2]))
    out = double.xp.empty((2, 4))
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        gather(source, indices, out)


# Scratch memory.


def test_scratch_is_made_once_and_shared_by_fewer_rows(backend):
    xp, workspace = backend.xp, Workspace()
    full = workspace.array(xp, "y", (64, 10), xp.float32)
    assert array_module(full) is xp
    assert full.shape == (64, 10)
    assert full.dtype == xp.float32
    for shape in ((64, 10), (7, 10), (64, 10)):
        again = workspace.array(xp, "y", shape, xp.float32)
        assert again.shape == shape
        assert again.flags.c_contiguous
        assert xp.may_share_memory(again, full)


@pytest.mark.parametrize("change", ["name", "rows", "width", "dtype"])
def test_scratch_is_made_anew_for_more(backend, change):
    xp, workspace = backend.xp, Workspace()
    first = workspace.array(xp, "y", (4, 3), xp.float32)
    name, shape, dtype = "y", (4, 3), xp.float32
    if change == "name":
        name = "dx"
    elif change == "dtype":
        dtype = xp.float64
    else:
        shape = (5, 3) if change == "rows" else (4, 5)
    second = workspace.array(xp, name, shape, dtype)
    assert (second.shape, second.dtype) == (shape, dtype)
    assert not xp.may_share_memory(first, second)


def test_scratch_costs_nothing_after_the_first_batch(double):
    xp, workspace = double.xp, Workspace()

    def batch(rows):
        workspace.array(xp, "y", (rows, 10), xp.float32)
        workspace.ones(xp, rows, xp.float32)

    batch(64)
    with strict_cupy.forbid("alloc", "sync", "h2d", "d2h"):
        for rows in (64, 32, 17, 64, 1):
            batch(rows)
    with strict_cupy.forbid("alloc"), pytest.raises(AssertionError, match="zeros"):
        batch(65)


def test_ones_and_numbers(backend):
    xp, workspace = backend.xp, Workspace()
    for size in (3, 5, 2):
        assert backend.to_host(workspace.ones(xp, size, xp.float64)).tolist() == [1.0] * size
        numbers = workspace.numbers(xp, size, xp.uint64)
        assert numbers.dtype == xp.uint64
        assert backend.to_host(numbers).tolist() == list(range(size))
    assert workspace.ones(xp, 2, xp.float32).dtype == xp.float32


def test_scratch_of_no_dimension_and_of_two_backends(backend, reference):
    workspace = Workspace()
    scalar = workspace.array(backend.xp, "loss", (), backend.xp.float32)
    assert scalar.shape == ()
    other = workspace.array(reference.xp, "loss", (), reference.xp.float32)
    assert array_module(scalar) is backend.xp
    assert array_module(other) is numpy


def test_a_copied_workspace_begins_empty():
    workspace = Workspace()
    first = workspace.array(numpy, "y", (3,), numpy.float32)
    for other in (copy.deepcopy(workspace), pickle.loads(pickle.dumps(workspace))):
        assert not numpy.may_share_memory(other.array(numpy, "y", (3,), numpy.float32), first)


# Randomness.


def test_host_draws_are_pure_functions_of_their_arguments():
    def draw(*arguments):
        return random.generator(*arguments).integers(0, 2**63, size=8).tolist()

    state = numpy.random.get_state()[1].copy()
    first = draw(1, "weights", 0)
    others = [draw(2, "weights", 0), draw(1, "biases", 0), draw(1, "weights", 1)]
    assert draw(1, "weights", 0) == first
    assert all(other != first for other in others)
    assert len({tuple(other) for other in others}) == 3
    assert numpy.array_equal(numpy.random.get_state()[1], state)


def test_streams_of_neighbouring_counters_do_not_overlap():
    draws = [random.generator(7, "x", counter).integers(0, 2**63, 4000) for counter in range(4)]
    assert len(numpy.unique(numpy.concatenate(draws))) == 16000


@given(seed=st.integers(0, 2**64), epoch=st.integers(0, 10**6), size=st.integers(0, 300))
def test_permutation(seed, epoch, size):
    order = random.permutation(seed, epoch, size)
    assert order.dtype == numpy.int64
    assert sorted(order.tolist()) == list(range(size))
    assert numpy.array_equal(order, random.permutation(seed, epoch, size))


def test_permutations_differ_between_epochs_and_seeds():
    orders = [random.permutation(s, e, 100).tolist() for s in range(3) for e in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_keys_and_unit_words_depend_on_seed_and_purpose():
    keys = {random.key(seed, purpose) for seed in range(50) for purpose in ("a", "b", "1/a")}
    assert len(keys) == 150
    assert all(0 <= key < 2**64 for key in keys)
    words = random.unit_keys(3, "dropout 1", 5)
    assert words.dtype == numpy.uint32
    assert words.shape == (5,)
    assert numpy.array_equal(words, random.unit_keys(3, "dropout 1", 5))
    assert not numpy.array_equal(words, random.unit_keys(3, "dropout 2", 5))


def mixed_rows(backend, positions):
    """`hash_rows` of host uint64 `positions`, as host uint64."""
    given_ = backend.asarray(numpy.asarray(positions, dtype=numpy.uint64))
    out, scratch = backend.xp.empty_like(given_), backend.xp.empty_like(given_)
    assert random.hash_rows(given_, out, scratch) is out
    return backend.to_host(out)


def mixed_bits(backend, rows, units):
    """`hash_bits` of host uint32 words, as host `(N, F)` uint32."""
    xp, shape = backend.xp, (len(rows), len(units))
    out, scratch = xp.empty(shape, dtype=xp.uint32), xp.empty(shape, dtype=xp.uint32)
    column = numpy.asarray(rows, dtype=numpy.uint32).reshape(-1, 1)
    words = backend.asarray(numpy.asarray(units, dtype=numpy.uint32))
    assert random.hash_bits(backend.asarray(column), words, out, scratch) is out
    return backend.to_host(out)


def mask_bits(backend, seed=0, first=0, rows=128, units=256):
    """The bits of a dropout mask, as a layer derives them."""
    start = random.key(seed, "test")
    positions = [(start + first + row) % 2**64 for row in range(rows)]
    words = (mixed_rows(backend, positions) >> numpy.uint64(32)).astype(numpy.uint32)
    return mixed_bits(backend, words, random.unit_keys(seed, "test units", units))


def test_rows_are_those_of_splitmix64(backend):
    """The published first outputs of SplitMix64 with seed 0."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert mixed_rows(backend, [1, 2, 3, 4]).tolist() == expected


@given(
    rows=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    units=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
)
def test_bits_are_those_of_whole_numbers(backend, rows, units):
    def mix(word):
        word ^= word >> 16
        word = word * 0x7FEB352D % 2**32
        word ^= word >> 15
        word = word * 0x846CA68B % 2**32
        return word ^ word >> 16

    expected = [[mix(row ^ unit) for unit in units] for row in rows]
    assert mixed_bits(backend, rows, units).tolist() == expected


def test_bits_are_the_same_on_every_backend(backend, reference, compared):
    assert numpy.array_equal(mask_bits(backend, 5, 10**6), mask_bits(reference, 5, 10**6))
    compared("random.hash_rows")
    compared("random.hash_bits")


def test_drawing_bits_moves_nothing(double):
    xp = double.xp
    positions, out, scratch = (xp.zeros(8, dtype=xp.uint64) for _ in range(3))
    rows, units = xp.zeros((8, 1), dtype=xp.uint32), xp.zeros(4, dtype=xp.uint32)
    wide, spare = (xp.empty((8, 4), dtype=xp.uint32) for _ in range(2))
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        random.hash_rows(positions, out, scratch)
        random.hash_bits(rows, units, wide, spare)


def test_a_mask_does_not_depend_on_how_samples_are_cut(reference):
    whole = mask_bits(reference, 3, 0, rows=100)
    parts = [mask_bits(reference, 3, at, rows=min(33, 100 - at)) for at in range(0, 100, 33)]
    assert numpy.array_equal(numpy.concatenate(parts), whole)


# The statistics below are of fixed seeds, so they can't fail by chance.
# Bounds are about five standard deviations.


@pytest.mark.parametrize("seed", range(5))
def test_bits_are_uniform(reference, seed):
    bits = mask_bits(reference, seed)
    n = bits.size
    assert abs(bits.mean() / 2**32 - 0.5) < 5 / math.sqrt(12 * n)
    for byte in range(4):
        counts = numpy.bincount((bits >> 8 * byte & 255).ravel(), minlength=256)
        chi_square = float(((counts - n / 256) ** 2 / (n / 256)).sum())
        assert 255 - 5 * math.sqrt(510) < chi_square < 255 + 5 * math.sqrt(510)
    for bit in range(32):
        assert abs((bits >> bit & 1).mean() - 0.5) < 5 / math.sqrt(4 * n)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_keep_their_share_in_every_row_and_column(reference, rate):
    kept = mask_bits(reference, 11, rows=400, units=500) >= round(rate * 2**32)
    deviation = math.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / math.sqrt(kept.size)
    for axis in (0, 1):
        length = kept.shape[axis]
        shares = kept.mean(axis=axis)
        assert abs(shares - (1 - rate)).max() < 5 * deviation / math.sqrt(length)
        # As scattered as independent draws are, not more and not less.
        scatter = shares.std() / (deviation / math.sqrt(length))
        assert abs(scatter - 1) < 5 / math.sqrt(2 * len(shares))


def correlation(a, b):
    return abs(numpy.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_independent(reference, seed):
    bits = mask_bits(reference, seed, rows=200, units=300)
    bound = 5 / math.sqrt(bits.size)
    assert correlation(bits[1:], bits[:-1]) < bound
    assert correlation(bits[:, 1:], bits[:, :-1]) < bound
    assert correlation(bits, mask_bits(reference, seed + 1, rows=200, units=300)) < bound
    assert correlation(bits, mask_bits(reference, seed, 200, rows=200, units=300)) < bound
    lowest = bits & 1
    assert correlation(lowest[1:], lowest[:-1]) < bound
    assert correlation(lowest[:, 1:], lowest[:, :-1]) < bound


def flips(before, after, width):
    """Share of flips of each output bit."""
    changed = before ^ after
    return numpy.array([(changed >> before.dtype.type(bit) & 1).mean() for bit in range(width)])


def test_each_bit_of_a_position_moves_half_of_the_bits(reference):
    positions = random.generator(1, "positions").integers(0, 2**64, 2000, dtype=numpy.uint64)
    before = mixed_rows(reference, positions)
    for bit in range(64):
        after = mixed_rows(reference, positions ^ numpy.uint64(1 << bit))
        assert abs(flips(before, after, 64) - 0.5).max() < 0.08


def test_each_bit_of_a_word_moves_half_of_the_bits(reference):
    words = random.generator(1, "words").integers(0, 2**32, 2000, dtype=numpy.uint32)
    before = mixed_bits(reference, words, [0])
    for bit in range(32):
        by_row = mixed_bits(reference, words ^ numpy.uint32(1 << bit), [0])
        by_unit = mixed_bits(reference, words, [1 << bit])
        assert numpy.array_equal(by_row, by_unit)
        assert abs(flips(before, by_row, 32) - 0.5).max() < 0.08
