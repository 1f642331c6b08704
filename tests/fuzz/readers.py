"""Every reader of files: valid files to begin with, and what has to hold for any other bytes.

`check(name, data, folder)` writes `data` to a file, has the reader `name` read it, and returns
whether it was read. The only other way out is an `XpnetError` of one short line that names the
file; anything else that is raised is a defect of the reader.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import safetensors.numpy
from PIL import Image

import xpnet as xn
from xpnet import serialization
from xpnet.config import TrainConfig, make_config, read_toml
from xpnet.data.cifar import read_cifar_folder, read_cifar_samples
from xpnet.data.csv import read_csv
from xpnet.data.idx import read_idx, read_idx_images
from xpnet.data.images import read_image, read_resized, read_unchanged
from xpnet.data.npy import read_npy, read_npy_samples
from xpnet.data.npz import read_npz, read_npz_samples
from xpnet.errors import DivergenceError, XpnetError
from xpnet.report import compare
from xpnet.report.html import run_page
from xpnet.runs.model import Model
from xpnet.runs.run_reader import RunRecord, read_metrics
from xpnet.training import checkpoints
from xpnet.training.history import History
from xpnet.tune.space import read_space

LONGEST_MESSAGE = 3000
"""Characters of an error besides the file's path."""


@dataclass(frozen=True)
class Reader:
    """One reader: `reads`, what reads a path; the name of its file; files to begin with.

    `words`: tokens of the format, which a fuzzer would take long to find by itself. `dressed`
    makes a file of the bytes, where only a part of the file is to be tried.
    """

    reads: tuple[Callable[[Path], Any], ...]
    file: str
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    dressed: Callable[[bytes], bytes] = field(default=bytes)


def check(name: str, data: bytes, folder: Path) -> bool:
    """Whether the reader `name` took `data`. Raises whatever is no answer to a bad file."""
    reader = READERS[name]
    path = folder / reader.file
    # A file of its own each time: what is still mapped of the last one stays whole.
    path.unlink(missing_ok=True)
    path.write_bytes(reader.dressed(data))
    # All of them, whatever the first one says.
    answers = [_is_read(read, path) for read in reader.reads]
    return any(answers)


def _is_read(read: Callable[[Path], Any], path: Path) -> bool:
    try:
        read(path)
    except XpnetError as error:
        message = str(error)
    else:
        return True
    assert str(path) in message, f"names no file: {message!r}"
    assert message.isprintable(), f"is not one line of plain text: {message!r}"
    rest = message.replace(str(path), "")
    assert len(rest) <= LONGEST_MESSAGE, f"has {len(rest)} characters: {rest[:300]!r}"
    return False


def _idx(array: numpy.ndarray, code: int) -> bytes:
    sizes = numpy.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


def _idx_seeds() -> Iterator[bytes]:
    images = numpy.arange(24, dtype=numpy.uint8).reshape(4, 2, 3)
    for content in (
        _idx(images, 8),
        _idx(numpy.array([0, 2, 1], numpy.uint8), 8),
        _idx(images.astype(">f4"), 13),
        _idx(images[:, 0].astype(">i2"), 11),
    ):
        yield content
        yield gzip.compress(content, mtime=0)


def _csv_seeds() -> Iterator[bytes]:
    rows = "1,0,255,7,128\n0,3,4,5,6\n"
    texts = [
        "label,pixel0,pixel1,pixel2,pixel3\n" + rows,
        "label,1x1,1x2,2x1,2x2\r\n" + rows.replace("\n", "\r\n"),
        'a,"b",label\n0.5,-1e3,2\n"1.25",.5,0\n',
        rows,
        "1,2,3,4\n5,6,7,8\n",
        "\ufefflabel,pixel1\n0,1\n",
        'a;"b\nc";Label\n0.5;-1e3;x\n1;.5;"y z"\n',
        "0,1,2,label\n300,-1,7,0\n1,2,3,10\n",
        "a\tb\tlabel\n1,5\t2\tx\n",
    ]
    for text in texts:
        yield text.encode()
    yield gzip.compress(texts[0].encode(), mtime=0)
    yield _zipped({"a.csv": texts[0].encode()}, zipfile.ZIP_DEFLATED)


def _read_csv_otherwise() -> Iterator[Callable[[Path], Any]]:
    """Readers that know a target, or the network that the samples are for."""
    yield functools.partial(read_csv, target="last")
    yield functools.partial(read_csv, target="b")
    for classes in (("0", "1", "2"), ("x", "y z")):
        for pixels in (True, False):
            yield functools.partial(
                read_csv, classes=classes, features=4, pixels=pixels, target="Label"
            )


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    numpy.lib.format.write_array(buffer, numpy.asarray(array), allow_pickle=True)
    return buffer.getvalue()


