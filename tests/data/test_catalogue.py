"""The catalogue: the embedded digits, where MNIST is looked for, and paths. No network."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pandas
import pooch
import pytest
import requests
from urllib3.exceptions import MaxRetryError

from xpnet.data import catalogue as module
from xpnet.data import load_dataset, read_samples, split
from xpnet.data.idx import IDX_FILES
from xpnet.errors import DataError

IMAGES = numpy.arange(24, dtype=numpy.uint8).reshape(4, 2, 3)
MARKS = numpy.array([0, 2, 1, 2], dtype=numpy.uint8)


def idx_bytes(name: str) -> bytes:
    array = IMAGES if "images" in name else MARKS
    sizes = numpy.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def fill(folder: Path, names: tuple[str, ...] = IDX_FILES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(name)))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(downloader: pooch.HTTPDownloader, url: str, *_: object) -> None:
        pytest.fail(f"a test asked the network for {url}")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", refuse)


class Web:
    """What stands in for the mirrors: by default each file, compressed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[str], bytes] = lambda url: gzip.compress(
            idx_bytes(url.rsplit("/", 1)[-1].removesuffix(".gz"))
        )

    def __call__(
        self, downloader: pooch.HTTPDownloader, url: str, output_file: str, _pooch: None
    ) -> None:
        assert downloader.progressbar is True
        self.asked.append(url)
        Path(output_file).write_bytes(b"half a f")
        Path(output_file).write_bytes(self.answer(url))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("XPNET_DATA", raising=False)
    digests = {name: hashlib.sha256(idx_bytes(name)).hexdigest() for name in IDX_FILES}
    monkeypatch.setattr(module, "MNIST_SHA256", digests)
    return tmp_path / "cache" / "xpnet" / "mnist"


@pytest.fixture
def web(no_network: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    stand_in = Web()
    monkeypatch.setattr(
        pooch.HTTPDownloader,
        "__call__",
        lambda self, url, output_file, pooch: stand_in(self, url, output_file, pooch),
    )
    return stand_in


# The embedded digits.


def test_the_embedded_digits_are_5000_of_500_a_class() -> None:
    source = load_dataset("digits")
    assert source.name == "digits"
    assert source.test is None
    digits = source.train
    assert digits.x.shape == (5000, 784)
    assert digits.x.dtype == numpy.uint8
    assert digits.labels is not None
    assert numpy.bincount(digits.labels).tolist() == [500] * 10
    assert digits.classes == tuple("0123456789")
    assert digits.image_shape == (28, 28)
    assert (digits.x.min(), digits.x.max()) == (0, 255)
    assert source.sha256 == module.DIGITS_SHA256
    # The corners of a centred digit are paper.
    assert not digits.x.reshape(-1, 28, 28)[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_the_embedded_digits_split_into_3000_1000_1000() -> None:
    parts = split(load_dataset("digits"), validation=None, test=None, seed=0)
    assert parts.validation is not None
    for part, each in ((parts.train, 300), (parts.validation, 100), (parts.test, 100)):
        assert part.labels is not None
        assert numpy.bincount(part.labels).tolist() == [each] * 10


def test_the_file_in_the_checkout_is_reproducible_and_in_kaggles_layout() -> None:
    packed = (Path(__file__).parents[2] / "data" / "mnist_5k.csv.gz").read_bytes()
    # No name flag and no time in the header of the gzip file.
    assert (packed[3], packed[4:8]) == (0, bytes(4))
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    assert lines[0] == "label," + ",".join(f"pixel{i}" for i in range(784))
    assert len(lines) == 5001


def test_the_digits_beside_the_module_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "xpnet" / "data"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "catalogue.py"))
    with pytest.raises(DataError, match="embedded digits are missing"):
        load_dataset("digits")
    (tmp_path / "data").mkdir()
    shutil.copy(Path(__file__).parents[2] / "data" / "mnist_5k.csv.gz", tmp_path / "data")
    assert len(load_dataset("digits").train) == 5000
    (package / "mnist_5k.csv.gz").write_bytes(gzip.compress(b"label,pixel0\n1,2\n"))
    with pytest.raises(DataError, match=rf"xpnet.data.mnist_5k.*expected {module.DIGITS_SHA256}"):
        load_dataset("digits")


# MNIST by name.


