"""The samples of a `fit()` or `evaluate()`: on the network's device, and fit for its loss."""

from __future__ import annotations

from typing import Any, TypeAlias

from xpnet.backend import Array, HostArray
from xpnet.data.dataset import Dataset
from xpnet.data.normalisation import Normalisation
from xpnet.errors import ConfigError, DataError, DeviceMismatch, ShapeError, short_repr
from xpnet.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    SigmoidBinaryCrossEntropy,
    SoftmaxCrossEntropy,
)
from xpnet.network import Sequential
from xpnet.network.inputs import require_sparse_fits
from xpnet.training.device_data import DeviceData

Part: TypeAlias = DeviceData | Dataset | tuple[Any, Any]
"""Samples with their targets, as `fit()` and `evaluate()` take them."""

_OF_VALUES = (
    MeanSquaredError,
    MeanAbsoluteError,
    Huber,
    Poisson,
    Quantile,
    SigmoidBinaryCrossEntropy,
)
"""Losses that take numbers, one for each output of the network."""

_KINDS = "the pair (x, y), a DeviceData or a Dataset"


def on_device(network: Sequential, data: Part, name: str) -> DeviceData:
    """`data` as `DeviceData` on the network's device; a `DeviceData` is returned unchanged.

    `name`: of the part, for messages. The values of a pair or a `Dataset` are taken as they are.
    Raises `ConfigError` for what is no such part, `DataError`, `ShapeError` and `DeviceMismatch`
    as `DeviceData` does, and for another number of features than the network's.
    """
    backend = network.backend
    if isinstance(data, DeviceData):
        if data.backend.xp is not backend.xp:
            raise DeviceMismatch(
                f"{name} is on device {data.backend.device}, the network on {backend.device}: "
                f"make the DeviceData with backend=network.backend"
            )
        held = data
    elif isinstance(data, Dataset):
        as_it_is = Normalisation(1.0, 0.0)
        held = DeviceData.of(data, as_it_is, backend=backend, dtype=network.dtype)
    else:
        x, target = _pair(data, name)
        require_sparse_fits(network, x, f"{name} x")
        how: dict[str, Any] = {"backend": backend, "dtype": network.dtype, "name": name}
        held = DeviceData(x, target, image_shape=network.image_shape, **how)
    require_sparse_fits(network, held.x, f"{name} x")
    if held.x.shape[1] != network.in_features:
        raise DataError(
            f"{name} has {held.x.shape[1]} features a sample, the network takes "
            f"{network.in_features}"
        )
    return held


def _pair(data: Any, name: str) -> tuple[Any, Any]:
    if isinstance(data, tuple | list) and len(data) == 2:
        return data[0], data[1]
    if isinstance(data, tuple | list):
        found = f"{len(data)} parts"
        remedy = "give (x, y); weights of samples go into sample_weight="
    elif isinstance(shape := getattr(data, "shape", None), tuple):
        found = f"one {type(data).__name__} of shape {tuple(shape)}"
        remedy = "put samples and targets into one pair, as in fit(network, (x, y), ...)"
    elif isinstance(data, float):
        found, remedy = (
            short_repr(data),
            "cut the data first, by xpnet.data.split say, and give a part",
        )
    else:
        found = f"the class {data.__name__}" if isinstance(data, type) else short_repr(data)
        remedy = "give samples and targets in arrays, as in fit(network, (x, y), ...)"
    raise ConfigError(f"{name} must be {_KINDS}, found {found}: {remedy}")


def fitted(data: DeviceData, network: Sequential, loss: Loss, name: str) -> DeviceData:
    """`data`, or a view of it, with targets as `loss` takes them.

    Whole numbers become floats for a loss of values, and `(N,)` targets `(N, 1)` for a network of
    one output; `(N, 1)` labels become `(N,)`. Raises `ShapeError` or `DataError`, which name the
    part `name` and say what to do, for all that does not fit, as `require_targets` does.
    """
    target = data.target
    if isinstance(loss, SoftmaxCrossEntropy):
        target = _as_labels(data, network, name)
    elif isinstance(loss, _OF_VALUES):
        target = _as_values(data, network, loss, name)
    require_targets(network.backend.to_host(target), network, loss, name)
    if target is not data.target:
        data = data.view()
        data.target = target
    return data


def require_targets(target: HostArray, network: Sequential, loss: Loss, name: str) -> None:
    """Raise `ShapeError` or `DataError` for targets that `loss` cannot be computed for.

    The targets of a user-defined loss are not checked, except that integers `(N,)` for several
    outputs are treated as labels.
    """
    if loss.prediction is None and prediction_of(loss, target, network) == "class":
        SoftmaxCrossEntropy().require_targets(target, network.out_features, name)
    loss.require_targets(target, network.out_features, name)


def set_prediction(network: Sequential, loss: Loss, target: Array, shape: tuple[int, ...]) -> None:
    """Let `network` predict what it is trained for: `target` `(N, ...)`, as the loss takes it.

    `shape`: of one target as it was given.
    """
    network.prediction = prediction_of(loss, target, network)
    is_known = shape in ((), (network.out_features,))
    # The same object where it is equal: a recorded step compares what its parts hold.
    if network.target_shape != (shape if is_known else None):
        network.target_shape = shape if is_known else None


def prediction_of(loss: Loss, target: Array, network: Sequential) -> str:
    """What `network` predicts once it is trained by `loss` on such targets."""
    is_class = are_labels(target) and network.out_features > 1
    return loss.prediction or ("class" if is_class else "values")


def are_labels(target: Array) -> bool:
    """Whether `target` has whole numbers, one per sample."""
    return bool(target.dtype.kind in "iu" and target.ndim == 1)


def _as_labels(data: DeviceData, network: Sequential, name: str) -> Array:
    target, classes = data.target, network.out_features
    if target.dtype.kind in "iu" and target.shape[1:] == (1,):
        return target.reshape(-1)
    if are_labels(target):
        return target
    wanted = f"labels (N,), whole numbers from 0 to {classes - 1}"
    found = f"{name} has targets of {target.dtype} and shape {tuple(target.shape)}"
    if target.shape[1:] == (classes,) and classes > 1:
        remedy = "give y.argmax(axis=1) if they are one-hot"
    elif target.shape[1:] in ((), (1,)):
        remedy = 'give y.astype(int) if they are classes, loss="mse" if they are values'
    else:
        remedy = 'with several labels a sample say loss="binary_cross_entropy"'
    raise ShapeError(f"{found}, and SoftmaxCrossEntropy takes {wanted}: {remedy}")


def _as_values(data: DeviceData, network: Sequential, loss: Loss, name: str) -> Array:
    target, outputs = data.target, network.out_features
    if isinstance(loss, Quantile) and isinstance(loss.quantile, tuple):
        # One target a sample, and an output for each quantile.
        loss.require_targets(network.backend.to_host(target), outputs, name)
        outputs = 1
    if target.ndim == 1 and outputs == 1:
        target = target.reshape(-1, 1)
    if target.shape[1:] != (outputs,):
        remedy = f"give y of shape (N, {outputs}), one number for each output of the network"
        if are_labels(target):
            remedy += ', or say loss="cross_entropy" if they are classes'
        raise ShapeError(
            f"{name} has targets of shape {tuple(data.target.shape)}, and "
            f"{type(loss).__name__} takes the shape of what the network gives, (N, {outputs}): "
            f"{remedy}"
        )
    return target if target.dtype.kind == "f" else target.astype(data.dtype)
