"""Which parameters of a classifier are best? A task run for each fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from shoal import flow, task, unmapped
from sklearn.datasets import load_digits
from sklearn.model_selection import (
    ParameterGrid,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.svm import SVC

Data = tuple[np.ndarray, np.ndarray]  # images, and the digit on each
Fold = tuple[np.ndarray, np.ndarray]  # whom to learn from, whom to test

GRID = list(ParameterGrid({"C": [0.1, 1, 10], "gamma": [1e-4, 1e-3, 1e-2]}))


@task
def accuracy(options: dict[str, Any], fold: Fold, data: Data) -> float:
    """One fit: learns from a part of the data, is tested on another."""
    images, digits = data
    learn, test = fold
    model = SVC(**options).fit(images[learn], digits[learn])
    return float(model.score(images[test], digits[test]))


@flow(task_runner="processes")
def search(data: Data, folds: int = 3) -> tuple[dict[str, Any], float]:
    """Tries the grid. Returns the best options, and their mean accuracy."""
    splits = list(StratifiedKFold(folds).split(*data))
    pairs = [(options, fold) for options in GRID for fold in splits]
    options, parts = zip(*pairs, strict=True)
    found = accuracy.map(options, parts, unmapped(data)).result()
    means = np.reshape(found, (len(GRID), folds)).mean(axis=1)
    best = int(means.argmax())
    return GRID[best], float(means[best])


if __name__ == "__main__":
    images, digits = (part[:600] for part in load_digits(return_X_y=True))
    options, mean = search((images, digits), folds=3)

    print(options, round(mean, 2))  # prints: {'C': 10, 'gamma': 0.0001} 0.9
    alone = cross_val_score(SVC(**options), images, digits, cv=3)
    assert np.isclose(mean, alone.mean())
