"""`python -m xpnet.train`: from a file of digits to a trained, saved, pictured network."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import threadpoolctl

from xpnet import initializers, optimizers, schedules
from xpnet.activations import GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from xpnet.backend import Backend
from xpnet.callbacks import Callback, EarlyStopping, Progress, StopAtInterrupt
from xpnet.checkpoint import save, write_atomically
from xpnet.config import TrainConfig, from_command_line
from xpnet.data import Dataset, Normalisation, Source, Splits, load_dataset, split
from xpnet.data.batches import DeviceData
from xpnet.errors import ConfigError, DataError, DivergenceError, XpnetError
from xpnet.layer import Layer
from xpnet.layers import Dropout, Linear
from xpnet.metrics import class_scores
from xpnet.network import Sequential
from xpnet.training import Evaluation, History, evaluate, fit

DRAWN_SAMPLES = 25
"""Test samples in the picture of predictions."""

ACTIVATIONS: dict[str, type[Layer]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
}
INITIALIZERS: dict[str, type[initializers.Initializer]] = {
    "he_normal": initializers.HeNormal,
    "he_uniform": initializers.HeUniform,
    "glorot_normal": initializers.GlorotNormal,
    "glorot_uniform": initializers.GlorotUniform,
    "xavier_normal": initializers.GlorotNormal,
    "xavier_uniform": initializers.GlorotUniform,
    "lecun_normal": initializers.LeCunNormal,
    "lecun_uniform": initializers.LeCunUniform,
    "zeros": initializers.Zeros,
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code (0, 2 bad input, 3 divergence, 130 Ctrl-C)."""
    try:
        arguments = sys.argv[1:] if argv is None else argv
        train(from_command_line(arguments, "python -m xpnet.train"))
    except XpnetError as error:
        print(f"xpnet: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("xpnet: interrupted", file=sys.stderr)
        return 130
    return 0


def train(config: TrainConfig) -> Path:
    """Read, build, train, test, save and draw as `config` says; returns the run folder."""
    backend = Backend(config.device)
    if config.device == "auto":
        print(f"device    auto chose {backend.device}")
    source = load_dataset(config.dataset)
    if source.train.labels is None:
        raise DataError(
            f"dataset: {config.dataset} has no labels, so nothing can be learnt from it"
        )
    splits = split(source, validation=config.validation, test=config.test, seed=config.seed)
    print(describe_data(source, splits))
    with threadpoolctl.threadpool_limits(config.threads, user_api="blas"):
        config = config.model_copy(update={"threads": config.threads or blas_threads()})
        network = build_network(config, splits.train, backend)
        normalisation = fit_normalisation(config, splits.train)
        network.metadata = {
            "classes": list(splits.train.classes),
            "image_shape": splits.train.image_shape,
            "normalisation": {"scale": normalisation.scale, "shift": normalisation.shift},
            "pixels": splits.train.x.dtype == numpy.uint8,
        }
        print(f"\n{network.summary()}\n")
        folder = make_run_folder(config)
        history = fit_network(config, network, splits, normalisation, folder)
        tested = evaluate(network, to_device(network, splits.test, normalisation))
    print(f"\n{describe_test(tested, splits.test.classes)}\n")
    metrics = collect_metrics(config, backend, source, splits, network, history, tested)
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    draw(folder, network, history, tested, splits.test, normalisation)
    print(f"results   {folder}/")
    for path in sorted(folder.iterdir()):
        print(f"          {path.name}")
    return folder


def describe_data(source: Source, splits: Splits) -> str:
    """What was read: name, sizes, shapes, and how the classes are balanced."""
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    data, some = splits.train, splits.train.x
    shape = f" ({data.image_shape[0]}×{data.image_shape[1]})" if data.image_shape else ""
    lines = [
        f"data      {source.name}: {data.features} features{shape} {some.dtype}, values "
        f"{some.min():g} to {some.max():g}, {len(data.classes)} classes",
    ]
    wide = max(6, *(len(name) for name in data.classes))
    lines.append(f"{'class':<10}{'':>8}  " + " ".join(f"{c:>{wide}}" for c in data.classes))
    for name, part in parts.items():
        if part is not None and part.labels is not None:
            counts = numpy.bincount(part.labels, minlength=len(data.classes))
            row = " ".join(f"{count:>{wide},}" for count in counts)
            lines.append(f"{name:<10}{len(part):>8,}  {row}")
    return "\n".join(lines)


def fit_normalisation(config: TrainConfig, data: Dataset) -> Normalisation:
    """The normalisation that `config.normalise` names, from the training part alone."""
    if config.normalise == "standard":
        return Normalisation.standard(data)
    return Normalisation.unit(data)


def build_network(config: TrainConfig, data: Dataset, backend: Backend) -> Sequential:
    """Linear, activation and dropout for each hidden layer, and a linear layer of logits."""
    uniform = initializers.Uniform(config.initializer_bound)
    named = INITIALIZERS.get(config.initializer)
    weights = named() if named else uniform
    biases = uniform if config.bias_initializer == "uniform" else initializers.Zeros()
    activations = config.activation * (len(config.hidden) // len(config.activation) or 1)
    layers: list[Layer] = []
    features = data.features
    for width, activation in zip(config.hidden, activations, strict=False):
        layers += [Linear(features, width, weights, biases), ACTIVATIONS[activation]()]
        if config.dropout:
            layers.append(Dropout(config.dropout))
        features = width
    layers.append(Linear(features, len(data.classes), weights, biases))
    return Sequential(layers, backend=backend, dtype=config.dtype, seed=config.seed)


def build_schedule(config: TrainConfig, steps_per_epoch: int) -> schedules.Schedule:
    """The learning rate over all updates of the run."""
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


def build_optimizer(config: TrainConfig, rate: schedules.Schedule) -> optimizers.Optimizer:
    """The optimizer that `config.optimizer` names, with its own hyperparameters."""
    decay = config.weight_decay
    if config.optimizer == "sgd":
        return optimizers.SGD(
            rate, momentum=config.momentum, nesterov=config.nesterov, weight_decay=decay
        )
    if config.optimizer == "rmsprop":
        return optimizers.RMSprop(
            rate,
            decay_rate=config.decay_rate,
            epsilon=config.epsilon,
            momentum=config.momentum,
            weight_decay=decay,
        )
    kind = optimizers.Adam if config.optimizer == "adam" else optimizers.AdamW
    return kind(
        rate,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=decay,
    )


def fit_network(
    config: TrainConfig,
    network: Sequential,
    splits: Splits,
    normalisation: Normalisation,
    folder: Path,
) -> History:
    """Train, and leave the history and the model in `folder`, interrupted or not."""
    history = History()
    size = None if config.batch_size == "full" else config.batch_size
    steps_per_epoch = -(-len(splits.train) // (size or len(splits.train)))
    stopping = EarlyStopping(config.patience) if config.patience else None
    callbacks: list[Callback] = [Progress(), StopAtInterrupt()]
    held_out = splits.validation
    try:
        fit(
            network,
            to_device(network, splits.train, normalisation),
            to_device(network, held_out, normalisation) if held_out is not None else None,
            optimizer=build_optimizer(config, build_schedule(config, steps_per_epoch)),
            epochs=config.epochs,
            batch_size=size,
            l2=config.l2,
            seed=config.seed,
            log_every=config.log_every,
            callbacks=[*callbacks, stopping] if stopping else callbacks,
            history=history,
        )
    except DivergenceError as error:
        history.to_csv(folder / "history.csv")
        raise DivergenceError(f"{error} (history so far: {folder}/history.csv)") from None
    except KeyboardInterrupt:
        _keep(network, history, folder)
        print(f"\ninterrupted: history and model so far are in {folder}/")
        raise
    _keep(network, history, folder)
    best = stopping.best if stopping else None
    if best is not None and best is not history.records[-1]:
        print(
            f"kept the weights of epoch {best.epoch}, whose validation loss "
            f"{best.val_loss:.4f} is the lowest"
        )
    return history


def _keep(network: Sequential, history: History, folder: Path) -> None:
    history.to_csv(folder / "history.csv")
    save(network, folder / "model.safetensors")


def to_device(network: Sequential, data: Dataset, normalisation: Normalisation) -> DeviceData:
    """`data` where the network is, in the network's dtype."""
    return DeviceData.of(data, normalisation, backend=network.backend, dtype=network.dtype)


def make_run_folder(config: TrainConfig) -> Path:
    """A new folder with `config.toml` in it. Nothing that exists is ever written over."""
    name = Path(config.dataset).name.partition(".")[0] or "run"
    numbered = (Path("runs") / f"{name}-{number:03}" for number in range(1, 100_000))
    for folder in [config.run] if config.run else numbered:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder != config.run:
                continue
            if not folder.is_dir() or any(folder.iterdir()):
                raise ConfigError(
                    f"run: {folder} exists and is not an empty folder: name another"
                ) from None
        except OSError as error:
            raise ConfigError(
                f"run: {folder} cannot be made ({error.strerror}): name another with --run"
            ) from None
        write_atomically(folder / "config.toml", config.to_toml().encode())
        return folder
    raise ConfigError("run: no free folder name is left in runs/: name one with --run")


def describe_test(tested: Evaluation, classes: tuple[str, ...]) -> str:
    """Test accuracy and a line for each class."""
    wide = max(5, *(len(name) for name in classes))
    lines = [
        f"test accuracy {100 * tested.accuracy:.2f} %   test loss {tested.loss:.4f}",
        f"{'class':>{wide}}  precision  recall      F1  samples",
    ]
    for name, score in zip(classes, class_scores(tested.confusion), strict=True):
        lines.append(
            f"{name:>{wide}}  {100 * score.precision:7.2f} %  {100 * score.recall:5.1f} %  "
            f"{score.f1:6.4f}  {score.support:7,}"
        )
    return "\n".join(lines)


def collect_metrics(
    config: TrainConfig,
    backend: Backend,
    source: Source,
    splits: Splits,
    network: Sequential,
    history: History,
    tested: Evaluation,
) -> dict[str, Any]:
    """What `metrics.json` holds; accuracies are fractions."""
    last = history.records[-1]
    scores = class_scores(tested.confusion)
    named = zip(splits.test.classes, scores, strict=True)
    return {
        "test_accuracy": tested.accuracy,
        "test_loss": tested.loss,
        "train_accuracy": last.accuracy,
        "train_loss": last.loss,
        "validation_accuracy": last.val_accuracy,
        "validation_loss": last.val_loss,
        "classes": {name: vars(score) for name, score in named},
        "confusion": tested.confusion.tolist(),
        "epochs": last.epoch,
        "steps": last.step,
        "seconds": sum(history.column("seconds")),
        "parameters": int(network.values.size),
        "samples": {
            "train": len(splits.train),
            "validation": len(splits.validation) if splits.validation is not None else 0,
            "test": len(splits.test),
        },
        "dataset": {"name": source.name, "sha256": source.sha256},
        "seed": config.seed,
        "device": backend.device,
        "dtype": config.dtype,
        "threads": config.threads,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Python, the platform, and the packages that arithmetic depends on, if installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("xpnet", "numpy", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def blas_threads() -> int:
    """How many threads the BLAS of this process uses now."""
    pools = threadpoolctl.threadpool_info()
    return max((pool["num_threads"] for pool in pools if pool["user_api"] == "blas"), default=1)


def draw(
    folder: Path,
    network: Sequential,
    history: History,
    tested: Evaluation,
    data: Dataset,
    normalisation: Normalisation,
) -> None:
    """The pictures of a run: curves, confusion matrix, sample predictions, first weights."""
    from xpnet import plots

    plots.training_metrics(history, folder / "training_metrics.png")
    plots.confusion_matrix(tested.confusion, data.classes, folder / "confusion_matrix.png")
    if data.image_shape is None or data.labels is None:
        return
    backend = network.backend
    x = backend.asarray(normalisation.apply(data.x, network.dtype))
    probabilities = backend.to_host(network.predict_probabilities(x))
    chosen = plots.choose_samples(probabilities, data.labels, DRAWN_SAMPLES, network.seed)
    plots.sample_predictions(
        data.x[chosen].reshape(-1, *data.image_shape),
        probabilities[chosen],
        data.labels[chosen],
        data.classes,
        folder / "sample_predictions.png",
    )
    weight = backend.to_host(network.parameters()["0.weight"])
    plots.first_layer_weights(weight, data.image_shape, folder / "weights.png")


if __name__ == "__main__":
    raise SystemExit(main())
