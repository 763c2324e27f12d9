"""An app whose containers send task events; the one that is prepared first goes Celery's way."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from celery import Celery

import scaleplug

celery = Celery("flowers", broker=os.environ.get("FLOWERS_BROKER", "memory://"))
celery.conf.worker_send_task_events = True
celery.conf.broker_connection_retry_on_startup = True
app = scaleplug.App("flowers", celery=celery)


@app.function(max_containers=1, scaledown_window=2)
@scaleplug.concurrent(max_inputs=4)
async def several(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.function(max_containers=2, scaledown_window=2)
def held(path: str, number: int) -> int:
    """Wait for a file."""
    while not Path(path).exists():
        time.sleep(0.01)
    return number


@app.function(max_containers=1, scaledown_window=2)
def resists(seconds: float) -> None:
    """Go on, whatever interrupts."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.01)
        except BaseException:  # noqa: BLE001  # that is what it is for
            continue


@app.function(max_containers=2, scaledown_window=2)
def short(number: int) -> int:
    return number


@app.function(max_containers=1, scaledown_window=60)
def lasting() -> int:
    return os.getpid()