X = numpy.arange(24, dtype=numpy.uint8).reshape(4, 2, 3)
Y = numpy.array([0, 2, 1, 2], dtype=numpy.uint8)


def _npz_seeds() -> Iterator[bytes]:
    plain = {"x.npy": _npy(X), "y.npy": _npy(Y)}
    yield _zipped(plain)
    yield _zipped(plain, zipfile.ZIP_DEFLATED)
    halves = {f"{name}_{part}.npy": _npy(a) for part in ("train", "test") for name, a in
              (("x", X.astype(numpy.float32)), ("y", Y))}  # fmt: skip
    yield _zipped(halves)


def _as_records(data: bytes) -> bytes:
    """Up to 20 records of CIFAR-100 with these labels, of the coarse and of the fine class."""
    return b"".join(data[at : at + 2] + bytes(3072) for at in range(0, min(len(data), 40), 2))


def _names_seeds() -> Iterator[bytes]:
    yield "\n".join([*"abcdefghij", "\n"]).encode()
    yield "\r\n".join(["\ufeffä b", *"bcdefghij"]).encode()


def _read_names(path: Path) -> None:
    """A valid file of one image beside names of classes, which other readers do not get."""
    images = path.with_name("b.bin")
    images.write_bytes(bytes(3073))
    try:
        read = read_cifar_samples(images)
    finally:
        path.unlink()
    assert len(read.classes) == 10
    assert all(name.isprintable() for name in read.classes)


def _npy_seeds() -> Iterator[bytes]:
    flat = X.reshape(4, 6)
    for array in (X, flat.astype(numpy.float32), flat.astype(">f8"), numpy.asfortranarray(X)):
        yield _npy(array)
    yield _npy(numpy.array([{}, 1, "a", None], dtype=object))
    yield _npy(numpy.zeros(4, dtype=[("a", "u1"), ("b", "<f4", (2,))]))


def _read_npy(path: Path) -> None:
    """The file as samples, and again with the labels that belong to those of the seeds."""
    labels = path.with_name(f"{path.stem}_labels.npy")
    labels.unlink(missing_ok=True)
    read_npy_samples(path)
    labels.write_bytes(_npy(Y))
    read_npy(path)


def _read_npy_labels(path: Path) -> None:
    samples = path.with_name("b.npy")
    samples.write_bytes(_npy(X))
    read_npy(samples)


def _as_member(data: bytes) -> bytes:
    return _zipped({"x.npy": data, "y.npy": _npy(Y)})


ABOUT = {
    "format": 1,
    "dtype": "float32",
    "metadata": {
        "classes": ["a", "b"],
        "image_shape": [1, 3],
        "normalisation": {"scale": 0.5, "shift": 0.0},
        "pixels": True,
    },
    "architecture": [
        {"type": "Linear", "in_features": 3, "out_features": 2},
        {"type": "BatchNorm", "features": 2, "momentum": 0.1, "epsilon": 1e-5},
        {"type": "LeakyReLU", "slope": 0.2},
        {"type": "Dropout", "rate": 0.4},
        {"type": "GaussianNoise", "std": 0.1},
        {"type": "LayerNorm", "features": 2, "epsilon": 1e-5},
        {"type": "Softmax"},
    ],
}
"""What the model of the seeds says of itself."""


def _described(data: bytes) -> bytes:
    """A sound file of tensors whose description is `data`, as JSON text."""
    ones, numbers = numpy.ones(2, numpy.float32), numpy.ones((2, 3), numpy.float32)
    tensors = {"0.weight": numbers, "0.bias": ones}
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var", "5.weight", "5.bias"):
        tensors[name] = ones
    text = data.decode(errors="replace")
    return safetensors.numpy.save(tensors, metadata={"xpnet": text})


def _model_seeds() -> Iterator[bytes]:
    text = json.dumps(ABOUT).encode()
    yield _described(text)
    small = ABOUT | {"metadata": {}, "architecture": ABOUT["architecture"][:1]}
    tensors = {"0.weight": numpy.ones((2, 3), numpy.float32), "0.bias": numpy.ones(2)}
    yield safetensors.numpy.save(tensors, metadata={"xpnet": json.dumps(small)})
    yield safetensors.numpy.save({"a": numpy.arange(3)})


def _read_model(path: Path) -> None:
    model = Model.load(path)
    assert model.network.flat_parameters.size < 1000
    model.probabilities(numpy.zeros((1, model.network.in_features), numpy.uint8))
    assert all(name.isprintable() for name in model.classes)


CHECKPOINT = "checkpoint-000000002.safetensors"


