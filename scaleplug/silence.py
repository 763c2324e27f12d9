"""Connections that died without a word: one that gives no answer makes the others of its process suspect."""

from __future__ import annotations

import time
from typing import Any

from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry


class Trying(Retry):
    """Tries again; after a command that got no answer, no connection that idles in the pool is trusted either.

    A network that drops connections without a word drops all of them, and each would cost as much to find out.
    """

    def __init__(self, *args: Any, silences: Silences | None = None) -> None:
        super().__init__(*args)
        self.silences = silences or Silences()

    def __deepcopy__(self, memo: dict[int, Any]) -> Trying:  # each connection takes a copy
        return Trying(self._backoff, self._retries, self._supported_errors, silences=self.silences)

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **kwargs: Any) -> Any:
        """Do it, and again where it failed; after a second silence the error is raised."""

        def failed(error: Exception, *more: Any) -> None:
            fail(error, *more)
            if isinstance(error, (RedisTimeoutError, TimeoutError)):
                self.silences.note()
                raise _SilentError from error

        for left in (1, 0):  # more tries are for those that wait longer
            try:
                return super().call_with_retry(do, failed, *args, **kwargs)
            except _SilentError as silent:
                if not left or not self._retries:
                    assert silent.__cause__ is not None
                    raise silent.__cause__ from None
        raise AssertionError


class _SilentError(Exception):
    pass


class Silences:
    """When a command of a client got no answer the last time."""

    def __init__(self) -> None:
        self.at = 0.0
        self.pool: Any = lambda: None

    def note(self) -> None:
        """Take note of one, and let go of the connections that idle."""
        self.at = time.monotonic()
        pool = self.pool()
        if pool is not None:
            pool.disconnect(inuse_connections=False)


def distrust(client: Any) -> None:
    """Trust none of a client's connections any more, as after a command that got no answer."""
    retry = client.connection_pool.connection_kwargs.get("retry")
    if isinstance(retry, Trying):
        retry.silences.note()


def silent_since(client: Any, moment: float) -> bool:
    """Return whether a command got no answer since a monotonic moment: connections of before may be dead too."""
    retry = client.connection_pool.connection_kwargs.get("retry")
    return isinstance(retry, Trying) and retry.silences.at > moment
