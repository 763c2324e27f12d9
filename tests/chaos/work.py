"""Functions for faults: each writes down in Redis's absence, too, which input ran where and when."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import scaleplug

app = scaleplug.App("faulty")


def _write(folder: str, line: str) -> None:
    # One small write to a file opened for appending is whole.
    with Path(folder, f"ran-{os.getpid()}").open("a") as file:
        file.write(f"{line}\n")


@app.function(max_containers=4, scaledown_window=60)
def alone(folder: str, x: int, seconds: float) -> int:
    """Run one input at a time."""
    time.sleep(seconds)
    _write(folder, f"{x} {time.time()}")
    return x


@app.function(max_containers=2, scaledown_window=60)
@scaleplug.concurrent(max_inputs=4)
def in_threads(folder: str, x: int, seconds: float) -> int:
    """Run several inputs in threads."""
    time.sleep(seconds)
    _write(folder, f"{x} {time.time()}")
    return x


@app.function(max_containers=2, scaledown_window=60)
@scaleplug.concurrent(max_inputs=4)
async def in_loop(folder: str, x: int, seconds: float) -> int:
    """Run several inputs as tasks."""
    await asyncio.sleep(seconds)
    _write(folder, f"{x} {time.time()}")
    return x


@app.function(max_containers=1)
def fresh(x: int) -> int:
    """Have no container until it is called."""
    return x


POOLS = {"solo": alone, "threads": in_threads, "asyncio": in_loop}
