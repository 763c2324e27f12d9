"""The peer: a plain Celery app with the same bodies, as ``celery -A benchmarks.peer worker`` finds it."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks import bodies

URL = "BENCHMARKS_REDIS_URL"
"""The environment variable that tells a worker its Redis."""
SERIALIZER = "BENCHMARKS_SERIALIZER"
"""The one that tells callers and workers to use pickle in place of JSON."""


def nothing() -> None:
    pass


def echo(number: int) -> int:
    return number


def make_app(url: str) -> Celery:
    """Return the app with Celery's default settings; only ``note`` is acknowledged late, so that it can come back."""
    made = Celery("peer", broker=url, backend=url)
    if serializer := os.environ.get(SERIALIZER):
        made.conf.update(task_serializer=serializer, result_serializer=serializer, accept_content=[serializer])
    for function in (nothing, echo, bodies.hold):
        made.task(name=f"peer.{function.__name__}")(function)
    made.task(name="peer.note", acks_late=True)(bodies.note)
    made.finalize()
    return made


app = make_app(os.environ.get(URL, "memory://"))
