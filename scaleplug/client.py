"""The calling process's side of Redis: send inputs, and read their ends, which come back through the inbox."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import RedisError

from scaleplug.abc import CallKind, Event, FunctionRef, FunctionStats, Input, Look
from scaleplug.blobs import HEAVY, LARGE, Blobs, Drafts, GoneError, NoRoomError, Parts, looks_large, weigh_call
from scaleplug.errors import (
    ContainerStartError,
    ExecutionError,
    InputCancelledError,
    InputRefusedError,
    NotFoundError,
    OutputExpiredError,
    RemoteError,
    ResourceExhausted,
    SerializationError,
    StateLostError,
)
from scaleplug.inbox import Inbox
from scaleplug.keys import Keys
from scaleplug.loops import blocks_loop
from scaleplug.messages import MessageFactory
from scaleplug.packing import PACK_BYTES, Pace, size_for
from scaleplug.patience import LOST as NO_ANSWER
from scaleplug.patience import FullError, Patience
from scaleplug.pools import code_version
from scaleplug.registry import Registration, open_override, seal_override
from scaleplug.sender import Cancel, Parcel, Sender
from scaleplug.serializer import Keyring, is_apart, open_outcome, open_outcomes
from scaleplug.server import check_server, connect
from scaleplug.settings import Config, FunctionSettings, override
from scaleplug.store import Admission, Record, Store, require_url
from scaleplug.transport import exhausted

logger = logging.getLogger("scaleplug")

T = TypeVar("T")

LOST = (*NO_ANSWER, OSError)
MANY, KEPT = ("map", "spawn_map"), ("spawn", "spawn_map")
"""Kinds of calls: those of many inputs, and those whose results are kept."""
PART = 500
"""Inputs of a ``spawn_map`` that go to Redis in one step."""


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


class WouldWaitError(Exception):
    """Something large is to be written before an input can be sent."""


def _refuse_to_wait() -> None:
    raise WouldWaitError


class RedisCaller:
    """Carries calls through Redis."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.keyring = Keyring(config.secret)
        self.store = Store(
            connect(require_url(config.redis_url), name=f"scaleplug-caller-{os.getpid()}"), Keys(config.namespace)
        )
        self.patience = Patience(self.store.client, config.reconnect_timeout)
        self.store.insist = self.patience.insist
        self.blobs = Blobs(self.store, self.keyring, config.max_payload)
        self.inbox = Inbox(self.store, config, self.blobs)
        self.met = self.store.registered
        self._factories: dict[tuple[str, str], MessageFactory] = {}
        self._sender = Sender()
        self._paces: dict[str, Pace] = {}
        self._checked = False

    def close_all(self) -> None:
        """Stop listening: the Redis is about to end, which ends the connections too."""
        self.inbox.end()

    def open(self, call: str, put: Callable[[Event], object], *, led: bool = False) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.inbox.open(call, put, led=led)

    def lead(self, call: str, waits: Callable[[], bool]) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.inbox.lead(call, waits)

    def close(self, call: str) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.inbox.close(call)

    def send(self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind, pack: int = 1) -> int:
        """See :class:`scaleplug.abc.Caller`."""
        if kind in MANY:
            return self._send_many(function, call, inputs, kind, pack)
        admission = self._send_one(function, call, inputs, kind)
        if not admission.accepted:
            raise self._exhausted(function, admission, kind)
        return admission.accepted

    def spawn_at(self, function: FunctionRef, call: str, given: Input, due: float) -> None:
        """See :class:`scaleplug.abc.Caller`; it is due by the clock of Redis."""
        task, name, most = function.task.name, function.full_name, self.config.max_spawned  # type: ignore[attr-defined]
        later = self.store.now() + due - time.time()
        with self.drafts(task, name, most, 0, partial(function.make_known, self)) as drafts:
            try:
                (message,) = self._make(function, call, [given], "spawn", drafts)
                self.patience.insist(lambda: function.make_known(self))
                function.needs_kind("spawn")
                self.store.submit(name, [], most_pending=most, record=self._record("spawn", call, 1))
                admission = self.store.delay(name, message, later, most_pending=most, drafts=drafts.keys())
            except NoRoomError as full:
                admission = full.admission
        if not admission.accepted:
            raise self._exhausted(function, admission, "spawn")

    def _send_many(self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind, pack: int) -> int:
        """Send as many inputs as fit; none while Redis is full, which may be over soon."""
        try:
            if kind == "spawn_map":
                accepted = self._send_parts(function, call, inputs)
            else:
                accepted = self._send_packs(function, call, inputs, pack) if pack > 1 else 0
                accepted = accepted or self._send_all(function, call, inputs, kind).accepted
        except FullError as full:
            self.patience.wait_until_free(full)
            return 0
        self.patience.wait_until_free(None)
        return accepted

    def _send_one(self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind) -> Admission:
        """Send the one input of a call, the short way where that will do."""
        ((_, args, kwargs),) = inputs
        kept = kind in KEPT
        self.patience.insist(self.store.learn_clock)
        message = self._factory(function).make_one(
            call, args, kwargs, keep=int(self.config.result_ttl) if kept else 0, limit=self.blobs.limit
        )
        if not isinstance(message, str):
            return self._send_all(function, call, inputs, kind, message)
        self._get_ready(function, kind)
        if not kept:
            self.inbox.note_sent(function.full_name, call, {0: message}, many=False)
        most, total = self._limits(kind)
        return self.store.submit_one(
            function.full_name, message, most_pending=most, most_total=total, call=call if kept else ""
        )

    def _send_all(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind, pickled: bytes | None = None
    ) -> Admission:
        return self.patience.insist(lambda: self._try_to_send(function, call, inputs, kind, pickled))

    def _try_to_send(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind, pickled: bytes | None
    ) -> Admission:
        name, limits = function.task.name, self._limits(kind)  # type: ignore[attr-defined]  # as in _make
        with self.drafts(name, function.full_name, *limits, partial(function.make_known, self)) as drafts:
            drafts.pickled = pickled
            try:
                self.store.learn_clock()
                messages = self._make(function, call, inputs, kind, drafts)
                record = self._record(kind, call, inputs[0][0] if kind == "spawn_map" else 0)
                if kind in KEPT:
                    return self._submit(function, messages, kind, record, drafts.keys())
                indices = [index for index, _, _ in inputs]
                sent = dict(zip(indices, messages, strict=True))
                self.inbox.note_sent(function.full_name, call, sent, many=kind in MANY)
                admission = self._submit(function, messages, kind, record, drafts.keys())
                for index in indices[admission.accepted :]:
                    self.inbox.sent.ended(call, index)
                return admission
            except NoRoomError as full:
                return full.admission

    def pack_size(self, function: FunctionRef, left: int | None, window: int) -> int:
        """See :class:`scaleplug.abc.Caller`."""
        known = self._paces.get(function.full_name)
        if known is None or not self.config.packing or not self._factory(function).unheard:
            return 1
        settings: FunctionSettings = function.pool_settings  # type: ignore[attr-defined]  # as in _factory
        if settings.max_inputs > 1 or settings.single_use_containers:
            return 1
        window = min(window, self.config.max_pending, self.config.max_total)
        return size_for(known.service, known.containers, left, window)

    def _send_packs(self, function: FunctionRef, call: str, inputs: Sequence[Input], size: int) -> int:
        """Send as many inputs of a map as fit, in packs; 0 where they can't be sent so."""
        if any(weigh_call(args, kwargs) >= HEAVY for _, args, kwargs in inputs):
            return 0
        factory = self._factory(function)
        parts = factory.parts(inputs)
        packs: list[list[bytes]] = []
        held = PACK_BYTES
        for part in parts:
            if len(part) >= LARGE:
                return 0
            if held + len(part) > PACK_BYTES or len(packs[-1]) >= size:
                packs.append([])
                held = 0
            packs[-1].append(part)
            held += len(part)
        messages, first = list[str](), inputs[0][0]
        for pack in packs:
            messages.append(factory.make_pack(call, first, pack))
            first += len(pack)
        weights, first = [len(pack) for pack in packs], inputs[0][0]
        indices = range(first, first + len(inputs))
        again = {
            index: partial(factory.make_single, call, index, part) for index, part in zip(indices, parts, strict=True)
        }
        self.inbox.note_sent(function.full_name, call, again, many=True)
        admission = self.patience.insist(lambda: self._submit(function, messages, "map", None, weights=weights))
        if admission.accepted < len(inputs):
            self.inbox.sent.ended(call, *indices[admission.accepted :])
        return admission.accepted

    def _send_parts(self, function: FunctionRef, call: str, inputs: Sequence[Input]) -> int:
        """Send as many inputs of a ``spawn_map`` as fit: while Redis takes a part, the next one is made."""
        accepted, answer = 0, None
        self.patience.insist(lambda: function.make_known(self))
        function.needs_kind("spawn_map")
        for first in range(0, len(inputs), PART):
            part = inputs[first : first + PART]
            try:
                messages = self._make_small(function, call, part, "spawn_map")
            finally:
                accepted += answer().accepted if answer is not None else 0
            if accepted < first:
                return accepted
            if messages is None:  # large arguments are written first, and then there is nothing to overlap
                answer = None
                accepted += self._send_all(function, call, part, "spawn_map").accepted
                continue
            record, most = self._record("spawn_map", call, part[0][0]), self.config.max_spawned
            assert record is not None
            answer = self.store.submit_part(function.full_name, messages, record, most_pending=most)
        return accepted + (answer().accepted if answer is not None else 0)

    def send_soon(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind
    ) -> asyncio.Future[int]:
        """See :class:`scaleplug.abc.Caller`."""
        if kind not in MANY and len(inputs) == 1 and not looks_large(inputs):
            # Here, so that what the caller does to its arguments afterwards changes nothing.
            messages = self._make_small(function, call, inputs, kind)
            if messages is not None:
                return self._sender.send(Parcel(self._deliver, function, kind, call, messages[0]))
        send = partial(self.send, function, call, inputs, kind=kind)
        return self._sender.soon(partial(contextvars.copy_context().run, send))

    def soon(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """See :class:`scaleplug.abc.Caller`."""
        return self._sender.soon(run)

    def _deliver(self, parcels: Sequence[Parcel]) -> None:
        """Send inputs of several calls in one step; each that is refused is told so."""
        function, kind = parcels[0].function, parcels[0].kind
        messages, calls = [parcel.message for parcel in parcels], [parcel.call for parcel in parcels]
        if kind not in KEPT:
            for parcel in parcels:
                self.inbox.note_sent(function.full_name, parcel.call, {0: parcel.message}, many=False)
        admission = self._submit(function, messages, kind, self._record(kind, " ".join(calls)))
        for parcel in parcels[: admission.accepted]:
            parcel.answer.give(1)
        after = Admission(0, admission.pending + admission.accepted, admission.running)
        for parcel in parcels[admission.accepted :]:
            parcel.answer.fail(self._exhausted(function, after, kind))

    def _make(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind, drafts: Drafts
    ) -> list[str]:
        keep = int(self.config.result_ttl) if kind in KEPT else 0
        return self._factory(function).make(call, inputs, many=kind in MANY, keep=keep, drafts=drafts)

    def _factory(self, function: FunctionRef) -> MessageFactory:
        name = function.full_name
        task: Any = function.task  # type: ignore[attr-defined]  # a Function; the port promises less
        factory = self._factories.get((name, task.name))
        if factory is None or factory.task is not task:
            factory = MessageFactory(task, self.keyring, self.inbox.name, name, code_version(task.function.owner))
            factory.clock = self.store.known_now
            self._factories[name, task.name] = factory
        return factory

    def _make_small(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], kind: CallKind
    ) -> list[str] | None:
        """Return the messages without waiting for Redis, ``None`` where some have large arguments."""
        name = function.task.name  # type: ignore[attr-defined]  # as in _make
        try:
            return self._make(function, call, inputs, kind, Drafts(self.blobs, name, _refuse_to_wait))
        except WouldWaitError:
            return None

    def _record(self, kind: CallKind, call: str, before: int = 0) -> Record | None:
        """Return what is to be written down of a call that sends its inputs from ``before`` on."""
        return Record(call, self.config.result_ttl, before, kind == "spawn_map") if kind in KEPT else None

    def _submit(
        self,
        function: FunctionRef,
        messages: Sequence[str],
        kind: CallKind,
        record: Record | None,
        drafts: Sequence[str] = (),
        weights: Sequence[int] = (),
    ) -> Admission:
        """Queue the inputs of one call, or one input of each of several, of which as many as fit."""
        self._get_ready(function, kind)
        most, total = self._limits(kind)
        admission = self.store.submit(
            function.full_name,
            messages,
            most_pending=most,
            most_total=total,
            partial=kind in MANY or len(messages) > 1,
            record=record,
            drafts=drafts,
            weights=weights,
        )
        if kind == "map":
            self._paces.setdefault(function.full_name, Pace()).note(admission)
        return admission

    def _get_ready(self, function: FunctionRef, kind: CallKind) -> None:
        self.patience.insist(lambda: function.make_known(self))
        function.needs_kind(kind)
        if kind not in KEPT:
            self.patience.insist(self.inbox.start)

    def check_server(self) -> None:
        """Refuse, once, a Redis that would lose inputs: the controller may be another's, and has no say here."""
        if not self._checked:
            check_server(self.store.client, config=self.config, cautious=False)
            self._checked = True

    def _limits(self, kind: CallKind) -> tuple[int, int]:
        config = self.config
        return (config.max_spawned, 0) if kind in KEPT else (config.max_pending, config.max_total)

    def _exhausted(self, function: FunctionRef, admission: Admission, kind: CallKind) -> ResourceExhausted:
        return exhausted(function.full_name, admission, *self._limits(kind))

    def override(self, function: str, changes: Mapping[str, Any]) -> FunctionSettings:
        """See :class:`scaleplug.abc.Caller`."""
        while True:
            registered, before = self.store.function_and_override(function)
            if registered is None:
                raise NotFoundError(f"{function} is not registered any more: 'scaleplug deploy' registers an app")
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
        grace = self.config.cancel_grace
        self.store.cancel(function, call, tell=tell, keep=keep, caller="", grace=grace)
        if tell:
            self.store.drop(function, call, keep)

    def cancel_soon(self, function: str, call: str) -> asyncio.Future[None]:
        """See :class:`scaleplug.abc.Caller`."""
        return self._sender.cancel(Cancel(self._cancel_together, function, call))

    def _cancel_together(self, function: str, calls: Sequence[str]) -> None:
        self.store.cancel(function, *calls, tell=False, keep=0, caller="", grace=self.config.cancel_grace)

    def complete(self, function: FunctionRef, call: str, inputs: int) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        self.store.complete(function.full_name, call, inputs, self.config.result_ttl)

    def look(self, call: str, *, watch: bool, index: int = 0, most: int = 1, patience: float | None = None) -> Look:
        """See :class:`scaleplug.abc.Caller`."""
        if watch:
            self.patience.insist(self.inbox.start, patience)
        name = self.inbox.name if watch else ""
        found = self.patience.insist(lambda: self.store.watch(call, index, most, name), patience)
        events = [
            Event(number, end[1:], large=is_apart(end[1:]))
            if end[:1] == b"+"
            else Event(number, None, end[1:].decode(errors="replace"))
            for number, end in enumerate(found.ends, index)
        ]
        return Look(found.function, found.inputs, found.over, found.cancelled, events)

    def stats(self, function: str, *, max_inputs: int) -> FunctionStats:
        """See :class:`scaleplug.abc.Caller`."""
        registered, _ = self.store.function_and_override(function)
        if registered is not None:  # its code may not be here, nor its settings
            max_inputs = Registration.unseal(self.keyring, function, registered).settings.max_inputs
        counts = self.store.census([function])[function]
        slots = (counts.idle + counts.busy) * max_inputs
        return FunctionStats(
            backlog=counts.pending + counts.delayed,
            num_total_runners=counts.starting + counts.idle + counts.busy,
            num_running_inputs=counts.running,
            input_headroom=max(0, slots - counts.running),
        )

    def open_pack(self, call: str, event: Event) -> list[tuple[int, bytes]]:
        """See :class:`scaleplug.abc.Caller`."""
        try:
            return open_outcomes(self.keyring, call, event.outcome or b"")
        except SerializationError as exc:
            raise ExecutionError(f"results could not be read: {exc}") from None

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
