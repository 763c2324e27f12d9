"""Connections at hand, for commands so frequent that taking one out of a pool would cost as much as their answers."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from typing import Any, Final

import redis
from hiredis import pack_command
from redis.connection import HiredisRespSerializer
from redis.exceptions import MaxConnectionsError

GLANCE: Final = 200e-6
"""Seconds for which an answer is looked for before the thread sleeps: it takes a kernel as long to wake one."""
LOOK_SECONDS: Final = 0.5
"""How often a thread looks for room that waits at a door, should nobody have told it."""
FEW_MISSED, MOST_MISSED = 3, 10
"""After so many misses in a row some of the next answers are not looked for; after so many, the next thousand."""
_TEXTS: Final = frozenset((str, bytes))


class Door:
    """Lets so many threads in at once, where each takes a connection; one that is in already may come in again.

    A thread that is interrupted anywhere, by what a signal's handler raises, takes its place again the next time. A
    semaphore would lose that for good, and after so many of them let nobody in any more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: set[int] = set()
        self._lock = threading.Lock()  # no Condition: those are written in Python, and keep what an interrupt leaves
        self._left: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        if self._enter(thread):
            return
        while not self._enter(thread):
            with contextlib.suppress(queue.Empty):
                self._left.get(timeout=LOOK_SECONDS)
        self._tell()

    def __exit__(self, *_: object) -> None:
        full = len(self._inside) >= self._most
        self._inside.discard(threading.get_ident())
        if full:
            self._tell()

    def _enter(self, thread: int) -> bool:
        with self._lock:
            if len(self._inside) < self._most:
                self._inside.add(thread)
        return thread in self._inside

    def _tell(self) -> None:
        """Wake one that waits, who wakes the next."""
        if len(self._inside) < self._most and self._left.empty():
            self._left.put(None)


class Packer(HiredisRespSerializer):
    """Packs commands with hiredis, which gets no numbers.

    While it makes text of one, it lets a signal's handler run, and the process dies if that raises.
    """

    def pack(self, *args: Any) -> Any:
        """Return the command as it is sent."""
        texts: Any = tuple([each if type(each) is str else _texted(each) for each in args])
        if type(texts[0]) is str and " " not in texts[0]:
            try:
                return [pack_command(texts)]
            except TypeError:
                if _TEXTS.issuperset(map(type, texts)):  # a signal's handler raised it
                    raise
        return super().pack(*texts)  # which knows what else there may be


def _texted(value: Any) -> Any:
    return str(value) if type(value) is int or type(value) is float else value


class Links(redis.ConnectionPool):
    """A pool that keeps the connections which were used last at hand; safe to use from several threads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._at_hand: list[Any] = []
        super().__init__(*args, **options)

    def take(self) -> Any:
        """Return a connection for one command; it may have been closed meanwhile, which its use tells."""
        if self.pid == os.getpid():
            try:
                return self._at_hand.pop()
            except IndexError:
                pass
        return self.get_connection()

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Return a connection that nobody uses: one of those at hand where there may be no more."""
        while True:
            try:
                return super().get_connection(*args, **options)
            except MaxConnectionsError:
                if not self._release_one():
                    raise

    def _release_one(self) -> bool:
        try:
            self.release(self._at_hand.pop())
        except IndexError:
            return False
        return True

    def keep(self, link: Any) -> None:
        """Take a connection back whose answers have all been read."""
        self._at_hand.append(link)

    def drop(self, link: Any) -> None:
        """Take a connection back that is not to be trusted."""
        link.disconnect()
        self.release(link)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, those at hand too: nobody uses them."""
        while self._at_hand:
            try:
                self.release(self._at_hand.pop())
            except IndexError:  # another thread has taken the last one
                break
        super().disconnect(inuse_connections)

    def reset(self) -> None:
        """Begin anew, as in a process that was forked."""
        self._at_hand = []
        super().reset()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Glance:
    """Looks for an answer for a moment before the thread that waits for it sleeps.

    Where the server is near, the answer is there before the kernel has put the thread to sleep and woken it again,
    which costs more than looking. Where it is not, looking is given up for longer and longer.
    """

    def __init__(self) -> None:
        self._skip = self._missed = 0
        self._looking = False
        self._possible = hasattr(select, "poll") and _cores() > 1

    def at(self, link: Any) -> None:
        """Return when the answer has begun to come, or the moment is over."""
        if not self._possible or self._looking:  # threads that all look only get in each other's way
            return
        if self._skip > 0:
            self._skip -= 1
            return
        self._looking = True
        try:
            self._look(link)
        finally:
            self._looking = False

    def _look(self, link: Any) -> None:
        poll = select.poll()
        poll.register(link._sock.fileno(), select.POLLIN)  # noqa: SLF001  # redis-py shows it nowhere else
        look, clock = poll.poll, time.perf_counter
        until = clock() + GLANCE
        while not look(0):
            if clock() > until:
                self._missed = min(self._missed + 1, MOST_MISSED)
                self._skip = 2**self._missed if self._missed > FEW_MISSED else 0
                return
        self._missed = 0
