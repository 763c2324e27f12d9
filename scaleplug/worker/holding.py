"""What a container holds: its claims under the epoch of its connection, and how they are handed back.

After a lost connection a new epoch begins, which carries over what still runs; everything else under older epochs goes
back to the queue. Handing back is tried until Redis answers or :attr:`Config.reconnect_timeout` is over; then the
process ends, since life is progress.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import threading
import time
from collections.abc import Callable, Sequence
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
from scaleplug.store import End, Store
from scaleplug.worker.payloads import Payloads
from scaleplug.worker.spares import Boot

logger = logging.getLogger(__name__)

T = TypeVar("T")
EXIT_NO_REDIS = 70
EXIT_NOT_WANTED = 71
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


class Holding:
    """What one container holds; how it comes by it is for :class:`scaleplug.worker.intake.Intake` to say."""

    def __init__(
        self, store: Store, keyring: Keyring, *, container: str, function: str, timeout: float, give_up: float
    ) -> None:
        self.store, self.keyring = store, keyring
        self.container, self.function = container, function
        self.timeout, self.give_up = timeout, give_up
        self.claims: dict[str, Claim] = {}
        self.by_id: dict[str, Claim] = {}
        self.payloads = Payloads(Blobs(store, keyring, MAX_PAYLOAD))
        self.epoch = 0
        self.on_idle: Callable[[], object] = lambda: None
        """Called when the last claim has been handed back."""
        self.boot: Boot | None = None
        """What was opened before this container knew its function, if it was a spare."""
        self.forked = 0.0
        self._cold = True
        self._lost_since = 0.0
        self._connecting = threading.RLock()  # held while a new epoch begins
        self._door = Door(DOORS)
        self._link: Any = None
        self._linked = 0.0
        """When that was opened, monotonic."""
        self._client_id = 0
        self._first_taken: float | None = 0.0
        """When the first input was claimed, monotonic; ``None`` once that is written down."""
        self._consumer = threading.get_ident()

    def wake(self) -> None:
        """Let the consumer's thread look what there is to do."""
        raise NotImplementedError

    def begin_epoch(self) -> None:
        """Forget what was asked over the link before; no claim changes meanwhile."""
        raise NotImplementedError

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
            self._link, self._client_id, self.epoch, self._linked = link, client_id, epoch, linked
            self.begin_epoch()
            for claim in list(self.claims.values()):
                claim.epoch = epoch

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

    def fetch(self, claim: Claim) -> None:
        """Bring the large arguments of an input."""
        self.insist(lambda: self.payloads.fetch(claim.large))

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

    def leave(self, reason: str) -> None:
        """Give back what is left and sign off."""
        try:
            if self._link is not None:
                self._link.disconnect()
            self.store.leave(self.container, self.function, reason)
        except (*LOST, RedisError):
            logger.warning("could not sign off: the controller will give back what is left")
