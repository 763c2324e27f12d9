"""Take inputs from a function's queue and hand their outcomes back, whatever the connection does meanwhile.

Taking blocks in ``BLMOVE`` into the container's transit list; ``begin.lua`` then claims the message and counts the
attempt, while the input runs already where nothing speaks against it (see ``ahead.py``). The claim stands under the
container's name and the epoch of its connection. After a lost connection the intake begins a new epoch and carries over
what it still runs; everything else under older epochs goes back to the queue. Finishing is retried until Redis answers
or :attr:`Config.reconnect_timeout` is over; then the process ends, since life is progress.
"""

from __future__ import annotations

import contextlib
import json
import logging
import operator
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.blobs import Blobs
from scaleplug.links import Door
from scaleplug.patience import passes
from scaleplug.serializer import Keyring, seal_failure
from scaleplug.settings import MAX_PAYLOAD
from scaleplug.silence import silent_since
from scaleplug.store import Claimed, End, Ended, Store, Turned
from scaleplug.worker.ahead import Ahead
from scaleplug.worker.packs import break_up
from scaleplug.worker.payloads import Payloads
from scaleplug.worker.reading import UNREADABLE, RefusedError, read_message, reply_of, version_of
from scaleplug.worker.spares import Boot

logger = logging.getLogger(__name__)

T = TypeVar("T")
EXIT_NO_REDIS = 70
EXIT_NOT_WANTED = 71
TAKE_SECONDS = 10
"""How long one BLMOVE waits in the server: an idle container sends one command in that time."""
COLD_SECONDS = 0.1
DOORS = 16
"""So many threads hand something back at once: each takes a connection."""
LOST = (RedisConnectionError, RedisTimeoutError, OSError)


class NotWantedError(Exception):
    """The controller has given this container up."""


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
    task: str = ""
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
    payload: bytes = b""
    """What was signed, verified."""
    begun: float | None = None
    """When it began, where it may have waited for its turn in the container."""


