"""What comes back to a calling process, over one connection.

Every calling process has one inbox, a Redis stream. Containers append the outcomes of its inputs; one thread reads
them in bulk and hands each to the call that waits. Reading moves nothing until it has arrived, so a lost connection
loses no outcome.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from scaleplug.abc import Event
from scaleplug.blobs import Blobs
from scaleplug.serializer import is_apart, is_packed
from scaleplug.settings import Config
from scaleplug.store import Store

logger = logging.getLogger("scaleplug")

READ_SECONDS = 5.0
"""How long one XREAD waits in the server."""
READ_COUNT = 1_000
RENEW_SECONDS = 600.0
"""How often large outcomes that wait to be read are saved from expiring after an hour."""
ENTRY_BYTES, TRIM_BYTES = 500, 100_000
"""The inbox is trimmed when what has been read of it may take so much room."""


class Inbox:
    """The outcomes that come back to this process."""

    def __init__(self, store: Store, config: Config, blobs: Blobs) -> None:
        self.store, self.config, self._blobs = store, config, blobs
        self._large: weakref.WeakValueDictionary[int, Event] = weakref.WeakValueDictionary()
        self._renewed = time.monotonic()
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self.pid = os.getpid()
        self._calls: dict[str, list[Callable[[Event], object]]] = {}
        self._waiters: Counter[str] = Counter()
        self._incarnation = ""
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._reader: threading.Thread | None = None
        self._alive_until = 0.0
        self._untrimmed = 0
        self._missed_controller = False
        self.closed = False

    def open(self, call: str, put: Callable[[Event], object]) -> None:
        """Let ``put`` have the events of a call."""
        with self._lock:
            self._calls.setdefault(call, []).append(put)
            self._waiters[call] += 1

    def start(self) -> None:
        """Begin to listen, before anything is sent: who doesn't say that it lives gets no answers."""
        if self._reader is not None:
            return
        with self._starting:
            if self._reader is None:
                self._say_alive(first=True)
                reader = threading.Thread(
                    target=_read_inbox, args=(weakref.ref(self),), daemon=True, name="scaleplug-inbox"
                )
                reader.start()
                self._reader = reader

    def close(self, call: str) -> None:
        """Forget a call."""
        with self._lock:
            self._waiters[call] -= 1
            if self._waiters[call] <= 0:  # what still comes for others that wait for it is theirs
                del self._waiters[call]
                self._calls.pop(call, None)

    def _say_alive(self, *, first: bool = False) -> None:
        ttl = self.config.caller_ttl
        known, back, incarnation = self.store.revive(self.name, ttl)
        lost, self._incarnation = self._incarnation not in ("", incarnation), incarnation
        self._alive_until = time.monotonic() + ttl / 4
        if lost:
            self.store.registered.clear()  # so that the next call registers its function again
            self.fail_all("Redis was restarted without its data, or emptied: it no longer knows this call")
        elif back and not (known or first):
            logger.warning("this process could not reach Redis for %g s: %d inputs were brought back", ttl, back)

    def _check_controller(self) -> None:
        """Say so, once, when calls wait and nobody is there to start containers for them."""
        if not self._calls or self._missed_controller or self.store.client.exists(self.store.keys.lease):
            return
        self._missed_controller = True
        logger.warning(
            "calls wait, and no controller acts in the namespace %r of this Redis: "
            "start one with 'scaleplug controller'",
            self.config.namespace,
        )

    def fail_all(self, why: str) -> None:
        """End every call that waits: what it waits for is lost."""
        reason = f"lost: {why}"
        with self._lock:
            puts = [put for waiting in self._calls.values() for put in waiting]
        for put in puts:
            put(Event(-1, None, reason))

    def _keep(self, event: Event) -> None:
        """Renew a large outcome for as long as somebody has the event and may still read it."""
        self._large[id(event)] = event

    def _renew(self) -> None:
        if not self._large or time.monotonic() < self._renewed + RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        waiting = [ref() for ref in self._large.valuerefs()]
        self._blobs.renew([event.outcome for event in waiting if event is not None and event.outcome is not None])

    def drop(self, event: Event) -> None:
        """Delete the large outcome of an event that has been read, or that nobody will read."""
        self._large.pop(id(event), None)
        with contextlib.suppress(Exception):  # it expires
            self._blobs.drop_outcome(event.outcome)

    def read(self, last: bytes, link: Any) -> bytes:
        """Wait for outcomes and hand them out; return the id of the last one."""
        if time.monotonic() > self._alive_until:
            self._say_alive()
            self._renew()
        key = self.store.keys.of("inbox", self.name)
        found = link.xread(
            {key: last}, count=READ_COUNT, block=int(min(READ_SECONDS, self.config.caller_ttl / 4) * 1000)
        )
        if not found:
            self._check_controller()
            return last
        rows = found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]
        for entry, values in rows:
            last = entry
            event = _event(values)
            self._untrimmed += ENTRY_BYTES + len(event.outcome or b"")
            puts = list(self._calls.get(values[b"c"].decode(), ()))
            if event.large:
                self._keep(event) if puts else self.drop(event)
            for put in puts:
                put(event)
        if self._untrimmed >= TRIM_BYTES:
            milliseconds, _, number = last.decode().partition("-")
            link.xtrim(key, minid=f"{milliseconds}-{int(number) + 1}", approximate=False)
            self._untrimmed = 0
        return last


def _event(values: dict[bytes, bytes]) -> Event:
    outcome = values.get(b"p")
    return Event(
        int(values[b"i"]), outcome, values.get(b"e", b"").decode(),
        part=int(values[b"n"]) if b"n" in values else None,
        attempt=int(values.get(b"a", b"0")),
        large=outcome is not None and is_apart(outcome),
        packed=outcome is not None and is_packed(outcome),
        count=int(values.get(b"k", b"1")),
    )  # fmt: skip


def _read_inbox(ref: weakref.ref[Inbox]) -> None:
    last, pause, link = b"0-0", 0.05, None
    while True:
        inbox = ref()
        if inbox is None or inbox.closed or inbox.pid != os.getpid():
            return
        try:
            link = link or inbox.store.client.client()  # one connection of its own: it blocks
            last = inbox.read(last, link)
            pause = 0.05
        except Exception as exc:  # noqa: BLE001  # without this thread every call would wait for ever
            if inbox.closed:
                return
            logger.warning("results can't be read from Redis, trying again: %s: %s", type(exc).__name__, exc)
            link = None
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
        del inbox
