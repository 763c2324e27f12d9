"""``spawn_map``: send all inputs of one call, as fast as they are taken, and hold no more than a chunk of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from scaleplug.abc import Caller, FunctionRef, Input

logger = logging.getLogger("scaleplug")

Inputs = Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]
CHUNK = 2_000
LINGER = 0.1
"""Seconds after which inputs are sent although the next ones are long in coming."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class SpawnMap:
    """The sending of one call's inputs; it waits while the function has as many as its limit allows."""

    def __init__(self, function: FunctionRef, caller: Caller, call: str, inputs: Inputs) -> None:
        self.function, self.caller, self.call = function, caller, call
        self._inputs = inputs
        self._chunk: list[Input] = []
        self._sent, self._exhausted = 0, False
        self._pause, self._warned = SHORTEST_PAUSE, False

    def run(self) -> int:
        """Send all inputs and return how many there were; what was sent is cancelled if that fails."""
        try:
            while not self._exhausted:
                self._read()
                while (pause := self._send()) is not None:
                    time.sleep(pause)
            self.caller.complete(self.function, self.call, self._sent)
        except BaseException:
            self._cancel()
            raise
        return self._sent

    async def run_aio(self) -> int:
        """Do the same; inputs are read in the loop's thread."""
        try:
            while not self._exhausted:
                self._read()
                while (pause := await asyncio.to_thread(self._send)) is not None:  # noqa: ASYNC110  # Redis tells nobody
                    await asyncio.sleep(pause)
            await asyncio.to_thread(self.caller.complete, self.function, self.call, self._sent)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._cancel))
            raise
        return self._sent

    def _read(self) -> None:
        until = time.monotonic() + LINGER
        first = self._sent + len(self._chunk)
        for index, (args, kwargs) in enumerate(self._inputs, first):
            self._chunk.append((index, args, kwargs))
            if len(self._chunk) == CHUNK or time.monotonic() > until:
                return
        self._exhausted = True

    def _send(self) -> float | None:
        """Send what was read; return how long to wait before the rest is tried again, ``None`` when all is sent."""
        if not self._chunk:
            return None
        accepted = self.caller.send(self.function, self.call, self._chunk, kind="spawn_map")
        del self._chunk[:accepted]
        self._sent += accepted
        if accepted:
            self._pause = SHORTEST_PAUSE
        if not self._chunk:
            return None
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
