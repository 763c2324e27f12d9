"""Take inputs from a function's queue and hand their outcomes back, whatever the connection does meanwhile.

Taking blocks in ``BLMOVE`` into the container's transit list; ``begin.lua`` then claims the message and counts the
attempt. The claim stands under the container's name and the epoch of its connection. After a lost connection the
intake begins a new epoch and carries over what it still runs; everything else under older epochs goes back to the
queue. Finishing is retried until Redis answers or :attr:`Config.reconnect_timeout` is over; then the process ends,
since life is progress.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import select
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.blobs import Blobs
from scaleplug.errors import SerializationError
from scaleplug.serializer import APART, CONTENT_TYPE, INPUT, Keyring, input_context, seal_failure
from scaleplug.settings import MAX_PAYLOAD
from scaleplug.store import Store
from scaleplug.worker.payloads import Payloads

logger = logging.getLogger(__name__)

EXIT_NO_REDIS = 70
EXIT_NOT_WANTED = 71
TAKE_SECONDS = 10
"""How long one BLMOVE waits in the server: an idle container sends one command in that time."""
COLD_SECONDS = 0.1
LOST = (RedisConnectionError, RedisTimeoutError, OSError)
JSON_TYPES = ("application/json", "application/x-json")


class NotWantedError(Exception):
    """The controller has given this container up."""


class RefusedError(Exception):
    """A message can't be verified or read."""


@dataclass(slots=True)
class Claim:
    """One input that this container holds."""

    id: str
    tag: str
    epoch: int
    attempt: int
    verdict: str
    crash: str
    reply: dict[str, Any]
    taken: float = field(default_factory=time.monotonic)
    outcome: bytes | None = None
    failed: bool = False
    retried: int = 0
    retry_in: float | None = None
    """Seconds after which the input runs again instead of ending; ``None`` when it ends."""
    large: bytes = b""
    """The reference to its arguments, where they are kept apart."""
    draft: str = ""
    """The name of its outcome, where that is."""


def read_message(raw: bytes, function: str, tasks: Collection[str], keyring: Keyring) -> dict[str, Any]:
    """Return the parsed message, or raise RefusedError; nothing in it is unpickled here."""
    try:
        message = json.loads(raw)
        message.pop("large", None)  # what is there later has been verified
        headers, properties = message["headers"], message["properties"]
        task, input_id, content_type = headers["task"], headers["id"], message["content-type"]
        body = base64.b64decode(message["body"]) if properties.get("body_encoding") == "base64" else message["body"]
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise RefusedError(f"it is not a Celery message: {type(exc).__name__}: {exc}") from None
    if not isinstance(input_id, str) or not input_id or not isinstance(properties, dict):
        raise RefusedError("it has no valid id")
    if task not in tasks:
        raise RefusedError(f"it is for the task {task!r}, and this is the queue of {function!r}")
    if content_type == CONTENT_TYPE:
        try:
            sealed = body if isinstance(body, bytes) else body.encode()
            payload = keyring.unseal(INPUT, input_context(task, input_id, function), sealed)
            if payload[:1] == APART:
                message["large"] = payload
        except SerializationError as exc:
            raise RefusedError(str(exc)) from None
        reply = reply_of(message)
        if reply and input_id not in (reply["call"], f"{reply['call']}:{reply['index']}"):
            raise RefusedError(f"its outcome is asked for under {reply['call']!r}, and it was signed for {input_id!r}")
    elif content_type in JSON_TYPES:
        headers.pop("scaleplug", None)  # unsigned: its result is Celery's to store, and nobody's outcome
    else:
        raise RefusedError(f"its content type {content_type!r} is neither scaleplug's nor JSON")
    return _complete(message)


def _complete(message: dict[str, Any]) -> dict[str, Any]:
    properties = message["properties"]
    if not isinstance(properties.get("delivery_tag"), str):
        properties["delivery_tag"] = message["headers"]["id"]
    info = properties.setdefault("delivery_info", {})
    if not isinstance(info, dict):
        raise RefusedError("its delivery_info is not a table")
    message["headers"]["eta"] = None  # whatever waited has waited
    return message


def reply_of(message: Any) -> dict[str, Any]:
    """Return the part of the headers that says who waits for the outcome; {} when Celery stores it."""
    headers = message.get("headers") if isinstance(message, dict) else None
    reply = headers.get("scaleplug") if isinstance(headers, dict) else None
    if not isinstance(reply, dict) or "call" not in reply:
        return {}
    return {
        "call": str(reply.get("call", "")),
        "caller": str(reply.get("caller", "")),
        "index": reply["index"] if isinstance(reply.get("index"), int) else 0,
        "keep": reply["keep"] if isinstance(reply.get("keep"), int) else 0,
    }


def version_of(message: Any) -> str:
    """Return the version of the code that an input asks for; empty for any. It decides only where it runs."""
    headers = message.get("headers") if isinstance(message, dict) else None
    reply = headers.get("scaleplug") if isinstance(headers, dict) else None
    return str(reply.get("version", "")) if isinstance(reply, dict) else ""


