"""Classes of unequal size: `python examples/unbalanced_classes.py [OUT.png]`.

About 3 % of the samples belong to class 1. Without weights, the network with the highest accuracy
misses many of them. With `class_weight`, mistakes on them count more in the loss: recall rises and
precision falls. Prints both on new samples, and draws the precision-recall curve of the network
without weights. Needs the extra `sklearn`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import make_classification
from sklearn.metrics import precision_recall_curve, precision_score, recall_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from xpnet.estimator import XpnetClassifier

# {0: 1, 1: w} is what `scale_pos_weight=w` is elsewhere.
WEIGHTS: dict[str, Any] = {"none": None, "{0: 1, 1: 8}": {0: 1, 1: 8}, "balanced": "balanced"}
BLUE, VERMILION = "#0072B2", "#D55E00"


def model(class_weight: Any) -> Pipeline:
    """A small network; the same for all weights."""
    network = XpnetClassifier(
        (16,),
        class_weight=class_weight,
        alpha=1.0,
        learning_rate_init=0.005,
        max_iter=40,
        n_iter_no_change=float("inf"),
        random_state=0,
    )
    return make_pipeline(StandardScaler(), network)


def main(path: Path) -> None:
    """Train with each weight, print precision and recall, and draw them."""
    x, y = make_classification(
        12000, 10, n_informative=4, weights=[0.97], class_sep=0.7, flip_y=0.01, random_state=1
    )
    x_train, x_new, y_train, y_new = train_test_split(
        x, y, test_size=2 / 3, random_state=0, stratify=y
    )
    print(f"class 1: {y_train.mean():.1%} of {len(y_train)} training samples")

    figure = Figure(figsize=(6, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", title="class 1, new samples")
    for name, weight in WEIGHTS.items():
        fitted = model(weight).fit(x_train, y_train)
        found = fitted.predict(x_new)
        precision, recall = precision_score(y_new, found), recall_score(y_new, found)
        print(f"class_weight {name:<12}  precision {precision:.2f}  recall {recall:.2f}")
        if weight is None:
            curve = precision_recall_curve(y_new, fitted.predict_proba(x_new)[:, 1])
            axes.plot(curve[1], curve[0], color=BLUE, label="without weights, every threshold")
        axes.plot(recall, precision, "o", color=VERMILION)
        axes.annotate(name, (recall, precision), xytext=(6, 6), textcoords="offset points")
    axes.legend()
    figure.savefig(path)
    print(f"figure: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "unbalanced_classes.png"))