@pytest.mark.parametrize("below", ["mnist", "."])
def test_xpnet_data_comes_first(
    tmp_path: Path, cache: Path, web: Web, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    fill(tmp_path / "own" / below)
    fill(cache, IDX_FILES[:1])
    monkeypatch.setenv("XPNET_DATA", str(tmp_path / "own"))
    source = load_dataset("mnist")
    assert source.name == "mnist"
    assert source.test is not None
    assert len(source.train) == 4
    assert web.asked == []


def test_the_cache_comes_second(
    tmp_path: Path, cache: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XPNET_DATA", str(tmp_path / "holds nothing"))
    fill(cache)
    assert load_dataset("mnist").name == "mnist"
    assert web.asked == []


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("cached", [0, 3])
def test_an_xpnet_data_without_mnist_is_named_before_anything_is_downloaded(
    tmp_path: Path,
    cache: Path,
    web: Web,
    monkeypatch: pytest.MonkeyPatch,
    made: bool,
    cached: int,
) -> None:
    own = tmp_path / "own"
    if made:
        own.mkdir()
    fill(cache, IDX_FILES[:cached])
    monkeypatch.setenv("XPNET_DATA", str(own))
    with pytest.raises(
        DataError, match=r"XPNET_DATA is .*correct XPNET_DATA, or unset it"
    ) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    assert "\n" not in message
    assert f"neither {own / 'mnist'} nor {own} holds" in message
    assert web.asked == []


def test_the_download_comes_last_and_is_kept(cache: Path, web: Web) -> None:
    load_dataset("mnist")
    first = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    assert web.asked == [f"{first}{name}.gz" for name in IDX_FILES]
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{n}.gz" for n in IDX_FILES)
    load_dataset("mnist")
    assert len(web.asked) == 4, "the second time it comes from the cache"


def test_only_what_is_missing_is_downloaded(cache: Path, web: Web) -> None:
    fill(cache, IDX_FILES[:3])
    load_dataset("mnist")
    assert [url.rsplit("/", 1)[1] for url in web.asked] == [f"{IDX_FILES[3]}.gz"]


def no_route(url: str) -> bytes:
    raise requests.exceptions.ConnectionError("no route\nto host")


def unknown_host(url: str) -> bytes:
    reason = OSError("HTTPSConnection(host='a.example'): Failed to resolve 'a.example' (no name)")
    raise requests.exceptions.ConnectionError(MaxRetryError(None, url, reason))


def not_gzip(url: str) -> bytes:
    return b"<html>sign in to this network</html>"


def other_content(url: str) -> bytes:
    content = bytearray(idx_bytes(url.rsplit("/", 1)[-1].removesuffix(".gz")))
    content[-1] ^= 1
    return gzip.compress(bytes(content))


@pytest.mark.parametrize("failing", [no_route, not_gzip, other_content])
def test_the_second_mirror_is_tried_when_the_first_fails(
    cache: Path, web: Web, failing: Callable[[str], bytes]
) -> None:
    right = web.answer
    web.answer = lambda url: failing(url) if "ossci" in url else right(url)
    load_dataset("mnist")
    assert web.asked[1] == f"https://storage.googleapis.com/cvdf-datasets/mnist/{IDX_FILES[0]}.gz"
    assert len(web.asked) == 8


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (no_route, "ConnectionError: no route"),
        (unknown_host, r"ConnectionError: Failed to resolve 'a.example' \(no name\); storage"),
        (not_gzip, "wrong magic number 0x3c68746d"),
        (other_content, "SHA-256"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    cache: Path, web: Web, failing: Callable[[str], bytes], reason: str
) -> None:
    web.answer = failing
    with pytest.raises(DataError, match=reason) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("ossci-datasets.s3", "storage.googleapis", "XPNET_DATA", *IDX_FILES):
        assert part in message
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, cache: Path, web: Web) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"the cache .*mnist cannot be made .*XPNET_DATA"):
        load_dataset("mnist")