class Intake:
    """The intake of one container."""

    def __init__(  # noqa: PLR0913  # what a container knows
        self,
        store: Store,
        keyring: Keyring,
        *,
        container: str,
        function: str,
        tasks: Collection[str],
        slots: int,
        timeout: float,
        give_up: float,
        version: str = "",
    ) -> None:
        self.store, self.keyring = store, keyring
        self.container, self.function, self.tasks = container, function, tasks
        self.slots, self.timeout, self.give_up = slots, timeout, give_up
        self.queue = store.keys.queue(function)
        self.claims: dict[str, Claim] = {}
        self.by_id: dict[str, Claim] = {}
        self.payloads = Payloads(Blobs(store, keyring, MAX_PAYLOAD))
        self.epoch = 0
        self.draining = False
        self.on_idle: Callable[[], object] = lambda: None
        """Called when the last claim has been handed back."""
        self.version, self.outdated = version, False
        self.on_outdated: Callable[[], object] = lambda: None
        """Called when an input has asked for code that is newer than this container's."""
        self._cold = True
        self._link: Any = None
        self._client_id = 0
        self._asked = 0.0
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)

    # -- the connection --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the blocking connection and begin an epoch; raises NotWantedError, or a Redis error."""
        pool = self.store.client.connection_pool
        link = pool.connection_class(**{**pool.connection_kwargs, "client_name": self.container})
        link.connect()
        link.send_command("CLIENT", "ID")
        client_id = int(link.read_response())
        self._end_old_link()
        epoch = self.store.connect(self.container, self.function, client_id, os.getpid(), list(self.by_id))
        if not epoch:
            link.disconnect()
            raise NotWantedError
        self._link, self._client_id, self.epoch, self._asked = link, client_id, epoch, 0.0
        for claim in self.claims.values():
            claim.epoch = epoch

    def _end_old_link(self) -> None:
        # A take that still waits in the server under the old connection must not fire after the new epoch began.
        if self._link is None:
            return
        self._link.disconnect()
        clients = self.store.client.client_list(client_id=[self._client_id])
        if any(c.get("name") == self.container for c in clients):
            self.store.client.client_kill_filter(_id=self._client_id)
        self._link = None

    def _reconnect(self) -> None:
        deadline, pause = time.monotonic() + self.give_up, 0.05
        while True:
            try:
                self.connect()
            except NotWantedError:
                logger.info("the controller has let this container go: leaving")
                os._exit(EXIT_NOT_WANTED)
            except (*LOST, RedisError) as exc:
                if time.monotonic() > deadline:
                    logger.critical("Redis has not answered for %g s: leaving. %s", self.give_up, type(exc).__name__)
                    os._exit(EXIT_NO_REDIS)
                time.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                return

    # -- taking ----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let a waiting :meth:`take` return; for signal handlers and other threads."""
        with contextlib.suppress(BlockingIOError):  # it will wake anyway: the pipe is full of reasons to
            os.write(self._wake_writer, b".")

    def take(self, timeout: float) -> dict[str, Any] | None:
        """Return the next claimed message, or ``None`` after ``timeout`` seconds or a call of :meth:`wake`."""
        if self.draining:
            return None
        if len(self.claims) >= self.slots:
            self._sleep([], timeout)
            return None
        try:
            raw = self._wait(timeout)
            return None if raw is None else self._claim(raw)
        except LOST as exc:
            logger.warning("the connection to Redis was lost (%s): trying again", type(exc).__name__)
            self._reconnect()
            return None
        except redis.exceptions.OutOfMemoryError:
            return self._take_without_memory()

    def _take_without_memory(self) -> dict[str, Any] | None:
        # Redis refuses the blocking take, but not a script that is allowed to: running what is there frees memory.
        self._asked = 0.0
        raw = self.store.take_now(self.container, self.epoch, self.function)
        if raw is None:
            self._sleep([], 0.5)
            return None
        return self._claim(raw)

    def _wait(self, timeout: float) -> bytes | None:
        link = self._link
        if not self._asked:
            link.send_command("BLMOVE", self.queue, self.store.keys.transit(self.container, self.epoch),
                              "RIGHT", "LEFT", TAKE_SECONDS)  # fmt: skip
            self._asked = time.monotonic()
        if not self._sleep([link._sock], timeout):  # noqa: SLF001  # redis-py shows it nowhere else
            if time.monotonic() - self._asked > TAKE_SECONDS + 5:
                raise RedisConnectionError("no answer to a take")  # half open: the server always answers in time
            return None
        self._asked = 0.0
        raw = link.read_response(disable_decoding=True)
        return None if raw is None else bytes(raw)

    def _sleep(self, sockets: list[Any], timeout: float) -> bool:
        ready, _, _ = select.select([self._wake_reader, *sockets], [], [], timeout)
        if self._wake_reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_reader, 4096)
        return any(s in ready for s in sockets)

    def _claim(self, raw: bytes) -> dict[str, Any] | None:
        try:
            message = read_message(raw, self.function, self.tasks, self.keyring)
        except RefusedError as refused:
            self._refuse(raw, str(refused))
            return None
        headers, reply = message["headers"], reply_of(message)
        claimed = self.store.begin(
            self.container, self.epoch, self.function, headers["id"], self.timeout,
            reply | {"version": version_of(message)}, self.version,
        )  # fmt: skip
        if claimed.status == "outdated":  # it was put back, and this container has been let go
            self.draining = self.outdated = True
            self.on_outdated()
        if claimed.status == "stale":  # it was put back: this container has been let go, or found dead by mistake
            self._reconnect()
            return None
        if claimed.status != "ok":
            return None
        # A redelivered message carries its publisher's tag again.
        tag = f"{headers['id']}/{claimed.retried}.{claimed.attempt}"
        if claimed.retried:
            headers["retries"] = claimed.retried
        message["properties"]["delivery_tag"] = tag
        message["properties"]["delivery_info"].update(routing_key=self.queue, redelivered=claimed.attempt > 1)
        claim = Claim(
            headers["id"], tag, self.epoch, claimed.attempt, claimed.verdict, claimed.crash, reply,
            retried=claimed.retried,
        )  # fmt: skip
        self.claims[tag] = self.by_id[claim.id] = claim
        claim.large = message.pop("large", b"")
        if claim.large:
            self.insist(lambda: self.payloads.fetch(claim.large))
        return message

    def _refuse(self, raw: bytes, reason: str) -> None:
        logger.error("a message on the queue of %s is set aside: %s", self.function, reason)
        try:
            reply = reply_of(json.loads(raw))
        except ValueError:
            reply = {}
        self.store.quarantine(self.container, self.epoch, self.function, reason, reply)

    # -- handing back ----------------------------------------------------------------------------------------------

    def finish(self, tag: str) -> None:
        """Acknowledge an input with its outcome; returns when that is done or the container owns it no longer."""
        claim = self.claims.get(tag)
        if claim is None:
            return
        try:
            self.insist(lambda: self._finish(claim))
        finally:
            self._drop(claim)

    def _finish(self, claim: Claim) -> None:
        seconds: float | None = time.monotonic() - claim.taken
        if claim.verdict == "timeout":
            seconds = None  # it only heard the verdict here
        if self._cold and seconds is not None and seconds < COLD_SECONDS:
            seconds = None  # a first input pays for what happens once, and would make short ones look long
        where = (self.container, claim.epoch, self.function, claim.id)
        if claim.retry_in is not None:
            owned = self.store.retry(*where, delay=claim.retry_in, seconds=seconds, reply=claim.reply)
        else:
            owned = self.store.finish(
                *where, seconds=seconds, failed=claim.failed, reply=claim.reply, outcome=claim.outcome,
                draft=claim.draft,
            )  # fmt: skip
        self._cold = False
        if not owned:
            logger.warning("input %s belongs to another container now: its outcome here is dropped", claim.id)

    def fail(self, tag: str, error: Exception) -> bool:
        """Settle that an input fails without having run; return whether its caller will be told."""
        claim = self.claims.get(tag)
        if claim is None or not claim.reply:
            return False
        claim.failed = True
        claim.outcome = seal_failure(self.keyring, f"{claim.reply['call']}|{claim.reply['index']}", error)
        return True

    def requeue(self, tag: str) -> None:
        """Put an input back at the head of its queue."""
        claim = self.claims.get(tag)
        if claim is None:
            return
        try:
            self.insist(lambda: self.store.requeue(self.container, claim.epoch, self.function, claim.id))
        finally:
            self._drop(claim)

    def owns(self, claim: Claim) -> bool:
        """Return whether this container still owns an input."""
        owned: list[bool] = []
        self.insist(lambda: owned.append(self.store.owns(self.container, claim.epoch, claim.id)))
        return owned[-1]

    def insist(self, action: Callable[[], object]) -> None:
        """Do it until Redis has answered; what can't be reached for too long ends the process."""
        while True:
            try:
                action()
            except LOST as exc:
                logger.warning("the connection to Redis was lost (%s): trying again", type(exc).__name__)
                self._reconnect()
            except redis.exceptions.OutOfMemoryError:
                logger.error("Redis is out of memory: waiting until it takes the outcome")
                time.sleep(0.5)
            else:
                return

    def _drop(self, claim: Claim) -> None:
        self.claims.pop(claim.tag, None)
        self.by_id.pop(claim.id, None)
        self.payloads.forget(claim.large)
        self.wake()
        if not self.claims:
            self.on_idle()

    def leave(self, reason: str) -> None:
        """Give back what is left and sign off."""
        try:
            if self._link is not None:
                self._link.disconnect()
            self.store.leave(self.container, self.function, reason)
        except (*LOST, RedisError):
            logger.warning("could not sign off: the controller will give back what is left")
