"""The calling process's side of Redis: send inputs, and bring back their ends over one connection.

Every calling process has one inbox, a Redis stream. Containers append the outcomes of its inputs; one thread reads
them in bulk and hands each to the call that waits. Reading moves nothing until it has arrived, so a lost connection
loses no outcome.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from scaleplug.abc import CallKind, Event, FunctionRef, FunctionStats, Input, Look
from scaleplug.errors import (
    ContainerStartError,
    InputCancelledError,
    InputRefusedError,
    RemoteError,
    StateLostError,
)
from scaleplug.keys import Keys
from scaleplug.messages import MessageFactory
from scaleplug.serializer import Keyring, open_outcome
from scaleplug.server import connect
from scaleplug.settings import Config
from scaleplug.store import Record, Store, require_url
from scaleplug.transport import exhausted

logger = logging.getLogger("scaleplug")

READ_SECONDS = 5.0
"""How long one XREAD waits in the server."""
READ_COUNT = 1_000
PART = 500
"""Inputs of a ``spawn_map`` that go to Redis in one step."""
ENTRY_BYTES, TRIM_BYTES = 500, 100_000
"""The inbox is trimmed when what has been read of it may take so much room."""


def reason_error(reason: str, call: str) -> RemoteError:
    """Return the error for an input that ended without a signed outcome."""
    kind, _, text = reason.partition(": ")
    if kind == "cancelled":
        return InputCancelledError(f"{call} was cancelled")
    if kind == "refused":
        return InputRefusedError(f"the container refused the input: {text}")
    if kind == "start":
        return ContainerStartError(text)
    if kind == "lost":
        return StateLostError(text)
    return RemoteError(reason)


class Inbox:
    """The outcomes that come back to this process."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store, self.config = store, config
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self.pid = os.getpid()
        self._calls: dict[str, list[Callable[[Event], object]]] = {}
        self._waiters: Counter[str] = Counter()
        self._incarnation = ""
        self._lock = threading.Lock()
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
            if self._reader is None:
                self._say_alive(first=True)
                self._reader = threading.Thread(
                    target=_read_inbox, args=(weakref.ref(self),), daemon=True, name="scaleplug-inbox"
                )
                self._reader.start()

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

    def read(self, last: bytes, link: Any) -> bytes:
        """Wait for outcomes and hand them out; return the id of the last one."""
        if time.monotonic() > self._alive_until:
            self._say_alive()
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
            event = Event(int(values[b"i"]), values.get(b"p"), values.get(b"e", b"").decode())
            self._untrimmed += ENTRY_BYTES + len(event.outcome or b"")
            for put in list(self._calls.get(values[b"c"].decode(), ())):
                put(event)
        if self._untrimmed >= TRIM_BYTES:
            milliseconds, _, number = last.decode().partition("-")
            link.xtrim(key, minid=f"{milliseconds}-{int(number) + 1}", approximate=False)
            self._untrimmed = 0
        return last


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


class RedisCaller:
    """Carries calls through Redis."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.keyring = Keyring(config.secret)
        self.store = Store(
            connect(require_url(config.redis_url), name=f"scaleplug-caller-{os.getpid()}"), Keys(config.namespace)
        )
        self.inbox = Inbox(self.store, config)
        self._factories: dict[str, MessageFactory] = {}

    def close_all(self) -> None:
        """Stop listening: the Redis is about to end, which ends the connections too."""
        self.inbox.closed = True

    def open(self, call: str, put: Callable[[Event], object]) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.inbox.open(call, put)

    def close(self, call: str) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.inbox.close(call)

    def send(self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind) -> int:
        """See :class:`scaleplug.abc.Caller`."""
        if kind == "spawn_map":
            return self._send_parts(function, call, inputs)
        name, config = function.full_name, self.config
        spawned, partial = kind == "spawn", kind == "map"
        keep = int(config.result_ttl) if spawned else 0
        messages = self._factory(function).make(call, inputs, many=partial, keep=keep)
        most = config.max_spawned if spawned else config.max_pending
        total = 0 if spawned else config.max_total
        admission = self.store.submit(
            name,
            messages,
            most_pending=most,
            most_total=total,
            partial=partial,
            record=Record(call, keep) if spawned else None,
        )
        if not admission.accepted and not partial:
            raise exhausted(name, admission, most, total)
        return admission.accepted

    def _factory(self, function: FunctionRef) -> MessageFactory:
        factory = self._factories.get(function.full_name)
        task: Any = function.task  # type: ignore[attr-defined]  # a Function; the port promises less
        if factory is None or factory.task is not task:
            factory = self._factories[function.full_name] = MessageFactory(task, self.keyring, self.inbox.name)
        return factory

    def _send_parts(self, function: FunctionRef, call: str, inputs: Sequence[Input]) -> int:
        """Send as many inputs of a ``spawn_map`` as fit: while Redis takes a part, the next one is made."""
        keep, factory = int(self.config.result_ttl), self._factory(function)
        accepted, answer = 0, None
        for first in range(0, len(inputs), PART):
            part = inputs[first : first + PART]
            try:
                messages = factory.make(call, part, many=True, keep=keep)
            finally:
                accepted += answer().accepted if answer is not None else 0
            if accepted < first:
                return accepted
            record = Record(call, keep, part[0][0], more=True)
            answer = self.store.submit_part(function.full_name, messages, record, most_pending=self.config.max_spawned)
        return accepted + (answer().accepted if answer is not None else 0)

    def cancel(self, function: str, call: str, *, tell: bool) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        keep = self.config.result_ttl if tell else 0
        self.store.cancel(function, call, tell=tell, keep=keep, caller="")
        if tell:
            self.store.drop(function, call, keep)

    def complete(self, function: FunctionRef, call: str, inputs: int) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.store.complete(function.full_name, call, inputs, self.config.result_ttl)

    def look(self, call: str, *, watch: bool, index: int = 0, most: int = 1) -> Look:
        """See :class:`scaleplug.abc.Caller`."""
        found = self.store.watch(call, index, most, self.inbox.name if watch else "")
        events = [
            Event(number, end[1:]) if end[:1] == b"+" else Event(number, None, end[1:].decode())
            for number, end in enumerate(found.ends, index)
        ]
        return Look(found.function, found.inputs, found.over, found.cancelled, events)

    def stats(self, function: str, *, max_inputs: int) -> FunctionStats:
        """See :class:`scaleplug.abc.Caller`."""
        counts = self.store.census([function])[function]
        slots = (counts.idle + counts.busy) * max_inputs
        return FunctionStats(
            backlog=counts.pending + counts.delayed,
            num_total_runners=counts.starting + counts.idle + counts.busy,
            num_running_inputs=counts.running,
            input_headroom=max(0, slots - counts.running),
        )

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        """See :class:`scaleplug.abc.Caller`."""
        if event.outcome is None:
            return False, reason_error(event.reason, call)
        return open_outcome(self.keyring, f"{call}|{event.index}", event.outcome)
