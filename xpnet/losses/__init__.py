"""Losses: computed from the outputs of the last linear layer (logits), averaged over the batch.

A loss includes the output activation that belongs to it, such as softmax. For classification the
gradient is then a difference of two probabilities, and nothing is divided by a number that may be
0.

`forward(...)` returns a 0-d array on the device (without synchronisation); `backward()` returns
`∂L/∂logits` of that *mean* loss. Both are buffers, which the next call overwrites.
"""

from xpnet.losses.base import Loss
from xpnet.losses.classification import SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from xpnet.losses.penalty import L2Penalty
from xpnet.losses.regression import Huber, MeanAbsoluteError, MeanSquaredError, Poisson, Quantile

__all__ = [
    "Huber",
    "L2Penalty",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Poisson",
    "Quantile",
    "SigmoidBinaryCrossEntropy",
    "SoftmaxCrossEntropy",
]
