"""No-op jobs of arq: the worker's settings, and its caller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job

SETTINGS = RedisSettings.from_dsn(os.environ["RIVALS_URL"])
AT_ONCE = 200
"""Calls that one gather sends or awaits."""
POLL = 0.005
"""Seconds; arq's default is 0.5, so that a call would take half a second."""
PATIENCE = 90


async def nothing(_ctx: dict, number: int) -> int:
    return number


class WorkerSettings:
    functions = (nothing,)
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = POLL


class Caller:
    pool: ArqRedis | None = None

    async def send(self, number: int) -> Job:
        if self.pool is None:
            self.pool = await create_pool(SETTINGS)
        return await self.pool.enqueue_job("nothing", number)

    async def call(self, number: int) -> int:
        return await (await self.send(number)).result(timeout=PATIENCE, poll_delay=POLL)

    async def map(self, numbers: Iterable[int]) -> list[int]:
        numbers, jobs, results = list(numbers), [], []
        for first in range(0, len(numbers), AT_ONCE):
            jobs += await asyncio.gather(*(self.send(number) for number in numbers[first : first + AT_ONCE]))
        for first in range(0, len(jobs), AT_ONCE):
            some = jobs[first : first + AT_ONCE]
            results += await asyncio.gather(*(job.result(timeout=PATIENCE, poll_delay=POLL) for job in some))
        return results
