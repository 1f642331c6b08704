"""Data sets by name or by path; those known by name are verified by their SHA-256."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from xpnet.data.cifar import is_cifar_folder, read_cifar_folder, read_cifar_samples
from xpnet.data.csv import read_csv, read_csv_source
from xpnet.data.dataset import Dataset, Source
from xpnet.data.idx import (
    IDX_FILES,
    check_idx_file,
    find_idx_file,
    read_idx_folder,
    read_idx_images,
)
from xpnet.data.image_folders import holds_class_folders, read_image_folder
from xpnet.data.npy import read_npy, read_npy_folder, read_npy_samples
from xpnet.data.npz import read_npz, read_npz_samples
from xpnet.errors import ConfigError, DataError, one_line, truncate
from xpnet.utils.arguments import as_path, whole

NAMES = ("digits", "mnist")
"""The names of the known data sets."""

DIGITS_SHA256 = "2799cf5251ece821e1038a4880fc5bf8b996d4873c16fb50e36d9b7a89d99adc"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Digests of the decompressed files: mirrors may compress in different ways."""

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_DIGITS_FILE = "mnist_5k.csv.gz"
_CSV = (".csv", ".csv.gz", ".csv.zip")
_KINDS = (
    "a folder of IDX, .npy or binary CIFAR files or with a subfolder of images for each class, a "
    ".csv, .csv.gz or .csv.zip file, an .npz file or an .npy file"
)


def load_dataset(name_or_path: str | Path, *, target: str | int | None = None) -> Source:
    """The data set with this name, or in this file or folder.

    **Names**

    - `digits`: the 5,000 MNIST digits that come with xpnet.
    - `mnist`: searched for in `$XPNET_DATA/mnist`, `$XPNET_DATA` and the user's cache. If it is not
      there and `XPNET_DATA` is not set, it is downloaded into the cache.

    Names take precedence over paths: write `./mnist` for a folder of that name.

    **Paths**

    - a folder of IDX files, of the binary files of CIFAR-10 or CIFAR-100, or with a subfolder of
      images for each class;
    - a CSV file (plain, `.gz`, `.zip`) or an `.npz` file;
    - an `.npy` file of samples, or a folder of `.npy` files named like the arrays of an `.npz`;
      these are memory-mapped.

    If some label below the largest one does not occur, it is still a class. `target`: the column of
    a CSV file that contains the labels, see `read_csv`.

    Raises `ConfigError` for a `target` of anything but a CSV file, and `DataError`, naming the
    file, for a file that is missing, damaged, or has another SHA-256 than expected.
    """
    as_path("name_or_path", name_or_path)
    name = str(name_or_path)  # a `Path` would drop the ./
    if target is not None and not isinstance(target, str):
        target = str(whole("target", target, or_else=", or the name of a column"))
    if target is not None and (name in NAMES or not _is_csv(Path(name).expanduser())):
        raise ConfigError(
            f"target: names a column of a CSV file, and {one_line(name)} is none: leave target out"
        )
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist()
    path = Path(name).expanduser()
    lowered = path.name.lower()
    if not name.strip() or not path.exists():
        if name == "fashion-mnist":
            raise DataError(
                "fashion-mnist is not known by name, as there are no checksums to verify it: "
                "download its four IDX files and give the path of their folder"
            )
        raise DataError(
            f"unknown data set {name!r}: no such name (known: {', '.join(NAMES)}) and no such "
            f"path ({_KINDS})"
        )
    if path.is_dir():
        return _read_folder(path)
    if lowered.endswith(_CSV):
        return read_csv_source(path, target=target)
    if lowered.endswith(".npz"):
        return read_npz(path)
    if lowered.endswith(".npy"):
        return read_npy(path)
    raise DataError(f"{path} is of an unknown kind: give {_KINDS}, or a name ({', '.join(NAMES)})")


def _read_folder(path: Path) -> Source:
    if any(find_idx_file(path, name) for name in IDX_FILES):
        return read_idx_folder(path)
    if any(path.glob("*.npy")):
        return read_npy_folder(path)
    if is_cifar_folder(path):
        return read_cifar_folder(path)
    if holds_class_folders(path):
        return read_image_folder(path)
    raise DataError(
        f"{path} holds no data: give a folder with the files of MNIST ({', '.join(IDX_FILES)}; "
        f"plain or .gz), .npy files, the binary files of CIFAR-10 (data_batch_1.bin, ...), or a "
        f"subfolder of images for each class"
    )


