"""Take inputs from a function's queue, whatever the connection does meanwhile.

Taking blocks in ``BLMOVE`` into the container's transit list; ``begin.lua`` then claims the message and counts the
attempt, while the input runs already where nothing speaks against it (see ``ahead.py``). The claim stands under the
container's name and the epoch of its connection (``holding.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from scaleplug.patience import passes
from scaleplug.serializer import Keyring
from scaleplug.silence import silent_since
from scaleplug.store import Claimed, Ended, Store, Turned
from scaleplug.worker.ahead import Ahead
from scaleplug.worker.holding import LOST, Claim, Holding, NotWantedError
from scaleplug.worker.packs import break_up
from scaleplug.worker.reading import UNREADABLE, RefusedError, read_message, reply_of, version_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
TAKE_SECONDS = 10
"""How long one BLMOVE waits in the server: an idle container sends one command in that time."""


class Intake(Holding):
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
        super().__init__(store, keyring, container=container, function=function, timeout=timeout, give_up=give_up)
        self.tasks, self.slots = tasks, slots
        self.queue = store.keys.queue(function)
        self.runs_packs = False
        """Whether the inputs of a pack run here one after the other; else each becomes a message of its own."""
        self.ahead = Ahead(self)
        self.draining = False
        self.version, self.outdated = version, False
        self.on_outdated: Callable[[], object] = lambda: None
        """Called when an input has asked for code that is newer than this container's."""
        self.taken = 0
        """How many inputs it has claimed."""
        self.bulk = False
        """Whether to take several messages at once: where several inputs run at once."""
        self.most_slots = slots
        self.last_attempt = 0
        """The attempt that an input has to itself, where several run at once; 0 for none."""
        self._keeps_free = False
        self._asked = 0.0
        """When the take was sent whose answer is to come, monotonic; 0 for none."""
        self._claimed: deque[dict[str, Any]] = deque()
        """Messages that were taken and claimed together with another one, for the next calls of :meth:`take`."""
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)

    def connect(self) -> None:
        """Open the blocking connection and begin an epoch; raises NotWantedError, or a Redis error."""
        super().connect()
        if self.bulk and self.epoch > 1:
            self.set_slots(self.store.slots(self.container) or self.slots)  # an order may have been lost

    def begin_epoch(self) -> None:
        """Forget what was asked over the link before."""
        self._asked = 0.0
        self.ahead.reset()

    # -- taking ----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let a waiting :meth:`take` return; for signal handlers and other threads."""
        with contextlib.suppress(BlockingIOError):  # it will wake anyway: the pipe is full of reasons to
            os.write(self._wake_writer, b".")

    def take(self, timeout: float) -> dict[str, Any] | None:
        """Return the next claimed message, or ``None`` after ``timeout`` seconds or a call of :meth:`wake`."""
        if self._claimed:
            return self._claimed.popleft()
        return self.take_and(self._claim_with_others, timeout)

    def take_and(self, claim: Callable[[bytes], T], timeout: float) -> T | None:
        """Wait for a message and return what ``claim`` makes of it; it lies in the transit list until then."""
        if self.draining:
            return None
        if (len(self.claims) >= self.slots or self._leave_alone()) and not self._asked:  # an answer is always awaited
            self._sleep([], timeout)
            return None
        try:
            raw = self._wait(timeout)
            return None if raw is None else claim(raw)
        except LOST as exc:
            logger.warning("the connection to Redis was lost (%s): trying again", type(exc).__name__)
            self.reconnect()
            return None
        except redis.exceptions.OutOfMemoryError:
            return self._take_without_memory(claim)
        except redis.exceptions.ResponseError as exc:
            if not passes(exc):
                raise
            logger.error("Redis takes no writes (%s): waiting until it does", exc)
            self.reconnect()  # what was taken, and not claimed or not known to be, goes back
            return None

    def _take_without_memory(self, claim: Callable[[bytes], T]) -> T | None:
        # Redis refuses the blocking take, but not a script that is allowed to: running what is there frees memory.
        self._asked = 0.0
        raws = self.store.take_many(self.container, self.epoch, self.function, 1)
        if not raws:
            self._sleep([], 0.5)
            return None
        return claim(raws[0])

    def _wait(self, timeout: float) -> bytes | None:
        link = self._link
        if silent_since(self.store.client, self._linked):
            raise RedisConnectionError("another connection got no answer")
        if not self._asked:
            self.ahead.settle()
            transit = self.store.keys.transit(self.container, self.epoch)
            commands: list[tuple[Any, ...]] = [("BLMOVE", self.queue, transit, "RIGHT", "LEFT", TAKE_SECONDS)]
            if self.ahead.on:
                commands.append(self.ahead.command())
            link.send_packed_command(link.pack_commands(commands))
            self._asked = time.monotonic()
        if not self._sleep([link._sock], timeout):  # noqa: SLF001  # redis-py shows it nowhere else
            if time.monotonic() - self._asked > TAKE_SECONDS + 5:
                raise RedisConnectionError("no answer to a take")  # half open: the server always answers in time
            return None
        self._asked = 0.0
        try:
            raw = self.read()
        except redis.exceptions.ResponseError:
            if self.ahead.on:
                self.ahead.read()
            raise
        if self.ahead.on:
            self.ahead.read()
        return None if raw is None else bytes(raw)

    def _sleep(self, sockets: list[Any], timeout: float) -> bool:
        ready, _, _ = select.select([self._wake_reader, *sockets], [], [], timeout)
        if self._wake_reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_reader, 4096)
        return any(s in ready for s in sockets)

    def _claim_with_others(self, raw: bytes) -> dict[str, Any] | None:
        """Claim a message, and as many more as there are and fit: one step for all of them costs little."""
        message, alone = self.claim(raw), self._keeps_free
        self._keeps_free = False
        if message is None or not self.bulk:
            return message
        if not self._may_run(message):
            return None
        self._claimed.append(message)  # should the connection break now, the next call returns it
        free = self.slots - len(self.claims)
        if free > 0 and not alone and not self._leave_alone():
            more = self._claim_many(self.store.take_many(self.container, self.epoch, self.function, free))
            self._claimed.extend(each for each in more if self._may_run(each))
        return self._claimed.popleft()

    def _may_run(self, message: dict[str, Any]) -> bool:
        """Put an input back that is on its last attempt, unless it is alone: its crash must not take others along."""
        claim = self.claims[message["properties"]["delivery_tag"]]
        if not self.last_attempt or claim.attempt < self.last_attempt or len(self.claims) == 1:
            return True
        self._keeps_free = True  # for it, or another like it
        self.requeue(claim.tag)
        return False

    def _leave_alone(self) -> bool:
        """Return whether nothing more is to run now: an input has the container to itself, or is about to."""
        if not self.last_attempt or not self.claims:
            return False
        return self._keeps_free or any(c.attempt >= self.last_attempt for c in list(self.claims.values())[:1])

    def _claim_many(self, raws: Sequence[bytes]) -> list[dict[str, Any]]:
        """Claim messages that were taken into the transit list, in their order."""
        messages: list[dict[str, Any]] = []
        try:
            messages = [read_message(raw, self.function, self.tasks, self.keyring) for raw in raws]
        except RefusedError:
            found = [self.claim(raw) for raw in raws]  # one by one, and what is refused is set aside
            return [message for message in found if message is not None]
        rows = [(message["headers"]["id"], reply_of(message)) for message in messages]
        asked = [(i, reply | {"version": version_of(m)}) for (i, reply), m in zip(rows, messages, strict=True)]
        where = (self.container, self.epoch, self.function)
        claimed = self.store.begin_many(*where, self.timeout, asked, self.version)
        if any(each.status == "stale" for each in claimed):
            self.reconnect()
            return []
        held = [
            self.hold(message, reply, each)
            for message, (_, reply), each in zip(messages, rows, claimed, strict=True)
            if each.status == "ok"
        ]
        return [message for message in held if message is not None]

    def take_batch(self, most: int, until: float) -> list[dict[str, Any]]:
        """Return up to ``most`` more claimed messages, waiting for them until the monotonic time ``until``."""
        messages: list[dict[str, Any]] = []
        while len(messages) < most and not self.draining:
            try:
                raws = self.store.take_many(self.container, self.epoch, self.function, most - len(messages))
                left = until - time.monotonic()
                if not raws and left > 0:
                    raw = self._wait_once(left)
                    raws = [] if raw is None else [raw]
                messages += self._claim_many(raws)
            except LOST as exc:
                logger.warning("the connection to Redis was lost (%s): trying again", type(exc).__name__)
                self.reconnect()
                break
            except redis.exceptions.OutOfMemoryError:
                break
            except redis.exceptions.ResponseError as exc:
                if not passes(exc):
                    raise
                self.reconnect()
                break
            if not raws and time.monotonic() >= until:
                break
        return messages

    def _wait_once(self, seconds: float) -> bytes | None:
        """Take within so many seconds, or not at all: nothing may arrive while a batch runs."""
        transit = self.store.keys.transit(self.container, self.epoch)
        self._link.send_command("BLMOVE", self.queue, transit, "RIGHT", "LEFT", f"{max(seconds, 0.001):.3f}")
        deadline = time.monotonic() + seconds + 5
        while not self._sleep([self._link._sock], max(0.0, deadline - time.monotonic())):  # noqa: SLF001  # as in _wait
            if self.draining:
                self._asked = time.monotonic()  # what still comes is given back when the container leaves
                return None
            if time.monotonic() >= deadline:
                raise RedisConnectionError("no answer to a take")
        raw = self._link.read_response(disable_decoding=True)
        return None if raw is None else bytes(raw)

    @property
    def hungry(self) -> bool:
        """Whether it would take an input if there were one."""
        if self.draining or not self._linked:
            return False
        return not self.claims or (self.bulk and len(self.claims) < self.slots and not self._leave_alone())

    def set_slots(self, slots: int) -> None:
        """Change how many inputs run at once, up to ``most_slots``; those that run go on."""
        self.slots = max(1, min(slots, self.most_slots))
        self.wake()

    def stop_taking(self) -> None:
        """Give back what was taken and has not begun; what runs goes on."""
        while self._claimed:
            self.requeue(self._claimed.popleft()["properties"]["delivery_tag"])
        if self._asked and self.claims:  # a message that still comes would wait here for what runs
            with contextlib.suppress(NotWantedError, *LOST, RedisError):
                self.connect()

    def claim(self, raw: bytes) -> dict[str, Any] | None:
        """Claim the message that was just taken."""
        try:
            message = read_message(raw, self.function, self.tasks, self.keyring)
        except RefusedError as refused:
            self.refuse(raw, str(refused))
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
            self.reconnect()
            return None
        return self.hold(message, reply, claimed) if claimed.status == "ok" else None

    def turn(self, most: int, ended: Sequence[Ended]) -> Turned:
        """Hand back inputs that have ended and claim up to ``most`` more; for the consumer's thread."""
        link = self._link if not self._asked else None
        return self.store.turn(
            self.container, self.epoch, self.function, self.timeout,
            version=self.version, most=most, ended=ended, link=link, unread=self.ahead.pass_on(),
        )  # fmt: skip

    def pack(self, *command: Any) -> bytes:
        """Return a command as it is sent."""
        return b"".join(self._link.pack_command(*command))

    def send(self, command: bytes) -> None:
        """Send a packed command on the consumer's link."""
        self._link.send_packed_command([command])

    def read(self) -> Any:
        """Read an answer there."""
        return self._link.read_response(disable_decoding=True)

    def hold(
        self, message: dict[str, Any], reply: dict[str, Any], claimed: Claimed, *, fetch: bool = True
    ) -> dict[str, Any] | None:
        """Note that the container holds an input; ``None`` if that was a pack, and its inputs are to run alone.

        ``fetch`` brings its arguments, where they are large.
        """
        headers = message["headers"]
        # A redelivered message carries its publisher's tag again.
        tag = f"{headers['id']}/{claimed.retried}.{claimed.attempt}"
        if claimed.retried:
            headers["retries"] = claimed.retried
        if headers.get("expires"):
            headers["expires"] = self.store.by_own_clock(headers["expires"])
        self.taken += 1
        message["properties"]["delivery_tag"] = tag
        message["properties"]["delivery_info"].update(routing_key=self.queue, redelivered=claimed.attempt > 1)
        claim = Claim(
            headers["id"], tag, self.epoch, claimed.attempt, claimed.verdict, claimed.crash, reply,
            retried=claimed.retried, task=headers["task"],
        )  # fmt: skip
        self.claims[tag] = self.by_id[claim.id] = claim
        claim.payload = message.pop("payload", b"")
        if self._first_taken == 0.0:
            self._first_taken = time.monotonic()
        claim.large = message.pop("large", b"")
        if reply.get("pack") and (not self.runs_packs or claim.attempt > 1 or claim.crash or claim.verdict):
            break_up(self, claim, message)
            return None
        if claim.large and fetch:
            self.fetch(claim)
        return message

    def refuse(self, raw: bytes, reason: str) -> None:
        """Set the message aside that was just taken."""
        logger.error("a message on the queue of %s is set aside: %s", self.function, reason)
        try:
            reply = reply_of(json.loads(raw))
            " ".join((reply.get("call", ""), reply.get("caller", ""))).encode()
        except UNREADABLE:
            reply = {}
        self.store.quarantine(self.container, self.epoch, self.function, reason, reply)
