"""Files: same bytes for the same network, same bits read back, PyTorch reads them, bad files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import xpnet as xn
from xpnet import BatchNorm, Dropout, LeakyReLU, Linear, ReLU, Sequential
from xpnet._files import write_atomically
from xpnet.backend import Backend
from xpnet.errors import CheckpointError

# Nothing here uses a kernel.
pytestmark = pytest.mark.without_kernels

PROGRAM = """
import sys, xpnet as xn
layers = [xn.Linear(7, 5), xn.BatchNorm(5), xn.LeakyReLU(0.2), xn.Linear(5, 3)]
network = xn.Sequential(layers, seed=6)
network.metadata = {"normalisation": {"scale": 0.5, "shift": 0.0}, "classes": ["ä", "b", "c"]}
xn.save(network, sys.argv[1])
"""


def network(backend: Backend | str = "cpu", dtype: str = "float32") -> Sequential:
    layers = [Linear(7, 5), BatchNorm(5), LeakyReLU(0.2), Dropout(0.1), Linear(5, 3)]
    made = Sequential(layers, backend=backend, dtype=dtype, seed=6)
    made.metadata = {"classes": ["a", "b", "c"], "image_shape": None}
    x = np.random.default_rng(0).standard_normal((8, 7))
    made.forward(made.backend.asarray(x, dtype=dtype), training=True)
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_read_back_predicts_the_same_bits(
    dtype: str, backend: Backend, tmp_path: Path
) -> None:
    made = network(backend, dtype)
    path = tmp_path / "model.safetensors"
    xn.save(made, path)
    read = xn.load(path, device=backend)
    x = backend.asarray(np.random.default_rng(1).standard_normal((9, 7)), dtype=dtype)
    assert np.array_equal(
        backend.to_host(read.forward(x, training=False)), backend.to_host(made.forward(x))
    )
    assert read.metadata == made.metadata
    assert read.architecture() == made.architecture()
    assert read.dtype == made.dtype


def test_torch_reads_it_without_renaming(tmp_path: Path) -> None:
    made = Sequential([Linear(7, 5), ReLU(), BatchNorm(5), Linear(5, 3)], seed=1)
    xn.save(made, tmp_path / "model.safetensors")
    nn = torch.nn
    peer = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3))
    peer.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    peer.eval()
    x = np.random.default_rng(1).standard_normal((9, 7)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(x)).numpy()
    assert np.abs(made.forward(x) - expected).max() <= 1e-5
    # The weight is not square: a transposed or strided write would show here.
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert np.array_equal(stored["0.weight"], made.parameters()["0.weight"])
    assert stored["0.weight"].shape == (5, 7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_lies_row_by_row_in_the_file(dtype: str, backend: Backend, tmp_path: Path) -> None:
    """`(out, in)` as everybody has it, though in the network's memory it lies as `(in, out)`."""
    path, weight = tmp_path / "model.safetensors", np.arange(35.0).reshape(5, 7)
    made = Sequential([Linear(7, 5)], backend=backend, dtype=dtype)
    made.load_state_dict({"0.weight": weight, "0.bias": np.arange(5.0)})
    assert backend.to_host(made.flat_parameters)[:7].tolist() == [0, 7, 14, 21, 28, 1, 8]
    xn.save(made, path)
    for load in (safetensors.numpy.load_file, safetensors.torch.load_file):
        stored = load(path)
        assert tuple(stored["0.weight"].shape) == (5, 7)
        assert stored["0.weight"].tolist() == weight.tolist()
        assert stored["0.bias"].tolist() == [0, 1, 2, 3, 4]
    # And by the definition of the format: a length, a header, the numbers.
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    place = json.loads(content[8:start])["0.weight"]
    first, last = place["data_offsets"]
    assert place["shape"] == [5, 7]
    found = np.frombuffer(content[start + first : start + last], np.dtype(dtype).newbyteorder("<"))
    assert found.tolist() == list(range(35))
    read = xn.load(path, device=backend)
    for name, array in read.state_dict().items():
        assert np.array_equal(backend.to_host(array), backend.to_host(made.state_dict()[name]))


def test_what_torch_wrote_is_read(tmp_path: Path) -> None:
    nn = torch.nn
    peer = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    safetensors.torch.save_file(peer.state_dict(), tmp_path / "torch.safetensors")
    made = Sequential([Linear(7, 5), xn.Tanh(), Linear(5, 3)])
    made.load_state_dict(safetensors.numpy.load_file(tmp_path / "torch.safetensors"))
    x = np.random.default_rng(1).standard_normal((9, 7)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(x)).numpy()
    assert np.abs(made.forward(x) - expected).max() <= 1e-6


def test_bytes_are_a_function_of_the_network_alone(tmp_path: Path) -> None:
    files = []
    for number in ("0", "1", "2"):
        path = tmp_path / f"{number}.safetensors"
        environment = os.environ | {"PYTHONHASHSEED": number}
        subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, env=environment)
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_file_from_another_backend_is_the_same_file(double: Backend, tmp_path: Path) -> None:
    for name, where in (("here", Backend("cpu")), ("there", double)):
        xn.save(Sequential([Linear(4, 3)], backend=where, seed=2), tmp_path / name)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


ONES = np.ones((2, 2), np.float32)


def tensors(about: object) -> bytes:
    text = about if isinstance(about, str) else json.dumps(about)
    return safetensors.numpy.save({"0.weight": ONES}, metadata={"xpnet": text})


GOOD = {
    "format": 1,
    "dtype": "float32",
    "metadata": {},
    "architecture": [{"type": "Linear", "in_features": 2, "out_features": 2}],
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable safetensors file"),
        (b"hello, this is no model at all", "not a readable safetensors file"),
        (tensors(GOOD)[:-3], "not a readable safetensors file"),
        (safetensors.numpy.save({"a": np.ones(2)}), "holds tensors but no architecture"),
        (tensors("{"), "no valid description"),
        (tensors([]), "no valid description"),
        (tensors({"format": 1}), "no valid description"),
        (tensors(GOOD | {"architecture": [7]}), "layer 0 is not known: 7"),
        (tensors({"format": 9}), "expected format 1, found format 9"),
        (
            safetensors.numpy.save({"0.weight": np.ones(2)}, {"xpnet": json.dumps(GOOD)}),
            "'0.weight' is float64, expected float32",
        ),
        (tensors(GOOD), r"missing \['0.bias'\]"),
        (tensors(GOOD | {"architecture": [{"type": "os.system"}]}), "layer 0 is not known"),
        (tensors(GOOD | {"architecture": 5}), "an invalid description"),
        (tensors(GOOD | {"dtype": "int8"}), "dtype must be float32 or float64"),
    ],
)
def test_bad_files_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        xn.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        xn.load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is a folder: give the file in it"):
        xn.load(tmp_path)


@pytest.mark.parametrize("fail", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    fail: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    write_atomically(path, b"old")

    def refuse(_: int) -> None:
        raise fail

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError if isinstance(fail, OSError) else KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_processes_with_equal_ids_write_the_same_file(tmp_path: Path) -> None:
    """As in containers that share a folder; here they are threads."""
    path = tmp_path / "trials.csv"

    def write(content: bytes) -> None:
        for _ in range(100):
            write_atomically(path, content)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, [b"one", b"two"]))  # raises their errors
    assert path.read_bytes() in (b"one", b"two")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent/model: cannot be written"):
        xn.save(network(), tmp_path / "absent" / "model")
