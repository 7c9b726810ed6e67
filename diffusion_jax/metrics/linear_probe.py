"""Linear probe: how much a frozen feature tells, by logistic regression on it (arXiv 2103.00020, appendix A.3).

L-BFGS for at most 1,000 iterations, with an L2 penalty chosen on a validation split. C is scikit-learn's, the inverse
of the penalty's weight. The sweep is the paper's: C of 10^-6, 10^-4 .. 10^6 first, then around the best one at half
the distance, again and again, until eighths of a decade; of equals the smallest C, the strongest penalty. The
chosen C is fitted once more on the training and validation rows together, and the test rows are read once.

Features are taken as they are: the paper's are those before the projection, neither scaled nor normalised.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffusion_jax.typing import UserError

__all__ = ["LinearProbe", "linear_probe"]

Part = tuple[Float[np.ndarray, "_ _"], Int[np.ndarray, " _"]]
"""(features [n, d], labels [n])"""

FINEST = 0.125  # decades between two C at the end


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """What was found: accuracies are shares in [0, 1].

    accuracy: on the test rows. c: the chosen C. validation: accuracy by C, as swept. converged: whether the last fit
    ended within its iterations. model: scikit-learn's, with `predict`.
    """

    accuracy: float
    c: float
    validation: dict[float, float]
    converged: bool
    model: Any = dataclasses.field(repr=False, compare=False)


def linear_probe(
    train: Part,
    test: Part,
    valid: Part | None = None,
    *,
    valid_share: float = 0.2,
    seed: int = 0,
    max_iter: int = 1000,
) -> LinearProbe:
    """Fits and tests a linear classifier of (features [n, d], labels [n]).

    Without `valid`, a share of the training rows, the same of every class, drawn by `seed`, takes its place. 15 fits at
    most for the sweep and one at the end. Raises UserError for parts that differ in width, features that are not
    finite, fewer than two classes, and a class with one row where rows are to be held out.
    """
    parts = {"train": train, "test": test} | ({} if valid is None else {"valid": valid})
    for name, (features, labels) in parts.items():
        _check(name, np.asarray(features), np.asarray(labels), np.shape(train[0]))
    (x, y), (test_x, test_y) = train, test
    if len(np.unique(y)) < 2:
        raise UserError(f"all {len(y)} training rows have the label {y[0]}: a classifier needs two at least")
    if valid is None:
        held = _held_out(y, valid_share, seed)
        fit, check, whole = (x[~held], y[~held]), (x[held], y[held]), (x, y)
    else:
        fit, check, whole = train, valid, (np.concatenate([x, valid[0]]), np.concatenate([y, valid[1]]))
    scores: dict[float, float] = {}

    def score(exponent: float) -> float:
        if exponent not in scores:
            model, _ = _fitted(*fit, 10.0**exponent, max_iter)
            scores[exponent] = float((model.predict(check[0]) == check[1]).mean())
        return scores[exponent]

    step = 2.0
    best = max(np.arange(-6.0, 6.1, step).tolist(), key=lambda e: (score(e), -e))
    while step > FINEST:
        step /= 2
        around = [e for e in (best - step, best, best + step) if -6 <= e <= 6]
        best = max(around, key=lambda e: (score(e), -e))
    model, converged = _fitted(*whole, 10.0**best, max_iter)
    accuracy = float((model.predict(test_x) == test_y).mean())
    return LinearProbe(accuracy, 10.0**best, {10.0**e: scores[e] for e in sorted(scores)}, converged, model)


def _fitted(x: np.ndarray, y: np.ndarray, c: float, max_iter: int) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # is told by `converged`
        model = LogisticRegression(C=c, max_iter=max_iter).fit(x, y)
    return model, bool(np.max(model.n_iter_) < max_iter)


def _held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask of the rows held out: of each class its share, one at least, and never all."""
    if not 0 < share < 1:
        raise UserError(f"valid_share {share} is not between 0 and 1; usual: 0.2")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise UserError(f"class {label} has one training row, none to hold out; give valid, or more rows")
        held[rng.permutation(rows)[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return held


def _check(name: str, features: np.ndarray, labels: np.ndarray, like: tuple[int, ...]) -> None:
    if features.ndim != 2 or labels.shape != (len(features),) or not len(features):
        raise UserError(f"{name} features {features.shape} and labels {labels.shape}: [n, d] and [n] are needed, n > 0")
    if features.shape[1:] != like[1:]:
        raise UserError(f"{name} features have {features.shape[1]} numbers and train features {like[1]}: must be equal")
    if not np.isfinite(features).all():
        raise UserError(f"{name} features of row {int((~np.isfinite(features)).any(axis=1).argmax())} are not finite")
