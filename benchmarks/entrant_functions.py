"""Ours among the entrants: functions that have one or two containers all the time."""

from __future__ import annotations

import time
from typing import Any

import scaleplug

BUSY = -1
"""The input that keeps a container busy, so that what is submitted after it stays in the queue."""

app = scaleplug.App("entrants")


def echo(value: Any) -> Any:
    return value


echoes = {n: app.function(name=f"echo_{n}", min_containers=n, max_containers=n)(echo) for n in (1, 2)}


@app.function(max_containers=1, timeout=3_600)
def held(number: int) -> None:
    if number == BUSY:
        time.sleep(3_000)
