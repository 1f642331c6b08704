"""A saved network and the description of its training data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from xpnet.backend import HostArray
from xpnet.data.normalisation import Normalisation
from xpnet.errors import CheckpointError, DataError, join_names, short_repr
from xpnet.network import Sequential
from xpnet.runs.run_folder import MODEL
from xpnet.serialization import load


@dataclass(frozen=True)
class Model:
    """A network and the description of its training data in its file, or defaults.

    `classes`: a name for each output, by default its number. `image_shape`: `(height, width)`, or
    `(height, width, channels)` for several channels, of the images that it was trained on; None
    for other data, or if not known. `normalisation`:
    from stored values to inputs, by default the identity. `pixels`: it was trained on integer
    pixels 0..255 (True) or on other numbers (False); None: not known. `target`: the label column
    of its table; None: the default one. `centred`: the images that it was trained on are centred
    as MNIST's are. `as_read`: they are image files as they were read, without any change; always
    so for several channels.
    """

    network: Sequential
    classes: tuple[str, ...]
    image_shape: tuple[int, ...] | None
    normalisation: Normalisation
    pixels: bool | None = None
    target: str | None = None
    centred: bool = True
    as_read: bool = False

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Model:
        """The model saved at `path`, or in the folder of a run.

        Raises `CheckpointError`, naming file and field.
        """
        path = Path(path)
        if path.is_dir():
            path = _model_file(path)
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
        # A name might hold control sequences of the terminal.
        if not all(name.isprintable() for name in classes):
            raise wrong("classes", "names of printable characters")
        shape = about.get("image_shape")
        if shape is not None:
            inputs = network.in_features
            positive = _is_list_of(int, shape) and len(shape) in (2, 3) and min(shape) > 0
            if not positive or math.prod(shape) != inputs:
                raise wrong(
                    "image_shape",
                    f"[height, width] or [height, width, channels] of {inputs} values, or null",
                )
            shape = tuple(shape[:2] if shape[2:] == [1] else shape)
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
        as_read = about.get("as_read", False)
        if target is not None and not isinstance(target, str):
            raise wrong("target", "the name of a column, or null")
        if not isinstance(centred, bool):
            raise wrong("centred", "true or false")
        if not isinstance(as_read, bool):
            raise wrong("as_read", "true or false")
        as_read = as_read or (shape is not None and len(shape) == 3)
        return cls(network, tuple(classes), shape, normalisation, pixels, target, centred, as_read)

    def require_kind(self, path: Path, x: HostArray) -> None:
        """Raise `DataError` when one of `x` and the training data is pixels and the other is not.

        They need different normalisations, so that the predictions would be wrong.
        """
        if self.pixels is not None and self.pixels != (x.dtype == numpy.uint8):
            kinds = ("numbers with a fraction", "whole pixels 0..255")
            found, trained = kinds[not self.pixels], kinds[self.pixels]
            raise DataError(f"{path} holds {found}, the model was trained on {trained}: convert it")

    def probabilities(self, x: HostArray) -> HostArray:
        """The probabilities `(N, C)` of the classes, on the host, for stored values `x`.

        `x`: `(N, features)`. Values beyond the range of the network's dtype give NaN.
        """
        network = self.network
        with numpy.errstate(all="ignore"):
            values = self.normalisation.apply(x, network.dtype)
            is_finite = numpy.isfinite(values).all(axis=1)
            values[~is_finite] = 0
            p = network.predict_proba(network.backend.asarray(values))
            found: HostArray = numpy.array(network.backend.to_host(p))
        found[~is_finite] = numpy.nan
        return found


def _model_file(folder: Path) -> Path:
    path = folder / MODEL
    if path.is_file():
        return path
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    which = (
        f"give one of its files ({join_names(found[:5])})" if found else "give a .safetensors file"
    )
    raise CheckpointError(f"{folder} is a folder without {MODEL}: {which}")


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
