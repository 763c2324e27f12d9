"""Whose thread reads the inbox: that of a plain ``remote``, or one in the background for all who can't.

A thread that reads for itself gets its outcome without being woken for it, which is a good part of what a short call
takes. Only one reads at a time, for everybody. Calls are *led* by their own threads or not; the background thread has
the turn while there is one that nobody leads, and else rests. All of this is made for threads that end anywhere: by
Ctrl-C, by the exception of a signal handler, or not at all, because such a handler waits for another thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable

from redis.exceptions import RedisError

from scaleplug.wire import Wire

logger = logging.getLogger("scaleplug")

SHORTEST_PAUSE = 0.05
TRUSTED_SECONDS = 0.01
"""A connection that has answered within so many seconds is taken to be there when a call begins."""
STUCK_SECONDS = 10.0
"""No reading takes longer: a thread that has had its turn for longer is held up by something else."""


class Turn:
    """One thread's turn to read."""

    __slots__ = ("since", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.since = time.monotonic()


class Readers:
    """Who reads, over which connection; how one reads is for :class:`scaleplug.inbox.Inbox` to say."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        """Seconds that one reading waits for something to come."""
        self.pid = os.getpid()
        self.closed = False
        self._lock = threading.Lock()
        self._turn: Turn | None = None
        """Who reads; what reading changes is theirs."""
        self._wire: Wire | None = None
        self._led: dict[str, bool] = {}
        """The calls whose own threads read for them: whether one has to leave it to others now."""
        self._unled = 0
        """Calls for which others have to read."""
        self._stays = False
        """The background thread goes on when nobody needs it: the last outcome was of a call that isn't led."""
        self._resting = False
        """The background thread waits for the bell."""
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._heard = time.monotonic()
        """When Redis has answered the last time."""
        self._away = False
        self._pause = SHORTEST_PAUSE

    def _read(self, turn: Turn, seconds: float) -> None:
        """Wait for outcomes and hand them out."""
        raise NotImplementedError

    def lost_connection(self) -> None:
        """Do what is to be done when the connection was lost."""
        raise NotImplementedError

    def end(self) -> None:
        """Stop reading."""
        self.closed = True
        self._unseat()
        self._bell.put(None)

    # -- calls -----------------------------------------------------------------------------------------------------

    def _count(self, call: str, *, led: bool) -> None:
        """Note who is to read for a call that begins; the lock is held."""
        if led:
            self._led[call] = False
        else:
            self._unled += 1

    def _discount(self, call: str) -> None:
        """Forget that; the lock is held."""
        if self._led.pop(call, True):
            self._unled -= 1

    def _serve(self, call: str) -> None:
        """Note that a call gets an outcome now."""
        self._stays = call not in self._led

    def _served(self, call: str) -> None:
        """Note that it has got it: the only one of a call that is led."""
        if self._led.get(call):
            with self._lock:
                if self._led.get(call):
                    self._led[call] = False
                    self._unled -= 1

    def lead(self, call: str, waits: Callable[[], bool]) -> None:
        """Read while a call waits, on its own thread; return when that is over, or when others read for it."""
        turn = Turn()
        try:
            while waits() and self._take(turn):
                self._read(turn, self._wait)
        except RedisError as exc:  # no OSError: a TimeoutError is what signals' handlers raise
            self._lose(exc)
        finally:
            # First and without any call: so nothing that a signal raises can come in between.
            if self._turn is turn:
                self._turn = None
        if waits():
            with self._lock:
                if self._led.get(call) is False and waits():
                    self._led[call] = True
                    self._unled += 1
        self._ring()

    # -- the background thread -------------------------------------------------------------------------------------

    def _start_reader(self, name: str) -> threading.Thread:
        self._heard = time.monotonic()
        thread = threading.Thread(target=_read_for_others, args=(weakref.ref(self), self._bell), daemon=True, name=name)
        thread.start()
        return thread

    def read_for_others(self, turn: Turn) -> float:
        """Read once, if that is for the background thread to do; return the seconds that it may rest now."""
        self._resting = True  # first: who leaves it something to do from here on rings
        if not self._needed:
            rest = self._heard + self._wait - time.monotonic()
            if rest > 0:
                return rest
        self._unseat_stuck()
        if not self._take(turn, trying=True):
            return self._wait
        self._resting = False
        try:
            self._read(turn, self._wait if self._needed else 0.0)
            self._pause = SHORTEST_PAUSE
        except Exception as exc:  # noqa: BLE001  # without this thread every call would wait for ever
            self._lose(exc)
        finally:
            if self._turn is turn:
                self._turn = None
        if self._away and not self.closed:
            time.sleep(self._pause)
            self._pause = min(self._pause * 2, 1.0)
        return 0.0

    @property
    def _needed(self) -> bool:
        """Whether the background thread is to wait for what comes."""
        return self._unled > 0 or self._stays or self._away

    def _ring(self) -> None:
        """Wake the background thread if it rests and is needed."""
        if self._resting and self._turn is None and self._needed:
            self._bell.put(None)

    # -- turns -----------------------------------------------------------------------------------------------------

    def _take(self, turn: Turn, *, trying: bool = False) -> bool:
        """Take the turn unless another thread has it; while Redis is away, only one is to go on ``trying``."""
        with self._lock:
            held = self._turn
            if held is turn:
                return True
            if self.closed or (self._away and not trying):
                return False
            if held is not None and held.thread != turn.thread:  # a signal's handler must not wait for its own thread
                return False
            turn.since = time.monotonic()
            self._turn = turn
        if held is not None:
            self._unseat()
        return True

    def _unseat(self) -> None:
        """Take the connection from whoever has had the turn, who finds that out and goes."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.cut()

    def _unseat_stuck(self) -> None:
        """End the turn of a thread that doesn't get on."""
        with self._lock:
            held = self._turn
            if held is None or time.monotonic() < held.since + STUCK_SECONDS:
                return
            self._turn = None
        self._unseat()

    # -- the connection --------------------------------------------------------------------------------------------

    def _check_wire(self) -> None:
        """Find out that the connection was lost before a call begins: then it isn't among those that were there."""
        wire = self._wire
        if wire is None or self._turn is not None or time.monotonic() < self._heard + TRUSTED_SECONDS:
            return
        turn = Turn()
        try:
            if self._take(turn) and self._wire is wire:
                wire.check()
        except RedisError as exc:
            self._wire = None
            wire.close()
            self._lose(exc)
        finally:
            if self._turn is turn:
                self._turn = None

    def _lose(self, exc: Exception) -> None:
        """Let the background thread try again: the connection was lost, or something else went wrong."""
        if self.closed:
            return
        if not self._away:  # once for each time that it is away
            logger.warning("results can't be read from Redis, trying again: %s: %s", type(exc).__name__, exc)
        self._away = True
        self.lost_connection()


def _read_for_others(ref: weakref.ref[Readers], bell: queue.SimpleQueue[None]) -> None:
    turn = Turn()
    while True:
        readers = ref()
        if readers is None or readers.closed or readers.pid != os.getpid():
            return
        rest = readers.read_for_others(turn)
        del readers  # it may go while this thread rests
        if rest > 0:
            with contextlib.suppress(queue.Empty):
                bell.get(timeout=rest)
