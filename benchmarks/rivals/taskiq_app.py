"""No-op tasks of taskiq: the broker its worker serves, and its caller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ["RIVALS_URL"]
AT_ONCE = 100
"""Calls that one gather sends or awaits."""
POLL = 0.005
"""Seconds; taskiq's default is 0.2."""
PATIENCE = 90

broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL, result_ex_time=600))


@broker.task
async def nothing(number: int) -> int:
    return number


class Caller:
    started = False

    async def send(self, number: int) -> Any:
        if not self.started:
            self.started = True
            await broker.startup()
        return await nothing.kiq(number)

    async def call(self, number: int) -> int:
        return await result_of(await self.send(number))

    async def map(self, numbers: Iterable[int]) -> list[int]:
        numbers, tasks, results = list(numbers), [], []
        for first in range(0, len(numbers), AT_ONCE):
            tasks += await asyncio.gather(*(self.send(number) for number in numbers[first : first + AT_ONCE]))
        for first in range(0, len(tasks), AT_ONCE):
            results += await asyncio.gather(*map(result_of, tasks[first : first + AT_ONCE]))
        return results


async def result_of(task: Any) -> int:
    return (await task.wait_result(check_interval=POLL, timeout=PATIENCE)).return_value
