"""`XpnetClassifier`, `XpnetRegressor`: xpnet with the scikit-learn interface (extra `sklearn`).

Both build a `Sequential` and train it by `fit()`; this package adds what scikit-learn needs.
Parameters that `MLPClassifier` has too have the same names and meaning.
"""

from __future__ import annotations

try:
    from xpnet.estimator._classifier import XpnetClassifier
    from xpnet.estimator._regressor import XpnetRegressor
except ImportError as error:
    raise ImportError(
        f"xpnet.estimator needs scikit-learn 1.6 or later ({error}): pip install scikit-learn"
    ) from error

__all__ = ["XpnetClassifier", "XpnetRegressor"]
