"""No-op tasks of taskiq: the broker its worker serves, and a caller that prints how long its tasks took."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import redis.asyncio
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ["RIVALS_URL"]
AT_ONCE = 100

broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL, result_ex_time=60))


@broker.task
async def nothing(number: int) -> int:
    return number


async def main(tasks: int) -> None:
    """Send tasks and wait until there is a result of each: they are not read."""
    await broker.startup()
    warm = await nothing.kiq(-1)
    await warm.wait_result(check_interval=0.01, timeout=30)
    async with redis.asyncio.from_url(URL) as client:
        before = await client.dbsize()
        began = time.perf_counter()
        for first in range(0, tasks, AT_ONCE):
            await asyncio.gather(*(nothing.kiq(n) for n in range(first, min(tasks, first + AT_ONCE))))
        while await client.dbsize() < before + tasks:  # noqa: ASYNC110  # it is in Redis
            await asyncio.sleep(0.005)
        print(time.perf_counter() - began)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