def read_samples(
    path: str | Path,
    *,
    target: str | None = None,
    classes: Sequence[str] | None = None,
    features: int | None = None,
    pixels: bool | None = None,
) -> Dataset:
    """The samples of one file, for prediction; `labels` is None where the file has none.

    An IDX file of images (plain or `.gz`), a CSV file (plain, `.gz`, `.zip`), an `.npz` file
    with `x`, else `x_test`, else `x_train`, an `.npy` file, memory-mapped, or a binary file of
    CIFAR (`.bin`). `target`, `classes`, `features` and `pixels` are those of the network, for a
    CSV file: see `read_csv`. Raises `DataError`, naming the file.
    """
    path = Path(path).expanduser()
    lowered = path.name.lower()
    if lowered.endswith(_CSV):
        return read_csv(path, target=target, classes=classes, features=features, pixels=pixels)
    if lowered.endswith(".npz"):
        return read_npz_samples(path)
    if lowered.endswith(".npy"):
        return read_npy_samples(path)
    if lowered.endswith(".bin"):
        return read_cifar_samples(path)
    if "idx" in lowered:
        return read_idx_images(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    raise DataError(
        f"{path} is of an unknown kind: give an IDX file of images (its name has 'idx' in it), "
        f"a .csv, .csv.gz or .csv.zip file, an .npz file, an .npy file or a .bin file of CIFAR"
    )


def _is_csv(path: Path) -> bool:
    # For a path that does not exist there is another error.
    return not path.exists() or (path.is_file() and path.name.lower().endswith(_CSV))


def _digits() -> Source:
    # Next to this module in an installed package, in data/ of a checkout.
    here = Path(__file__).resolve()
    places = (here.with_name(_DIGITS_FILE), here.parents[2] / "data" / _DIGITS_FILE)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DataError(
            f"the embedded digits are missing: found neither {places[0]} nor {places[1]}; install "
            f"xpnet again, or make the file with data/make_mnist_5k.py"
        )
    source = read_csv_source(path)
    if source.sha256 != DIGITS_SHA256:
        raise DataError(
            f"{path}: SHA-256 of the decompressed content is {source.sha256}, expected "
            f"{DIGITS_SHA256}: install xpnet again, or make the file with data/make_mnist_5k.py"
        )
    return dataclasses.replace(source, name="digits", label="")


def _mnist() -> Source:
    for folder in _user_folders():
        # A folder with only some of the four files is an error, not skipped.
        if any(find_idx_file(folder, name) for name in IDX_FILES):
            break
    else:
        folder = _cached_mnist()
    source = read_idx_folder(folder, sha256=MNIST_SHA256)
    return dataclasses.replace(source, name="mnist")


def _user_folders() -> tuple[Path, ...]:
    value = os.environ.get("XPNET_DATA", "").strip()
    if not value:
        return ()
    folder = Path(value).expanduser()
    return (folder / "mnist", folder)


def _cached_mnist() -> Path:
    import pooch

    folder = Path(pooch.os_cache("xpnet")) / "mnist"
    missing = [name for name in IDX_FILES if find_idx_file(folder, name) is None]
    if missing:
        if folders := _user_folders():
            raise DataError(
                f"XPNET_DATA is {folders[1]}, and neither {folders[0]} nor {folders[1]} holds "
                f"a file of mnist ({', '.join(IDX_FILES)}; plain or .gz): correct "
                f"XPNET_DATA, or unset it to download mnist"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the cache {folder} cannot be made ({error.strerror}): put the four files of "
                f"mnist into a folder called mnist and set XPNET_DATA to the folder that holds it"
            ) from error
        for name in missing:
            _download(name, folder)
    return folder


def _download(name: str, folder: Path) -> None:
    """Download `name`.gz into `folder` from the first mirror with the right content."""
    failures = []
    for mirror in _MIRRORS:
        try:
            _download_from(mirror, name, folder)
            return
        except (OSError, DataError) as error:
            reason = truncate(_reason(error).replace(f"{folder}{os.sep}", ""), 240)
            failures.append(f"{urlsplit(mirror).hostname}: {type(error).__name__}: {reason}")
    raise DataError(
        f"mnist could not be downloaded ({name}.gz; {'; '.join(failures)}): put its four files "
        f"({', '.join(IDX_FILES)}; plain or .gz) into a folder called mnist and set XPNET_DATA to "
        f"the folder that holds it, or use the data set digits"
    )


def _reason(error: Exception) -> str:
    """The first line of an error; of a failed connection that of its cause."""
    # requests wraps a MaxRetryError of urllib3, whose `reason` begins with a representation of the
    # connection and "): ".
    cause = getattr(error.args[0], "reason", None) if error.args else None
    text = str(cause).rpartition("): ")[2] if cause else str(error)
    return (text.splitlines() or [""])[0]


def _download_from(mirror: str, name: str, folder: Path) -> None:
    # Moved into the cache only when complete and verified.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / f"{name}.gz"
        _fetch(f"{mirror}{name}.gz", path)
        check_idx_file(path, MNIST_SHA256[name])
        path.replace(folder / path.name)


def _fetch(url: str, path: Path) -> None:
    """Download `url` to `path` with a progress bar on stderr; the only network access."""
    import pooch

    if not url.startswith("https://"):
        raise DataError(f"{url} is not downloaded: it is no HTTPS address")
    # Redirects are refused.
    fetch = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16, allow_redirects=False)
    fetch(url, str(path), None)
