"""Celery's eventlet pool in a container; only a green zygote imports it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import eventlet

from scaleplug.errors import InputCancellation
from scaleplug.worker.pools import watch
from scaleplug.worker.runner import Runner

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # Celery can't see that it was loaded after the patching
    from celery.concurrency import eventlet as celerys


class GreenPool(celerys.TaskPool):  # type: ignore[misc]  # Celery has no types
    """Runs each input in a green thread."""

    runner: Runner
    """Set when the container has made it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._work: threading.Event | None = None

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run one input."""
        if self._work is None:
            self._work = threading.Event()
            self.runner.on_run, self.runner.killer = self._work.set, killer
            threading.Thread(target=watch, args=(self.runner, self._work), daemon=True, name="scaleplug-watch").start()
        return super().on_apply(*args, **kwargs)


def killer() -> Callable[[], object]:
    """Return what interrupts the green thread that asks."""
    current = eventlet.getcurrent()
    return lambda: eventlet.kill(current, InputCancellation)
