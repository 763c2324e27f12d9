"""Search a grid: which classifier, with which hyperparameters, reads handwritten digits best.

    scaleplug run examples/grid_search.py
    scaleplug run examples/grid_search.py --steps 3 --folds 10

Every input trains and cross-validates one scikit-learn model in a container. The first round looks at every candidate
once, with `map`; the second looks closer at the best of each kind, on other splits of the data, with `starmap`. Last,
the winner is checked in this process, with `local`: by then the containers are leaving.
"""

import os
import statistics
import time
from itertools import product

# One thread per container: the containers are what runs in parallel. It must be said before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Imported and loaded up here, so once: containers are forked from a process that has done it, and share its memory.
from rich.box import SIMPLE  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier  # noqa: E402
from sklearn.model_selection import StratifiedKFold, cross_val_score  # noqa: E402
from sklearn.svm import SVC  # noqa: E402

import scaleplug  # noqa: E402

KINDS = {"svc": SVC, "random forest": RandomForestClassifier, "extra trees": ExtraTreesClassifier}
IMAGES, DIGITS = load_digits(return_X_y=True)

app = scaleplug.App("grid-search")


@app.function(max_containers=16, scaledown_window=2)
def evaluate_model(kind, parameters, folds, seed=0):
    """Return the accuracy in every fold, and which process found it."""
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_score(KINDS[kind](**parameters), IMAGES, DIGITS, cv=splits)
    return scores.tolist(), os.getpid()


def make_grid(steps):
    """Return (kind, parameters) of every candidate: 3 * steps * steps of them."""
    places = [i / max(1, steps - 1) for i in range(steps)]  # evenly from 0 to 1
    grid = [("svc", {"C": 10 ** (2 * a), "gamma": 10 ** (2 * b - 4.5)}) for a, b in product(places, places)]
    for kind in ("random forest", "extra trees"):
        for a, b in product(places, places):
            grid.append((kind, {"n_estimators": 20 + int(40 * a), "max_depth": 4 + int(12 * b), "random_state": 0}))
    return grid


def ranked(found):
    return sorted(found, key=lambda candidate: statistics.mean(candidate[2]), reverse=True)


def print_table(console, found):
    table = Table("rank", "model", "hyperparameters", "accuracy", "spread", "folds", box=SIMPLE)
    for rank, (kind, parameters, scores) in enumerate(ranked(found), 1):
        shown = ", ".join(f"{name}={value:.3g}" for name, value in parameters.items() if name != "random_state")
        accuracy, spread = f"{statistics.mean(scores):.2%}", f"{statistics.stdev(scores):.2%}"
        table.add_row(str(rank), kind, shown, accuracy, spread, str(len(scores)))
    console.print(table)


@app.local_entrypoint()
def main(steps: int = 4, folds: int = 5, finalists: int = 3, rounds: int = 2):
    """Search a grid of 3 * STEPS * STEPS candidates; the FINALISTS of each kind get ROUNDS more looks."""
    console, began, processes = Console(), time.monotonic(), set()

    grid = make_grid(steps)
    console.print(f"{len(grid)} candidates: {len(grid) * folds} models to train")
    kinds, parameters = zip(*grid, strict=True)
    results = evaluate_model.map(kinds, parameters, kwargs={"folds": folds})
    found = []
    for candidate, (scores, pid) in zip(grid, results, strict=True):
        found.append((*candidate, scores))
        processes.add(pid)

    best = [candidate for kind in KINDS for candidate in ranked(c for c in found if c[0] == kind)[:finalists]]
    closer = [(candidate, seed) for candidate in best for seed in range(1, rounds + 1)]
    console.print(f"{len(best)} finalists: {len(closer) * folds} models more")
    inputs = [(kind, parameters, folds, seed) for (kind, parameters, _), seed in closer]
    for (candidate, _), (scores, pid) in zip(closer, evaluate_model.starmap(inputs), strict=True):
        candidate[2].extend(scores)
        processes.add(pid)

    print_table(console, best)
    kind, parameters, _ = ranked(best)[0]
    scores, _ = evaluate_model.local(kind, parameters, folds=min(100, 10 * folds))
    console.print(f"the winner, in {len(scores)} folds: {statistics.mean(scores):.2%}")
    models = (len(grid) + len(closer)) * folds + len(scores)
    console.print(f"{models} models, {len(processes)} containers, {time.monotonic() - began:.0f} s")
