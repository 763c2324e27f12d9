"""An app whose containers send task events, which go through Celery's own broker."""

from __future__ import annotations

import os

from celery import Celery

import scaleplug

celery = Celery("watched", broker=os.environ.get("WATCHED_BROKER", "memory://"))
celery.conf.worker_send_task_events = True
app = scaleplug.App("watched", celery=celery)


@app.function(max_containers=1)
def shown(x: int) -> int:
    """Fail for one."""
    if x == 13:
        raise ValueError("thirteen")
    return x
