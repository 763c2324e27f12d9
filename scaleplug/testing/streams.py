"""The stream of a generator function in a local run: each item goes straight to who waits for it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable
from typing import Any

from scaleplug.abc import Event
from scaleplug.serializer import OUTPUT, Keyring
from scaleplug.streams import Window, drain, drain_async, dump
from scaleplug.testing.inputs import LocalInput


class LocalStream:
    """The stream of one run of an input."""

    def __init__(self, item: LocalInput, keyring: Keyring, pass_on: Callable[[LocalInput, Event], None]) -> None:
        self.item, self.keyring = item, keyring
        self.window = item.window = Window()
        self._pass_on = pass_on

    def run(self, generator: Any) -> Any:
        """Pass on every item; return how many there were and what the generator returns, a coroutine if it is async."""
        if inspect.isasyncgen(generator):
            return self._run_async(generator)
        returned = drain(generator, self._put)
        return self.window.items, returned

    async def _run_async(self, generator: Any) -> tuple[int, Any]:
        await drain_async(generator, self._put_async)
        return self.window.items, None

    def _put(self, value: Any) -> None:
        data = dump(value, self.item.function.full_name)
        self.window.wait()
        self._send(data)

    async def _put_async(self, value: Any) -> None:
        data = dump(value, self.item.function.full_name)
        await self.window.wait_async()
        self._send(data)
        await asyncio.sleep(0)  # it may never await anything itself

    def _send(self, data: bytes) -> None:
        item, number = self.item, self.window.items
        self.window.sent(number, 1, len(data))
        self.window.add(len(data))
        event = Event(item.index, None, "", number, item.runs)
        sealed = self.keyring.seal(OUTPUT, event.context(item.call), b"+" + pickle.dumps([data]))
        self._pass_on(item, Event(item.index, sealed, "", number, item.runs))
