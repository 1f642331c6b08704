"""`python -m bench defaults`: the estimators' scores beside `MLPClassifier`'s and `MLPRegressor`'s.

All with their default parameters, on data sets that scikit-learn has or makes, inputs scaled (and
the targets of regressions). For each seed 30 % of the samples are held out; accuracy and R² there
are compared in pairs of the same split. `--repeats` is the number of seeds, `--workload` names data
sets. The time is CPU time of `fit`, so that other processes disturb it little; processes are not
separated, so start it with one BLAS thread for times that can be compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from bench import machine
from bench.pages import publish
from xpnet.errors import ConfigError
from xpnet.estimator import XpnetClassifier, XpnetRegressor

Data = Callable[[], tuple[Any, Any]]

CLASSIFICATION: dict[str, Data] = {
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "moons": lambda: datasets.make_moons(500, noise=0.25, random_state=0),
    "make_classification": lambda: datasets.make_classification(
        1000, 20, n_informative=10, n_classes=4, random_state=0
    ),
}
REGRESSION: dict[str, Data] = {
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "friedman1": lambda: datasets.make_friedman1(1000, noise=1.0, random_state=0),
    "friedman2": lambda: datasets.make_friedman2(1000, noise=50.0, random_state=0),
    "two targets": lambda: datasets.make_regression(
        500, 10, n_targets=2, noise=5.0, random_state=0
    ),
}


@dataclass(frozen=True)
class Scores:
    """Of one data set: the scores and CPU seconds of each seed, ours and theirs."""

    ours: list[float]
    theirs: list[float]
    our_seconds: list[float]
    their_seconds: list[float]

    @property
    def difference(self) -> float:
        """The mean of ours minus theirs."""
        return statistics.mean(a - b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def standard_error(self) -> float:
        """The standard error of `difference`; NaN for one seed."""
        pairs = [a - b for a, b in zip(self.ours, self.theirs, strict=True)]
        return float(statistics.stdev(pairs) / len(pairs) ** 0.5) if pairs[1:] else float("nan")


def run(options: argparse.Namespace) -> int:
    """The command."""
    known = [*CLASSIFICATION, *REGRESSION]
    if unknown := set(options.workload) - set(known):
        raise ConfigError(f"no data set {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    more = {"max_iter": 3} if options.quick else {}
    found = {}
    for name in options.workload or known:
        found[name] = compare(name, options.repeats, **more)
        print(line(name, found[name]), flush=True)
    scores = {name: asdict(one) for name, one in found.items()}
    figures = {"machine": machine.describe("cpu"), "scores": scores}
    publish(options, "defaults", table(found), figures)
    return 0


def compare(name: str, seeds: int, **parameters: Any) -> Scores:
    """The scores on the data set `name` for seeds from 0; `parameters` are those of all four."""
    is_regression = name in REGRESSION
    x, y = (REGRESSION if is_regression else CLASSIFICATION)[name]()
    kinds = (XpnetRegressor, MLPRegressor) if is_regression else (XpnetClassifier, MLPClassifier)
    found = Scores([], [], [], [])
    for seed in range(seeds):
        stratify = None if is_regression else y
        x_train, x_test, y_train, y_test = train_test_split(
            x, y, test_size=0.3, random_state=seed, stratify=stratify
        )
        scaler = StandardScaler().fit(x_train)
        x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
        if is_regression:
            mean, deviation = y_train.mean(axis=0), y_train.std(axis=0)
            y_train, y_test = (y_train - mean) / deviation, (y_test - mean) / deviation
        lists = ((found.ours, found.our_seconds), (found.theirs, found.their_seconds))
        for kind, (scores, seconds) in zip(kinds, lists, strict=True):
            model, began = kind(random_state=seed, **parameters), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x_train, y_train)
            seconds.append(time.process_time() - began)
            scores.append(float(model.score(x_test, y_test)))
    return found


def table(found: dict[str, Scores]) -> str:
    """Markdown: a row per data set."""
    seeds = len(next(iter(found.values())).ours)
    lines = [
        f"# Estimators beside scikit-learn's MLP: all defaults, inputs scaled, {seeds} seeds",
        "",
        "Mean accuracy (R² of regressions) on held-out samples; the difference of pairs ± its "
        "standard error; median CPU seconds of `fit`.",
        "",
        "| data | xpnet | scikit-learn | difference | xpnet, s | scikit-learn, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *(line(name, scores) for name, scores in found.items())]) + "\n"


def line(name: str, scores: Scores) -> str:
    """The row of a data set."""
    ours, theirs = (float(numpy.mean(s)) for s in (scores.ours, scores.theirs))
    seconds = [statistics.median(s) for s in (scores.our_seconds, scores.their_seconds)]
    difference = f"{scores.difference:+.4f} ± {scores.standard_error:.4f}"
    cells = [name, f"{ours:.4f}", f"{theirs:.4f}", difference, *(f"{s:.2f}" for s in seconds)]
    return f"| {' | '.join(cells)} |"
