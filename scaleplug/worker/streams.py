"""Send the items of a generator function from its container, while it computes the next ones.

A thread beside the function sends what has gathered since it last did, so a slow function's items go one by one and a
fast one's in bulk. When the window is used up the function waits, and the thread waits for the consumer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis

from scaleplug.abc import Event
from scaleplug.errors import InputCancellation
from scaleplug.patience import passes
from scaleplug.serializer import OUTPUT, Keyring
from scaleplug.store import Part
from scaleplug.streams import PART_BYTES, PART_ITEMS, Window, drain, drain_async, dump
from scaleplug.worker.holding import EXIT_NO_REDIS, LOST, Claim
from scaleplug.worker.intake import Intake

logger = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_SECONDS: Final = 1
"""How often a stream that waits for its consumer looks whether there still is one."""
SLOW_SECONDS: Final = 0.01
"""A function that took longer for an item lets the sender have the GIL: what comes next may hold it for long."""
GIVE_SECONDS, GIVE_STEP = 0.005, 0.0002
GATHER_SECONDS: Final = 0.001
"""An item that comes sooner than this after the last send waits so long for others: each send costs everybody work."""
LOOP_SECONDS: Final = 0.005
"""How long an async generator that never awaits may keep its loop from anything else."""


class Outgoing:
    """The stream of one input."""

    def __init__(self, intake: Intake, keyring: Keyring, claim: Claim, cancel: Callable[[str], None]) -> None:
        self.intake, self.keyring, self.claim = intake, keyring, claim
        self.window = Window()
        self._cancel = cancel
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # items; b"": wait for room; None: the end
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._sender: threading.Thread | None = None
        self._over = False  # nobody wants what is left
        self._refused = False
        self._number = self._items = self._delivered = 0
        self._last = self._sent = 0.0

    # -- the function's thread -------------------------------------------------------------------------------------

    def run(self, generator: Any) -> tuple[int, Any]:
        """Send every item of a generator; return how many there were and what it returns."""
        try:
            returned = drain(generator, self._put)
        except InputCancellation:
            raise
        except BaseException:
            self._finish()  # what was yielded before comes first
            raise
        else:
            self._finish()
        finally:
            self._leave()
        return self.window.items, returned

    async def run_async(self, generator: Any) -> tuple[int, Any]:
        """Send every item of an async generator."""
        try:
            await drain_async(generator, self._put_async)
        except (InputCancellation, asyncio.CancelledError):
            raise
        except BaseException:
            self._finish()
            raise
        else:
            self._finish()
        finally:
            self._leave()
        return self.window.items, None

    def _put(self, item: Any) -> None:
        data = dump(item, self.intake.function)
        if self.window.full:
            self._orders.put(b"")
            self.window.wait()
        self._add(data)
        now = time.monotonic()
        if now - self._last > SLOW_SECONDS:
            while self._unsent(now):
                time.sleep(GIVE_STEP)
        self._last = time.monotonic()

    async def _put_async(self, item: Any) -> None:
        data = dump(item, self.intake.function)
        if self.window.full:
            self._orders.put(b"")
            await self.window.wait_async()
        self._add(data)
        now = time.monotonic()
        if now - self._last > LOOP_SECONDS:
            await asyncio.sleep(0)
            while self._unsent(now):  # noqa: ASYNC110  # an event would have to be set for every part
                await asyncio.sleep(GIVE_STEP)
            self._last = time.monotonic()

    def _unsent(self, since: float) -> bool:
        """Whether the sender is still busy with what was there at ``since``, and not for too long."""
        return self._delivered < self.window.items and time.monotonic() < since + GIVE_SECONDS

    def _add(self, data: bytes) -> None:
        self._orders.put(data)  # first: the sender, when it finds the window full, must know that all is sent
        self.window.add(len(data))
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_all, daemon=True, name=f"scaleplug-{self.claim.id}")
            self._sender.start()

    def _finish(self) -> None:
        """Return when everything has been sent."""
        if self._sender is not None:
            self._orders.put(None)
            self._done.get()
        if self._refused:
            raise InputCancellation

    def _leave(self) -> None:
        self._over = True
        self._orders.put(None)

    # -- the sender's thread ---------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        try:
            while not self._over:
                items, order = self._collect()
                if items and not self._over:
                    self._send(items)
                if order is None:
                    return
                if order == b"":
                    self._await_room()
        except Exception:
            logger.exception("the items of input %s can't be sent", self.claim.id)
            self._refuse()
        finally:
            self._done.put(None)

    def _collect(self) -> tuple[list[bytes], bytes | None]:
        """Wait for an item, and return what else is there; and the order behind it, if there is one."""
        items: list[bytes] = []
        size = 0
        order = self._orders.get()
        rest = GATHER_SECONDS - (time.monotonic() - self._sent)
        if order and rest > 0:
            time.sleep(rest)
        while order:
            items.append(order)
            size += len(order)
            if len(items) >= PART_ITEMS or size >= PART_BYTES:
                break
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                break
        return items, order

    def _send(self, items: list[bytes]) -> None:
        number, reply = self._number, self.claim.reply
        self._number, self._items = number + 1, self._items + len(items)
        self.window.sent(number, len(items), sum(map(len, items)))
        context = Event(reply["index"], None, "", number, self.claim.attempt).context(reply["call"])
        self._pass_on(self.keyring.seal(OUTPUT, context, b"+" + pickle.dumps(items)), number)
        self._sent, self._delivered = time.monotonic(), self._items

    def _await_room(self) -> None:
        call = self.claim.reply["call"]
        # An order may be out of date: the function went on, and filled the window with what is still to be sent.
        while self.window.full and self._orders.empty() and not self._over:
            granted = self._insist(lambda: self.intake.store.wait_grant(call, LOOK_SECONDS))
            if granted is not None:
                self.window.grant(granted)
            elif not self._over:
                self._pass_on(b"", self._number)
        self.window.wake()

    def _pass_on(self, payload: bytes, number: int) -> None:
        """Send a part, or look whether somebody still wants one; cancel the input if nobody does."""
        intake, claim = self.intake, self.claim
        part = Part(claim.attempt, number, self._items, payload)
        status, granted = self._insist(
            lambda: intake.under_epoch(
                claim,
                lambda e: intake.store.send_part(intake.container, e, intake.function, claim.id, claim.reply, part),
                lambda answer: answer[0] == "lost",
            )
        )
        if granted is not None:
            self.window.grant(granted)
        if status != "ok":
            logger.info("the stream of input %s ends: %s", claim.id, status)
            self._refuse()

    def _refuse(self) -> None:
        self._refused = self._over = True
        self._cancel(self.claim.id)

    def _insist(self, action: Callable[[], T]) -> T:
        """Do it until Redis has answered; the function's thread alone may begin a new epoch."""
        deadline, pause = time.monotonic() + self.intake.give_up, 0.05
        while True:
            try:
                return action()
            except LOST as exc:
                if time.monotonic() > deadline:
                    logger.critical("Redis has not answered for %g s: leaving", self.intake.give_up)
                    os._exit(EXIT_NO_REDIS)
                logger.warning("the connection to Redis was lost (%s): trying again", type(exc).__name__)
            except redis.exceptions.ResponseError as exc:
                if not passes(exc) and not isinstance(exc, redis.exceptions.OutOfMemoryError):
                    raise
                deadline = time.monotonic() + self.intake.give_up
                logger.error("Redis takes no writes (%s): waiting until it takes the items", exc)
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
