"""Run inputs one after the other: several are taken at once, and handed back at once, where each is short.

How many depends on how long this container's inputs have taken lately. No input waits behind a long one, and no result
waits for others: a watchdog gives back what has not begun, and hands back what has ended, when a list takes longer than
it should.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from cloudpickle import loads
from redis.exceptions import RedisError

from scaleplug.errors import Error
from scaleplug.packing import SECONDS
from scaleplug.serializer import MASKED
from scaleplug.store import Ended, Turned
from scaleplug.worker.fast import Fast
from scaleplug.worker.holding import Claim
from scaleplug.worker.intake import Intake
from scaleplug.worker.packed import Packed
from scaleplug.worker.reading import RefusedError, read_message, reply_of
from scaleplug.worker.runner import Runner

logger = logging.getLogger(__name__)

MOST = 300
"""Inputs that are taken at once, unless a single pack holds more."""
STRIKE_SECONDS, LOOK_SECONDS = 0.035, 0.01
"""After so many seconds a list that is not done is given back; how often the watchdog looks."""
REST_SECONDS = 1.0
"""The watchdog sleeps when nothing has been done for so long."""
SINGLES = 4
"""After so many inputs in a row that came alone, the next one begins before its claim has been heard."""
FLUSH_BYTES = 1_000_000
"""Outcomes are handed back when they take so many bytes."""
_ID = re.compile(rb'"id": "([^"]*)"')

Item = tuple[Claim, dict[str, Any]]


class Turns:
    """What a container of one input at a time does between two looks of Celery's loop."""

    def __init__(self, intake: Intake, runner: Runner, fast: Fast, deliver: Callable[[dict[str, Any]], object]) -> None:
        self.intake, self.runner, self.fast, self._deliver = intake, runner, fast, deliver
        self.lists = True
        """Whether several inputs may be taken at once."""
        self.lock = threading.RLock()
        """Guards what follows: the watchdog is another thread."""
        self._waiting: deque[Item] = deque()
        self._known: dict[bytes, tuple[dict[str, Any], dict[str, Any]]] = {}
        """The message that was taken first, read, and its reply: it is among those that are claimed then."""
        self._ended: list[tuple[Claim, Ended]] = []
        self._bytes = 0
        self.packed: Packed | None = None
        """The pack that runs, as long as it is whole."""
        self._since: float | None = None
        self._seconds: float | None = None
        self._last = 0.0
        self._singles = SINGLES
        """How often in a row a single input came, and no other after it."""
        self._awake = threading.Event()
        self._watchdog: threading.Thread | None = None

    def go(self, timeout: float) -> bool:
        """Run what there is, and more as long as there is some; False when nothing came in time."""
        first: Turned | dict[str, Any] | None = self.intake.take_and(self._claim_first, timeout)
        if first is None:
            return False
        if isinstance(first, dict):
            self._deliver(first)
            return True
        turned: Turned | None = first
        ran = 0
        while turned is not None and self._hold(turned):
            ran += len(self._waiting)
            self._run_list()
            turned = self._hand_back()
        # Where several often come together, claiming them together is cheaper than beginning one ahead.
        self._singles = self._singles + 1 if ran == 1 else 0
        self.intake.ahead.on = self._singles >= SINGLES
        return True

    # -- taking ----------------------------------------------------------------------------------------------------

    def most(self) -> int:
        """Return how many inputs to take at once: no more than run in a moment."""
        if not self.lists or self._seconds is None or self._seconds >= SECONDS / 2:
            return 1
        return max(1, min(MOST, int(SECONDS / max(self._seconds, 1e-7))))

    def _claim_first(self, raw: bytes) -> Turned | dict[str, Any] | None:
        """Claim the message that was just taken, and others with it; what is for Celery comes by itself."""
        intake = self.intake
        try:
            message = read_message(raw, intake.function, intake.tasks, intake.keyring)
        except RefusedError as refused:
            intake.refuse(raw, str(refused))
            return None
        reply = reply_of(message)
        if reply:
            claimed = intake.ahead.claim(message)
            if claimed is not None:
                self._known = {raw: (message, reply)}
                return Turned((), False, [(raw, claimed)])
            turned = intake.turn(self.most(), ())
            if turned.stale:
                intake.reconnect()
                return None
            if turned.claimed:
                self._known = {raw: (message, reply)}
                return turned
        # It came from Celery's own calls; or it asks for newer code, was cancelled, or can be claimed no more.
        return intake.claim(raw)

    def _hold(self, turned: Turned) -> bool:
        """Note what has been claimed; return whether there is something to run."""
        intake = self.intake
        known, self._known = self._known, {}
        for raw, claimed in turned.claimed:
            try:
                message, reply = known.pop(raw) if raw in known else self._read(raw)
            except RefusedError:  # it came with others: when it comes first, it is set aside
                self._put_back(raw)
                continue
            kept = intake.hold(message, reply, claimed, fetch=False)
            if kept is not None:
                self._waiting.append((intake.by_id[kept["headers"]["id"]], kept))
        return bool(self._waiting)

    def _read(self, raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        message = read_message(raw, self.intake.function, self.intake.tasks, self.intake.keyring)
        return message, reply_of(message)

    def _put_back(self, raw: bytes) -> None:
        found, intake = _ID.search(raw), self.intake
        if found is not None:
            input_id = found.group(1).decode()
            intake.insist(lambda: intake.store.requeue(intake.container, intake.epoch, intake.function, input_id))
            self._seconds = None  # so that it is the next one, and alone

    # -- running ---------------------------------------------------------------------------------------------------

    def _run_list(self) -> None:
        inputs, began = 0, time.monotonic()
        if len(self._waiting) > 1 or "pack" in self._waiting[0][0].reply:
            self._wake_watchdog()
            self.fast.bulk_events(True)
        with self.lock:
            self._since = began
        while True:
            with self.lock:
                if self.intake.draining or not self._waiting or self._bytes > FLUSH_BYTES:
                    break
                claim, message = self._waiting.popleft()
            claim.begun = time.monotonic()
            if "pack" in claim.reply:
                inputs += self._run_pack(claim, message)
            else:
                inputs += 1
                self._run_one(claim, message)
        self.fast.bulk_events(False)
        if inputs:
            took = (time.monotonic() - began) / inputs
            self._seconds = took if self._seconds is None else (self._seconds + took) / 2

    def _run_one(self, claim: Claim, message: dict[str, Any]) -> None:
        body, verdict = self.fast.takes(claim, message["headers"]), self._verdict(claim)
        if verdict is not None and body is None and self.intake.fail(claim.tag, verdict):
            self.intake.finish(claim.tag)
            return
        if body is None:
            self.intake.insist(self.intake.ahead.settle)
            if claim.large:
                self.intake.fetch(claim)
            self._deliver(message)
            return
        try:
            args, kwargs, _ = loads(claim.payload) if verdict is None else ((), {}, None)
        except (Exception, SystemExit):  # noqa: BLE001  # whatever unpickling does: Celery's way tells it
            self.intake.insist(self.intake.ahead.settle)
            self._deliver(message)
            return
        values = self.fast.request(claim, message)
        if verdict is not None:
            values |= {"argsrepr": MASKED, "kwargsrepr": MASKED}  # watchers keep to what they have seen
        kept = self.fast.run(claim, body, values, args, kwargs)
        if kept and claim.retry_in is None and not claim.draft:
            seconds = self.intake.seconds_of(claim)
            self.end(claim, Ended(claim.id, seconds, int(claim.failed), claim.reply, claim.outcome))
            return
        self.intake.insist(self.intake.ahead.settle)
        self.intake.finish(claim.tag) if kept else self.intake.requeue(claim.tag)

    def _verdict(self, claim: Claim) -> Exception | None:
        """Return what an input fails with instead of running: what unpickling it does may be the very reason."""
        try:
            self.runner.check_verdict(claim, claim.task)
        except Error as error:
            return error
        return None

    def _run_pack(self, claim: Claim, message: dict[str, Any]) -> int:
        """Run the inputs of a pack; return how many have run."""
        packed = Packed(self, claim, message)
        return packed.run()

    def end(self, claim: Claim, row: Ended) -> None:
        """Note that an input, or a pack, has ended: it is handed back soon."""
        with self.lock:
            self._ended.append((claim, row))
            self._bytes += len(row.outcome or b"")

    # -- handing back ----------------------------------------------------------------------------------------------

    def _hand_back(self) -> Turned | None:
        """Hand back what has ended and take more in the same step; ``None`` when there is no more."""
        rest, ended = self._drain()
        if rest:
            self.intake.insist(self.intake.ahead.settle)
            self._give_back(rest)
        if not ended:
            return None
        intake, found = self.intake, list[Turned]()
        rows = [row for _, row in ended]

        def turn() -> None:
            most = 0 if intake.draining or rest else self.most()
            found.append(intake.turn(most, rows))

        intake.insist(turn)
        turned = found[-1]
        self._let_go(ended, turned.owned)
        if turned.stale:
            intake.reconnect()
            return None
        return turned if turned.claimed else None

    def _drain(self) -> tuple[list[Item], list[tuple[Claim, Ended]]]:
        """Return what has not begun and what has ended; neither is here any more."""
        with self.lock:
            rest, ended = list(self._waiting), self._ended
            self._waiting.clear()
            self._ended, self._bytes, self._since = [], 0, None
        return rest, ended

    def _let_go(self, ended: Sequence[tuple[Claim, Ended]], owned: Sequence[bool]) -> None:
        for (claim, _), ours in zip(ended, owned, strict=True):
            if not ours:
                logger.warning("input %s belongs to another container now: its outcome here is dropped", claim.id)
            self.intake.forget(claim)
        self.intake.check_idle()

    def _give_back(self, rest: Sequence[Item]) -> None:
        """Put inputs that have not begun back at the head of the queue."""
        left, intake = [claim for claim, _ in rest], self.intake

        def put_back() -> None:
            held = [(claim.epoch, claim.id) for claim in left]
            done = intake.store.requeue_many(intake.container, intake.function, held)
            left[:] = [
                claim
                for claim, (epoch, _), ours in zip(left, held, done, strict=True)
                if not ours and not intake.is_current(claim, epoch, told=False)
            ]

        while left:
            intake.insist(put_back)
        for claim, _ in rest:
            intake.drop(claim)

    # -- the watchdog ----------------------------------------------------------------------------------------------

    def _wake_watchdog(self) -> None:
        self._last = time.monotonic()
        if self._watchdog is None:
            self._watchdog = threading.Thread(target=self._watch, daemon=True, name="scaleplug-turns")
            self._watchdog.start()
        if not self._awake.is_set():
            self._awake.set()

    def _watch(self) -> None:
        while True:
            self._awake.wait()
            time.sleep(LOOK_SECONDS)
            try:
                self._look()
            except Exception:
                logger.exception("a list of inputs could not be given back")
            if time.monotonic() > self._last + REST_SECONDS and self._since is None:
                self._awake.clear()
                if time.monotonic() <= self._last + REST_SECONDS:  # a list has begun in between
                    self._awake.set()

    def _look(self) -> None:
        """Give back and hand back what has waited too long here."""
        with self.lock:
            if self._since is None or time.monotonic() < self._since + STRIKE_SECONDS:
                return
            if self.packed is not None and not self._take_apart(self.packed):
                return
            rest, ended = self._drain()
        self._give_back(rest)
        self._send(ended)
        self.fast.bulk_events(False)  # what still runs is to be seen

    def _send(self, ended: list[tuple[Claim, Ended]]) -> None:
        """Hand back what has ended, from a thread that is not the consumer's."""
        intake, left = self.intake, ended
        while left:
            found: list[tuple[int, Turned]] = []
            rows = [row for _, row in left]

            def turn(rows: list[Ended] = rows, found: list[tuple[int, Turned]] = found) -> None:
                epoch = intake.epoch
                turned = intake.store.turn(intake.container, epoch, intake.function, 0, most=0, ended=rows)
                found.append((epoch, turned))

            intake.insist(turn)
            epoch, turned = found[-1]
            left = [
                each
                for each, ours in zip(left, turned.owned, strict=True)
                if not ours and not intake.is_current(each[0], epoch)
            ]
        for claim, _ in ended:
            intake.drop(claim)

    def _take_apart(self, packed: Packed) -> bool:
        """Give the input that runs out of a pack a claim of its own; the lock is held. False: not now."""
        if not packed.pack.running:
            return False
        split, single = packed.split(self.intake.timeout)
        intake, claim = self.intake, packed.claim
        try:  # once: only the consumer can connect again, and it may wait for the lock
            done = intake.store.split(intake.container, claim.epoch, intake.function, split)
        except (RedisError, OSError):
            packed.doubted = True
            return False
        if done:
            packed.leave(single)
        return done
