"""No-op messages of dramatiq, with its Redis broker and results."""

from __future__ import annotations

import os
from collections.abc import Iterable

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["RIVALS_URL"]
PATIENCE = 90_000
"""Milliseconds to wait for results."""

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing(number: int) -> int:
    return number


class Caller:
    def send(self, number: int) -> dramatiq.Message:
        return nothing.send(number)

    def call(self, number: int) -> int:
        return self.send(number).get_result(block=True, timeout=PATIENCE)

    def map(self, numbers: Iterable[int]) -> list[int]:
        sent = dramatiq.group(nothing.message(number) for number in numbers).run()
        return list(sent.get_results(block=True, timeout=PATIENCE))
