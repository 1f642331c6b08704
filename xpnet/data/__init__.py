"""Data sets: readers, the catalogue of known data sets, splits and normalisation.

Everything here works on NumPy arrays on the host; readers return checked data. pandas and pooch
are imported only when a file needs them.
"""

from __future__ import annotations

import sys
from typing import Any

from xpnet.data.catalogue import load_dataset, read_samples
from xpnet.data.cifar import read_cifar_folder
from xpnet.data.csv import read_csv
from xpnet.data.dataset import Dataset, Source, Splits, one_hot
from xpnet.data.idx import read_idx, read_idx_folder
from xpnet.data.image_folders import read_image_folder
from xpnet.data.normalisation import Normalisation
from xpnet.data.npy import read_npy, read_npy_folder
from xpnet.data.npz import read_npz
from xpnet.data.splits import split
from xpnet.errors import deprecated

__all__ = [
    "Dataset",
    "Normalisation",
    "Source",
    "Splits",
    "load_dataset",
    "one_hot",
    "read_cifar_folder",
    "read_csv",
    "read_idx",
    "read_idx_folder",
    "read_image_folder",
    "read_npy",
    "read_npy_folder",
    "read_npz",
    "read_samples",
    "split",
]


def __getattr__(name: str) -> Any:
    if name in ("Augmentation", "DeviceData"):
        deprecated(f"xpnet.data.{name}", f"xpnet.{name}")
        return getattr(sys.modules["xpnet"], name)
    if name == "read_picture_folder":
        deprecated(f"xpnet.data.{name}", "read_image_folder")
        return read_image_folder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
