"""Prediction intervals by quantiles: `python examples/prediction_intervals.py [OUT.png]`.

One network predicts the 0.05-quantile, the median and the 0.95-quantile of noisy values whose
noise grows with x. On new samples about 90 % of the values should lie within the interval. Needs
the extra `sklearn`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xpnet.estimator import XpnetRegressor

QUANTILES = (0.05, 0.5, 0.95)
BLUE, VERMILION = "#0072B2", "#D55E00"


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`x` `(count, 1)` from 0 to 10, and `y` `(count,)`: `x sin x` and noise that grows with x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, (count, 1))
    noise = rng.standard_normal(count) * (0.5 + 0.25 * x[:, 0])
    return x, x[:, 0] * np.sin(x[:, 0]) + noise


def main(path: Path) -> None:
    """Train, measure the interval on new samples, and draw it."""
    x, y = samples(2000, seed=0)
    network = XpnetRegressor(
        (64, 64),
        loss="quantile",
        quantile=QUANTILES,
        learning_rate_init=0.005,
        max_iter=200,
        n_iter_no_change=float("inf"),
        random_state=0,
    )
    model = make_pipeline(StandardScaler(), network).fit(x, y)

    x_new, y_new = samples(2000, seed=1)
    low, _, high = model.predict(x_new).T
    within = (low <= y_new) & (y_new <= high)
    print(f"within the interval: {within.mean():.1%} of new values (90 % expected)")
    print(f"score (1 - pinball loss / that of a constant): {model.score(x_new, y_new):.3f}")

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="x", ylabel="y")
    line = np.linspace(0, 10, 300).reshape(-1, 1)
    low, middle, high = model.predict(line).T
    axes.scatter(x_new[:500], y_new[:500], s=6, color="#888888", label="new samples")
    axes.fill_between(line[:, 0], low, high, color=BLUE, alpha=0.25, label="5 % to 95 %")
    axes.plot(line[:, 0], middle, color=BLUE, label="median")
    axes.plot(line[:, 0], line[:, 0] * np.sin(line[:, 0]), "--", color=VERMILION, label="x sin x")
    axes.legend()
    figure.savefig(path)
    print(f"figure: {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "prediction_intervals.png"))
