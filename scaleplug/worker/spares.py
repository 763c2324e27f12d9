"""Spares: processes forked ahead of need, which have done all that needs no function.

The zygote's side is :class:`Spares`; :class:`Boot` is what a spare has done when it waits. Both ends of a pair of
sockets belong to them: the zygote writes one line of JSON, the order (``container``, ``registration``); the spare
answers with one byte and is that container from then on. One that does not answer in time is killed, and one that
dies without an answer is replaced by a fork: a start is never lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from redis.exceptions import RedisError

from scaleplug.abc import StartRequest
from scaleplug.registry import Registration
from scaleplug.store import Store
from scaleplug.worker.leaving import Deadline

ANSWER_SECONDS = 0.05
"""How long a spare may take to answer; then a fork takes its place. A healthy one needs a tenth of a millisecond."""
QUIET_SECONDS = 0.1
"""A spare is forked when nothing has been started for so long: starts come first."""
BACK_OFF = (1.0, 60.0)
"""Seconds until the next one, the least and the most, when spares die before they are used."""
REJOIN_SECONDS = (0.5, 30.0)
"""The same until a spare whose connections were lost tries to open others."""
CHECK_SECONDS = 1.0
"""How long the server may take to answer on a connection that has waited; then another one is opened."""
NAME = "scaleplug-spare"
SCRIPTS = ("connect", "look", "begun", "begin", "finish")
"""What a first input needs; Redis learns the others from who first runs them."""


@dataclass(slots=True)
class Spare:
    """One spare, as its zygote sees it."""

    pid: int
    line: int
    output: int
    deadline: Deadline
    """What it reads, once it is a container, when it is asked to leave."""
    knows: dict[str, object]
    """What had been prepared when it was forked, by function."""
    answer_by: float = 0.0
    """When it must have answered; 0 while it has not been told anything."""
    born: float = field(default_factory=time.monotonic)

    def tell(self, order: bytes) -> bool:
        """Give it its order; False if it has just died, or the order is too long for a line that must not block."""
        try:
            return os.write(self.line, order) == len(order)
        except OSError:
            return False

    def answered(self) -> bool:
        """Return whether it has become the container it was told to be."""
        with contextlib.suppress(OSError):
            return bool(os.read(self.line, 1))
        return False


class Spares:
    """The spares of one zygote: waiting ones, and those that were just told what to be."""

    def __init__(self, wanted: int, fork: Callable[[], Spare | None]) -> None:
        self.wanted = wanted
        self._fork = fork
        self.waiting: dict[int, Spare] = {}
        self.told: dict[int, Spare] = {}
        self._next_at: float | None = None
        self._failures = 0

    # -- starts ----------------------------------------------------------------------------------------------------

    def postpone(self) -> None:
        """Something was started or prepared: the next spare is forked when it is quiet."""
        if self.wanted > 0:
            self._next_at = max(self._next_at or 0.0, time.monotonic() + QUIET_SECONDS)

    def hand_over(self, request: StartRequest, registration: Registration, prepared: object) -> Spare | None:
        """Tell a spare to be a container; ``None`` if there is none that has what was ``prepared`` for it."""
        for spare in list(self.waiting.values()):
            if spare.knows.get(request.function) is not prepared:
                continue
            del self.waiting[spare.pid]
            order = {"container": asdict(request), "registration": registration.to_dict()}
            if not spare.tell(json.dumps(order).encode() + b"\n"):
                self.dismiss(spare)
                continue
            spare.answer_by = time.monotonic() + ANSWER_SECONDS
            self.told[spare.pid] = spare
            return spare
        return None

    def left(self, pid: int) -> tuple[bool, bool]:
        """Take note that a child has ended; return whether it was waiting, and whether it leaves a start to be done."""
        if (spare := self.waiting.pop(pid, None)) is not None:
            self._close(spare)
            low, high = BACK_OFF
            now = time.monotonic()
            self._failures = 0 if now - spare.born > high else self._failures
            self._next_at = now + min(high, low * 2**self._failures)
            self._failures += 1
            return True, False
        if (spare := self.told.pop(pid, None)) is not None:
            answered = spare.answered()
            os.close(spare.line)
            return False, not answered
        return False, False

    # -- looking after them ----------------------------------------------------------------------------------------

    def pause(self) -> float:
        """Return the seconds until something falls due here."""
        due = [spare.answer_by for spare in self.told.values()]
        if self._next_at is not None:
            due.append(self._next_at)
        return max(0.0, min(due, default=float("inf")) - time.monotonic())

    def tend(self, knows: dict[str, object]) -> None:
        """Kill those that don't answer, replace those that don't know everything, and fork what is missing."""
        now = time.monotonic()
        for pid, spare in list(self.told.items()):
            if spare.answered():
                os.close(spare.line)
                del self.told[pid]
                self._failures = 0
            elif now > spare.answer_by:
                with contextlib.suppress(ProcessLookupError):  # what reaps it finds that it has not answered
                    os.kill(pid, signal.SIGKILL)
        if self._next_at is None or now < self._next_at:
            return
        self._next_at = None
        for spare in [s for s in self.waiting.values() if s.knows != knows]:
            self.dismiss(spare)
        while len(self.waiting) < self.wanted:
            try:
                made = self._fork()
            except OSError:  # no more processes, or files: it is no time for spares
                self._next_at = now + BACK_OFF[1]
                return
            if made is None:
                return
            self.waiting[made.pid] = made

    def dismiss(self, spare: Spare) -> None:
        """Let one that waits go: it holds nothing."""
        self.waiting.pop(spare.pid, None)
        with contextlib.suppress(ProcessLookupError):
            os.kill(spare.pid, signal.SIGKILL)
        self._close(spare)

    def end(self) -> None:
        """Let all that wait go, for good."""
        self.wanted, self._next_at = 0, None
        for spare in list(self.waiting.values()):
            self.dismiss(spare)

    def descriptors(self) -> list[int]:
        """Return what a fork has to close."""
        waiting = [fd for spare in self.waiting.values() for fd in (spare.line, spare.output)]
        return [*waiting, *(spare.line for spare in self.told.values())]

    def _close(self, spare: Spare) -> None:
        os.close(spare.line)
        os.close(spare.output)
        spare.deadline.close()


def pair() -> tuple[int, int]:
    """Return both ends of a line: the zygote's, which never blocks, and the spare's."""
    ends = [end.detach() for end in socket.socketpair()]
    os.set_blocking(ends[0], False)
    os.set_blocking(ends[1], True)  # in a green process it isn't
    return ends[0], ends[1]


class Boot:
    """What a spare opens while it waits: the connections of the container that it will be."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pool: Any = store.client.connection_pool
        self.link: Any = None
        """The connection that will take inputs."""
        self.client_id = 0
        self._others: list[Any] = []

    def open(self) -> bool:
        """Open the connections and let Redis learn the scripts; return whether that went well."""
        self.close()
        self.pool.connection_kwargs["client_name"] = NAME
        try:
            self.store.know_scripts(SCRIPTS)
            for _ in range(2):  # one for the container's own commands, one that hears orders
                self._others.append(self.pool.get_connection())
            self.link = self.pool.connection_class(**self.pool.connection_kwargs)
            self.link.connect()
            self.link.send_command("CLIENT", "ID")
            self.client_id = int(self.link.read_response())
        except (RedisError, OSError):
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close them."""
        if self.link is not None:
            self.link.disconnect()
        self.pool.disconnect()
        self.pool.reset()  # they would open again under the spare's name
        self._others, self.link = [], None

    def wait(self, line: int, *, heard: bytes = b"", answer: bool = True) -> dict[str, Any] | None:
        """Wait for the order, ``None`` when there will be none: the zygote is gone, or has no use for a spare.

        ``heard`` is what has been read of the line already.
        """
        data, low, high = heard, *REJOIN_SECONDS
        pause = low
        while not data.endswith(b"\n"):
            sockets = [] if self.link is None else [c._sock for c in (*self._others, self.link)]  # noqa: SLF001
            ready = select.select([line, *sockets], [], [], pause if self.link is None else None)[0]
            if line in ready:
                more = os.read(line, 65_536)
                if not more:
                    return None
                data += more
            elif self.link is not None:  # Redis has closed it, or says so: nobody has asked for anything
                self.close()
                pause = low
            elif self.open():
                pause = low
            else:
                pause = min(high, pause * 2)
        if answer:
            os.write(line, b".")
        os.close(line)
        return dict(json.loads(data))

    def name(self, container: str) -> None:
        """Give the connections their container's name; the answers are read by :meth:`hand_over`."""
        if self.link is None:
            return
        try:
            for connection in (*self._others, self.link):
                connection.client_name = container
                connection.send_command("CLIENT", "SETNAME", container, check_health=False)
        except (RedisError, OSError):
            self.close()

    def hand_over(self) -> tuple[Any, int] | None:
        """Return the connection that takes inputs and its id, ``None`` if it was lost; the others go to the pool."""
        if self.link is None:
            return None
        deadline = time.monotonic() + CHECK_SECONDS
        try:
            for connection in (*self._others, self.link):
                left = max(0.0, deadline - time.monotonic())
                if not select.select([connection._sock], [], [], left)[0]:  # noqa: SLF001  # shown nowhere else
                    raise TimeoutError
                connection.read_response()
        except (RedisError, OSError):
            self.close()
            return None
        link, self.link = self.link, None
        for connection in self._others:
            self.pool.release(connection)
        self._others = []
        return link, self.client_id


def registration_of(order: dict[str, Any]) -> Registration:
    """Return the registration in an order."""
    return Registration.from_dict(order["registration"])
