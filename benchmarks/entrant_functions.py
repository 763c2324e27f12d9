"""Ours among the entrants: functions that have one or two containers all the time."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

import scaleplug
from scaleplug.server import celery_url

BUSY = -1
"""The input that keeps a container busy, so that what is submitted after it stays in the queue."""

EVENTS = "RIVALS_EVENTS"
"""The environment variable that lets containers send task events, as for Flower."""


def make_app() -> scaleplug.App:
    """Return the app, with a Celery app of its own where that is to send events."""
    if not os.environ.get(EVENTS):
        return scaleplug.App("entrants")
    celery = Celery("entrants", broker=celery_url(os.environ["RIVALS_URL"]))
    celery.conf.worker_send_task_events = True
    return scaleplug.App("entrants", celery=celery)


app = make_app()


def echo(value: Any) -> Any:
    return value


echoes = {n: app.function(name=f"echo_{n}", min_containers=n, max_containers=n)(echo) for n in (1, 2)}


@app.function(max_containers=1, timeout=3_600)
def held(number: int) -> None:
    if number == BUSY:
        time.sleep(3_000)
