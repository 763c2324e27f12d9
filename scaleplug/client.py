"""The calling process's side of Redis: send inputs, and bring back their ends over one connection.

Every calling process has one inbox, a Redis stream. Containers append the outcomes of its inputs; one thread reads
them in bulk and hands each to the call that waits. Reading moves nothing until it has arrived, so a lost connection
loses no outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.abc import CallKind, Event, FunctionRef, Input, Look
from scaleplug.blobs import Blobs, Drafts, GoneError, NoRoomError, Parts, looks_large
from scaleplug.errors import (
    ContainerStartError,
    InputCancelledError,
    InputRefusedError,
    NotFoundError,
    OutputExpiredError,
    RemoteError,
    ResourceExhausted,
    StateLostError,
)
from scaleplug.keys import Keys
from scaleplug.loops import blocks_loop
from scaleplug.messages import MessageFactory
from scaleplug.pools import code_version
from scaleplug.registry import Registration, open_override, seal_override
from scaleplug.sender import Parcel, Sender
from scaleplug.serializer import Keyring, is_apart, open_outcome
from scaleplug.server import connect
from scaleplug.settings import Config, FunctionSettings, override
from scaleplug.store import Admission, Store, require_url
from scaleplug.transport import exhausted

logger = logging.getLogger("scaleplug")

T = TypeVar("T")

READ_SECONDS = 5.0
"""How long one XREAD waits in the server."""
READ_COUNT = 1_000
RENEW_SECONDS = 600.0
"""How often large outcomes that wait to be read are saved from expiring after an hour."""
LOST = (RedisConnectionError, RedisTimeoutError, OSError)
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


class BlocksError(Exception):
    """What is to be done would hold up an event loop."""


def _refuse_to_block() -> None:
    raise BlocksError


class RedisCaller:
    """Carries calls through Redis."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.keyring = Keyring(config.secret)
        self.store = Store(
            connect(require_url(config.redis_url), name=f"scaleplug-caller-{os.getpid()}"), Keys(config.namespace)
        )
        self.blobs = Blobs(self.store, self.keyring, config.max_payload)
        self.inbox = Inbox(self.store, config, self.blobs)
        self.met = self.store.registered
        self._factories: dict[tuple[str, str], MessageFactory] = {}
        self._sender = Sender()

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
        name, limits = function.task.name, self._limits(kind)  # type: ignore[attr-defined]  # as in _make
        with self.drafts(name, function.full_name, *limits, partial(function.make_known, self)) as drafts:
            try:
                messages = self._make(function, call, inputs, kind, drafts)
                admission = self._submit(function, messages, [call], kind, drafts.keys())
            except NoRoomError as full:
                admission = full.admission
        if not admission.accepted and kind != "map":
            raise self._exhausted(function, admission, kind)
        return admission.accepted

    def send_soon(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind
    ) -> asyncio.Future[int]:
        """See :class:`scaleplug.abc.Caller`."""
        if kind == "map" or len(inputs) != 1 or looks_large(inputs):
            return self._send_later(function, call, inputs, kind)
        # Here, so that what the caller does to its arguments afterwards changes nothing.
        name = function.task.name  # type: ignore[attr-defined]  # as in _make
        try:
            (message,) = self._make(function, call, inputs, kind, Drafts(self.blobs, name, _refuse_to_block))
        except BlocksError:
            return self._send_later(function, call, inputs, kind)
        return self._sender.send(Parcel(self._deliver, function, kind, call, message))

    def _send_later(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind
    ) -> asyncio.Future[int]:
        send = partial(self.send, function, call, inputs, kind=kind)
        return self._sender.soon(partial(contextvars.copy_context().run, send))

    def soon(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """See :class:`scaleplug.abc.Caller`."""
        return self._sender.soon(run)

    def _deliver(self, parcels: Sequence[Parcel]) -> None:
        """Send inputs of several calls in one step; each that is refused is told so."""
        function, kind = parcels[0].function, parcels[0].kind
        messages, calls = [parcel.message for parcel in parcels], [parcel.call for parcel in parcels]
        admission = self._submit(function, messages, calls, kind)
        for parcel in parcels[: admission.accepted]:
            parcel.answer.give(1)
        after = Admission(0, admission.pending + admission.accepted, admission.running)
        for parcel in parcels[admission.accepted :]:
            parcel.answer.fail(self._exhausted(function, after, kind))

    def _make(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind, drafts: Drafts
    ) -> list[str]:
        name = function.full_name
        task: Any = function.task  # type: ignore[attr-defined]  # a Function; the port promises less
        factory = self._factories.get((name, task.name))
        if factory is None or factory.task is not task:
            factory = MessageFactory(task, self.keyring, self.inbox.name, name, code_version(task.function.owner))
            self._factories[name, task.name] = factory
        keep = int(self.config.result_ttl) if kind == "spawn" else 0
        return factory.make(call, inputs, many=kind == "map", keep=keep, drafts=drafts)

    def _submit(
        self,
        function: FunctionRef,
        messages: Sequence[str],
        calls: Sequence[str],
        kind: CallKind,
        drafts: Sequence[str] = (),
    ) -> Admission:
        """Queue the inputs of one call, or one input of each of several, of which as many as fit."""
        function.make_known(self)
        function.needs_kind(kind)
        if kind != "spawn":
            self.inbox.start()
        most, total = self._limits(kind)
        return self.store.submit(
            function.full_name,
            messages,
            most_pending=most,
            most_total=total,
            partial=kind == "map" or len(calls) > 1,
            record=" ".join(calls) if kind == "spawn" else "",
            record_seconds=self.config.result_ttl + 86_400,
            drafts=drafts,
        )

    def _limits(self, kind: CallKind) -> tuple[int, int]:
        config = self.config
        return (config.max_spawned, 0) if kind == "spawn" else (config.max_pending, config.max_total)

    def _exhausted(self, function: FunctionRef, admission: Admission, kind: CallKind) -> ResourceExhausted:
        return exhausted(function.full_name, admission, *self._limits(kind))

    def override(self, function: str, changes: Mapping[str, Any]) -> FunctionSettings:
        """See :class:`scaleplug.abc.Caller`."""
        while True:
            registered, before = self.store.function_and_override(function)
            if registered is None:
                raise NotFoundError(f"{function} is not registered any more")
            registration = Registration.unseal(self.keyring, function, registered)
            laid_over = open_override(self.keyring, function, before) | dict(changes)
            settings = override(registration.settings, laid_over)
            if not changes:
                return settings
            if self.store.override(function, before, seal_override(self.keyring, function, laid_over)):
                return settings

    def drafts(
        self, task: str, pool: str, most: int, total: int = 0, prepare: Callable[[], object] = lambda: None
    ) -> Drafts:
        """Return what keeps the large arguments of a submission apart; needs room below the limits for any."""

        def need_room() -> None:
            prepare()
            now = self.store.submit(pool, [], most_pending=most, most_total=total)
            if now.pending >= most or 0 < total <= now.pending + now.running:
                raise NoRoomError(now)

        return Drafts(self.blobs, task, need_room)

    def reset(self, function: str) -> None:
        """Take away what is laid over a function's settings."""
        while not self.store.override(function, self.store.function_and_override(function)[1], None):
            pass  # somebody else has changed it in between

    def cancel(self, function: str, call: str, *, tell: bool) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        keep = self.config.result_ttl if tell else 0
        caller, grace = self.inbox.name if tell else "", self.config.cancel_grace
        self.store.cancel(function, call, tell=tell, keep=keep, caller=caller, grace=grace)

    def look(self, call: str, *, watch: bool) -> Look:
        """See :class:`scaleplug.abc.Caller`."""
        if watch:
            self.inbox.start()
        outcome, function, cancelled, ended = self.store.watch(call, self.inbox.name if watch else "")
        event = None
        if outcome is not None or ended:
            event = Event(0, outcome, ended, large=outcome is not None and is_apart(outcome))
        return Look(event, function, cancelled)

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        """See :class:`scaleplug.abc.Caller`."""
        if event.outcome is None:
            return False, reason_error(event.reason, call)
        try:
            result = open_outcome(self.keyring, event.context(call), event.outcome, self._fetch)
        except OutputExpiredError as exc:
            return False, exc
        if event.large:
            self.inbox.drop(event)
        return result

    def drop(self, event: Event) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        if blocks_loop():
            self._sender.soon(partial(self.inbox.drop, event))
        else:
            self.inbox.drop(event)

    def _fetch(self, payload: bytes) -> Parts:
        """Read a large outcome, also while the connection breaks: the inbox outlives that too."""
        deadline, pause = time.monotonic() + self.config.reconnect_timeout, 0.05
        while True:
            try:
                return self.blobs.read(payload)
            except GoneError as exc:
                raise OutputExpiredError(f"the result is no longer kept: {exc}") from None
            except LOST as exc:
                if time.monotonic() > deadline:
                    raise
                logger.warning("a result can't be read from Redis, trying again: %s: %s", type(exc).__name__, exc)
                time.sleep(pause)
                pause = min(pause * 2, 2.0)

    def grant(self, call: str, part: int | None) -> bool:
        """See :class:`scaleplug.abc.Caller`."""
        try:
            self.store.grant(call, part)
        except (RedisError, OSError):
            return False
        return True