class Intake:
    """The intake of one container."""

    def __init__(  # noqa: PLR0913, PLR0915  # what a container knows
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
        self.runs_packs = False
        """Whether the inputs of a pack run here one after the other; else each becomes a message of its own."""
        self.payloads = Payloads(Blobs(store, keyring, MAX_PAYLOAD))
        self.ahead = Ahead(self)
        self.epoch = 0
        self.draining = False
        self.on_idle: Callable[[], object] = lambda: None
        """Called when the last claim has been handed back."""
        self.version, self.outdated = version, False
        self.on_outdated: Callable[[], object] = lambda: None
        """Called when an input has asked for code that is newer than this container's."""
        self._cold = True
        self._lost_since = 0.0
        self.taken = 0
        """How many inputs it has claimed."""
        self.bulk = False
        """Whether to take several messages at once: where several inputs run at once."""
        self.most_slots = slots
        self.last_attempt = 0
        """The attempt that an input has to itself, where several run at once; 0 for none."""
        self._keeps_free = False
        self._connecting = threading.RLock()  # held while a new epoch begins
        self._door = Door(DOORS)
        self._link: Any = None
        self.boot: Boot | None = None
        """What was opened before this container knew its function, if it was a spare."""
        self.forked = 0.0
        self._first_taken: float | None = 0.0
        """When the first input was claimed, monotonic; ``None`` once that is written down."""
        self._client_id = 0
        self._asked = self._linked = 0.0
        self._claimed: deque[dict[str, Any]] = deque()
        """Messages that were taken and claimed together with another one, for the next calls of :meth:`take`."""
        self._consumer = threading.get_ident()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)

    # -- the connection --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the blocking connection and begin an epoch; raises NotWantedError, or a Redis error."""
        linked = time.monotonic()
        link, client_id = self._open()
        self._end_old_link()
        with self._connecting:
            epoch = self.store.connect(
                self.container, self.function, client_id, os.getpid(), list(self.by_id),
                age=time.monotonic() - self.forked if self.forked else None, spare=self.boot is not None,
                timeout=self.timeout,
            )  # fmt: skip
            if not epoch:
                link.disconnect()
                raise NotWantedError
            self._link, self._client_id, self.epoch, self._asked = link, client_id, epoch, 0.0
            self._linked = linked
            self.ahead.reset()
            for claim in list(self.claims.values()):
                claim.epoch = epoch
        if self.bulk and epoch > 1:
            self.set_slots(self.store.slots(self.container) or self.slots)  # an order may have been lost

    def _open(self) -> tuple[Any, int]:
        """Return a blocking connection and its id: the one that was opened ahead, or another."""
        ahead = self.boot.hand_over() if self.boot is not None else None
        if ahead is not None:
            return ahead
        pool = self.store.client.connection_pool
        link = pool.connection_class(**{**pool.connection_kwargs, "client_name": self.container})
        link.connect()
        link.send_command("CLIENT", "ID")
        return link, int(link.read_response())

    def _end_old_link(self) -> None:
        # A take that still waits in the server under the old connection must not fire after the new epoch began.
        if self._link is None:
            return
        self._link.disconnect()
        clients = self.store.client.client_list(client_id=[self._client_id])
        if any(c.get("name") == self.container for c in clients):
            self.store.client.client_kill_filter(_id=self._client_id)
        self._link = None

    def reconnect(self) -> None:
        """Begin a new epoch, or end the process."""
        deadline, pause = time.monotonic() + self.give_up, 0.05
        self.store.client.connection_pool.disconnect(inuse_connections=False)  # each would take long to find out
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

    def fetch(self, claim: Claim) -> None:
        """Bring the large arguments of an input."""
        self.insist(lambda: self.payloads.fetch(claim.large))

    def refuse(self, raw: bytes, reason: str) -> None:
        """Set the message aside that was just taken."""
        logger.error("a message on the queue of %s is set aside: %s", self.function, reason)
        try:
            reply = reply_of(json.loads(raw))
            " ".join((reply.get("call", ""), reply.get("caller", ""))).encode()
        except UNREADABLE:
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
            self.drop(claim)

    def finish_many(self, claims: Sequence[Claim]) -> None:
        """Acknowledge inputs that have ended, in one step; one that is put off goes when Celery says so."""
        ended = [claim for claim in claims if claim.retry_in is None and claim.tag in self.claims]
        left = [(claim, self.seconds_of(claim)) for claim in ended]

        def finish() -> None:
            epochs = [claim.epoch for claim, _ in left]
            rows = [
                End(epoch, c.id, seconds, c.failed, c.reply, c.outcome, c.draft)
                for epoch, (c, seconds) in zip(epochs, left, strict=True)
            ]
            owned = self.store.finish_many(self.container, self.function, rows)
            left[:] = [
                each
                for each, epoch, ours in zip(left, epochs, owned, strict=True)
                if not ours and not self.is_current(each[0], epoch)
            ]

        try:
            while left:
                self.insist(finish)
        finally:
            for claim in ended:
                self.drop(claim)

    def under_epoch(self, claim: Claim, action: Callable[[int], T], refused: Callable[[T], bool]) -> T:
        """Do what is refused under an old epoch, with the claim's; again, if a new one has begun meanwhile."""
        while True:
            epoch = claim.epoch
            result = action(epoch)
            if not refused(result) or self.is_current(claim, epoch, told=False):
                return result

    def is_current(self, claim: Claim, epoch: int, *, told: bool = True) -> bool:
        """Return whether a claim that was not found under ``epoch`` isn't under another: then it is lost."""
        with self._connecting:
            current = claim.epoch == epoch
        if current and told:
            logger.warning("input %s belongs to another container now: its outcome here is dropped", claim.id)
        return current

    def seconds_of(self, claim: Claim) -> float | None:
        """Return how long an input took, ``None`` where that is no guide."""
        seconds = time.monotonic() - (claim.begun or claim.taken)
        cold, self._cold = self._cold, False
        if claim.verdict == "timeout":
            return None  # it only heard the verdict here
        # A first input pays for what happens once, and would make short ones look long.
        return None if cold and seconds < COLD_SECONDS else seconds

    def _finish(self, claim: Claim) -> None:
        seconds = self.seconds_of(claim)

        def finish(epoch: int) -> bool:
            where = (self.container, epoch, self.function, claim.id)
            if claim.retry_in is not None:
                return self.store.retry(*where, delay=claim.retry_in, seconds=seconds, reply=claim.reply)
            return self.store.finish(
                *where, seconds=seconds, failed=claim.failed, reply=claim.reply, outcome=claim.outcome,
                draft=claim.draft,
            )  # fmt: skip

        if not self.under_epoch(claim, finish, operator.not_):
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
            self.insist(
                lambda: self.under_epoch(
                    claim, lambda e: self.store.requeue(self.container, e, self.function, claim.id), operator.not_
                )
            )
        finally:
            self.drop(claim)

    def owns(self, claim: Claim) -> bool:
        """Return whether this container still owns an input."""
        owned: list[bool] = []
        self.insist(
            lambda: owned.append(
                self.under_epoch(claim, lambda e: self.store.owns(self.container, e, claim.id), operator.not_)
            )
        )
        return owned[-1]

    def insist(self, action: Callable[[], object]) -> None:
        """Do it until Redis has answered; what can't be reached for too long ends the process."""
        while True:
            try:
                with self._door:
                    action()
            except LOST as exc:
                logger.warning("the connection to Redis was lost (%s): trying again", type(exc).__name__)
                if threading.get_ident() == self._consumer:
                    self.reconnect()
                    continue
                # The consumer alone begins a new epoch; its claims are found under that.
                self._lost_since = self._lost_since or time.monotonic()
                if time.monotonic() - self._lost_since > self.give_up:
                    logger.critical("Redis has not answered for %g s: leaving", self.give_up)
                    os._exit(EXIT_NO_REDIS)
                time.sleep(0.05)
            except redis.exceptions.ResponseError as exc:
                if not passes(exc) and not isinstance(exc, redis.exceptions.OutOfMemoryError):
                    raise
                logger.error("Redis takes no writes (%s): waiting until it takes the outcome", exc)
                time.sleep(0.5)
            else:
                self._lost_since = 0.0
                return

    def drop(self, claim: Claim) -> None:
        """Forget an input that has been handed back."""
        self.forget(claim)
        self.wake()
        self.check_idle()

    def forget(self, claim: Claim) -> None:
        """Forget an input, and wake nobody."""
        self.claims.pop(claim.tag, None)
        self.by_id.pop(claim.id, None)
        self.payloads.forget(claim.large)
        if self._first_taken:
            taken, self._first_taken = self._first_taken, None
            with contextlib.suppress(*LOST, RedisError):
                self.store.note_first(self.container, time.monotonic() - taken)

    def check_idle(self) -> None:
        """Tell when the last claim has been handed back."""
        if not self.claims:
            self.on_idle()

    def stop_taking(self) -> None:
        """Give back what was taken and has not begun; what runs goes on."""
        while self._claimed:
            self.requeue(self._claimed.popleft()["properties"]["delivery_tag"])
        if self._asked and self.claims:  # a message that still comes would wait here for what runs
            with contextlib.suppress(NotWantedError, *LOST, RedisError):
                self.connect()

    def leave(self, reason: str) -> None:
        """Give back what is left and sign off."""
        try:
            if self._link is not None:
                self._link.disconnect()
            self.store.leave(self.container, self.function, reason)
        except (*LOST, RedisError):
            logger.warning("could not sign off: the controller will give back what is left")
