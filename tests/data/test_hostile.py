"""Malicious files: none crashes or hangs a reader, fills the memory, or runs anything."""

from __future__ import annotations

import ast
import concurrent.futures
import gzip
import io
import json
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.numpy
from drawings import png
from fuzz.readers import ABOUT, READERS, check
from hypothesis import given, settings
from hypothesis import strategies as st

import xpnet as xn
from xpnet.cli.train import main
from xpnet.config import read_toml
from xpnet.data import load_dataset, read_samples
from xpnet.data.images import read_image
from xpnet.errors import CheckpointError, DataError, XpnetError
from xpnet.runs.model import Model
from xpnet.serialization import load

PACKAGE = Path(xn.__file__).parent

# Any bytes at all, and valid files with a few places damaged.


def damaged(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """One of `seeds` with up to four pieces of it cut out, repeated or replaced."""
    piece = st.one_of(
        st.binary(max_size=8),
        st.sampled_from(
            [b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 8, b"-1", b"1e400"]
        ),
    )
    place = st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 1, 2, 4, 16, 256]), piece)
    return st.builds(_edited, st.sampled_from(seeds), st.lists(place, max_size=4), st.booleans())


def _edited(seed: bytes, edits: list[tuple[float, int, bytes]], doubled: bool) -> bytes:
    for where, length, piece in edits:
        start = int(where * len(seed))
        again = seed[start : start + length] if doubled else b""
        seed = seed[:start] + again + piece + again + seed[start + length :]
    return seed


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("name", READERS)
def test_what_a_valid_file_is_made_of_is_read(name: str, workdir: Path) -> None:
    """So that the damage done below is done to something."""
    answers = [check(name, seed, workdir) for seed in READERS[name].seeds]
    assert any(answers)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str, workdir: Path) -> None:
    @settings(max_examples=3 * settings.default.max_examples // 2)
    @given(data=damaged(READERS[name].seeds) | st.binary(max_size=200))
    def tried(data: bytes) -> None:
        check(name, data, workdir)

    tried()


DEEP = 100_000
LONG = "9" * 5_000
CHECKPOINT = READERS["safetensors, checkpoint"].seeds[0]
ABOUT_TEXT = json.dumps(ABOUT)


def about(**changes: Any) -> bytes:
    return json.dumps(ABOUT | changes).encode()


def layer(**settings: Any) -> bytes:
    return about(architecture=[settings])


def gone_wrong(**changes: Any) -> bytes:
    """What a checkpoint says, with counts that contradict each other."""
    assert changes.keys() <= json.loads(CHECKPOINT).keys()
    return json.dumps(json.loads(CHECKPOINT) | changes).encode()


def npz_of_two_names() -> bytes:
    """A member whose name, as stored, continues for 2,000 bytes of its content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", b"\xff" * 3000)
        archive.writestr("y.npy", b"")
    content = bytearray(buffer.getvalue())
    content[26:28] = (2000).to_bytes(2, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("idx", bytes([0, 0, 8, 255]) + bytes(4 * 255)),
        ("idx", bytes([0, 0, 8, 4]) + bytes(4) + b"\xff" * 12),
        ("csv", f"{LONG}x{LONG},1x2\n1,2\n".encode()),
        ("csv", f"1,2,3,4\n{LONG},1,1,1\n".encode()),
        ("csv", b"label,a\n1,\xff\n"),
        ("csv", b"label,a\n1e401,1\n"),
        ("csv", b'label,a\n1,"' + b"7" * 200_000 + b'"\n'),
        ("csv", b"label,pixel0\n" + b'"' + b" " * 200_000 + b'-1",2\n'),
        ("csv", b"label,pixel0\n\0\n1,2\n"),
        ("csv", b"label,a\n\n\n   \n"),
        ("npz, one array", b"\x93NUMPY\x01\x00\x2d\x23" + b"-" * 9000 + b"1\n"),
        ("npz, one array", b"\x93NUMPY\x01\x00\x2d\x23" + b"(" * 9000 + b"1\n"),
        ("npz", npz_of_two_names()),
        ("safetensors", READERS["safetensors"].seeds[1].replace(b'"F32"', b'"\x7fF2"')),
        ("safetensors, description", b"[" * DEEP),
        ("safetensors, description", b'{"format":' + LONG.encode() + b"}"),
        ("safetensors, description", about(dtype="float16")),
        ("safetensors, description", about(metadata={"normalisation": {"scale": 10**400}})),
        ("safetensors, description", about(metadata={"image_shape": [-1, -3]})),
        ("safetensors, description", about(metadata={"classes": ["a\x1b[2J", "b"]})),
        ("safetensors, description", about(metadata={"classes": ["a" * 10**5, "b\n"]})),
        ("safetensors, description", layer(type=["Linear"])),
        ("safetensors, description", layer(type="Linear", in_features=10**30, out_features=2)),
        (
            "safetensors, description",
            layer(type="Linear", in_features=3, out_features=2, weight_initializer=5),
        ),
        ("safetensors, description", layer(type="ReLU", **{"x" * 10**5: 1})),
        ("safetensors, checkpoint", CHECKPOINT.replace(b'"augmentation"', b'"aug\x7fmentation"')),
        (
            "safetensors, checkpoint",
            CHECKPOINT.replace(b'"augmentation"', b'"' + LONG.encode() + b'"'),
        ),
        ("safetensors, checkpoint", gone_wrong(updates=0)),
        ("safetensors, checkpoint", gone_wrong(updates=10**400)),
        ("safetensors, checkpoint", gone_wrong(epoch=2)),
        ("safetensors, checkpoint", gone_wrong(step=4)),
        ("toml", b"a = " + b"[" * DEEP),
        ("toml", b"seed = " + LONG.encode()),
        ("toml", b"seed = 1" + b"0" * 4000),
        ("toml", b"learning_rate = 1" + b"0" * 400),
        ("toml", b"hidden = [1" + b"0" * 400 + b"]"),
        ("toml", b'"a\\n\\u001b[2J" = 1'),
        ("toml", b'dataset = "' + b"a" * 10**5 + b'"\nactivation = "' + b"b" * 10**5 + b'"'),
        ("toml", b"a." * 30_000 + b"a = 1"),
        ("toml", b"\n".join(b"a%d = 1" % n for n in range(1000))),
        ("toml, space", b"dropout = {low = 0, high = 1e-300, step = 1e-320}"),
        ("toml, space", b"learning_rate = {low = 0, high = 1e308, step = 1e-300}"),
        ("toml, space", b"epochs = {low = 1, high = 1" + b"0" * 4000 + b", step = 3}"),
        ("png", b"\x89PNG\r\n\x1a\n" + bytes(40)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_once_went_wrong_or_well_might(name: str, data: bytes, workdir: Path) -> None:
    check(name, data, workdir)


# Nothing is run.


class Trap:
    """A pickle of it touches `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _as_npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _as_npz(array: Any) -> bytes:
    buffer = io.BytesIO()
    numpy.savez(buffer, x=array, y=numpy.zeros(len(array), int), x_train=array)
    return buffer.getvalue()


def hostile_contents(trap: Path) -> list[bytes]:
    """Pickles, and arrays of pickled objects."""
    objects = numpy.empty(3, dtype=object)
    objects[:] = [Trap(trap)] * 3
    contents = [pickle.dumps(Trap(trap), protocol) for protocol in range(6)]
    return [*contents, _as_npy(objects), _as_npz(objects), gzip.compress(contents[2])]


SUFFIXES = (".csv", ".csv.gz", ".csv.zip", ".npz", ".npy", ".idx3-ubyte", ".idx.gz")
SUFFIXES += (".safetensors", ".toml", ".png", ".jpg")


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists(), "a trap that does not work proves nothing"
    trap.unlink()
    tried: list[tuple[Callable[[Any], Any], str]] = [
        (reader, f"a{suffix}")
        for reader in (load_dataset, read_samples, load, Model.load, read_toml, read_image)
        for suffix in SUFFIXES
    ]
    tried += [(read, kind.file) for kind in READERS.values() for read in kind.reads]
    for number, (reader, name) in enumerate(tried):
        folder = tmp_path / str(number)
        folder.mkdir()
        for content in hostile_contents(trap):
            (folder / name).write_bytes(content)
            if name == "a.npy":
                (folder / "a_labels.npy").write_bytes(content)
            with pytest.raises(XpnetError, match=f"{folder}/"):
                reader(folder / name)
            assert not trap.exists(), f"{reader.__name__} ran what {name} holds"


MAY_RUN_CODE = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
READ_PICKLES = {"load", "read_array", "open_memmap", "NpzFile"}


def test_the_package_has_no_door_for_pickles() -> None:
    calls = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                bare = node.func.id if isinstance(node.func, ast.Name) else ""
                assert bare not in {"eval", "exec", "compile", "__import__"}, (path, node.lineno)
                assert called not in {"read_pickle"}, (path, node.lineno)
                owner = ast.unparse(node.func).partition(".")[0]
                assert owner != "torch" or called != "load", (path, node.lineno)
                if called in READ_PICKLES and owner in {"numpy", "np", "npy_format"}:
                    calls += 1
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert given.get("allow_pickle") == "False", (path, node.lineno)
            assert not names & MAY_RUN_CODE, (path, node.lineno)
    assert calls, "the search above finds none of the calls that it is for"


# No file takes more memory than it may.

MEGABYTES = 512
READ = """
import sys
from pathlib import Path
from xpnet.errors import XpnetError
import {module}
read = {module}.{function}
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
try:
    read(Path(sys.argv[1]))
    print(peak(), "read")
except XpnetError as error:
    print(peak(), error)
"""


def answer(reader: str, path: Path) -> str:
    """What `reader`, a function's full name, says of the file; it may take 512 MB and 20 s."""
    module, _, function = reader.rpartition(".")
    program = READ.format(module=module, function=function)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=300,  # only a hang takes so long
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, _, said = done.stdout.strip().partition(" ")
    assert int(peak) < MEGABYTES, f"{peak} MB to say: {said}"
    assert "\n" not in said
    return said


GIGA = 2**30
ZEROS = bytes(2**24)


def gzip_bomb(path: Path, start: bytes = b"", size: int = 20 * GIGA) -> Path:
    """`size` bytes of zeros after `start`, as gzip members: about a thousandth of that on disk."""
    member = gzip.compress(ZEROS, mtime=0)
    path.write_bytes(gzip.compress(start, mtime=0) + member * (size // len(ZEROS)))
    return path


def zip_bomb(path: Path, name: str, start: bytes, said: int, method: int = 8) -> Path:
    """A ZIP archive whose one member says it holds `said` bytes, and holds 4 GB of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)
    body = first + piece * (4 * GIGA // len(ZEROS)) + packer.flush()
    common = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, 0, len(body), said, len(name), 0)
    local = b"PK\x03\x04" + common + name.encode()
    central = (
        b"PK\x01\x02" + struct.pack("<H", 20) + common
        + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    )  # fmt: skip
    offset = len(local) + len(body)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), offset, 0)
    path.write_bytes(local + body + central + end)
    return path


def npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("said", [4 * GIGA - 1, 1000])
def test_a_zip_bomb_is_refused(said: int, tmp_path: Path) -> None:
    row = b"label,pixel0\n" + b"1,2\n" * 10
    bomb = zip_bomb(tmp_path / "a.csv.zip", "a.csv", row, said)
    assert bomb.stat().st_size < 2**23
    said_of_it = answer("xpnet.data.csv.read_csv", bomb)
    assert str(bomb) in said_of_it
    assert "decompress" in said_of_it or "ZIP archive" in said_of_it


@pytest.mark.parametrize("said", [4 * GIGA - 1, 1000, 80 + 4 * 10**8])
def test_a_bomb_of_arrays_is_refused(said: int, tmp_path: Path) -> None:
    header = npy_header((4 * 10**8, 1))
    bomb = zip_bomb(tmp_path / "a.npz", "x.npy", header, said)
    said_of_it = answer("xpnet.data.npz.read_npz_samples", bomb)
    assert said_of_it.startswith(str(bomb))


def test_an_array_is_held_against_its_place_in_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for shape, dtype in (((10**9, 10**9), "<f8"), ((2**62, 4), "|u1"), ((10**10, 1), "|u1")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", npy_header(shape, dtype) + bytes(100))
        assert answer("xpnet.data.npz.read_npz_samples", path).startswith(str(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_nobody_uses_here_is_refused(method: int, tmp_path: Path) -> None:
    """Its decompressors take no limit."""
    table, arrays = tmp_path / "a.csv.zip", tmp_path / "a.npz"
    for path, name in ((table, "a.csv"), (arrays, "x.npy")):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(name, ZEROS)
    for reader, path in (("csv.read_csv", table), ("npz.read_npz_samples", arrays)):
        assert "compress" in answer(f"xpnet.data.{reader}", path)


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    rows = b"label,pixel0\n" + b"1,2\n" * 10
    for name, start in (("a.csv.gz", rows), ("a.csv", rows)):
        bomb = gzip_bomb(tmp_path / name, start)
        assert bomb.stat().st_size < 25_000_000
        assert "decompress" in answer("xpnet.data.csv.read_csv", bomb)


@pytest.mark.slow
def test_a_wide_table_that_unpacks_to_all_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    # 33 million numbers, which as 64-bit integers would take 270 MB for each copy.
    line = b"0," * 2**14 + b"1.5\n"
    path.write_bytes(gzip.compress(line) * (2**26 // len(line)))
    assert answer("xpnet.data.csv.read_csv", path) == "read"


@pytest.mark.parametrize("promised", [20 * GIGA // 784, 10, 2**32 - 1])
def test_a_gzip_bomb_of_images_is_refused(promised: int, tmp_path: Path) -> None:
    header = struct.pack(">IIII", 0x803, promised, 28, 28)
    bomb = gzip_bomb(tmp_path / "train-images-idx3-ubyte.gz", header)
    assert f"announces {promised * 784} bytes" in answer("xpnet.data.idx.read_idx", bomb)


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"\n", b"\r", b'"'])
def test_a_table_of_one_endless_line_is_refused(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = b"label,pixel0\n" + b"1,2\n" * 10
    for content in (b"1," * 10**7 + end, rows + b"1," * 10**7 + end, rows + b"1" * 10**7 + end):
        path.write_bytes(content)
        assert str(path) in answer("xpnet.data.csv.read_csv", path)


@pytest.mark.parametrize("width", [2**62, 10**18, 10**12])
def test_settings_that_no_machine_has_room_for(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.toml"
    path.write_text(f"hidden = [{width}, {width}]")
    assert main(["--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith("xpnet: error: not enough memory (")


def model_file(path: Path, architecture: list[dict[str, Any]]) -> Path:
    text = json.dumps(ABOUT | {"metadata": {}, "architecture": architecture})
    tensors = {"0.weight": numpy.ones((2, 3), numpy.float32)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"xpnet": text}))
    return path


def test_a_network_is_held_against_its_file_before_it_is_built(tmp_path: Path) -> None:
    big = {"type": "Linear", "in_features": 100_000, "out_features": 100_000}
    wide = {"type": "LayerNorm", "features": 10**12}
    for architecture in ([big], [wide], [big] * 1000):
        path = model_file(tmp_path / "model.safetensors", architecture)
        assert answer("xpnet.load", path).startswith(str(path))


def test_a_header_that_promises_more_tensors_than_there_are(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}
    text = json.dumps({"0.weight": entry}).encode()
    for content in (struct.pack("<Q", len(text)) + text, struct.pack("<Q", 2**63) + text):
        path.write_bytes(content + bytes(100))
        assert answer("xpnet.load", path).startswith(f"{path}: not a readable safetensors file")


def packed(size: int) -> bytes:
    """`size` bytes, all 0 but for a few in the middle of a row in the middle, compressed."""
    packer, before = zlib.compressobj(1), size // 2 + 100
    parts = (bytes(before), b"\xff" * 99, bytes(size - before - 99))
    return b"".join(map(packer.compress, parts)) + packer.flush()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "depth", "kind", "more"),
    [
        (60_000, 1, 0, ()),
        (40_000, 8, 6, ()),
        (9_400, 8, 6, ()),
        (9_400, 1, 3, (b"PLTE" + bytes(3) + b"\xff" * 3, b"tRNS\x00")),
        (5_700, 8, 6, ()),
        (5_700, 8, 2, (b"tRNS" + b"\0\1" * 3,)),
        (5_700, 1, 3, (b"PLTE" + bytes(3) + b"\xff" * 3, b"tRNS\x00")),
    ],
)
def test_an_image_of_little_file_and_many_pixels(
    side: int, depth: int, kind: int, more: tuple[bytes, ...], tmp_path: Path
) -> None:
    bits = depth * {0: 1, 2: 3, 3: 1, 6: 4}[kind]
    allowed = side < 6_000
    rows = packed(side * ((side * bits + 7) // 8 + 1) if allowed else 2**20)
    path = tmp_path / "a.png"
    path.write_bytes(png(side, side, depth, kind, rows, *more))
    said = answer("xpnet.data.images.read_image", path)
    # What is allowed is read, however little there may be to see.
    assert allowed == ("too large an image" not in said), said


def test_an_image_with_a_bomb_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    text = zlib.compress(bytes(2**27), 9)
    path.write_bytes(
        png(28, 28, 8, 0, zlib.compress(bytes(28 * 29)), b"zTXta\0\0" + text, b"iCCPa\0\0" + text)
    )
    assert answer("xpnet.data.images.read_image", path).startswith(str(path))


def test_settings_are_no_library(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"# " + b"x" * 2**24 + b"\nseed = 1\n")
    assert answer("xpnet.config.read_toml", path).startswith(f"{path}: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_or_a_device_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    # Settings may come through a pipe, such as a shell's <(...): they are cut off instead.
    for kind in [kind for kind in READERS.values() if kind.file != "a.toml"]:
        for read in kind.reads:
            path = tmp_path / kind.file
            os.mkfifo(path)
            with pytest.raises((DataError, CheckpointError), match=r"(not a|no) file"):
                read(path)
            path.unlink(missing_ok=True)  # the reader of class names has removed it
            path.symlink_to("/dev/zero")
            with pytest.raises((DataError, CheckpointError), match=r"(not a|no) file"):
                read(path)
            path.unlink(missing_ok=True)


# What is ours may be passed around.


def small() -> xn.Sequential:
    network = xn.Sequential(
        [xn.Linear(5, 4), xn.BatchNorm(4), xn.ReLU(), xn.Dropout(0.5), xn.Linear(4, 3)], seed=4
    )
    network.metadata = {"classes": ["a", "b", "c"]}
    network.forward(X, training=True)
    return network


X = numpy.random.default_rng(0).standard_normal((20, 5)).astype(numpy.float32)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_network_is_an_object_that_pickles(protocol: int) -> None:
    network = small()
    again = pickle.loads(pickle.dumps(network, protocol))
    assert again.forward(X).tobytes() == network.forward(X).tobytes()
    assert (again.metadata, again.seed, again.dtype) == (network.metadata, 4, network.dtype)


def test_the_arrays_of_a_network_may_travel_beside_its_pickle() -> None:
    """As joblib and multiprocessing pass large arrays."""
    network, buffers = small(), []
    content = pickle.dumps(network, 5, buffer_callback=buffers.append)
    assert len(buffers) >= 4
    again = pickle.loads(content, buffers=[bytes(buffer) for buffer in buffers])
    assert again.forward(X).tobytes() == network.forward(X).tobytes()
    # The copy owns its store, and trains on.
    again.forward(X, training=True)
    again.flat_parameters[...] += 1


def test_processes_share_the_work_of_a_network() -> None:
    network, parts = small(), numpy.array_split(X, 3)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        found = list(pool.map(network.predict, parts))
    assert numpy.concatenate(found).tolist() == network.predict(X).tolist()
