"""What a training needs in memory: little more than its pixels, or, mapped, far less."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from numpy.lib import format as npy_format

from bench.footprint import grown
from xpnet.backend import Backend
from xpnet.data import Dataset, Normalisation, Source, read_npz, split
from xpnet.training.device_data import DeviceData

MOST = 1.6
"""Times the bytes of its pixels, the most that training may add to what its imports take."""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the peak is read from Linux's /proc"
)


def digits(rows: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    draw = numpy.random.default_rng(0)
    labels = draw.integers(0, 10, rows, dtype=numpy.uint8)
    return draw.integers(0, 256, (rows, 784), dtype=numpy.uint8), labels


# The growth of a whole process


def assert_little_growth(dataset: str, kind: str, pixels: int, steps: int = 0) -> None:
    result = grown(dataset, kind, steps)
    assert result["pixels"] == pixels
    # Below the pixels themselves nothing would have been measured.
    assert 1 < result["grown"] / pixels <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["formulas", pytest.param("compiled", marks=pytest.mark.needs("numba"))]
)
def test_training_on_the_size_of_mnist_adds_little_to_its_pixels(tmp_path: Path, kind: str) -> None:
    x, labels = digits(70_000)
    path = tmp_path / "a.npz"
    train, test = slice(0, 60_000), slice(60_000, None)
    numpy.savez(path, x_train=x[train], y_train=labels[train], x_test=x[test], y_test=labels[test])
    assert_little_growth(str(path), kind, x.nbytes, steps=100)


@pytest.mark.slow
def test_training_on_mnist_adds_little_to_its_pixels() -> None:
    root = os.environ.get("XPNET_DATA")
    if root is None or not (Path(root) / "mnist").is_dir():
        pytest.skip("needs the full MNIST: set XPNET_DATA to the folder that holds mnist/")
    assert_little_growth("mnist", "formulas", 70_000 * 784)


# The growth by each part of it


@contextmanager
def peak_below(size: float) -> Iterator[None]:
    """Of what is allocated within the block, never more than `size` bytes at a time are held."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= size


def test_a_split_in_place_copies_the_smaller_part_only() -> None:
    x, labels = digits(60_000)
    source = Source("some", Dataset(x, labels, tuple("0123456789")), None, "")
    with peak_below(0.25 * x.nbytes):
        parts = split(source, validation=None, test=None, seed=0, in_place=True)
    for part in (parts.train, parts.validation, parts.test):
        assert part is not None
        assert numpy.shares_memory(part.x, x)


def test_an_archive_is_not_held_beside_its_arrays(tmp_path: Path) -> None:
    x, labels = digits(20_000)
    path = tmp_path / "a.npz"
    numpy.savez(path, x=x, y=labels)
    with peak_below(1.2 * x.nbytes):
        read_npz(path)


def test_samples_are_neither_copied_nor_widened_as_a_whole() -> None:
    x, labels = digits(20_000)
    data = Dataset(x, labels, tuple("0123456789"))
    with peak_below(2 * 4096 * 784 * 8):
        how = Normalisation.standard(data)
        held = DeviceData.of(data, how, backend=Backend(), dtype="float32")
        held.batch(numpy.arange(64))
    assert held.x is x


# An array that is larger than memory


def sparse(path: Path, shape: tuple[int, ...], first: numpy.ndarray) -> Path:
    """An `.npy` file of uint8 that takes next to no space on the disk: zeros but for `first`."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(file, header)
        file.write(first.tobytes())
        start = file.tell() - first.nbytes
        file.truncate(start + int(numpy.prod(shape)))
    return path


LIMITED = """
import resource, sys
from pathlib import Path
import numpy, xpnet.figures.plots, xpnet.train

lines = Path("/proc/self/status").read_text().splitlines()
taken = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
path = sys.argv[1]
# What is mapped from a file does not count here, all other memory does.
limit = taken + Path(path, "x_train.npy").stat().st_size // 2
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    numpy.load(Path(path, "x_train.npy"))
    sys.exit("the limit holds the whole file")
except MemoryError:
    pass
sys.exit(xpnet.train.main(["--dataset", path, *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_the_command_trains_on_a_file_that_its_memory_could_not_hold(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    rows, side, classes = 32_768, 128, 3
    labels = numpy.arange(rows, dtype=numpy.uint8) % classes
    images = numpy.zeros((300, side, side), dtype=numpy.uint8)
    for image, label in zip(images, labels, strict=False):
        image[:, 40 * label : 40 * label + 40] = 255
    sparse(folder / "x_train.npy", (rows, side, side), images)
    numpy.save(folder / "y_train.npy", labels)
    numpy.save(folder / "x_test.npy", images)
    numpy.save(folder / "y_test.npy", labels[:300])
    flags = "--hidden= --epochs=1 --batch-size=512 --validation=100 --threads=1"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(folder), *flags.split()],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "big: 16384 features (128×128) uint8" in done.stdout
    assert "training    32,668" in done.stdout
    assert (tmp_path / "runs/big-001/sample_predictions.png").exists()


FEW_STEPS = """
import sys
import numpy as np
import xpnet as xn
from bench.processes import memory
from xpnet.data import load_dataset, split

class Stop(xn.Callback):
    def on_step_end(self, run):
        run.stop = run.step == 5

def fit(data):
    network = xn.Sequential([xn.Linear(65536, 10)], seed=0)
    xn.fit(network, data, optimizer=xn.SGD(1e-3), epochs=1, batch_size=8, callbacks=[Stop()])
    return network

x = np.zeros((32, 65536), dtype=np.uint8)
fit((x, np.arange(32) % 10))
before = memory("VmHWM")
folder = sys.argv[1]
x = np.load(f"{folder}/x.npy", mmap_mode="r")
network = fit((x, np.load(f"{folder}/y.npy", mmap_mode="r")))
print(memory("VmHWM") - before)
parts = split(load_dataset(folder), validation=None, test=None, seed=0, in_place=True)
how = xn.data.Normalisation.unit(parts.train)
fit(xn.DeviceData.of(parts.train, how, backend=network.backend, dtype=network.dtype))
print(memory("VmHWM") - before)
"""


def test_a_few_steps_read_a_few_rows_of_many_gigabytes(tmp_path: Path) -> None:
    shape = (2**17, 256, 256)
    labels = numpy.arange(shape[0], dtype=numpy.uint8) % 10
    path = sparse(tmp_path / "x.npy", shape, numpy.full((4, 256, 256), 255, dtype=numpy.uint8))
    size = path.stat().st_size
    assert size > 8 * 2**30
    numpy.save(tmp_path / "y.npy", labels)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FEW_STEPS, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        # numba alone would take more than is looked for here.
        env=os.environ | {"XPNET_KERNELS": "0"},
    )
    assert done.stderr == ""
    raw, mapped = map(int, done.stdout.split())
    assert 0 < raw < size / 64
    assert 0 < mapped < size / 64
