"""The functions that are measured. Numbered ones are alike, so that one of which nothing was learned can be called."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Iterator

import scaleplug
from benchmarks import bodies
from scaleplug.server import connect

ROUNDS = 3
"""How many of each numbered kind there are."""

app = scaleplug.App("benchmarks")


@app.function(scaledown_window=2)
def cold() -> None:
    pass


@app.function(max_containers=1)
def warm(number: int) -> int:
    return number


@app.function(max_containers=100)
def resting(seconds: float) -> int:
    return bodies.hold(seconds)


@app.function(scaledown_window=2)
def adjusted() -> None:
    pass


@app.function(max_containers=2)
def note(path: str, seconds: float) -> None:
    bodies.note(path, seconds)


@app.function(max_containers=1)
def count_up(items: int, pause: float = 0.0) -> Iterator[tuple[int, float]]:
    for number in range(items):
        yield number, time.time()
        if pause:
            bodies.hold(pause)


@app.function(max_containers=1)
def push_up(url: str, key: str, items: int, pause: float = 0.0) -> None:
    """Do the same with one RPUSH for each item."""
    with contextlib.closing(connect(url)) as client:
        for number in range(items):
            client.rpush(key, pickle.dumps((number, time.time())))
            if pause:
                bodies.hold(pause)


def hold(seconds: float) -> int:
    return bodies.hold(seconds)


bursts = [app.function(name=f"burst_{n}", max_containers=100, scaledown_window=2)(hold) for n in range(ROUNDS)]
shorts = [app.function(name=f"short_{n}", max_containers=200, scaledown_window=2)(hold) for n in range(ROUNDS)]
