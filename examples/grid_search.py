"""A grid search: which classifier, with which hyperparameters, reads handwritten digits best?

    scaleplug run examples/grid_search.py
    scaleplug run examples/grid_search.py --steps 3 --folds 10

Every candidate is one input: it trains and cross-validates a scikit-learn model in a container. The first round gives every
candidate one round of cross-validation, with `map`. The second gives the best ones more, on other splits, with `starmap`.
"""

import os
import statistics
import time
from itertools import product

# One thread in each container: the containers are what runs in parallel. It must be set before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Imported and loaded here, once: containers are forked from a process that has done so, and share its memory.
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier  # noqa: E402
from sklearn.model_selection import StratifiedKFold, cross_val_score  # noqa: E402
from sklearn.svm import SVC  # noqa: E402

import scaleplug  # noqa: E402

MODELS = {"svc": SVC, "random forest": RandomForestClassifier, "extra trees": ExtraTreesClassifier}
IMAGES, DIGITS = load_digits(return_X_y=True)

app = scaleplug.App("grid-search")


@app.function(max_containers=16, scaledown_window=2)
def evaluate_model(candidate, folds, seed=0):
    """Return the accuracy in each fold, and which container has found it."""
    kind, parameters = candidate
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_score(MODELS[kind](**parameters), IMAGES, DIGITS, cv=splits)
    return scores.tolist(), os.getpid()


def make_grid(steps):
    """Return (kind, parameters) of every candidate: 3 * steps * steps of them."""
    costs = [10 ** (2 * i / max(1, steps - 1)) for i in range(steps)]  # 1 to 100
    gammas = [10 ** (2 * i / max(1, steps - 1) - 4.5) for i in range(steps)]  # 0.00003 to 0.003
    grid = [("svc", {"C": c, "gamma": gamma}) for c, gamma in product(costs, gammas)]
    trees = [20 * (i + 1) for i in range(steps)]
    depths = [4 + 4 * i for i in range(steps)]
    for kind in ("random forest", "extra trees"):
        grid += [(kind, {"n_estimators": n, "max_depth": d, "random_state": 0}) for n, d in product(trees, depths)]
    return grid


def show(ranking, console):
    """Print (candidate, scores) pairs as a table."""
    table = Table("rank", "model", "parameters", "accuracy", "spread", "folds")
    for rank, ((kind, parameters), scores) in enumerate(ranking, 1):
        shown = ", ".join(f"{k}={v:.3g}" for k, v in parameters.items() if k != "random_state")
        accuracy, spread = f"{statistics.mean(scores):.2%}", f"{statistics.pstdev(scores):.2%}"
        table.add_row(str(rank), kind, shown, accuracy, spread, str(len(scores)))
    console.print(table)


@app.local_entrypoint()
def main(steps: int = 5, folds: int = 5, finalists: int = 8, rounds: int = 4):
    """Search a grid of 3 * STEPS * STEPS candidates."""
    console, began, containers = Console(), time.monotonic(), set()
    grid = make_grid(steps)
    console.print(f"{len(grid)} candidates, {len(grid) * folds} models to train")

    found = []
    for candidate, (scores, container) in zip(grid, evaluate_model.map(grid, kwargs={"folds": folds}), strict=True):
        found.append((candidate, scores))
        containers.add(container)
    found.sort(key=lambda pair: statistics.mean(pair[1]), reverse=True)

    best = found[:finalists]
    console.print(f"{len(best)} finalists, {len(best) * folds * rounds} more models to train")
    again = [(candidate, folds, seed) for candidate, _ in best for seed in range(1, rounds + 1)]
    for (candidate, _, _), (scores, container) in zip(again, evaluate_model.starmap(again), strict=True):
        next(known for known in best if known[0] == candidate)[1].extend(scores)
        containers.add(container)
    best.sort(key=lambda pair: statistics.mean(pair[1]), reverse=True)

    show(best, console)
    models = (len(grid) + len(best) * rounds) * folds
    console.print(f"{models} models on {len(containers)} containers in {time.monotonic() - began:.1f} s")
