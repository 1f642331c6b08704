"""`Sequential`, and the parts it is made of."""

from xpnet.network.architecture import LAYERS
from xpnet.network.predictor import PREDICTION_ROWS
from xpnet.network.sequential import Sequential

__all__ = ["LAYERS", "PREDICTION_ROWS", "Sequential"]