@pytest.mark.parametrize("place", ["own", "cache"])
def test_a_wrong_digest_names_the_file_wherever_it_lies(
    tmp_path: Path, cache: Path, web: Web, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = fill(cache if place == "cache" else tmp_path / "own" / "mnist")
    monkeypatch.setenv("XPNET_DATA", str(tmp_path / "own"))
    path = folder / f"{IDX_FILES[1]}.gz"
    wrong = gzip.decompress(other_content(path.name))
    path.write_bytes(gzip.compress(wrong))
    found, expected = hashlib.sha256(wrong).hexdigest(), module.MNIST_SHA256[IDX_FILES[1]]
    with pytest.raises(DataError) as caught:
        load_dataset("mnist")
    for part in (str(path), found, expected):
        assert part in str(caught.value)


def test_a_folder_of_ones_own_with_some_of_the_files_is_not_passed_over(
    tmp_path: Path, cache: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "mnist", IDX_FILES[:2])
    monkeypatch.setenv("XPNET_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"holds no file {IDX_FILES[2]}"):
        load_dataset("mnist")
    assert web.asked == []


# Paths.


def test_each_kind_of_path_is_read_by_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,pixel0\n1,2\n")
    (tmp_path / "A.CSV.GZ").write_bytes(gzip.compress(b"label,pixel0\n1,2\n"))
    numpy.savez(tmp_path / "a.npz", x=IMAGES, y=MARKS)
    fill(tmp_path / "folder")
    assert load_dataset(str(tmp_path / "a.csv")).name == "a.csv"
    assert load_dataset(tmp_path / "A.CSV.GZ").name == "A.CSV.GZ"
    assert load_dataset(str(tmp_path / "a.npz")).name == "a.npz"
    assert load_dataset(str(tmp_path / "folder")).name == "folder"


def test_a_name_comes_before_a_path_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "digits")
    assert load_dataset("digits").name == "digits"
    assert len(load_dataset("digits").train) == 5000
    assert len(load_dataset("./digits").train) == 4


@pytest.mark.parametrize("name", ["cifar", "", "no/such/file.csv", "MNIST"])
def test_an_unknown_name_lists_names_and_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=rf"unknown data set '{name}'.*digits, mnist.*no such path.*\.npz file"
    ):
        load_dataset(name)


def test_a_file_of_another_kind_lists_names_and_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(
        DataError, match=r"a\.txt is of an unknown kind: .*\.csv\.gz.*digits, mnist"
    ):
        load_dataset(tmp_path / "a.txt")


def test_fashion_mnist_is_explained_until_there_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"fashion-mnist is not known by name.*path of their folder"
    ):
        load_dataset("fashion-mnist")
    fill(tmp_path / "fashion-mnist")
    assert load_dataset("fashion-mnist").name == "fashion-mnist"


# Samples to predict.


def test_samples_come_from_each_kind_of_file(tmp_path: Path) -> None:
    fill(tmp_path)
    assert read_samples(tmp_path / f"{IDX_FILES[2]}.gz").labels is None
    (tmp_path / "a.csv").write_text("1,2,3,4\n")
    assert read_samples(tmp_path / "a.csv").x.tolist() == [[1, 2, 3, 4]]
    frame = pandas.DataFrame({"pixel0": [1, 2], "label": [0, 1]})
    frame.to_csv(tmp_path / "b.csv.zip", index=False)
    labels = read_samples(str(tmp_path / "b.csv.zip")).labels
    assert labels is not None
    assert labels.tolist() == [0, 1]
    numpy.savez(tmp_path / "a.npz", x=IMAGES)
    assert len(read_samples(tmp_path / "a.npz")) == 4


def test_samples_of_no_kind_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: there is no such file"):
        read_samples(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"gone\.csv: there is no such file"):
        read_samples(tmp_path / "gone.csv")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(DataError, match=r"a\.txt is of an unknown kind"):
        read_samples(tmp_path / "a.txt")


# The real MNIST, where it is available.


needs_mnist = pytest.mark.skipif(
    not os.environ.get("XPNET_DATA"), reason="XPNET_DATA names no folder with the MNIST files"
)


@needs_mnist
def test_mnist_itself_splits_into_50000_10000_10000() -> None:
    source = load_dataset("mnist")
    assert source.name == "mnist"
    assert source.test is not None
    assert source.train.x.shape == (60000, 784)
    assert source.train.image_shape == (28, 28)
    parts = split(source, validation=None, test=None, seed=0)
    assert parts.validation is not None
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [50000, 10000, 10000]
    assert source.train.labels is not None
    assert numpy.bincount(source.train.labels)[:3].tolist() == [5923, 6742, 5958]
    assert source.train.x.mean() == pytest.approx(33.3184, abs=1e-4)


@needs_mnist
def test_every_embedded_digit_is_a_training_digit_of_mnist() -> None:
    training = load_dataset("mnist").train
    digits = load_dataset("digits").train
    assert training.labels is not None
    assert digits.labels is not None
    known = {row.tobytes(): label for row, label in zip(training.x, training.labels, strict=True)}
    found = [known.get(row.tobytes()) for row in digits.x]
    assert found == digits.labels.tolist()
