"""A Celery app that accepts pickles, as old ones do, with a function plugged into it."""

from __future__ import annotations

from celery import Celery

import scaleplug

celery = Celery("pickling", broker="memory://", backend="cache+memory://")
celery.conf.update(task_serializer="pickle", result_serializer="pickle", accept_content=["pickle", "yaml", "json"])
app = scaleplug.App("pickling", celery=celery)


@app.function(max_containers=1)
def twofold(x: int) -> int:
    """Return twice as much."""
    return 2 * x
