"""Objects from the settings of a `TrainConfig`: data, network, optimizer, and the training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from xpnet import initializers, optimizers, schedules
from xpnet.backend import Backend
from xpnet.config import AUGMENTATIONS, TrainConfig
from xpnet.data import Source, Splits, load_dataset, split
from xpnet.data.dataset import Dataset
from xpnet.data.images import is_centred
from xpnet.data.normalisation import Normalisation
from xpnet.distributed.group import Group
from xpnet.errors import ConfigError, DataError, ShapeError, one_line
from xpnet.layers import (
    AveragePool2d,
    BatchNorm,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAveragePool2d,
    Linear,
    MaxPool2d,
    Unflatten,
)
from xpnet.layers.activations import ACTIVATIONS
from xpnet.layers.base import Layer
from xpnet.layers.short_notation import shapes_of_chain
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.network import Sequential
from xpnet.runs.initial_model import InitialModel
from xpnet.training import fit
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback, EarlyStopping
from xpnet.training.checkpoints import Checkpoints
from xpnet.training.device_data import DeviceData
from xpnet.training.history import History, Record
from xpnet.utils.image_layers import image_layers

INITIALIZERS: dict[str, type[initializers.Initializer]] = {
    "he_normal": initializers.HeNormal,
    "he_uniform": initializers.HeUniform,
    "glorot_normal": initializers.GlorotNormal,
    "glorot_uniform": initializers.GlorotUniform,
    "xavier_normal": initializers.GlorotNormal,
    "xavier_uniform": initializers.GlorotUniform,
    "lecun_normal": initializers.LeCunNormal,
    "lecun_uniform": initializers.LeCunUniform,
}

_SAMPLED_IMAGES = 500


def read_splits(config: TrainConfig) -> tuple[Source, Splits]:
    """The data set of `config`, and its parts, which share its memory.

    Raises `DataError`, `ConfigError`.
    """
    source = load_dataset(config.dataset, target=config.target)
    labels = source.train.labels
    if labels is None:
        hint = f": {source.hint}" if source.hint else ""
        raise DataError(f"dataset: {config.dataset} has no labels to train with{hint}")
    if labels.min() == labels.max():
        of = f" ({source.label})" if source.label else ""
        raise DataError(
            f"dataset: all {len(labels)} samples of {config.dataset} are of one class, "
            f"{one_line(source.train.classes[int(labels[0])])}{of}: give data of two classes or "
            f"more"
        )
    for part in (source.train, source.test):
        if part is not None:
            _check_range(config, part)
    sizes = {"validation": config.validation, "test": config.test}
    return source, split(source, **sizes, seed=config.seed_of_split, in_place=True)


def _check_range(config: TrainConfig, data: Dataset) -> None:
    if data.x.dtype != numpy.float64 or config.dtype == "float64":
        return
    low, high = float(data.x.min()), float(data.x.max())
    if max(-low, high) > float(numpy.finfo(config.dtype).max):
        raise DataError(
            f"dataset: {config.dataset} has values from {low:g} to {high:g}, too large for "
            f"{config.dtype}: divide them first, or use dtype float64"
        )


def fit_normalisation(
    config: TrainConfig, data: Dataset, initial: InitialModel | None = None
) -> Normalisation:
    """The normalisation of `config`, fitted on the training set `data`.

    With an initial model it is that of the model; `initial`: the model, if it was read already.
    """
    standard = config.normalise == "standard"
    made = Normalisation.standard(data) if standard else Normalisation.unit(data)
    if config.initial_model is not None:
        return (initial or InitialModel.read(config)).normalisation(config, made)
    return made


def prediction_metadata(
    config: TrainConfig, data: Dataset, *, as_read: bool = False
) -> dict[str, object]:
    """The metadata for prediction of a network trained on `data`.

    `target`: the label column of its table, if it was named; `as_read`: whether its images are
    image files as they were read, without any change; otherwise, for one channel, `centred`:
    whether they are centred as MNIST's are.
    """
    about: dict[str, object] = {} if config.target is None else {"target": config.target}
    if as_read:
        return about | {"as_read": True}
    if data.image_shape is not None and len(data.image_shape) == 3:
        return about
    if data.image_shape is not None and data.x.dtype == numpy.uint8:
        some = data.x[:: max(len(data) // _SAMPLED_IMAGES, 1)]
        centred = sum(is_centred(image.reshape(data.image_shape)) for image in some)
        about["centred"] = 2 * centred >= len(some)
    return about


def to_device(network: Sequential, data: Dataset, normalisation: Normalisation) -> DeviceData:
    """`data` on the device of the network, in the network's dtype."""
    return DeviceData.of(data, normalisation, backend=network.backend, dtype=network.dtype)


