"""The connection over which a process reads its inbox: one question at a time, and a wait that can be interrupted."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterable
from typing import Any

from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.server import ANSWER_SECONDS, alone

Row = tuple[bytes, dict[bytes, bytes]]
"""Id and fields of an entry of a stream."""


class Wire:
    """One connection, made at once; it tries nothing again, for who reads is to know when it was lost."""

    def __init__(self, client: Any) -> None:
        self._client: Any = alone(client)  # it closes its connections when it goes
        self._connection: Any = self._client.connection_pool.get_connection()
        self.asked = False
        """An answer is on its way, or was."""

    def read(self, key: str, last: bytes, *, block: int, count: int) -> list[Row]:
        """Return what a stream holds after an id; wait ``block`` milliseconds for that."""
        self.asked = True
        self._connection.send_command("XREAD", "BLOCK", block, "COUNT", count, "STREAMS", key, last)
        # Not in redis-py's hands, which take a TimeoutError that somebody's signal handler raises for one of theirs.
        if not _readable(self._connection._sock, ANSWER_SECONDS):  # noqa: SLF001  # redis-py shows it nowhere else
            raise RedisTimeoutError("Timeout reading from socket")
        found = self._connection.read_response(disable_decoding=True)
        self.asked = False
        if not found:
            return []
        entries = next(iter(found.values())) if isinstance(found, dict) else found[0][1]  # RESP3, RESP2
        return [(entry, dict(_pairs(values))) for entry, values in entries]

    def trim(self, key: str, before: str) -> None:
        """Take away the entries of a stream that are older than an id."""
        self.asked = True
        self._connection.send_command("XTRIM", key, "MINID", before)
        self._connection.read_response()
        self.asked = False

    def check(self) -> None:
        """Raise redis-py's ConnectionError if the other side is known to have gone; never blocks."""
        connected = self._connection._sock  # noqa: SLF001  # as above
        if connected is not None and _readable(connected, 0):  # most often it isn't, which is known soonest so
            self._connection.can_read(0)

    def cut(self) -> None:
        """Let whoever waits, in another thread, find it lost; that one closes it."""
        connected = self._connection._sock  # noqa: SLF001  # as above
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()


def _pairs(values: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    fields = iter(values)
    return zip(fields, fields, strict=True)


def _readable(connected: Any, seconds: float) -> bool:
    """Return whether there is something to be read, or that there will be nothing any more."""
    if not hasattr(select, "poll"):  # green threads
        return bool(select.select([connected], [], [], seconds)[0])
    poll = select.poll()  # unlike select.select it takes sockets of any number
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(seconds * 1_000))
