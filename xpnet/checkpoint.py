"""One file format: safetensors, which holds numbers and can run no code.

`model.safetensors` holds a network's parameters and running statistics under PyTorch's names
and shapes. All else (architecture, normalisation, class names) is one JSON string with sorted
keys under the one metadata key `xpnet`: the file's bytes are a function of the network alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy

from xpnet.backend import Backend
from xpnet.errors import CheckpointError, XpnetError
from xpnet.network import Sequential

_KEY = "xpnet"
_FORMAT = 1


def save(network: Sequential, path: str | Path) -> None:
    """Write `network` to `path`: whole, or not at all. Raises `CheckpointError`.

    What `network.metadata` holds (plain JSON values) travels along.
    """
    from safetensors.numpy import save as serialise

    to_host = network.backend.to_host
    # safetensors writes a strided view's memory instead of its values: make all contiguous.
    tensors = {
        name: numpy.ascontiguousarray(to_host(array))
        for name, array in network.state_dict().items()
    }
    about = {
        "format": _FORMAT,
        "architecture": network.architecture(),
        "dtype": str(network.dtype),
        "metadata": network.metadata,
    }
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    write_atomically(Path(path), serialise(tensors, metadata={_KEY: text}))


def load(path: str | Path, *, device: str | Backend = "cpu") -> Sequential:
    """The network saved at `path`, on `device`, giving bit-identical predictions.

    Raises `CheckpointError` for a file that is missing, damaged or not xpnet's.
    """
    from safetensors import SafetensorError, safe_open

    path, backend = Path(path), Backend(device) if isinstance(device, str) else device
    try:
        with safe_open(path, framework="numpy") as file:
            about = _about(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        network = Sequential.from_architecture(
            about["architecture"], backend=backend, dtype=about["dtype"]
        )
        network.load_state_dict(tensors)
    except XpnetError as error:
        raise CheckpointError(f"{path}: {error}") from None
    network.metadata = about["metadata"]
    return network


def _about(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
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
            found = f"format {about['format']!r}"
        elif all(isinstance(about[name], kind) for name, kind in kinds.items()):
            return dict(about)
        else:
            found = "a description of another kind"
    except (ValueError, TypeError, KeyError):
        found = "no valid description"
    raise CheckpointError(f"{path}: expected format {_FORMAT}, found {found}")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step; a reader sees the old file or the new one."""
    # Beside the target, since a rename is atomic only within one file system.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from error
