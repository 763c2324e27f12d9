"""``spawn_map``: send all inputs of one call, as fast as they are taken, and hold no more than a chunk of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any

from scaleplug.abc import Caller, FunctionRef, Input
from scaleplug.blobs import LARGE, weigh_call
from scaleplug.call import finish_cancelling
from scaleplug.inputs import Inputs, Row

logger = logging.getLogger("scaleplug")

CHUNK, CHUNK_BYTES = 2_000, 32 * 1024 * 1024
"""No more inputs are read at once, and none more when those hold as much."""
LINGER = 0.1
"""Seconds after which inputs are sent although the next ones are long in coming."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class SpawnMap:
    """The sending of one call's inputs; it waits while the function has as many as its limit allows."""

    def __init__(self, function: FunctionRef, caller: Caller, call: str, inputs: Inputs) -> None:
        self.function, self.caller, self.call = function, caller, call
        self._inputs = inputs
        self._chunk: list[Input] = []
        self._bytes = 0  # of the large inputs in the chunk
        self._until = 0.0
        self._sent, self._exhausted = 0, False
        self._pause, self._warned = SHORTEST_PAUSE, False

    def run(self) -> int:
        """Send all inputs and return how many there were; what was sent is cancelled if that fails."""
        rows = iter(self._inputs)
        try:
            while not self._exhausted:
                self._read(rows)
                while self._chunk:
                    time.sleep(self._note(self.caller.send(self.function, self.call, self._chunk, kind="spawn_map")))
            self.caller.complete(self.function, self.call, self._sent)
        except BaseException:
            self._cancel()
            raise
        return self._sent

    async def run_aio(self) -> int:
        """Do the same; inputs are read in the loop's thread."""
        rows = aiter(self._inputs) if self._inputs.asynchronous else iter(self._inputs)
        try:
            while not self._exhausted:
                if isinstance(rows, Iterator):
                    self._read(rows)
                else:
                    await self._read_async(rows)
                while self._chunk:
                    sending = self.caller.send_soon(self.function, self.call, self._chunk, kind="spawn_map")
                    await asyncio.sleep(self._note(await sending))
            await self.caller.soon(partial(self.caller.complete, self.function, self.call, self._sent))
        except BaseException:
            await finish_cancelling(self.caller.soon(self._cancel))
            raise
        return self._sent

    def _read(self, rows: Iterator[Row]) -> None:
        self._until = time.monotonic() + LINGER
        for args, kwargs in rows:
            if self._take_in(args, kwargs):
                return
        self._exhausted = True

    async def _read_async(self, rows: AsyncIterator[Row]) -> None:
        self._until = time.monotonic() + LINGER
        async for args, kwargs in rows:
            if self._take_in(args, kwargs):
                return
        self._exhausted = True

    def _take_in(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Keep an input to be sent; return whether it is time to send what is there."""
        self._chunk.append((self._sent + len(self._chunk), args, kwargs))
        weight = weigh_call(args, kwargs)
        if weight >= LARGE:
            self._bytes += weight
        return len(self._chunk) == CHUNK or self._bytes >= CHUNK_BYTES or time.monotonic() > self._until

    def _note(self, accepted: int) -> float:
        """Note what was accepted of the chunk; return how long to wait before the rest is tried again."""
        del self._chunk[:accepted]
        self._sent += accepted
        if accepted:
            self._pause = SHORTEST_PAUSE
        if not self._chunk:
            self._bytes = 0
            return 0.0
        if not self._warned:
            self._warned = True
            logger.warning(
                "spawn_map of %s waits: the function has as many pending inputs as SCALEPLUG_MAX_SPAWNED allows",
                self.function.full_name,
            )
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause

    def _cancel(self) -> None:
        if self._sent or self._chunk:
            with contextlib.suppress(Exception):  # the exception under way says more
                self.caller.cancel(self.function.full_name, self.call, tell=True)
