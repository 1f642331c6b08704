"""`python -m xpnet.predict MODEL FILE...`: the predictions of a trained network for files.

An image file (PNG, JPEG, BMP, GIF, WebP, TIFF) gives one line. A file of samples (IDX, CSV, NPZ,
NPY, CIFAR) gives one line for each sample and, where the samples are labelled, a last line with the
accuracy. A model of grey drawings gets an image as `xpnet.data.images.read_image` prepares it, a
model of colour images, or of a folder of image files, as `read_resized` gives it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy

from xpnet.backend import HostArray
from xpnet.cli import console
from xpnet.cli.parser import Parser, count
from xpnet.data.catalogue import read_samples
from xpnet.data.dataset import square_shape
from xpnet.data.images import ENDINGS, read_image, read_resized
from xpnet.errors import DataError, XpnetError
from xpnet.network import PREDICTION_ROWS
from xpnet.runs.model import Model
from xpnet.utils.channels import as_rows, shape_text

_TABLES = (".csv", ".gz", ".zip", ".npz", ".npy", ".bin")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions; 0 when every file could be read, else 2, with the reasons."""
    return console.run(lambda: _predict(argv), "python -m xpnet.predict")


def _predict(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    model = Model.load(arguments.model, device=arguments.device)
    if arguments.device == "auto":
        console.say(f"xpnet: device {model.network.backend.device}", file=sys.stderr)
    status = 0
    for given in arguments.files:
        try:
            for path in _files(given):
                for line in predictions(model, path, top=arguments.top):
                    console.say(line)
        except XpnetError as error:
            status = console.print_error(error)
        # Keeps the lines of a file before the error of the next one.
        sys.stdout.flush()
    return status


def predictions(model: Model, path: str | Path, *, top: int = 3) -> Iterator[str]:
    """The lines to print for one file; samples are counted from 1.

    `three.png  3  97.1 %   (5 1.9 %, 8 0.6 %)`: the `top` most probable classes, in order.
    Raises `DataError`, naming the file, when it cannot be read or does not fit the model.
    """
    path = Path(path)
    if not _is_sample_file(path):
        sample = _read_sample(model, path)
        model.require_kind(path, sample)
        p = _probabilities(model, path, sample)
        yield f"{path}  {_ranked_classes(model, p[0], top)}"
        return
    # Integers of a table may be pixels or not; those of images are pixels.
    is_known = model.pixels or model.image_shape is None
    data = read_samples(
        path,
        target=model.target,
        classes=model.classes,
        features=model.network.in_features,
        pixels=model.pixels if is_known else None,
    )
    if data.features != model.network.in_features:
        raise DataError(
            f"{path} has {data.features} features a sample, the model takes "
            f"{model.network.in_features}"
        )
    model.require_kind(path, data.x)
    _require_shape(model, path, data.image_shape)
    if data.labels is not None and data.labels.max() >= len(model.classes):
        raise DataError(
            f"{path} has labels up to {data.labels.max()}, the model has {len(model.classes)} "
            f"classes, 0 to {len(model.classes) - 1}"
        )
    right = 0
    for start in range(0, len(data), PREDICTION_ROWS):
        rows = slice(start, start + PREDICTION_ROWS)
        p = _probabilities(model, path, data.x[rows], start)
        for number, row in enumerate(p, start=start + 1):
            yield f"{path}:{number}  {_ranked_classes(model, row, top)}"
        if data.labels is not None:
            right += int((p.argmax(axis=1) == data.labels[rows]).sum())
    if data.labels is not None:
        share = 100 * right / len(data)
        yield f"{path}  accuracy  {share:.2f} %   ({right} of {len(data)})"


def _files(path: str) -> list[Path]:
    """The file, or the image files in a folder. Raises `DataError` where it has none."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    found = [
        name
        for name in names
        if name.name.lower().endswith(ENDINGS) and not name.name.startswith(".")
    ]
    if not found:
        raise DataError(f"{folder} is a folder without image files: give files")
    return found


def _require_shape(model: Model, path: Path, found: tuple[int, ...] | None) -> None:
    """Raise `DataError` for images of another shape than the model was trained on.

    Where a file gives only the number of pixels, the reader has assumed square images.
    """
    is_guessed = found == square_shape(model.network.in_features) and "idx" not in path.name.lower()
    if found is None or model.image_shape is None or found == model.image_shape or is_guessed:
        return
    raise DataError(
        f"{path} holds images of {shape_text(found)}, the model was trained on "
        f"{shape_text(model.image_shape)}"
    )


def _is_sample_file(path: Path) -> bool:
    """Whether a file has a name that `read_samples` accepts."""
    name = path.name.lower()
    return name.endswith(_TABLES) or ("idx" in name and not name.endswith(ENDINGS))


def _read_sample(model: Model, path: Path) -> HostArray:
    """The image file as one sample, `(1, features)` uint8."""
    if model.image_shape is None:
        raise DataError(
            f"{path} is read as an image, but the model was not trained on images (it has no "
            f"image_shape): give samples as .csv, .npz or IDX"
        )
    if model.as_read:
        image = read_resized(path, model.image_shape)
        rows: HostArray = as_rows(image[None], None, str(path))
        return rows
    height, width = model.image_shape
    return read_image(path, (height, width), centred=model.centred).reshape(1, -1)


def _probabilities(model: Model, path: Path, x: HostArray, before: int = 0) -> HostArray:
    """The probabilities of the samples `x`; `before` counts the samples above them in the file."""
    p = model.probabilities(x)
    is_finite = numpy.isfinite(p).all(axis=1)
    if not is_finite.all():
        raise DataError(
            f"{path}: sample {before + int(is_finite.argmin()) + 1} gives probabilities that are "
            f"not finite: its values are too large, or the model is damaged"
        )
    return p


def _ranked_classes(model: Model, p: HostArray, top: int) -> str:
    best, *others = (int(i) for i in numpy.argsort(-p, kind="stable")[:top])
    rest = ", ".join(f"{model.classes[i]} {100 * p[i]:.1f} %" for i in others)
    return f"{model.classes[best]}  {100 * p[best]:.1f} %" + (f"   ({rest})" if rest else "")


def _parser() -> Parser:
    parser = Parser(
        "python -m xpnet.predict",
        description="Print the most probable classes of each image or sample.",
        epilog="An image file gives one line. A file of samples gives one line for each sample, "
        "counted from 1, and the accuracy if the samples have labels. Exit code 2: at least one "
        "file could not be read. Example: python -m xpnet.predict runs/digits-001 three.png.",
    )
    parser.add_model()
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="an image file (PNG, JPEG, BMP, GIF, WebP, TIFF), a folder of such files, or a file "
        "of samples: an IDX file of images, .csv (plain, .gz, .zip), .npz, .npy, a .bin file of "
        "CIFAR. For a model trained on grey drawings such as MNIST, an image must show one "
        "drawing on a plain background; for a model trained on colour images or on a folder of "
        "images, it is resized to their size, without keeping its proportions",
    )
    parser.add_device()
    parser.add_argument(
        "--top",
        metavar="K",
        type=count,
        default=3,
        help="the number of classes to print, the most probable first (default: %(default)s)",
    )
    return parser
