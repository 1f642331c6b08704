"""Classes, labels, values and probabilities from the outputs of a network."""

from __future__ import annotations

from typing import Any

from xpnet.backend import Array, argmax, array_module, on_its_device
from xpnet.errors import ConfigError
from xpnet.layers.activations import Sigmoid, Softmax, sigmoid, softmax
from xpnet.layers.base import Layer
from xpnet.layers.dropout import Dropout, Dropout2d, GaussianNoise
from xpnet.layers.shapes import Shape


class Predictions(Layer):
    """The prediction methods of `Sequential` (a mixin)."""

    metadata: dict[str, Any]
    prediction: str | None
    target_shape: tuple[int, ...] | None
    out_features: int
    _out_shape: Shape
    _layers: tuple[Layer, ...]

    def forward(self, x: Any, *, training: bool = False) -> Array:
        """See `Sequential`."""
        raise NotImplementedError

    @on_its_device
    def predict(self, x: Any) -> Array:
        """The prediction for each row of `x`: `(N, in_features)`.

        It depends on the training loss. `SoftmaxCrossEntropy`: the most likely class, `(N,)` int64;
        `SigmoidBinaryCrossEntropy`: 1 where the probability is above a half, else 0, int64;
        `Poisson`: the rates, `exp` of the outputs; any other loss: the outputs. Labels, rates and
        values have the shape of the training targets, `(N,)` or `(N, out_features)`. An untrained
        network predicts the class, or the value if it has one output.
        """
        kind = self._answers()
        outputs = self.forward(x)
        xp = array_module(outputs)
        if kind == "class":
            return argmax(outputs)
        if kind == "labels":
            outputs = (outputs > 0).astype(xp.int64)
        if kind == "rates":
            xp.exp(outputs, out=outputs)
        if self.target_shape == () and self.out_features == 1:
            outputs = outputs.reshape(len(outputs))
        return outputs

    @on_its_device
    def predict_proba(self, x: Any) -> Array:
        """The probability of each class or label: `(N, in_features) -> (N, out_features)`.

        The softmax of the logits, so that rows sum to 1; for a network trained with
        `SigmoidBinaryCrossEntropy`, the sigmoid of each. For a network that ends in `Softmax` or
        `Sigmoid`, the outputs unchanged. Raises `ConfigError` for a network without probabilities:
        one trained on values, or of a single output.
        """
        makes = self.probabilities_by()
        p = self.forward(x)
        xp = array_module(p)
        if makes == "sigmoid":
            return sigmoid(xp, p, out=xp.empty_like(p), scratch=xp.empty_like(p))
        if makes == "softmax":
            total = xp.empty((len(p), 1), dtype=p.dtype)
            return softmax(xp, p, axis=1, shifted=p, total=total, out=p)
        return p

    def probabilities_by(self) -> str:
        """The function from outputs to probabilities: `"softmax"`, `"sigmoid"` or `"identity"`.

        Raises `ConfigError` for a network without probabilities, as `predict_proba` does.
        """
        if isinstance(self.output_layer(), Softmax | Sigmoid):
            return "identity"
        kind = self._answers()
        if kind in ("values", "rates"):
            what = "was trained on values" if self.prediction else "has a single output"
            raise ConfigError(f"the network {what}, so it has no probabilities: use predict()")
        return "sigmoid" if kind == "labels" else "softmax"

    def output_layer(self) -> Layer:
        """The last layer that does something in prediction, within a container its own."""
        last = self._layers[self.last_active()]
        return last.output_layer() if isinstance(last, Predictions) else last

    def last_active(self) -> int:
        """The position of the last layer that is not the identity in prediction."""
        inactive = (Dropout, Dropout2d, GaussianNoise)
        active = [p for p, x in enumerate(self._layers) if type(x) not in inactive]
        return active[-1] if active else 0

    def _answers(self) -> str:
        if len(self._out_shape) != 1:
            raise ConfigError(
                f"the network gives images {self._out_shape}, which are not class scores or "
                f"values: end it with Flatten() and a Linear, or call network(x) to get the images"
            )
        is_classifier = self.out_features > 1 or "classes" in self.metadata
        return self.prediction or ("class" if is_classifier else "values")
