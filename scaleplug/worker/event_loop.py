"""The event loop of a container that runs several inputs at once, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import threading
import time
import traceback
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)

STALL_SECONDS = 1.0


class EventLoop:
    """An event loop that starts when something is to run in it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._told = False
        self._asked_at: float | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, daemon=True, name="scaleplug-loop")
                self._thread.start()
            return self._loop

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop and wait for its result in this thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop; what it ran must have ended."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def check(self) -> None:
        """Tell, once, what keeps the loop from going on; for a thread that asks now and then."""
        if self._told or self._loop is None:
            return
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._answer)
        elif now - self._asked_at > STALL_SECONDS:
            self._tell()

    def _answer(self) -> None:
        self._asked_at = None

    def _tell(self) -> None:
        thread = self._thread.ident if self._thread is not None else None
        frame = sys._current_frames().get(thread or 0)  # noqa: SLF001  # documented, whatever its name says
        if frame is None:
            return
        self._told = True
        stack = "".join(traceback.format_stack(frame)[-8:])
        logger.warning(
            "%s has blocked its event loop for more than %g s, and every other input of the container waits: "
            "await something that is async there, or use asyncio.to_thread. It was here:\n%s",
            self._name, STALL_SECONDS, stack,
        )  # fmt: skip
