"""No-op tasks of plain Celery; unlike the others it runs in the environment of these benchmarks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from celery import group

from benchmarks.peer import URL, make_app

PATIENCE = 120
"""Seconds to wait for results."""


class Caller:
    def __init__(self) -> None:
        self.app: Any = make_app(os.environ[URL])
        self.task = self.app.tasks["peer.echo"]

    def send(self, number: int) -> Any:
        return self.task.delay(number)

    def call(self, number: int) -> int:
        return self.send(number).get(timeout=PATIENCE)

    def map(self, numbers: Iterable[Any]) -> list[Any]:
        return group((self.task.s(number) for number in numbers), app=self.app)().get(timeout=PATIENCE)

    def payloads(self, size: int, count: int, together: bool) -> float:
        """Send ``count`` times so many bytes and get them back, as a group or one call after the other."""
        values = [os.urandom(size) for _ in range(count)]
        began = time.perf_counter()
        results = self.map(values) if together else [self.call(value) for value in values]
        took = time.perf_counter() - began
        if results != values:
            raise RuntimeError("the results are not what was sent")
        return took
