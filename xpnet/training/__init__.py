"""`fit()` and what belongs to it: data on the device, callbacks, history, checkpoints."""

from xpnet.training.evaluation import Evaluation, evaluate
from xpnet.training.fitting import fit
from xpnet.training.step import TrainStep, train_step
from xpnet.training.trainer import TRAIN_METRICS, Trainer

__all__ = ["TRAIN_METRICS", "Evaluation", "TrainStep", "Trainer", "evaluate", "fit", "train_step"]