def _go_on(path: Path, every: str = "1000 epochs") -> None:
    """Train for two epochs, from the checkpoint where there is one and it is taken."""
    network = xn.Sequential([xn.Linear(3, 2), xn.BatchNorm(2)], seed=1)
    data = numpy.arange(12, dtype=numpy.float32).reshape(4, 3), numpy.arange(4) % 2
    # From absurd numbers on, which a file may hold, training may well diverge.
    with contextlib.suppress(DivergenceError), numpy.errstate(all="ignore"):
        xn.fit(
            network,
            data,
            data,
            optimizer=xn.Adam(0.01),
            epochs=2,
            batch_size=2,
            callbacks=[xn.EarlyStopping(2)],
            checkpoints=xn.Checkpoints(path.parent, every),
        )


@functools.cache
def _sound() -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """What is said in a checkpoint of that training, and its tensors."""
    with tempfile.TemporaryDirectory() as folder:
        _go_on(Path(folder) / CHECKPOINT, "1 epochs")
        return serialization.read(Path(folder) / CHECKPOINT)


def _gone_on_from(data: bytes) -> bytes:
    """A checkpoint that says `data`, as JSON text, of the training, under the right digest."""
    about, tensors = _sound()
    try:
        training = json.loads(data)
        if isinstance(training, dict):
            training["sha256"] = checkpoints._digest(training, tensors)
    except (ValueError, RecursionError):
        training = data.decode(errors="replace")
    text = json.dumps(about | {"training": training})
    return safetensors.numpy.save(tensors, {"xpnet": text})


def _checkpoint_seeds() -> Iterator[bytes]:
    training = dict(_sound()[0]["training"])
    del training["sha256"]
    yield json.dumps(training).encode()


def _read_toml(path: Path) -> None:
    config = make_config(read_toml(path), source=f"{path}: ")
    beside = path.with_name("again.toml")
    beside.write_text(config.to_toml(), encoding="utf-8")
    assert make_config(read_toml(beside)) == config.model_copy(update={"run": None})


def _toml_seeds() -> Iterator[bytes]:
    yield TrainConfig().to_toml().encode()
    yield b'dataset = "mnist"\nhidden = [64, 32]\nactivation = ["relu", "tanh"]\nseed = 3\n'
    yield b'batch_size = "full"\nlog_every = "500 iterations"\npatience = 3\nl2 = 1e-4\n'
    yield b"hidden = [[64], [128, 64]]\nlearning_rate = {low = 1e-4, high = 1e-1, log = true}\n"
    yield b"dropout = {low = 0.0, high = 0.5, step = 0.1}\nepochs = {low = 1, high = 9, step = 2}\n"


HISTORY = """epoch,step,learning_rate,loss,accuracy,val_loss,val_accuracy,seconds
1,20,0.002,1.5,0.5,0.4,0.86,0.8
2,40,1e-05,0.25,0.9,,,1.25
"""


METRICS = {
    "test_accuracy": 0.939,
    "test_loss": 0.2456,
    "test_calibration_error": 0.033,
    "train_accuracy": 0.99,
    "train_loss": 0.0164,
    "validation_accuracy": None,
    "validation_loss": None,
    "confusion": [[3, 0], [1, 2]],
    "epochs": 2,
    "kept_epoch": 2,
    "seconds": 2.1,
    "parameters": 25450,
    "samples": {"train": 300, "validation": 0, "test": 100},
    "dataset": {"name": "digits", "sha256": "2799cf52"},
    "seed": 0,
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "versions": {"python": "3.11.2", "numpy": "2.4.0"},
}
"""What of `metrics.json` is read, and a part that is not."""

NETWORK = xn.Sequential([xn.Linear(3, 2)])


def _read_history(path: Path) -> None:
    history = History.from_csv(path)
    beside = path.with_name("again.csv")
    history.to_csv(beside)
    assert History.from_csv(beside) == history
    # What was read can be shown.
    settings = TrainConfig(batch_size=10)
    compare.page([RunRecord(path.parent, settings, history, None)])
    run_page(path.parent, settings, history, METRICS, NETWORK)


def _history_seeds() -> Iterator[bytes]:
    yield HISTORY.encode()
    yield HISTORY.replace("\n", "\r\n").encode()
    yield HISTORY.replace("1.5", '"1.5"').splitlines()[0].encode()


def _metrics_seeds() -> Iterator[bytes]:
    yield json.dumps(METRICS, indent=2).encode()
    older = {name: value for name, value in METRICS.items() if name != "test_calibration_error"}
    yield json.dumps(older | {"test_loss": float("inf"), "threads": None}).encode()


def _image(mode: str, file: str, **options: Any) -> bytes:
    image = Image.new(mode, (9, 7), 0 if mode != "RGBA" else (0, 0, 0, 0))
    ink = {"RGB": (255, 255, 0), "RGBA": (255, 0, 0, 255), "LA": (0, 255), "I;16": 65535}
    if mode == "P":
        image.putpalette([0, 0, 0, *[255] * 765])
    for x in range(2, 6):
        image.putpixel((x, 3), ink.get(mode, 255))
    buffer = io.BytesIO()
    image.save(buffer, file, **options)
    return buffer.getvalue()


