"""One estimator asked in many threads answers as it does alone, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed

from xpnet.estimator import XpnetClassifier, XpnetRegressor

THREADS, CALLS = 8, 3000
X = np.random.default_rng(0).standard_normal((500, 12))
Y = X[:, 0] + X[:, 1] ** 2


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    options: dict[str, Any] = {
        "hidden_layer_sizes": (32, 16),
        "max_iter": 5,
        "n_iter_no_change": np.inf,
        "dropout": 0.2,
        "random_state": 0,
    }
    classes = np.digitize(Y, [0, 1, 2])
    return {
        "classifier": XpnetClassifier(**options).fit(X, classes),
        "regressor": XpnetRegressor(**options).fit(X, Y),
    }


METHODS = [
    ("classifier", "predict"),
    ("classifier", "predict_proba"),
    ("classifier", "predict_log_proba"),
    ("regressor", "predict"),
]


def rows_of(call: int) -> np.ndarray:
    """A batch of its own for each call: of one row to seven."""
    start = call * 7 % 490
    return X[start : start + 1 + call % 7]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_eight_threads_answer_as_one(kind: str, method: str, fitted: dict[str, Any]) -> None:
    ask: Callable[[np.ndarray], np.ndarray] = getattr(fitted[kind], method)
    alone = [ask(rows_of(call)) for call in range(CALLS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda call: ask(rows_of(call)), range(CALLS)))
    wrong = sum(not np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert wrong == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_joblibs_threads_answer_as_one(kind: str, method: str, fitted: dict[str, Any]) -> None:
    ask = getattr(fitted[kind], method)
    alone = [ask(rows_of(call)) for call in range(400)]
    together = Parallel(n_jobs=THREADS, backend="threading")(
        delayed(ask)(rows_of(call)) for call in range(400)
    )
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
