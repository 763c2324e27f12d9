"""The functions of which a container runs several inputs at once, and their likes that run one at a time."""

from __future__ import annotations

import asyncio
import time

import scaleplug

app = scaleplug.App("shared")


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=1_000)
async def sleep_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=10)
def sleep_threads(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=1_000)
async def nothing(number: int) -> int:
    return number


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def compute(seconds: float) -> float:
    """Keep the interpreter busy for so much of this thread's own CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


async def wait_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def compute_async(seconds: float) -> float:
    return compute(seconds)


def _in(pool: str, function: object) -> object:
    kinds = {"threads": {}, "eventlet": {"pool": "eventlet"}, "asyncio": {}}
    marked = function if pool == "solo" else scaleplug.concurrent(max_inputs=50, **kinds[pool])(function)
    return app.function(max_containers=1, name=f"{function.__name__}_{pool}", serialized=True)(marked)


waits = {
    pool: _in(pool, wait_async if pool == "asyncio" else wait) for pool in ("solo", "threads", "asyncio", "eventlet")
}
computes = {
    pool: _in(pool, compute_async if pool == "asyncio" else compute)
    for pool in ("solo", "threads", "asyncio", "eventlet")
}