def _png_seeds() -> Iterator[bytes]:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield _image(mode, "PNG")
    yield _image("P", "PNG", transparency=255)
    yield _image("L", "PNG", transparency=7)
    turned = Image.Exif()
    turned[0x0112] = 6
    yield _image("RGB", "PNG", exif=turned)


def _jpeg_seeds() -> Iterator[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    yield _image("RGB", "JPEG", exif=turned)
    yield _image("L", "JPEG")
    yield _image("CMYK", "JPEG")
    yield _image("RGB", "JPEG", progressive=True)


def _other_format_seeds() -> Iterator[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield _image(mode, "BMP")
    pages = [Image.new("L", (9, 7), level) for level in (0, 255)]
    pages[0].putpixel((4, 3), 255)
    for file in ("GIF", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        pages[0].save(buffer, file, save_all=True, append_images=pages[1:])
        yield buffer.getvalue()
    yield _image("RGBA", "WEBP", lossless=True)
    yield _image("RGB", "WEBP", exif=turned)
    yield _image("P", "GIF", transparency=255)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"):
        yield _image(mode, "TIFF")
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield _image("RGB", "TIFF", compression=compression)
    yield _image("RGB", "TIFF", exif=turned)


def with_checksums(data: bytes) -> bytes:
    """The PNG file `data` with the checksum of every chunk made right, as far as it has chunks."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        parts += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join([*parts, data[at:]])


_FIELDS = tuple(name.encode() for name in TrainConfig.model_fields)
_TYPES = (b"Linear", b"LayerNorm", b"weight_initializer", b"in_features", b"1e999", b"NaN")
_NPY = (b"'descr'", b"'fortran_order'", b"'shape'", b"|O", b"<f8", b"|S0", b"|V9", b"|b1", b"4L")

IMAGE = (read_image, read_unchanged, functools.partial(read_resized, image_shape=(4, 5, 3)))

READERS = {
    "idx": Reader((read_idx, read_idx_images), "a-idx3", (*_idx_seeds(),)),
    "csv": Reader(
        (read_csv, *_read_csv_otherwise()),
        "a.csv",
        (*_csv_seeds(),),
        (b"label", b"pixel0", b"1x1", b"1e39", b"0,1,2,3,4,5,6,7", b"#", b"sep=;"),
    ),
    "npz": Reader(
        (read_npz, read_npz_samples),
        "a.npz",
        (*_npz_seeds(),),
        (b"x_train.npy", b"y_test.npy", b"PK\x01\x02", b"PK\x05\x06"),
    ),
    "npz, one array": Reader((read_npz_samples,), "a.npz", (*_npy_seeds(),), _NPY, _as_member),
    "cifar": Reader((read_cifar_samples,), "a.bin", (bytes([3]) + bytes(3072),)),
    "cifar, labels": Reader(
        (read_cifar_samples, lambda path: read_cifar_folder(path.parent)),
        "train.bin",
        (bytes([0, 7, 19, 99]),),
        dressed=_as_records,
    ),
    "cifar, class names": Reader((_read_names,), "batches.meta.txt", (*_names_seeds(),), (b"\n",)),
    "npy": Reader((_read_npy,), "a.npy", (*_npy_seeds(),), _NPY),
    "npy, labels": Reader((_read_npy_labels,), "b_labels.npy", (*_npy_seeds(), _npy(Y)), _NPY),
    "safetensors": Reader((_read_model,), "a.safetensors", (*_model_seeds(),), _TYPES),
    "safetensors, description": Reader(
        (_read_model,), "a.safetensors", (json.dumps(ABOUT).encode(),), _TYPES, _described
    ),
    "safetensors, checkpoint": Reader(
        (_go_on,), CHECKPOINT, (*_checkpoint_seeds(),), (b"NaN", b"1e999"), _gone_on_from
    ),
    "toml": Reader((_read_toml,), "a.toml", (*_toml_seeds(),), _FIELDS),
    "toml, space": Reader((read_space,), "a.toml", (*_toml_seeds(),), (*_FIELDS, b"low", b"high")),
    "history": Reader((_read_history,), "history.csv", (*_history_seeds(),), (b"1e308", b"-1")),
    "metrics": Reader(
        (read_metrics,), "metrics.json", (*_metrics_seeds(),), (b"NaN", b"1e999", b"null")
    ),
    "png": Reader(IMAGE, "a.png", (*_png_seeds(),), dressed=with_checksums),
    "jpeg": Reader(IMAGE, "a.jpg", (*_jpeg_seeds(),)),
    "image, other formats": Reader(IMAGE, "a.tif", (*_other_format_seeds(),)),
}
"""By name, in the order in which they are tried."""
