"""Be the caller of one entrant: ``python serve.py MODULE`` obeys, one JSON line in, one JSON line out.

The module has a class ``Caller`` with ``map``, ``call`` and ``send``, all blocking or all coroutines; its other methods
may be ordered too. Only the standard library is imported here, for each entrant has an environment of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

WARM = 20
"""Calls before anything counts."""


def main() -> None:
    """Obey until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    caller = importlib.import_module(sys.argv[1]).Caller()
    with asyncio.Runner() as runner:
        actor = Async(caller, runner.run) if inspect.iscoroutinefunction(caller.call) else Sync(caller)
        for line in sys.stdin:
            order = json.loads(line)
            name = order.pop("do")
            try:
                answer = {"answer": (getattr(actor, name, None) or getattr(caller, name))(**order)}
            except Exception:  # noqa: BLE001  # the one who asked tells it
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")


def check(results: list[int], inputs: int) -> None:
    """Raise RuntimeError if a map of no-ops came back wrong."""
    if results != list(range(inputs)):
        raise RuntimeError("the results are not what was sent")


class Sync:
    """Callers whose methods block."""

    def __init__(self, caller: Any) -> None:
        self.caller = caller

    def warm(self) -> None:
        for number in range(WARM):
            self.caller.call(number)

    def map(self, inputs: int) -> float:
        began = time.perf_counter()
        results = self.caller.map(range(inputs))
        took = time.perf_counter() - began
        check(list(results), inputs)
        return took

    def round_trips(self, calls: int) -> list[float]:
        took = []
        for number in range(calls):
            began = time.perf_counter()
            result = self.caller.call(number)
            took.append(time.perf_counter() - began)
            check([result - number], 1)
        return took

    def submit(self, calls: int) -> float:
        began = time.perf_counter()
        for number in range(calls):
            self.caller.send(number)
        return time.perf_counter() - began


class Async:
    """The same for callers whose methods are coroutines; all calls share one event loop."""

    def __init__(self, caller: Any, run: Callable[[Awaitable[Any]], Any]) -> None:
        self.caller, self.run = caller, run

    def warm(self) -> None:
        async def work() -> None:
            for number in range(WARM):
                await self.caller.call(number)

        self.run(work())

    def map(self, inputs: int) -> float:
        async def work() -> float:
            began = time.perf_counter()
            results = await self.caller.map(range(inputs))
            took = time.perf_counter() - began
            check(list(results), inputs)
            return took

        return self.run(work())

    def round_trips(self, calls: int) -> list[float]:
        async def work() -> list[float]:
            took = []
            for number in range(calls):
                began = time.perf_counter()
                result = await self.caller.call(number)
                took.append(time.perf_counter() - began)
                check([result - number], 1)
            return took

        return self.run(work())

    def submit(self, calls: int) -> float:
        async def work() -> float:
            began = time.perf_counter()
            for number in range(calls):
                await self.caller.send(number)
            return time.perf_counter() - began

        return self.run(work())


if __name__ == "__main__":
    main()
