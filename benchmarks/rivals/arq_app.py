"""No-op jobs of arq: the worker's settings, and a caller that prints how long its jobs took."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from arq import create_pool
from arq.connections import RedisSettings

SETTINGS = RedisSettings.from_dsn(os.environ["RIVALS_URL"])
AT_ONCE = 500


async def nothing(_ctx: dict, number: int) -> int:
    return number


class WorkerSettings:
    functions = (nothing,)
    redis_settings = SETTINGS
    max_jobs = 1_000
    poll_delay = 0.01
    keep_result = 60


async def main(jobs: int) -> None:
    """Send jobs and wait until the queue is empty: their results are not even read."""
    pool = await create_pool(SETTINGS)
    warm = await pool.enqueue_job("nothing", -1)
    await warm.result(timeout=30, poll_delay=0.01)
    began = time.perf_counter()
    for first in range(0, jobs, AT_ONCE):
        await asyncio.gather(*(pool.enqueue_job("nothing", n) for n in range(first, min(jobs, first + AT_ONCE))))
    while await pool.zcard("arq:queue"):  # noqa: ASYNC110  # it is in Redis
        await asyncio.sleep(0.005)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
