"""Checks the arguments of `fit()` except the data, and replaces names with objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

from xpnet.accel.recording import is_replayable
from xpnet.distributed.group import ALONE, Group
from xpnet.errors import ConfigError, short_repr
from xpnet.layers import BatchNorm
from xpnet.layers.activations import Sigmoid, Softmax
from xpnet.layers.base import walk
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
from xpnet.losses.base import PREDICTIONS
from xpnet.network import Sequential
from xpnet.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback, EarlyStopping
from xpnet.training.checkpoints import Checkpoints
from xpnet.training.history import History
from xpnet.training.ranks import Ranks
from xpnet.utils.arguments import instance
from xpnet.utils.introspection import is_own

T = TypeVar("T")

OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}
"""Optimizers by name, each with its defaults."""

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": SoftmaxCrossEntropy,
    "binary_cross_entropy": SigmoidBinaryCrossEntropy,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
    "poisson": Poisson,
    "quantile": Quantile,
}
"""Losses by name."""

_OTHER_NAMES: dict[str, type[Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_binary_cross_entropy": SigmoidBinaryCrossEntropy,
    "bce": SigmoidBinaryCrossEntropy,
    "mean_squared_error": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
}


def optimizer_of(value: Optimizer | str) -> Optimizer:
    """The optimizer that `fit(optimizer=)` means. Raises `ConfigError`."""
    if isinstance(value, str):
        return _named("optimizer", value, OPTIMIZERS, {})()
    what = f"an optimizer such as Adam(1e-3), or one of {', '.join(OPTIMIZERS)}"
    made = instance("optimizer", value, Optimizer, what)
    if "state" not in vars(made):
        raise ConfigError(
            f"{type(made).__name__}.__init__() does not call super().__init__(learning_rate)"
        )
    return made


def ranks_of(group: Group | None, parts: int) -> Ranks | None:
    """What `fit(distributed=, reproducible_parts=)` mean; None for one process as usual."""
    what = "a Group such as xpnet.distributed.mpi(), or None"
    group = ALONE if group is None else instance("distributed", group, Group, what)
    ranks = Ranks(group, parts)
    return ranks if ranks.parts or group.size > 1 else None


def require_ranks(trainer: Any, samples: int, size: int) -> None:
    """Raise `ConfigError` for a training that several ranks cannot do together.

    `size`: of the batches.
    """
    if trainer.ranks is None:
        return
    kind = type(trainer)
    if any("train_step" in vars(one) for one in kind.__mro__ if not is_own(one)):
        raise ConfigError(
            f"distributed: {kind.__name__}.train_step() computes on one rank alone: leave "
            f"distributed and reproducible_parts out"
        )
    trainer.ranks.require(trainer.network, samples % size or size)


def loss_of(value: Loss | str | None) -> Loss:
    """The loss that `fit(loss=)` means, None being cross-entropy. Raises `ConfigError`."""
    if value is None:
        return SoftmaxCrossEntropy()
    if isinstance(value, str):
        return _named("loss", value, LOSSES, _OTHER_NAMES)()
    what = f"a loss such as MeanSquaredError(), or one of {', '.join(LOSSES)}"
    made = instance("loss", value, Loss, what)
    if made.prediction not in (None, *PREDICTIONS):
        raise ConfigError(
            f"prediction of {type(made).__name__} must be one of {', '.join(PREDICTIONS)} or None, "
            f"found {short_repr(made.prediction)}"
        )
    return made


def _named(
    what: str, name: str, kinds: Mapping[str, Callable[[], T]], others: Mapping[str, type[T]]
) -> Callable[[], T]:
    known: dict[str, Callable[[], T]] = {_plain(key): kind for key, kind in others.items()}
    known |= {_plain(key): kind for key, kind in kinds.items()}
    if _plain(name) not in known:
        raise ConfigError(f"{what} {short_repr(name)} is not known: use one of {', '.join(kinds)}")
    return known[_plain(name)]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def callbacks_of(value: Any) -> tuple[Callback, ...]:
    """The callbacks that `fit(callbacks=)` means: one, several, or none. Raises `ConfigError`."""
    if value is None:
        return ()
    if isinstance(value, Callback):
        return (value,)
    what = "a Callback, such as Progress(), or a list of them"
    if isinstance(value, str) or not isinstance(value, Iterable):
        instance("callbacks", value, Callback, what)
    callbacks = tuple(value)
    for number, callback in enumerate(callbacks):
        instance(f"callbacks[{number}]", callback, Callback, "a Callback, such as Progress()")
    return callbacks


def history_of(value: History | None) -> History:
    """The history to continue. Raises `ConfigError`."""
    return History() if value is None else instance("history", value, History, "a History or None")


def checkpoints_of(value: Any) -> Checkpoints | None:
    """Where checkpoints go. Raises `ConfigError`."""
    if isinstance(value, str | PathLike):
        text = short_repr(str(value))
        raise ConfigError(f"checkpoints must be Checkpoints, found {text}: Checkpoints({text})")
    return value if value is None else instance("checkpoints", value, Checkpoints, "Checkpoints")


def augmentation_of(value: Augmentation | None) -> Augmentation | None:
    """How images are distorted. Raises `ConfigError`."""
    if value is None:
        return None
    what = "an Augmentation, such as Augmentation(shift=2)"
    return instance("augmentation", value, Augmentation, what)


def exclusive_parts(
    network: Sequential,
    optimizer: Optimizer,
    loss: Loss,
    augmentation: Augmentation | None,
    callbacks: Sequence[Callback],
    history: History,
) -> dict[str, object]:
    """The arguments of a `fit()` that no other `fit()` may use at the same time, by name.

    Losses and augmentations of xpnet are not included, since they can be copied. User-defined ones
    may have state of their own.
    """
    parts: dict[str, object] = {"network": network, "optimizer": optimizer, "history": history}
    if not is_copied(loss):
        parts["loss"] = loss
    if augmentation is not None and not is_copied(augmentation):
        parts["augmentation"] = augmentation
    own = (f"callbacks[{position}]" for position in range(len(callbacks)))
    return parts | {n: c for n, c in zip(own, callbacks, strict=True) if is_own(type(c))}


def is_copied(thing: object) -> bool:
    """Whether a shallow copy of `thing` with other buffers is as good as `thing` itself."""
    return is_own(type(thing)) and is_replayable(thing)


def require_validation(callbacks: Iterable[Callback], has_validation: bool) -> None:
    """Raise `ConfigError` for early stopping without a validation set."""
    for callback in callbacks:
        decides = getattr(type(callback), "on_log", None) is EarlyStopping.on_log
        if decides and not has_validation:
            raise ConfigError(EarlyStopping.NEEDS)


def require_trainable(network: Sequential, optimizer: Optimizer, loss: Loss) -> None:
    """Raise `ConfigError` for a training that cannot work.

    That is if all layers are frozen, the optimizer belongs to another network, or the network gives
    images or ends in an activation that the loss would apply a second time.
    """
    if len(network.output_shape(None)) != 1:
        raise ConfigError(
            f"the network gives images {network.output_shape(None)}, and a loss takes rows: end it "
            f"with Flatten() and a Linear"
        )
    if not network.flat_parameters.size:
        raise ConfigError(
            "the network has no parameters to train: set trainable = True for one of its layers"
        )
    require_logits(network, loss)
    optimizer.require_same(network.flat_parameters)


def require_logits(network: Sequential, loss: Loss) -> None:
    """Raise `ConfigError` where `network` ends in an activation that `loss` applies itself."""
    last = network.output_layer()
    if loss.takes_logits and isinstance(last, Softmax | Sigmoid):
        raise ConfigError(
            f"the network ends in {last}, and {type(loss).__name__} applies its activation itself: "
            f"leave {type(last).__name__} out, and get probabilities from predict_proba()"
        )


def require_rows(network: Sequential, count: int, size: int) -> None:
    """Raise `ConfigError` where `count` samples in batches of `size` leave BatchNorm one row."""
    # A single image already has many values, its pixels.
    has_norm = any(
        isinstance(x, BatchNorm) and x.trainable and x.needs_two for x in walk(network.layers)
    )
    if not has_norm or (size > 1 and count % size != 1):
        return
    how = f"{count} samples in batches of {size} leave 1 over" if size > 1 else f"batch_size {size}"
    raise ConfigError(
        f"BatchNorm cannot train on a batch of 1 row ({how}): use another batch_size, such as "
        f"{_fitting(count, size)}, or LayerNorm"
    )


def _fitting(count: int, size: int) -> str:
    """A batch size near `size` that leaves no single row."""
    fits = (n for n in range(max(size, 2), max(count, 2) + 1) if count % n != 1)
    return str(next(fits, "32, and give more samples"))
