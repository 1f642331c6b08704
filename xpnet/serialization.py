"""Saving and loading networks as safetensors files, which contain no code.

`model.safetensors` holds the parameters and running statistics of a network under PyTorch's names
and shapes. Everything else (architecture, normalisation, class names) is one JSON string with
sorted keys under the metadata key `xpnet`, so that equal networks give equal files. A checkpoint
is such a file with further entries under `training`: see `xpnet.training.checkpoints`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xpnet._files import write_atomically
from xpnet.backend import Backend, HostArray
from xpnet.errors import CheckpointError, ConfigError, XpnetError, one_line, short_repr
from xpnet.layers.base import Layer
from xpnet.network import Sequential
from xpnet.network.architecture import require_classes
from xpnet.utils.arguments import as_path, seed_of
from xpnet.utils.introspection import as_json

TRAINING = "training"
"""The key of the description, and the prefix of tensors, for the state of a training."""

_KEY = "xpnet"
_FORMAT = 1
_PREDICTIONS = ("class", "labels", "values", "rates")


def save(network: Sequential, path: str | Path) -> None:
    """Write `network` to `path` atomically.

    The file also holds `network.metadata` (JSON values), the seed, which layers are frozen, and
    what the network predicts. Your own layers are saved with their `get_config()`; `load()` then
    needs their classes. Raises `ConfigError` for a layer or metadata that is not plain data, and
    `CheckpointError` where the file cannot be written.
    """
    if not isinstance(network, Sequential):
        raise ConfigError(f"save() takes a Sequential first, found {short_repr(network)}")
    path, to_host = as_path("path", path), network.backend.to_host
    tensors = {name: to_host(array) for name, array in network.state_dict().items()}
    write(path, tensors, describe(network))


def describe(network: Sequential) -> dict[str, Any]:
    """The description of `network` in a file: everything except its tensors."""
    if not isinstance(network.metadata, dict):
        raise ConfigError(f"metadata of a network is a dict, found {short_repr(network.metadata)}")
    about = {
        "format": _FORMAT,
        "architecture": network.architecture(),
        "dtype": str(network.dtype),
        "metadata": as_json("metadata", network.metadata),
        "seed": network.seed,
    }
    if network.prediction is None:
        return about
    shape = network.target_shape
    answers = {"kind": network.prediction, "shape": None if shape is None else list(shape)}
    return about | {"prediction": answers}


def write(path: str | Path, tensors: Mapping[str, HostArray], about: dict[str, Any]) -> None:
    """Write `tensors` and their description to a file, atomically."""
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    write_atomically(Path(path), _pieces(tensors, text))


def _pieces(tensors: Mapping[str, HostArray], text: str) -> Iterator[bytes]:
    """A file in the safetensors format, one tensor after the other.

    safetensors' own `save` holds four copies of all tensors in memory. A file is the length of the
    header, the header with the dtype, shape and position of each tensor, and the values: see
    https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {_KEY: text}}
    # In the order of safetensors, which aligns each tensor to its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in names:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        kind = f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        position = {"data_offsets": [begin, end]}
        header[name] = {"dtype": kind, "shape": list(array.shape)} | position
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    yield len(raw).to_bytes(8, "little") + raw
    for name in names:
        yield tensors[name].tobytes()


def load(
    path: str | Path,
    *,
    device: str | Backend = "cpu",
    custom_objects: Mapping[str, type[Layer]] | None = None,
) -> Sequential:
    """The network saved at `path`, on `device`, with bit-identical predictions.

    `custom_objects`: the classes of layers that are not xpnet's, by name:
    `load("model.safetensors", custom_objects={"Scale": Scale})`. Each is called with the result
    of its `get_config()`. Nothing else in the file can run code.

    Raises `CheckpointError` for a file that is missing, damaged, not written by xpnet, or has a
    layer whose class is not given.
    """
    path, backend = as_path("path", path), Backend(device) if isinstance(device, str) else device
    require_classes(custom_objects)
    about, tensors = read(path)
    tensors = {n: tensor for n, tensor in tensors.items() if not n.startswith(f"{TRAINING}.")}
    if about["dtype"] not in ("float32", "float64"):
        found = short_repr(about["dtype"])
        raise CheckpointError(f"{path}: dtype must be float32 or float64, found {found}")
    for name, tensor in tensors.items():
        if tensor.dtype.name != about["dtype"]:
            raise CheckpointError(
                f"{path}: {short_repr(name)} is {tensor.dtype}, expected {about['dtype']}"
            )
    try:
        network = Sequential.from_architecture(
            about["architecture"],
            state=tensors,
            custom_objects=custom_objects,
            backend=backend,
            dtype=about["dtype"],
            seed=_seed(about),
        )
    except XpnetError as error:
        raise CheckpointError(f"{path}: {error}") from None
    network.metadata = about["metadata"]
    network.prediction, network.target_shape = _prediction(path, about, network.out_features)
    return network


def _seed(about: dict[str, Any]) -> int:
    """The seed of the network; files of version 0.1 have none."""
    seed = about.get("seed", 0)
    try:
        return seed_of("seed", seed)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _prediction(
    path: Path, about: dict[str, Any], outputs: int
) -> tuple[str | None, tuple[int, ...] | None]:
    """What the network predicts, and the shape of one target; None where they are not known."""
    found = about.get("prediction")
    if found is None:
        return None, None
    if isinstance(found, dict) and found.get("kind") in _PREDICTIONS:
        shape = found.get("shape")
        if shape is None or shape in ([], [outputs]):
            return found["kind"], None if shape is None else tuple(shape)
    raise CheckpointError(f"{path}: prediction is {short_repr(found)}, which xpnet did not write")


def read(path: Path) -> tuple[dict[str, Any], dict[str, HostArray]]:
    """The description and all tensors of a file. Raises `CheckpointError`."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.is_dir():
            raise CheckpointError(
                f"{path}: is a folder: give the file in it, such as {path / 'model.safetensors'}"
            )
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is a pipe or a device, not a file")
        with safe_open(path, framework="numpy") as file:
            about = _description(path, file.metadata())
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        found = one_line(error)
        raise CheckpointError(f"{path}: not a readable safetensors file ({found})") from None


def _description(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: holds tensors but no architecture, so xpnet did not write it: "
            f"build the network and use load_state_dict()"
        )
    try:
        about = json.loads(text)
        kinds = {"architecture": list, "dtype": str, "metadata": dict}
        if about["format"] != _FORMAT:
            found = f"format {short_repr(about['format'])}"
        elif all(isinstance(about[name], kind) for name, kind in kinds.items()):
            return dict(about)
        else:
            found = "an invalid description"
    except (ValueError, TypeError, KeyError, RecursionError):
        found = "no valid description"
    raise CheckpointError(f"{path}: expected format {_FORMAT}, found {found}")
