"""What comes back to a calling process, over one connection.

Every calling process has one inbox, a Redis stream. Containers append the outcomes of its inputs; one thread at a time
reads them in bulk (``readers.py``) and hands each to the call that waits. Reading moves nothing, so a connection that
is lost, or a thread that is interrupted, loses no outcome.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import uuid4

from redis.exceptions import RedisError

from scaleplug.abc import Event
from scaleplug.blobs import Blobs
from scaleplug.readers import Readers, Turn
from scaleplug.sent import Sent
from scaleplug.serializer import is_apart, is_packed, packed_indices
from scaleplug.settings import Config
from scaleplug.store import Store
from scaleplug.wire import Row, Wire

logger = logging.getLogger("scaleplug")

READ_SECONDS = 4.0
"""How long one XREAD waits in the server; less than ``server.ANSWER_SECONDS``."""
READ_COUNT = 1_000
RENEW_SECONDS = 600.0
"""How often large outcomes that wait to be read are saved from expiring after an hour."""
ENTRY_BYTES, TRIM_BYTES = 500, 100_000
"""The inbox is trimmed when what has been read of it may take so much room."""


class Inbox(Readers):
    """The outcomes that come back to this process."""

    def __init__(self, store: Store, config: Config, blobs: Blobs) -> None:
        super().__init__(min(READ_SECONDS, config.caller_ttl / 4))
        self.store, self.config, self._blobs = store, config, blobs
        self._large: weakref.WeakValueDictionary[int, Event] = weakref.WeakValueDictionary()
        self._renewed = time.monotonic()
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self._calls: dict[str, list[Callable[[Event], object]]] = {}
        self._waiters: dict[str, int] = {}
        self._incarnation = ""
        self._starting = threading.Lock()
        self._reader: threading.Thread | None = None
        self._alive_until = 0.0
        self._untrimmed = 0
        self._missed_controller = False
        self.sent = Sent(store, self.name)
        self.forgotten: dict[str, object] = {}
        """What ``store.registered`` held when Redis had lost its data."""
        self._run_id: str | None = None
        self._missing: list[tuple[str, int]] | None = None
        """What Redis seems to be without, until it is known that its end isn't in the inbox either."""
        self._suspects: set[str] | None = None
        """The calls that were there when the connection was lost, until it is known which Redis has come back."""
        self._last = b"0-0"
        """The id of the last entry that was handed out."""

    def open(self, call: str, put: Callable[[Event], object], *, led: bool = False) -> None:
        """Let ``put`` have the events of a call; who waits for one that is ``led`` will :meth:`lead`."""
        self._check_wire()
        with self._lock:
            self._calls.setdefault(call, []).append(put)
            self._waiters[call] = self._waiters.get(call, 0) + 1
            self._count(call, led=led)
        self._ring()

    def start(self) -> None:
        """Begin to listen, before anything is sent: who doesn't say that it lives gets no answers."""
        if self._reader is not None:
            return
        with self._starting:
            if self._reader is None:
                self._say_alive(first=True)
                self._reader = self._start_reader("scaleplug-inbox")

    def close(self, call: str) -> None:
        """Forget a call."""
        with self._lock:
            self._discount(call)
            left = self._waiters.pop(call, 1) - 1
            if left > 0:  # what still comes for others that wait for it is theirs
                self._waiters[call] = left
            else:
                self.sent.forget(call)
                self._calls.pop(call, None)
        self._ring()

    def note_sent(
        self, function: str, call: str, messages: Mapping[int, str | Callable[[], str]], *, many: bool
    ) -> None:
        """Keep messages of an open call that are about to be sent, by index, until their ends come."""
        with self._lock:
            if call in self._calls:
                self.sent.note(function, call, messages, many=many)

    def _say_alive(self, *, first: bool = False) -> None:
        ttl = self.config.caller_ttl
        known, back, incarnation = self.store.revive(self.name, ttl)
        lost, self._incarnation = self._incarnation not in ("", incarnation), incarnation
        self._alive_until = time.monotonic() + ttl / 4
        suspects, self._suspects = self._suspects, None
        if self._run_id is None or suspects is not None:
            self._check_restart(lost=lost)
        if lost:
            self.forgotten |= self.store.registered  # first: a call may be between having looked and sending
            self.store.registered.clear()  # so that the next call registers its function again
            # What was called after the connection broke went to the Redis that is there now.
            why = "Redis was restarted without its data, or emptied: it no longer knows this call"
            self.fail_all(why, suspects)
        elif back and not (known or first):
            logger.warning("this process could not reach Redis for %g s: %d inputs were brought back", ttl, back)

    def _check_restart(self, *, lost: bool) -> None:
        """Look, after a connection was lost, if the server was started again, and without what."""
        run_id = self.store.run_id()
        if self._run_id not in (None, run_id) and not lost:
            self._missing = self.sent.find_missing()
        self._run_id = run_id

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

    def fail_all(self, why: str, calls: Collection[str] | None = None) -> None:
        """End every call that waits, or some: what they wait for is lost."""
        reason = f"lost: {why}"
        with self._lock:
            lost = self._calls.keys() if calls is None else self._calls.keys() & set(calls)
            puts = [put for call in lost for put in self._calls[call]]
        for put in puts:
            put(Event(-1, None, reason))

    def lost_connection(self) -> None:
        """Find out soon whether the Redis that comes back is the one that was there."""
        self._alive_until = 0.0
        self.store.client.connection_pool.disconnect(inuse_connections=False)  # each would take as long to find out
        with self._lock:
            self._suspects = (self._suspects or set()) | self._calls.keys()

    @property
    def _needed(self) -> bool:
        return super()._needed or self._missing is not None

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

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self, turn: Turn, seconds: float) -> None:
        turn.since = time.monotonic()
        if turn.since > self._alive_until:
            before = self._incarnation
            self._say_alive()
            self._renew()
            if self._incarnation != before:
                self._last = b"0-0"  # its clock may be behind the other's
                return  # what this thread waits for may have failed
        key, wire = self.store.keys.of("inbox", self.name), self._wire
        if wire is None or wire.asked:  # an answer may be on its way to a thread that has gone
            wire = self._wire = Wire(self.store.client)
        try:
            block = 1 if self._missing is not None else max(1, int(seconds * 1_000))
            rows = wire.read(key, self._last, block=block, count=READ_COUNT)
            if self._turn is turn:
                self._heard, self._away = time.monotonic(), False
                self._hand_out(turn, rows)
                self._trim(key, wire)
        except BaseException as exc:
            wire.close()
            if self._wire is wire:
                self._wire = None
            if self._turn is turn or not isinstance(exc, RedisError):
                raise
            return  # it was taken away
        if self._turn is not turn:
            wire.close()
        elif not rows:
            self._nothing_came(waited=seconds > 0)

    def _nothing_came(self, *, waited: bool) -> None:
        if self._missing is not None:
            self.sent.send_again(self._missing)
            self._missing = None
        elif waited:
            self._check_controller()

    def _hand_out(self, turn: Turn, rows: Sequence[Row]) -> None:
        for entry, values in rows:
            if self._turn is not turn:
                return  # whoever has it now goes on from here
            try:
                event, call = _event(values), values[b"c"].decode()
                ended = _indices(event) if event.part is None else ()
            except (ValueError, KeyError):  # nobody has signed it; the next one may be what somebody waits for
                logger.warning("an entry of this process's inbox can't be read, and is left out")
                self._last = entry
                continue
            self.sent.ended(call, *ended)
            self._untrimmed += ENTRY_BYTES + len(event.outcome or b"")
            puts = list(self._calls.get(call, ()))
            if event.large:
                self._keep(event) if puts else self.drop(event)
            self._serve(call)
            for put in puts:
                put(event)
            self._last = entry  # after that: who is interrupted here repeats one entry, and leaves none out
            self._served(call)

    def _trim(self, key: str, wire: Wire) -> None:
        if self._untrimmed >= TRIM_BYTES:
            milliseconds, _, number = self._last.decode().partition("-")
            wire.trim(key, f"{milliseconds}-{int(number) + 1}")
            self._untrimmed = 0


def _indices(event: Event) -> Sequence[int]:
    """Return the indices of the inputs that have ended."""
    if event.packed:
        return packed_indices(event.outcome or b"")
    return (event.index,) if event.count == 1 else range(event.index, event.index + min(event.count, 1_000))


def _event(values: dict[bytes, bytes]) -> Event:
    outcome = values.get(b"p")
    return Event(
        int(values[b"i"]), outcome, values.get(b"e", b"").decode(),
        part=int(values[b"n"]) if b"n" in values else None,
        attempt=int(values.get(b"a", b"0")),
        large=outcome is not None and is_apart(outcome),
        packed=outcome is not None and is_packed(outcome),
        count=min(int(values.get(b"k", b"1")), 1_000),
    )  # fmt: skip
