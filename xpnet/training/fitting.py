"""`fit()`: trains a network in one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xpnet.backend import on_its_device
from xpnet.distributed.group import Group
from xpnet.losses import Loss
from xpnet.network import Sequential
from xpnet.optimizers import Optimizer
from xpnet.training.augmentation import Augmentation
from xpnet.training.callbacks import Callback
from xpnet.training.checkpoints import Checkpoints
from xpnet.training.fit_data import Part
from xpnet.training.history import History
from xpnet.training.trainer import Trainer


@on_its_device
def fit(
    network: Sequential,
    train: Part,
    validation: Part | None = None,
    *,
    optimizer: Optimizer | str,
    loss: Loss | str | None = None,
    sample_weight: Any = None,
    epochs: int,
    batch_size: int | None = 128,
    l2: float = 0.0,
    clip_norm: float | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    precision: str = "float32",
    log_every: int | str = 1,
    train_metrics: str = "running",
    callbacks: Callback | Iterable[Callback] | None = (),
    history: History | None = None,
    checkpoints: Checkpoints | None = None,
    distributed: Group | None = None,
    reproducible_parts: int = 0,
) -> History:
    """Train `network`, whose weights are changed in place, and return its `History`.

    A second call continues with the present weights of the network.

    **Data**

    - `train`, `validation`: `DeviceData`, a `Dataset`, or a pair of samples and targets, each an
      array, nested lists, a DataFrame or a Series. Samples: `x (N, features)`, or images
      `(N, height, width)` or `(N, height, width, channels)`. Targets: labels are whole numbers from
      0 `(N,)`; a regression loss takes `(N, outputs)`, or `(N,)` for one output. `x` may be a
      matrix of `scipy.sparse`, for a network that begins with `Linear`; it stays on the host, where
      batches are sliced from it. Values are not scaled, not even pixels: scale them first, or give
      `DeviceData` a `Normalisation`. Arrays of other libraries that offer DLPack are shared, not
      copied.
    - `sample_weight`: `(N,)` numbers above 0. The loss of a batch is then `Σ wℓ / Σ w` over its
      samples. Accuracies and evaluation are not weighted.
    - `augmentation`: distorts the images of every training batch, differently each time.

    **Training**

    - `optimizer`, `loss`: an object, or a name for one with default settings: `"sgd"`, `"rmsprop"`,
      `"adam"`, `"adamw"`; `"cross_entropy"` (the default loss), `"binary_cross_entropy"`, `"mse"`,
      `"mae"`, `"huber"`, `"poisson"`, `"quantile"`.
    - `epochs`: the number of passes over the training set.
    - `batch_size`: samples per update; None for all of them (full batch). The last batch of an
      epoch may be smaller.
    - `l2`: λ of `losses.L2Penalty`, where N is the number of training samples.
    - `clip_norm`: the maximum norm of all gradients together, see `ClipNorm`.
    - `seed`: for the order of the samples and for augmentation.
    - `precision`: of matrix products on a GPU: `"float32"`, or the faster and less precise `"tf32"`
      and `"bfloat16"`. The weights stay float32; see `xpnet.accel.cublas`.

    **Records, callbacks, checkpoints**

    - `log_every`: a record is written every so many epochs (`1`, `"50 epochs"`) or updates
      (`"500 iterations"`), and at the end.
    - `train_metrics`: `"running"`: the training loss and accuracy of a record are means over the
      batches since the last record, each measured before its update, with augmentation and
      dropout. `"evaluated"`: they are measured without these, by one more pass over the training
      set.
    - `callbacks`: one, or several.
    - `history`: a `History` to append to; it keeps the records even after an exception.
    - `checkpoints`: where checkpoints are written. If the folder contains a checkpoint of this
      training, training continues from it, with the same result as without the interruption
      (bit-identical on the CPU).

    **Several processes**

    - `distributed`: the group of processes that train together, such as `xpnet.distributed.mpi()`.
      Each process calls `fit()` with the same arguments. Afterwards each has the same network as
      one process alone would have, up to rounding. `batch_size` is that of all ranks together.
    - `reproducible_parts`: a power of two, the number of parts in which each batch is computed. The
      weights then have the same bits for every number of ranks that divides it. 0: they differ in
      the last digits.

    Several threads may train at once, even with the same `DeviceData`, loss or augmentation; a
    network, optimizer, history or callback can be used by one `fit()` at a time. They share the
    number of threads of NumPy's BLAS, which one of them may set to 1 for a moment: with more than
    one, the last digits may differ from those of a training alone (`docs/performance.md`).

    Raises, before training begins:

    - `ConfigError`, `DataError`, `ShapeError` or `DeviceMismatch` for invalid arguments, naming the
      argument, and the row and column of a value that is not a finite number; also for a
      `BatchNorm` with a batch of one row, `EarlyStopping` without validation, and objects that
      another `fit()` is using;
    - `CheckpointError` for a checkpoint of another training.

    Raises `DivergenceError` at the first record or checkpoint where a loss or a weight is not
    finite.
    """
    return Trainer(
        network,
        optimizer=optimizer,
        loss=loss,
        l2=l2,
        clip_norm=clip_norm,
        augmentation=augmentation,
        seed=seed,
        precision=precision,
        callbacks=callbacks,
        distributed=distributed,
        reproducible_parts=reproducible_parts,
    ).fit(
        train,
        validation,
        sample_weight=sample_weight,
        epochs=epochs,
        batch_size=batch_size,
        log_every=log_every,
        train_metrics=train_metrics,
        history=history,
        checkpoints=checkpoints,
    )
