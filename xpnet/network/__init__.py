"""`Sequential`, and the parts it is made of."""

from xpnet.network.sequential import LAYERS, PREDICTION_ROWS, Sequential

__all__ = ["LAYERS", "PREDICTION_ROWS", "Sequential"]
