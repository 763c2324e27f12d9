"""A Celery app with settings and tasks of its own, and functions plugged into it."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task

import scaleplug


class ContextTask(Task):  # type: ignore[misc]
    """Opens something around every task, as Flask's pattern does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        os.environ["PLUGGED_CONTEXT"] = "open"
        try:
            return self.run(*args, **kwargs)
        finally:
            del os.environ["PLUGGED_CONTEXT"]


celery = Celery("project", broker="memory://", backend="cache+memory://", task_cls=ContextTask)
celery.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"], task_default_queue="own")
before = dict(celery.conf)


@celery.task  # type: ignore[untyped-decorator]
def plain(x: int) -> int:
    """Be an ordinary task."""
    return x + 1


app = scaleplug.App("plugged", celery=celery)


@app.function(max_containers=2)
def context(x: int) -> tuple[int, str | None]:
    """Tell whether the app's own Task class was at work."""
    return x, os.environ.get("PLUGGED_CONTEXT")


@app.function(max_containers=1)
async def later(x: int) -> int:
    """Be asynchronous."""
    return x * 2
