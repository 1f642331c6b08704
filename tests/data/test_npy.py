"""`.npy` files: mapped, and to the bit what the same arrays in memory give; damage is reported."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xpnet as xn
from xpnet.backend import Backend
from xpnet.cli.train import main
from xpnet.data import Dataset, Normalisation, Splits, load_dataset, read_npz, read_samples, split
from xpnet.data import mapped as module
from xpnet.data.mapped import MappedRows, is_mapped
from xpnet.errors import ConfigError, DataError

X = numpy.random.default_rng(0).integers(0, 256, (60, 4, 3), dtype=numpy.uint8)
Y = numpy.random.default_rng(1).integers(0, 3, 60).astype(numpy.uint8)
WHOLE = {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("npy")


def fill(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        numpy.save(folder / f"{name}.npy", array)
    return folder


def parts_of(splits: Splits) -> list[Dataset]:
    return [part for part in (splits.train, splits.validation, splits.test) if part is not None]


def assert_same(one: Dataset, other: Dataset) -> None:
    numpy.testing.assert_array_equal(numpy.asarray(one.x), numpy.asarray(other.x))
    numpy.testing.assert_array_equal(one.labels, other.labels)
    assert one.x.dtype == other.x.dtype
    assert one.x.shape == other.x.shape == (len(one), one.features)
    assert (one.classes, one.image_shape) == (other.classes, other.image_shape)


# What the names give


@pytest.mark.parametrize(
    "arrays", [WHOLE, {"x_train": X, "y_train": Y}, {"x": X, "y": Y}], ids=["both", "train", "x"]
)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("dtype", [numpy.uint8, numpy.float32, numpy.float64])
def test_a_folder_gives_what_an_archive_of_its_arrays_gives(
    tmp_path: Path, arrays: dict[str, numpy.ndarray], flat: bool, dtype: type[Any]
) -> None:
    stored = {
        name: (array.reshape(len(array), -1) if flat else array).astype(dtype)
        if name[0] == "x"
        else array
        for name, array in arrays.items()
    }
    numpy.savez(tmp_path / "a.npz", **stored)
    ours, other = load_dataset(fill(tmp_path / "b", **stored)), read_npz(tmp_path / "a.npz")
    assert ours.name == "b"
    assert isinstance(ours.train.x, MappedRows)
    assert_same(ours.train, other.train)
    assert (ours.test is None) == (other.test is None)
    if ours.test is not None and other.test is not None:
        assert_same(ours.test, other.test)


@pytest.mark.parametrize("flat", [False, True])
def test_one_channel_in_the_last_place_is_as_none(tmp_path: Path, flat: bool) -> None:
    test = X[:5].reshape(5, -1) if flat else X[:5]
    folder = fill(tmp_path, x_train=X[..., None], y_train=Y, x_test=test, y_test=Y[:5])
    source = load_dataset(folder)
    assert source.test is not None
    assert source.train.image_shape == source.test.image_shape == (4, 3)
    assert isinstance(source.train.x, MappedRows)
    numpy.testing.assert_array_equal(numpy.asarray(source.train.x), X.reshape(60, -1))


def test_mapped_rows_of_planes_are_colour_images_if_the_dataset_says_so(tmp_path: Path) -> None:
    rows = numpy.load(fill(tmp_path, x=X.reshape(60, -1)) / "x.npy", mmap_mode="r")
    data = Dataset(rows, None, (), (2, 2, 3))
    assert isinstance(data.x, MappedRows)
    assert data.take(numpy.arange(3)).image_shape == (2, 2, 3)


def test_one_file_has_its_labels_beside_it(tmp_path: Path) -> None:
    fill(tmp_path, big=X, big_labels=Y)
    source = load_dataset(tmp_path / "big.npy")
    assert (source.name, source.test) == ("big.npy", None)
    assert isinstance(source.train.x, MappedRows)
    assert_same(source.train, Dataset(X.reshape(60, -1), Y, tuple("012"), (4, 3)))
    # The same content under other names is the same data, other labels are not.
    assert source.sha256 == load_dataset(fill(tmp_path / "a", x=X, y=Y)).sha256
    assert source.sha256.startswith("sampled:")
    assert source.sha256 != load_dataset(fill(tmp_path / "a", x=X, y=Y[::-1])).sha256
    assert source.sha256 != load_dataset(fill(tmp_path / "a", x=X + 1, y=Y)).sha256


def test_idx_files_in_a_folder_come_first(tmp_path: Path) -> None:
    fill(tmp_path, x=X, y=Y)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="train-images-idx3-ubyte is empty"):
        load_dataset(tmp_path)


def test_samples_to_predict_need_no_labels(tmp_path: Path) -> None:
    fill(tmp_path, some=X)
    samples = read_samples(tmp_path / "some.npy")
    assert isinstance(samples.x, MappedRows)
    assert (samples.labels, samples.image_shape) == (None, (4, 3))
    fill(tmp_path, some_labels=Y)
    assert read_samples(tmp_path / "some.npy").labels is not None


# Rows of a map


@pytest.fixture
def rows(tmp_path: Path) -> MappedRows:
    return MappedRows(numpy.load(fill(tmp_path, x=X) / "x.npy", mmap_mode="r"))


def test_rows_are_asked_for_as_of_an_array(
    rows: MappedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 100)
    flat, chosen = X.reshape(60, -1), numpy.array([7, 3, 50, 8])
    for ours, other in ((rows, flat), (rows.take(chosen), flat[chosen])):
        assert (len(ours), ours.shape, ours.ndim, ours.size) == (
            len(other),
            other.shape,
            2,
            other.size,
        )
        assert (ours.dtype, ours.min(), ours.max()) == (X.dtype, other.min(), other.max())
        numpy.testing.assert_array_equal(ours[1:3], other[1:3])
        numpy.testing.assert_array_equal(ours[numpy.array([3, 0])], other[[3, 0]])
        numpy.testing.assert_array_equal(numpy.asarray(ours, dtype=float), other)
        numpy.testing.assert_array_equal(Normalisation(0.5, 1).apply(ours), other * 0.5 + 1)
    again = rows.take(chosen).take(numpy.array([2, 0]))
    numpy.testing.assert_array_equal(numpy.asarray(again), flat[[50, 7]])
    assert len(list(rows.blocks())) > 1


def test_a_pickle_holds_the_path_and_not_the_values(rows: MappedRows, tmp_path: Path) -> None:
    path = fill(tmp_path, wide=numpy.arange(40_000.0).reshape(100, 400)) / "wide.npy"
    whole = numpy.load(path, mmap_mode="r")
    for some in (MappedRows(whole), MappedRows(whole[20:]), MappedRows(whole).take(Y)):
        packed = pickle.dumps(some)
        assert len(packed) < 2000
        again = pickle.loads(packed)
        assert is_mapped(again.values)
        numpy.testing.assert_array_equal(numpy.asarray(again), numpy.asarray(some))


def test_a_dataset_of_a_map_stays_mapped_and_a_copy_of_it_does_not(tmp_path: Path) -> None:
    whole = numpy.load(fill(tmp_path, x=X) / "x.npy", mmap_mode="r")
    for some in (whole, whole[5:], numpy.asarray(whole)):
        data = Dataset(some, None, ())
        assert isinstance(data.x, MappedRows)
        assert is_mapped(data.x.values)
        assert data.image_shape == (4, 3)
    copy = whole.copy().reshape(60, -1)
    assert isinstance(copy, numpy.memmap)
    assert not is_mapped(copy)
    assert isinstance(Dataset(copy, None, ()).x, numpy.ndarray)
    assert not is_mapped([1])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("sizes", [(None, None), (0.25, 12), (0, None)])
def test_parts_of_a_map_are_mapped_and_those_of_the_array(
    tmp_path: Path, in_place: bool, sizes: tuple[float | None, float | None]
) -> None:
    validation, test = sizes
    ours = load_dataset(fill(tmp_path / "a", x=X, y=Y))
    numpy.savez(tmp_path / "a.npz", x=X, y=Y)
    parts, expected = (
        split(source, validation=validation, test=test, seed=4, in_place=in_place)
        for source in (ours, read_npz(tmp_path / "a.npz"))
    )
    for one, other in zip(parts_of(parts), parts_of(expected), strict=True):
        assert isinstance(one.x, MappedRows)
        assert_same(one, other)


def test_two_mapped_files_are_not_pooled(tmp_path: Path) -> None:
    source = load_dataset(fill(tmp_path / "a", **WHOLE))
    with pytest.raises(ConfigError, match=r"test=5: a has a test set in a file .* leave test out"):
        split(source, validation=None, test=5, seed=0)
    assert len(split(source, validation=None, test=None, seed=0).test) == 20


# Training


def trained(
    backend: Backend, parts: Splits, how: Normalisation, dtype: str, **options: Any
) -> tuple[bytes, list[tuple[float | None, ...]]]:
    layers = [xn.Linear(12, 8), xn.ReLU(), xn.Linear(8, 3)]
    network = xn.Sequential(layers, backend=backend, dtype=dtype, seed=2)
    data = [
        xn.DeviceData.of(part, how, backend=backend, dtype=dtype)
        for part in (parts.train, parts.validation)
        if part is not None
    ]
    history = xn.fit(network, *data, optimizer=xn.Adam(0.01), epochs=3, **options)
    records = [(record.loss, record.accuracy, record.val_loss) for record in history.records]
    return backend.to_host(network.flat_parameters).tobytes(), records


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 7},
        {"batch_size": None, "train_metrics": "evaluated"},
        {"batch_size": 16, "augmentation": xn.Augmentation(shift=1, rotation=5)},
    ],
    ids=["batches", "full", "augmented"],
)
@pytest.mark.parametrize("stored", [numpy.uint8, numpy.float32])
def test_training_gives_the_same_bits_mapped_and_in_memory(
    backend: Backend, tmp_path: Path, stored: type[Any], options: dict[str, Any]
) -> None:
    x = X if stored is numpy.uint8 else (X / 255).astype(stored)
    numpy.savez(tmp_path / "a.npz", x=x, y=Y)
    found = []
    for source in (load_dataset(fill(tmp_path / "a", x=x, y=Y)), read_npz(tmp_path / "a.npz")):
        parts = split(source, validation=10, test=10, seed=1, in_place=True)
        how = Normalisation.standard(parts.train)
        if stored is numpy.float32 and options["batch_size"] == 7:
            how = Normalisation.unit(parts.train)
        found.append((how, trained(backend, parts, how, "float32", **options)))
    assert found[0] == found[1]


@pytest.mark.parametrize("flat", [False, True])
def test_a_pair_may_be_mapped_and_images(backend: Backend, tmp_path: Path, flat: bool) -> None:
    x = (X / 255).astype(numpy.float32).reshape((60, 12) if flat else X.shape)
    folder = fill(tmp_path, x=x, y=Y)
    pairs = [(x, Y)]
    pairs.append(tuple(numpy.load(folder / f"{n}.npy", mmap_mode="r") for n in "xy"))
    values = []
    for pair in pairs:
        network = xn.Sequential([xn.Linear(12, 3)], backend=backend, seed=0)
        xn.fit(network, pair, pair, optimizer=xn.SGD(0.1), epochs=2, batch_size=8)
        values.append(backend.to_host(network.flat_parameters).tobytes())
    assert values[0] == values[1]
    data = xn.DeviceData(*pairs[1], backend=backend, dtype="float32")
    assert data.image_shape == (None if flat else (4, 3))


def test_on_the_cpu_a_map_is_not_copied(tmp_path: Path) -> None:
    whole = numpy.load(fill(tmp_path, x=X) / "x.npy", mmap_mode="r")
    for x in (whole, MappedRows(whole), MappedRows(whole).take(numpy.arange(5, 60))):
        data = xn.DeviceData(x, numpy.zeros(len(x), int), backend=Backend(), dtype="float32")
        assert numpy.shares_memory(data.x, whole)
        assert len(data) == len(x)


def test_the_command_trains_on_a_folder_and_on_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "some", **WHOLE)
    fill(tmp_path, big=X, big_labels=Y)
    for dataset, training in (("some", 20), ("big.npy", 36)):
        flags = ["--hidden", "4", "--epochs", "1", "--normalise", "standard"]
        assert main(["--dataset", dataset, *flags]) == 0
        out = capsys.readouterr().out
        assert f"{dataset}: 12 features (4×3) uint8" in out
        assert f"training  {training:>8}" in out


# What does not fit

COLOUR = X.reshape(60, 2, 2, 3).repeat(5, axis=1).repeat(5, axis=2)
NAN = X.astype(numpy.float32)
NAN[33, 1, 2] = numpy.nan
FORTRAN = numpy.asfortranarray(X)
OBJECTS = numpy.array([None, 1], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"a holds x\.npy: it must hold x_train\.npy, y_train\.npy .*; or x\.npy, y"),
        ({"z": X}, r"a holds neither: it must hold x_train\.npy"),
        ({**WHOLE, "x": X}, r"a holds x\.npy, x_test\.npy, x_train\.npy"),
        ({"x_train": X, "y_train": Y, "x_test": X}, r"a holds x_test\.npy, x_train\.npy, y_train"),
        ({"x": X[0, 0], "y": Y[:3]}, r"x\.npy has shape \(3,\): samples must be"),
        ({"x": X[..., None, None], "y": Y}, r"x\.npy has shape \(60, 4, 3, 1, 1\)"),
        ({"x": COLOUR, "y": Y}, r"x\.npy: x is a memory map of images .*savez .*transpose"),
        ({"x": COLOUR.transpose(0, 3, 1, 2), "y": Y}, r"x\.npy has the shape .*N, channels, heig"),
        ({"x": X[:0], "y": Y}, r"x\.npy has shape \(0, 4, 3\): it holds no array"),
        ({"x": X, "y": numpy.int64(3)}, r"y\.npy has shape \(\): it holds no array"),
        ({"x": X, "y": Y[:7]}, r"x\.npy holds 60 samples and .*y\.npy 7 labels: the two must"),
        ({"x": X, "y": Y[:, None]}, r"y\.npy is uint8 of shape \(60, 1\): labels"),
        ({"x": X, "y": Y.astype(float)}, r"y\.npy is float64"),
        ({"x": X, "y": Y.astype(int) - 1}, r"y\.npy\[\d+\] is -1: labels count from 0"),
        ({"x": X, "y": Y.astype(int) + 10**9}, r"y\.npy: label 10000000\d\d is larger"),
        ({"x": X.astype(int), "y": Y}, r"x\.npy is int64: .* uint8, float32 or float64"),
        ({"x": X.astype(">f4"), "y": Y}, r"x\.npy is >f4: .* in this machine's byte order"),
        ({"x": FORTRAN, "y": Y}, r"x\.npy: x is a memory map in another order"),
        ({"x": OBJECTS, "y": Y}, r"x\.npy holds Python objects, which are never loaded"),
        ({"x": X, "y": OBJECTS}, r"y\.npy holds Python objects"),
        ({"x": NAN, "y": Y}, r"x\.npy: x\[33, 5\] is nan: every value must be finite"),
        ({**WHOLE, "x_test": X[40:, :1]}, "a test sample has 3 features, a training sample 12"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path,
    arrays: dict[str, numpy.ndarray],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BYTES_AT_ONCE", 500)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(fill(tmp_path / "a", **arrays))
    assert "\n" not in str(caught.value)


def npy(shape: str, values: int, descr: str = "'|u1'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text", "cannot be read as an .npy file"),
        (pickle.dumps([1, 2, 3] * 9), "cannot be read as an .npy file: the magic string"),
        (b"PK\x03\x04" + bytes(90), "cannot be read as an .npy file: the magic string"),
        (b"\x93NUMPY\x09\x00" + bytes(90), "cannot be read as an .npy file"),
        (
            npy("(60, 12)", 10),
            r"is truncated: .* announces 720 bytes .* \(60 x 12 of uint8\), found",
        ),
        (npy("(60, 12)", 719), "is truncated: .* found 719"),
        (npy("(60, 12)", 721), "is too long: .* found 721"),
        (npy("(60, 12)", 720, "'<f4'"), "is truncated: its header announces 2880 bytes"),
        (npy("(1099511627776, 1099511627776)", 24), "is truncated"),
        (npy("(60, -12)", 720), r"has shape \(60, -12\)"),
        (npy("(1 +", 24), "cannot be read as an .npy file"),
        (npy("(60, 12)", 720, "'|Q7'"), "cannot be read as an .npy file"),
        (npy("(60, 12)", 720, "[('a', '|u1')]"), r"is \[\('a', 'u1'\)\]: samples"),
        (None, "there is no such file"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = fill(tmp_path, big_labels=Y) / "big.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_samples(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(position=st.integers(0, 1000), value=st.integers(0, 255), length=st.integers(0, 1000))
def test_one_wrong_byte_or_a_cut_is_told_or_harmless(
    workdir: Path, position: int, value: int, length: int
) -> None:
    path = fill(workdir, b=X) / "b.npy"
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content if length > len(content) else content[:length])
    refusal = ""
    try:
        samples = read_samples(path)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert str(path) in refusal
        assert "\n" not in refusal
    else:
        assert samples.x.size == X.size


def test_a_file_without_labels_says_where_they_belong(tmp_path: Path) -> None:
    fill(tmp_path, big=X)
    with pytest.raises(DataError, match=r"big\.npy has no labels: put them into big_labels\.npy"):
        load_dataset(tmp_path / "big.npy")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (numpy.asfortranarray(X.reshape(60, 12)), "another order than rows can be gathered in"),
        (X.reshape(60, 12).astype(">f8"), r"another byte order \(>f8\)"),
        (X[0, 0], r"x has shape \(3,\)|x must be"),
        (X.reshape(60, 2, 2, 3), r"x is a memory map of images \(60, 2, 2, 3\)"),
    ],
)
def test_a_map_whose_rows_cannot_be_gathered_is_refused(
    tmp_path: Path, x: numpy.ndarray, message: str
) -> None:
    whole = numpy.load(fill(tmp_path, x=x) / "x.npy", mmap_mode="r")
    with pytest.raises(DataError, match=message):
        Dataset(whole, None, ())
    with pytest.raises(DataError, match=message):
        xn.DeviceData(whole, numpy.zeros(len(whole)), backend=Backend(), dtype="float32")
