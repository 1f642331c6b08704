"""Text classification with sparse TF-IDF features: `python examples/text_classification.py`.

The texts are the documentation of SciPy's public functions and classes, which is installed with
scikit-learn; the class of each is the subpackage that it belongs to, such as `signal`. Code,
examples and references are left out, and so are the names of the subpackages. `TfidfVectorizer`
makes a sparse matrix of them, on which `XpnetClassifier` trains without making it dense. Prints the
accuracy on texts that were not trained on and the seconds of training, also for scikit-learn's
`MLPClassifier` with the same parameters and `LogisticRegression` with its defaults. Needs the extra
`sklearn`.
"""

from __future__ import annotations

import inspect
import re
import time
from importlib import import_module

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from xpnet.estimator import XpnetClassifier

SUBJECTS = ("cluster", "fft", "integrate", "interpolate", "linalg", "ndimage", "optimize")
SUBJECTS += ("signal", "sparse", "spatial", "special", "stats")
NETWORK = {"hidden_layer_sizes": (50,), "learning_rate_init": 0.01, "tol": 1e-3, "random_state": 0}
MODELS = {
    "XpnetClassifier": lambda: XpnetClassifier(**NETWORK),
    "MLPClassifier": lambda: MLPClassifier(**NETWORK),
    "LogisticRegression": LogisticRegression,
}


def texts_of(subject: str) -> list[str]:
    """The descriptions in `scipy.<subject>`, without code, each once."""
    module = import_module(f"scipy.{subject}")
    found = {}
    for name in sorted(module.__all__):
        text = inspect.getdoc(getattr(module, name)) or ""
        text = re.split(r"\n(Examples|References|See Also)\n", text)[0]
        if len(text.split()) >= 30:
            found[text] = name
    return list(found)


def main() -> None:
    """Train each model on two thirds of the texts, and score it on the rest."""
    by_subject = {subject: texts_of(subject) for subject in SUBJECTS}
    x = [text for texts in by_subject.values() for text in texts]
    y = [subject for subject, texts in by_subject.items() for _ in texts]
    x_train, x_new, y_train, y_new = train_test_split(
        x, y, test_size=1 / 3, random_state=0, stratify=y
    )
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words=[*SUBJECTS, "scipy"])
    matrix = vectorizer.fit_transform(x_train)
    rows, features = matrix.shape
    share = matrix.nnz / (rows * features)
    print(f"{rows} texts of {len(SUBJECTS)} subjects, {features} features, {share:.2%} not 0")

    for name, make in MODELS.items():
        pipeline = make_pipeline(vectorizer, make())
        start = time.perf_counter()
        pipeline.fit(x_train, y_train)
        seconds = time.perf_counter() - start
        print(f"{name:<20} accuracy {pipeline.score(x_new, y_new):.3f}  {seconds:5.1f} s")
    largest = max(by_subject.values(), key=len)
    print(f"always the largest   accuracy {len(largest) / len(x):.3f}")


if __name__ == "__main__":
    main()
