"""`python -m xpnet.predict MODEL FILE...`: what a trained network sees in each file.

A picture (PNG, JPEG, BMP, GIF, WebP, TIFF) gives one line; a file of samples (IDX, CSV, NPZ) one
line a sample, and its accuracy at the end where the samples are labelled.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.cli import console
from xpnet.data.dataset import square_shape
from xpnet.data.normalisation import Normalisation
from xpnet.errors import CheckpointError, DataError, XpnetError, join_names, short_repr
from xpnet.network import PREDICTION_ROWS, Sequential
from xpnet.runs.run_folder import MODEL
from xpnet.serialization import load

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_TABLES = (".csv", ".gz", ".zip", ".npz", ".npy")


@dataclass(frozen=True)
class Model:
    """A network with what its file says of its data, or with what holds where it says nothing.

    `classes`: a name for each output, by default its number. `image_shape`: `(height, width)`
    of the images that it was trained on, or None where they were none, or it is not known.
    `normalisation`: from stored values to the network's, by default the identity. `pixels`: it
    was trained on whole pixels 0..255 (True) or on other numbers (False); None: not known.
    `target`: the label column of its table, None: the one that is taken for it by default.
    `centred`: the pictures that it was trained on stand as MNIST's do.
    """

    network: Sequential
    classes: tuple[str, ...]
    image_shape: tuple[int, int] | None
    normalisation: Normalisation
    pixels: bool | None = None
    target: str | None = None
    centred: bool = True

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Model:
        """The model saved at `path`, or in the folder of a run.

        Raises `CheckpointError`, naming file and field.
        """
        path = Path(path)
        if path.is_dir():
            path = _model_in(path)
        network = load(path, device=device)
        about: Any = network.metadata if isinstance(network.metadata, dict) else {}

        def wrong(field: str, expected: str) -> CheckpointError:
            return CheckpointError(
                f"{path}: {field} is {short_repr(about[field])}, expected {expected}"
            )

        outputs = network.out_features
        classes = about.get("classes", [str(number) for number in range(outputs)])
        if not _is_list_of(str, classes) or len(classes) != outputs:
            raise wrong("classes", f"a list of {outputs} names, one for each output")
        # A name could also tell the terminal something.
        if not all(name.isprintable() for name in classes):
            raise wrong("classes", "names of characters that can be printed")
        shape = about.get("image_shape")
        if shape is not None:
            inputs = network.in_features
            positive = _is_list_of(int, shape) and len(shape) == 2 and min(shape) > 0
            if not positive or math.prod(shape) != inputs:
                raise wrong("image_shape", f"[height, width] of {inputs} pixels, or null")
            shape = (shape[0], shape[1])
        how = about.get("normalisation", {"scale": 1.0, "shift": 0.0})
        try:
            normalisation = Normalisation.from_metadata(how, network.in_features)
        except ValueError:
            raise wrong(
                "normalisation",
                f"finite numbers scale and shift, or a list of {network.in_features} for each",
            ) from None
        pixels = about.get("pixels")
        if pixels is not None and not isinstance(pixels, bool):
            raise wrong("pixels", "true, false or null")
        target, centred = about.get("target"), about.get("centred", True)
        if target is not None and not isinstance(target, str):
            raise wrong("target", "the name of a column, or null")
        if not isinstance(centred, bool):
            raise wrong("centred", "true or false")
        return cls(network, tuple(classes), shape, normalisation, pixels, target, centred)

    def require_kind(self, path: Path, x: HostArray) -> None:
        """Raise `DataError` when `x` is pixels and the model was trained on other numbers, or not.

        One normalisation cannot serve both, and the prediction would be wrong without a word.
        """
        if self.pixels is not None and self.pixels != (x.dtype == numpy.uint8):
            kinds = ("numbers with a fraction", "whole pixels 0..255")
            found, trained = kinds[not self.pixels], kinds[self.pixels]
            raise DataError(f"{path} holds {found}, the model was trained on {trained}: convert it")

    def probabilities(self, x: HostArray) -> HostArray:
        """Of each class, for stored values `x (N, features)`: `(N, C)` on the host.

        NaN for a sample whose values the network's dtype cannot hold.
        """
        network = self.network
        with numpy.errstate(all="ignore"):
            values = self.normalisation.apply(x, network.dtype)
            is_sound = numpy.isfinite(values).all(axis=1)
            values[~is_sound] = 0
            p = network.predict_proba(network.backend.asarray(values))
            found: HostArray = numpy.array(network.backend.to_host(p))
        found[~is_sound] = numpy.nan
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions; 0 when every file could be read, else 2, with the reasons."""
    return console.run(lambda: _predict(argv))


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
        # Keeps a file's lines before the complaint about the next.
        sys.stdout.flush()
    return status


