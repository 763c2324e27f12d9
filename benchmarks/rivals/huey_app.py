"""No-op tasks of huey, which notifies callers of results as its documentation offers for low latency."""

from __future__ import annotations

import os
from collections.abc import Iterable

from huey import RedisHuey

PATIENCE = 90
"""Seconds to wait for a result."""

huey = RedisHuey("rivals", url=os.environ["RIVALS_URL"], notify_result=True)


@huey.task()
def nothing(number: int) -> int:
    return number


class Caller:
    def send(self, number: int) -> object:
        return nothing(number)

    def call(self, number: int) -> int:
        return nothing(number).get(blocking=True, timeout=PATIENCE)

    def map(self, numbers: Iterable[int]) -> list[int]:
        return nothing.map(numbers).get(blocking=True, timeout=PATIENCE)
