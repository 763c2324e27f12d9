"""No-op jobs of rq, sent in bulk where it can, whose results are waited for one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable

from redis import Redis
from rq import Queue
from rq.job import Job

PATIENCE = 90
"""Seconds to wait for a result."""


def nothing(number: int) -> int:
    return number


class Caller:
    def __init__(self) -> None:
        self.queue = Queue(connection=Redis.from_url(os.environ["RIVALS_URL"]))

    def send(self, number: int) -> Job:
        return self.queue.enqueue(nothing, number)

    def call(self, number: int) -> int:
        return self.send(number).latest_result(timeout=PATIENCE).return_value

    def map(self, numbers: Iterable[int]) -> list[int]:
        jobs = self.queue.enqueue_many([Queue.prepare_data(nothing, (number,)) for number in numbers])
        return [job.latest_result(timeout=PATIENCE).return_value for job in jobs]