def predictions(model: Model, path: str | Path, *, top: int = 3) -> Iterator[str]:
    """The lines to print for one file; samples are counted from 1.

    `three.png  3  97.1 %   (5 1.9 %, 8 0.6 %)`: the `top` likeliest classes, likeliest first.
    Raises `DataError`, naming the file, when it cannot be read or does not fit the model.
    """
    path = Path(path)
    if not _holds_samples(path):
        picture = _picture(model, path)
        model.require_kind(path, picture)
        p = _probabilities(model, path, picture)
        yield f"{path}  {_ranked(model, p[0], top)}"
        return
    from xpnet.data.catalogue import read_samples

    # Of a table it is not known whether its integers are pixels; of pictures it is.
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
            f"{path} has labels up to {data.labels.max()}, the model knows {len(model.classes)} "
            f"classes, 0 to {len(model.classes) - 1}"
        )
    right = 0
    for start in range(0, len(data), PREDICTION_ROWS):
        rows = slice(start, start + PREDICTION_ROWS)
        p = _probabilities(model, path, data.x[rows], start)
        for number, row in enumerate(p, start=start + 1):
            yield f"{path}:{number}  {_ranked(model, row, top)}"
        if data.labels is not None:
            right += int((p.argmax(axis=1) == data.labels[rows]).sum())
    if data.labels is not None:
        share = 100 * right / len(data)
        yield f"{path}  accuracy  {share:.2f} %   ({right} of {len(data)})"


def _model_in(folder: Path) -> Path:
    path = folder / MODEL
    if path.is_file():
        return path
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    which = (
        f"give one of its files ({join_names(found[:5])})" if found else "give a .safetensors file"
    )
    raise CheckpointError(f"{folder} is a folder that holds no {MODEL}: {which}")


def _files(path: str) -> list[Path]:
    """The file, or of a folder the pictures in it. Raises `DataError` where it has none."""
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
        if name.name.lower().endswith(_PICTURES) and not name.name.startswith(".")
    ]
    if not found:
        raise DataError(f"{folder} is a folder without pictures: give files")
    return found


def _require_shape(model: Model, path: Path, found: tuple[int, int] | None) -> None:
    """Raise `DataError` for pictures that have other proportions than those of the model.

    Where a file gives no more than the number of pixels, its pictures were taken for squares.
    """
    is_guessed = found == square_shape(model.network.in_features) and "idx" not in path.name.lower()
    if found is None or model.image_shape is None or found == model.image_shape or is_guessed:
        return
    (height, width), (own_height, own_width) = found, model.image_shape
    raise DataError(
        f"{path} holds pictures of {height} x {width} pixels, the model was trained on "
        f"{own_height} x {own_width}"
    )


def _holds_samples(path: Path) -> bool:
    """Whether a file's name is one of those that `read_samples` takes."""
    name = path.name.lower()
    return name.endswith(_TABLES) or ("idx" in name and not name.endswith(_PICTURES))


def _picture(model: Model, path: Path) -> HostArray:
    """The image file as one sample, `(1, features)` uint8."""
    from xpnet.data.pictures import read_image

    if model.image_shape is None:
        raise DataError(
            f"{path} is taken for a picture, and the model was not trained on pictures (it has no "
            f"image_shape): give samples as .csv, .npz or IDX"
        )
    return read_image(path, model.image_shape, centred=model.centred).reshape(1, -1)


def _probabilities(model: Model, path: Path, x: HostArray, before: int = 0) -> HostArray:
    p = model.probabilities(x)
    sound = numpy.isfinite(p).all(axis=1)
    if not sound.all():
        raise DataError(
            f"{path}: sample {before + int(sound.argmin()) + 1} gives probabilities that are not "
            f"finite: its values are too large, or the model is damaged"
        )
    return p


def _ranked(model: Model, p: HostArray, top: int) -> str:
    best, *others = (int(i) for i in numpy.argsort(-p, kind="stable")[:top])
    rest = ", ".join(f"{model.classes[i]} {100 * p[i]:.1f} %" for i in others)
    return f"{model.classes[best]}  {100 * p[best]:.1f} %" + (f"   ({rest})" if rest else "")


def _parser() -> console.Parser:
    parser = console.Parser(
        "python -m xpnet.predict",
        description="Print the likeliest classes of each picture or sample.",
        epilog="A picture gives one line. A file of samples gives one line a sample, counted "
        "from 1, and its accuracy where it is labelled. Exit code 2: not all could be read.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .safetensors file that xpnet wrote, or the folder of a run",
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a picture (PNG, JPEG, BMP, GIF, WebP, TIFF) of one drawing on a plain background, a "
        "folder of such pictures, or samples: an IDX file of images, .csv (plain, .gz, .zip), "
        ".npz, .npy",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="the device that computes: cpu, cuda, cuda:N or auto (default: %(default)s)",
    )
    parser.add_argument(
        "--top",
        metavar="K",
        type=console.count,
        default=3,
        help="the number of classes to print, likeliest first (default: %(default)s)",
    )
    return parser


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


if __name__ == "__main__":
    raise SystemExit(main())
