"""Ours as an entrant: a run of its own on the shared Redis, and its caller. The module for ``rivals/serve.py``."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from benchmarks import entrant_functions as functions
from benchmarks.peaks import Peaks
from benchmarks.surroundings import surroundings


class Caller:
    """``RIVALS_WORKERS`` says how many containers there are: always so many, none for what is only submitted."""

    def __init__(self) -> None:
        stack = ExitStack()
        atexit.register(stack.close)
        self.containers = int(os.environ["RIVALS_WORKERS"])
        self.function: Any = functions.echoes.get(self.containers, functions.held)
        self.around = stack.enter_context(surroundings(functions.app, self.function))
        if not self.containers:
            self.busy = self.function.spawn(functions.BUSY)
            stack.callback(self.busy.cancel)
            while not self.around.store.census([self.function.full_name])[self.function.full_name].running:
                time.sleep(0.01)

    def send(self, number: int) -> Any:
        return self.function.spawn(number)

    def call(self, number: int) -> int:
        return self.function.remote(number)

    def map(self, numbers: Iterable[Any]) -> list[Any]:
        return list(self.function.map(numbers))

    def submit_map(self, inputs: int) -> float:
        """Return how long ``spawn_map`` takes."""
        began = time.perf_counter()
        self.function.spawn_map(range(inputs))
        return time.perf_counter() - began

    def payloads(self, size: int, count: int, together: bool) -> float:
        """Send ``count`` times so many bytes and get them back, as a map or one call after the other."""
        values = [os.urandom(size) for _ in range(count)]
        began = time.perf_counter()
        results = self.map(values) if together else [self.call(value) for value in values]
        took = time.perf_counter() - began
        if results != values:
            raise RuntimeError("the results are not what was sent")
        return took

    def map_at_size(self, inputs: int, budget: float) -> dict[str, Any]:
        """Map a generator of so many inputs, as far as ``budget`` seconds go; tell when each thousand was done."""
        url = self.around.run.config.redis_url or ""
        pids = [int(record["pid"]) for record in self.around.containers(self.function).values()]
        marks = [(0, 0.0)]
        with Peaks(url, pids) as peaks:
            began = time.perf_counter()
            results = self.function.map(number for number in range(inputs))
            for done, result in enumerate(results, start=1):
                if result != done - 1:
                    raise RuntimeError(f"result {done - 1} of a map is {result}")
                if done % 1_000 == 0:
                    marks.append((done, time.perf_counter() - began))
                    if marks[-1][1] > budget:
                        break
        return {"marks": marks, "peaks": peaks.most, "before": peaks.before}
