"""What a caller does while Redis is away or full: try again for a while, then say what is wrong and what helps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.errors import ResourceExhausted
from scaleplug.server import unusable

logger = logging.getLogger("scaleplug")

T = TypeVar("T")

LOST: Final = (RedisConnectionError, RedisTimeoutError)
"""Only redis-py's own: what else an action raises (a pickled object that opens a file, say) is not for us to retry."""
PAUSES: Final = (0.05, 1.0)
"""Seconds before the first and between the last tries."""
PASSING: Final = ("READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN")
"""Words in answers by which a server says that it can't write now: it fails over, or its disk is full."""


def passes(error: Exception) -> bool:
    """Return whether an error says that the server can't be reached, or can't write, for now."""
    if isinstance(error, (*LOST, ReadOnlyError)):
        return True
    return isinstance(error, ResponseError) and any(word in str(error) for word in PASSING)


class FullError(ResourceExhausted):
    """Redis has no memory left."""


class Patience:
    """Tries again what Redis does not answer, for ``seconds``, in a process that it has answered before."""

    def __init__(self, client: Any, seconds: float) -> None:
        self.client, self.seconds = client, seconds
        self._met = False
        self._full_since: float | None = None
        self._telling = threading.Lock()
        self._told = 0.0

    def insist(self, action: Callable[[], T], seconds: float | None = None) -> T:
        """Return what ``action`` does in the end; raises ServerError, or ResourceExhausted when Redis is full.

        An action whose answer got lost is done again.
        """
        until, pause = time.monotonic() + (self.seconds if seconds is None else seconds), PAUSES[0]
        while True:
            try:
                result = action()
            except OutOfMemoryError as exc:
                raise self.full() from exc
            except (*LOST, ResponseError) as exc:
                if not passes(exc):
                    raise
                left = until - time.monotonic()
                # That all connections are in use says nothing of the server: many threads have begun at once.
                crowded = isinstance(exc, MaxConnectionsError)
                if left <= 0 or not (self._met or crowded):
                    raise unusable(self.client, exc) from exc
                if not crowded:
                    self._tell(exc)
                time.sleep(min(pause, left))
                pause = min(pause * 2, PAUSES[1])
            else:
                self._met = True
                return result

    def full(self) -> FullError:
        """Return the error for a Redis that takes no more."""
        return FullError(
            "Redis is out of memory (maxmemory is reached, and its policy rightly throws nothing away): retry when "
            "running inputs have ended, raise maxmemory, or free what else is kept there"
        )

    def wait_until_free(self, error: FullError | None) -> None:
        """Let what may wait do so while Redis is full (``error``), but not for ever; ``None`` says that it isn't."""
        if error is None:
            self._full_since = None
            return
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
            logger.warning("Redis is out of memory: inputs wait until it has room again")
        if now - self._full_since > self.seconds:
            self._full_since = None
            raise error

    def _tell(self, exc: Exception) -> None:
        with self._telling:
            if time.monotonic() < self._told:
                return
            self._told = time.monotonic() + self.seconds
        logger.warning("Redis does not answer (%s: %s): trying again for %g s", type(exc).__name__, exc, self.seconds)
