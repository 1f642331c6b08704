"""`fit()` and what belongs to it: data on the device, callbacks, history, checkpoints."""

from xpnet.training.trainer import TRAIN_METRICS, Evaluation, evaluate, fit, train_step

__all__ = ["TRAIN_METRICS", "Evaluation", "evaluate", "fit", "train_step"]
