"""`python -m xpnet.predict MODEL FILE...`: what a trained network sees in each file.

A picture (PNG, JPEG) gives one line; a file of samples (IDX, CSV, NPZ) one line a sample,
and its accuracy at the end where the samples are labelled.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from xpnet import command
from xpnet.backend import HostArray
from xpnet.checkpoint import load
from xpnet.data.dataset import Normalisation
from xpnet.errors import CheckpointError, DataError, XpnetError, shown
from xpnet.network import PREDICTION_ROWS, Sequential

_PICTURES = (".png", ".jpg", ".jpeg")
_TABLES = (".csv", ".gz", ".zip", ".npz", ".npy")


@dataclass(frozen=True)
class Model:
    """A network with what its file says of its data, or with what holds where it says nothing.

    `classes`: a name for each output, by default its number. `image_shape`: `(height, width)`
    of the images that it was trained on, or None where they were none, or it is not known.
    `normalisation`: from stored values to the network's, by default the identity. `pixels`: it
    was trained on whole pixels 0..255 (True) or on other numbers (False); None: not known.
    """

    network: Sequential
    classes: tuple[str, ...]
    image_shape: tuple[int, int] | None
    normalisation: Normalisation
    pixels: bool | None = None

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Model:
        """The model saved at `path`. Raises `CheckpointError`, naming file and field."""
        network = load(path, device=device)
        about: Any = network.metadata if isinstance(network.metadata, dict) else {}

        def wrong(field: str, expected: str) -> CheckpointError:
            return CheckpointError(f"{path}: {field} is {shown(about[field])}, expected {expected}")

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
        normalisation = about.get("normalisation", {"scale": 1.0, "shift": 0.0})
        try:
            scale, shift = float(normalisation["scale"]), float(normalisation["shift"])
        except (TypeError, KeyError, ValueError, OverflowError):
            raise wrong("normalisation", "the numbers scale and shift") from None
        if not math.isfinite(scale) or not math.isfinite(shift):
            raise wrong("normalisation", "finite numbers scale and shift")
        pixels = about.get("pixels")
        if pixels is not None and not isinstance(pixels, bool):
            raise wrong("pixels", "true, false or null")
        return cls(network, tuple(classes), shape, Normalisation(scale, shift), pixels)

    def require_kind(self, path: Path, x: HostArray) -> None:
        """Raise `DataError` when `x` is pixels and the model was trained on other numbers, or not.

        One normalisation cannot serve both, and the prediction would be wrong without a word.
        """
        if self.pixels is not None and self.pixels != (x.dtype == numpy.uint8):
            kinds = ("numbers with a fraction", "whole pixels 0..255")
            found, trained = kinds[not self.pixels], kinds[self.pixels]
            raise DataError(f"{path} holds {found}, the model was trained on {trained}: convert it")

    def probabilities(self, x: HostArray) -> HostArray:
        """Of each class, for stored values `x (N, features)`: `(N, C)` on the host."""
        network = self.network
        with numpy.errstate(all="ignore"):
            values = self.normalisation.apply(x, network.dtype)
            p = network.predict_proba(network.backend.asarray(values))
            return network.backend.to_host(p)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions; 0 when every file could be read, else 2, with the reasons."""
    return command.run(lambda: _predict(argv))


def _predict(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    model = Model.load(arguments.model, device=arguments.device)
    if arguments.device == "auto":
        command.say(f"xpnet: device {model.network.backend.device}", file=sys.stderr)
    status = 0
    for path in arguments.files:
        try:
            for line in predictions(model, path, top=arguments.top):
                command.say(line)
        except XpnetError as error:
            status = command.complain(error)
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

    data = read_samples(path)
    if data.features != model.network.in_features:
        raise DataError(
            f"{path} has {data.features} features a sample, the model takes "
            f"{model.network.in_features}"
        )
    model.require_kind(path, data.x)
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


def _holds_samples(path: Path) -> bool:
    """Whether a file's name is one of those that `read_samples` takes."""
    name = path.name.lower()
    return name.endswith(_TABLES) or ("idx" in name and not name.endswith(_PICTURES))


def _picture(model: Model, path: Path) -> HostArray:
    """The image file as one sample, `(1, features)` uint8."""
    from xpnet.images import read_image

    if model.image_shape is None:
        raise DataError(
            f"{path} is taken for a picture, and the model was not trained on pictures (it has no "
            f"image_shape): give samples as .csv, .npz or IDX"
        )
    return read_image(path, model.image_shape).reshape(1, -1)


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


def _parser() -> command.Parser:
    parser = command.Parser(
        "python -m xpnet.predict",
        description="Print the likeliest classes of each picture or sample.",
        epilog="A picture gives one line. A file of samples gives one line a sample, counted "
        "from 1, and its accuracy where it is labelled. Exit code 2: not all could be read.",
    )
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file that xpnet wrote")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a PNG or JPEG picture of one drawing on a plain background, or samples: an IDX "
        "file of images, .csv (plain, .gz, .zip), .npz, .npy",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="the device that computes: cpu, cuda, cuda:N or auto (default: %(default)s)",
    )
    parser.add_argument(
        "--top",
        metavar="K",
        type=command.count,
        default=3,
        help="the number of classes to print, likeliest first (default: %(default)s)",
    )
    return parser


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


if __name__ == "__main__":
    raise SystemExit(main())