def build_network(
    config: TrainConfig, data: Dataset, backend: Backend, initial: InitialModel | None = None
) -> Sequential:
    """The layers of images, the hidden layers and a linear layer of logits.

    A hidden layer is Linear, BatchNorm, GaussianNoise, the activation and Dropout, those that the
    settings select; noise is also added to the input. With `config.initial_model` the network has
    the weights of that model; `initial`: the model, if it was read already.
    """
    uniform = initializers.Uniform(config.initializer_bound)
    named = INITIALIZERS.get(config.initializer)
    weights = named() if named else uniform
    biases = uniform if config.bias_initializer == "uniform" else initializers.Zeros()
    activations = config.activation * (len(config.hidden) // len(config.activation) or 1)
    layers: list[Layer] = [GaussianNoise(config.noise)] if config.noise else []
    features = data.features
    if config.conv:
        layers += _image_layers(config, data, weights, biases)
        features = _features(layers, config)
    for width, activation in zip(config.hidden, activations, strict=False):
        layers.append(Linear(features, width, weights, biases))
        if config.batch_norm:
            layers.append(BatchNorm(width))
        if config.noise:
            layers.append(GaussianNoise(config.noise))
        layers.append(ACTIVATIONS[activation]())
        if config.dropout:
            layers.append(Dropout(config.dropout))
        features = width
    layers.append(Linear(features, len(data.classes), weights, biases))
    network = Sequential(layers, backend=backend, dtype=config.dtype, seed=config.seed)
    if config.initial_model is not None:
        (initial or InitialModel.read(config)).copy_into(network, data, config)
    return network


def _image_layers(
    config: TrainConfig,
    data: Dataset,
    weights: initializers.Initializer,
    biases: initializers.Initializer,
) -> list[Layer]:
    """The layers of `config.conv`, from rows to rows of features.

    Each convolution is followed by BatchNorm2d, if the settings say so, and by the activation,
    which comes after a max pooling that follows (except GELU).
    """
    if data.image_shape is None:
        raise ConfigError(
            f"conv: takes images, and the {data.features} features of {config.dataset} are not "
            f"pixels: leave conv out"
        )
    layers: list[Layer] = [Unflatten(data.image_shape)]
    brief = image_layers(config.conv)
    activation = config.activation[0]
    activation_is_due = False
    for layer, following in zip(brief, [*brief[1:], None], strict=True):
        if layer.kind == "conv":
            sizes = layer.channels, layer.kernel_size, layer.stride, layer.padding
            layers.append(
                Conv2d(
                    *sizes,
                    groups=layer.groups,
                    # BatchNorm2d would subtract the bias again.
                    bias=not config.batch_norm,
                    weight_initializer=weights,
                    bias_initializer=biases,
                )
            )
            layers += [BatchNorm2d(layer.channels)] if config.batch_norm else []
            activation_is_due = True
        elif layer.kind == "global":
            layers.append(GlobalAveragePool2d())
        else:
            kind = MaxPool2d if layer.kind == "pool" else AveragePool2d
            layers.append(kind(layer.kernel_size, layer.stride))
        # max f(x) = f(max x) for an increasing f, and after the pooling there are fewer values.
        is_before_pool = following is not None and following.kind == "pool"
        if activation_is_due and not (is_before_pool and activation != "gelu"):
            layers.append(ACTIVATIONS[activation]())
            activation_is_due = False
    return layers if brief[-1].kind == "global" else [*layers, Flatten()]


def _features(layers: list[Layer], config: TrainConfig) -> int:
    """The number of features that these layers give. Raises `ConfigError`."""
    try:
        return shapes_of_chain(layers)[-1][0]
    except ShapeError as error:
        raise ConfigError(f"conv: {','.join(config.conv)}: {error}") from None


def build_schedule(config: TrainConfig, steps_per_epoch: int) -> schedules.Schedule:
    """The learning rate schedule for all updates of the run."""
    rate, steps = config.learning_rate, config.epochs * steps_per_epoch
    if config.schedule == "one_cycle":
        return schedules.OneCycle(rate, steps)
    rising = round(config.warm_up * steps)
    made: dict[str, schedules.Schedule] = {
        "constant": schedules.Constant(rate),
        "step": schedules.StepDecay(rate, config.step_every * steps_per_epoch, config.step_factor),
        "cosine": schedules.Cosine(rate, max(steps - rising, 1)),
    }
    schedule = made[config.schedule]
    return schedules.WarmUp(schedule, rising) if rising else schedule


def build_augmentation(config: TrainConfig, data: Dataset) -> Augmentation | None:
    """The augmentation of training images, None where no strength is above 0.

    Raises `ConfigError` where the rows of `data` are not images of one channel.
    """
    asked = [name for name in AUGMENTATIONS if getattr(config, name)]
    if not asked:
        return None
    if data.image_shape is not None and len(data.image_shape) == 3:
        raise ConfigError(
            f"{asked[0]}: changes images of one channel, and those of {config.dataset} have "
            f"{data.image_shape[2]}: leave {asked[0]} out"
        )
    if data.image_shape is None:
        raise ConfigError(
            f"{asked[0]}: changes images, and the {data.features} features of "
            f"{config.dataset} are not pixels: leave {asked[0]} out"
        )
    return Augmentation(
        shift=config.augment_shift,
        rotation=config.augment_rotation,
        scale=config.augment_scale,
        shear=config.augment_shear,
        elastic=config.augment_elastic,
        elastic_sigma=config.augment_elastic_sigma,
        probability=config.augment_probability,
    )


def build_optimizer(config: TrainConfig, rate: schedules.Schedule) -> optimizers.Optimizer:
    """The optimizer of `config`, with its hyperparameters."""
    decay = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return optimizers.SGD(rate, momentum=config.momentum, nesterov=config.nesterov, **decay)
    if config.optimizer == "rmsprop":
        return optimizers.RMSprop(
            rate,
            decay_rate=config.decay_rate,
            epsilon=config.epsilon,
            momentum=config.momentum,
            **decay,
        )
    kind = optimizers.Adam if config.optimizer == "adam" else optimizers.AdamW
    return kind(
        rate,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        **decay,
    )


def train_from_config(
    config: TrainConfig,
    network: Sequential,
    train: Dataset,
    validation: Dataset | None,
    normalisation: Normalisation,
    *,
    callbacks: Sequence[Callback] = (),
    history: History,
    checkpoints: Checkpoints | None = None,
    group: Group | None = None,
) -> Record:
    """Train `network` in place; `history` is filled even if an exception ends the training.

    Returns the record of the final weights: the last record, or with early stopping that of the
    lowest validation loss.
    """
    size = None if config.batch_size == "full" else config.batch_size
    steps_per_epoch = -(-len(train) // (size or len(train)))
    stopping = EarlyStopping(config.patience) if config.patience else None
    fit(
        network,
        to_device(network, train, normalisation),
        to_device(network, validation, normalisation) if validation is not None else None,
        optimizer=build_optimizer(config, build_schedule(config, steps_per_epoch)),
        loss=SoftmaxCrossEntropy(config.label_smoothing),
        epochs=config.epochs,
        batch_size=size,
        l2=config.l2,
        clip_norm=config.clip_norm,
        augmentation=build_augmentation(config, train),
        seed=config.seed,
        precision=config.precision,
        log_every=config.log_every,
        train_metrics=config.train_metrics,
        callbacks=[*callbacks, stopping] if stopping else callbacks,
        history=history,
        checkpoints=checkpoints,
        distributed=group,
        reproducible_parts=config.reproducible_parts,
    )
    return stopping.best if stopping and stopping.best else history.records[-1]
