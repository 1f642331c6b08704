"""Folders of image files, one subfolder for each class.

The layout is that of torchvision's `ImageFolder` and of Keras's `image_dataset_from_directory`.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy

from xpnet._files import reading
from xpnet.backend import HostArray
from xpnet.data.dataset import MAX_CLASSES, Dataset, Source
from xpnet.data.files import most_content
from xpnet.data.images import ENDINGS, read_unchanged
from xpnet.errors import DataError, join_names, short_repr
from xpnet.utils.channels import shape_text

_PARTS = ("train", "test")
_LONGEST_NAME = 100

Labelled = list[tuple[Path, int]]
"""Image files and the numbers of their classes."""


def holds_class_folders(folder: Path) -> bool:
    """Whether a folder holds subfolders, which may be those of classes."""
    return folder.is_dir() and bool(_subfolders(folder))


def read_image_folder(folder: str | Path) -> Source:
    """The images in the subfolders of `folder`, whose names are the classes.

    `CLASS/IMAGE.png`, or `train/CLASS/…` and perhaps `test/CLASS/…`; PNG, JPEG, BMP, GIF, WebP
    or TIFF, by the endings of their names. Files with other endings, and names that begin with a
    dot, are left out. Classes and images are sorted by name, so that labels and samples do not
    depend on the file system. All images must have one size; their pixels stay unchanged, uint8.
    `image_shape` is `(height, width)` if all are grey, else `(height, width, 3)`, and grey ones
    become RGB; see `read_unchanged`, also for transparency. `sha256`: of names and contents.

    Raises `DataError`, naming the file or folder: for a class without images, a class of the test
    set that the training set lacks, images or folders where none belong, an image that cannot be
    read or has another size than the first, and for images that take over a hundred times as
    much memory as their files, and over 64 MiB (grey ones beside coloured ones three times that).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    roots = _parts(folder)
    classes = tuple(_subfolders(roots[0]))
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{roots[0]} holds {len(classes)} folders, more than {MAX_CLASSES} classes")
    for name in classes:
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise DataError(
                f"{roots[0]}: the folder {short_repr(name)} names no class: a class must be "
                f"printable text of at most {_LONGEST_NAME} characters"
            )
    digest = hashlib.sha256()
    listed = [_labelled(root, classes) for root in roots]
    pixels: list[HostArray] = []
    for files in listed:
        pixels.append(_pixels(files, pixels[0].shape[2:] if pixels else None, listed[0][0][0]))
        _add_to(digest, files, folder)
    has_colour = any(part.shape[1] == 3 for part in pixels)
    parts = []
    for part, files in zip(pixels, listed, strict=True):
        rgb = part.repeat(3, axis=1) if has_colour and part.shape[1] == 1 else part
        shape = (*rgb.shape[2:], rgb.shape[1])
        labels = numpy.array([label for _, label in files])
        parts.append(Dataset(rgb.reshape(len(rgb), -1), labels, classes, shape))
    test = parts[1] if len(parts) == 2 else None
    return Source(folder.resolve().name, parts[0], test, digest.hexdigest(), as_read=True)


def _parts(folder: Path) -> list[Path]:
    """The folders that hold those of classes: `folder`, or its `train` and perhaps `test`."""
    names = _subfolders(folder)
    # `train` may also be a class, of trains.
    if not any(name in names and _subfolders(folder / name) for name in _PARTS):
        if not names:
            raise DataError(f"{folder} holds no folder: put the images of each class into one")
        return [folder]
    others = [name for name in names if name not in _PARTS]
    if others or "train" not in names:
        raise DataError(
            f"{folder} holds the folders {join_names(names)}: it must hold train and perhaps test, "
            f"each with a folder of images for each class, or only folders of classes"
        )
    return [folder / name for name in _PARTS if name in names]


def _labelled(root: Path, classes: tuple[str, ...]) -> Labelled:
    """The image files below `root`, class by class, in the order of their names."""
    found = _images(root)
    if found:
        raise DataError(
            f"{root / found[0]} lies in no folder of a class: move it into the one of its class"
        )
    own = _subfolders(root)
    unknown = [name for name in own if name not in classes]
    if unknown or not own:
        raise DataError(
            f"{root} holds "
            + (f"a class {unknown[0]}, which the training set lacks" if unknown else "no folder")
            + f": its folders must be named as classes of the training set: {join_names(classes)}"
        )
    files: Labelled = []
    for label, name in enumerate(classes):
        if name not in own:
            continue
        inside = _subfolders(root / name)
        if inside:
            raise DataError(
                f"{root / name / inside[0]} is a folder within that of a class: its images must "
                f"lie directly in {root / name}"
            )
        images = _images(root / name)
        if not images:
            raise DataError(
                f"{root / name} holds no image file ({', '.join(ENDINGS)}): delete the folder, or "
                f"put the images of its class there"
            )
        files += [(root / name / file, label) for file in images]
    return files


def _pixels(files: Labelled, size: tuple[int, ...] | None, first: Path) -> HostArray:
    """The images `(N, C, H, W)` uint8, C 1 or 3; `size`: `(H, W)` of `first`, if it is known."""
    stored = 0
    for path, _ in files:
        with reading(path):
            stored += path.stat().st_size
    out: HostArray | None = None
    for number, (path, _) in enumerate(files):
        image = read_unchanged(path)
        size = size or image.shape[:2]
        if image.shape[:2] != size:
            raise DataError(
                f"{path} has {shape_text(image.shape[:2])} and {first} has {shape_text(size)}: "
                f"all images must have one size: scale them first"
            )
        channels = 3 if image.ndim == 3 else 1
        if out is None or out.shape[1] < channels:
            shape = (len(files), channels, *size)
            if math.prod(shape) > most_content(stored):
                raise DataError(
                    f"{path}: its {len(files)} images of {shape_text(size)} take more than "
                    f"{most_content(stored)} bytes, from files of {stored}, as in a decompression "
                    f"bomb: if you trust them, save them as an .npz file"
                )
            with reading(path):
                # Grey images were read before the first one in colour.
                out = numpy.empty(shape, numpy.uint8) if out is None else out.repeat(3, axis=1)
        out[number] = numpy.moveaxis(image, -1, 0) if image.ndim == 3 else image
    assert out is not None
    return out


def _add_to(digest: hashlib._Hash, files: Labelled, folder: Path) -> None:
    """Add names and contents; the names as they are below `folder`, on every system."""
    for path, _ in files:
        name = path.relative_to(folder).as_posix()
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        with reading(path), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())


def _subfolders(folder: Path) -> list[str]:
    return sorted(name for name, is_folder in _entries(folder) if is_folder)


def _images(folder: Path) -> list[str]:
    entries = _entries(folder)
    return sorted(
        name for name, is_folder in entries if not is_folder and name.lower().endswith(ENDINGS)
    )


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """The names in a folder that do not begin with a dot, and whether they are folders."""
    with reading(folder), os.scandir(folder) as entries:
        # macOS puts __MACOSX into archives.
        return [
            (entry.name, entry.is_dir())
            for entry in entries
            if not entry.name.startswith((".", "__MACOSX"))
        ]
