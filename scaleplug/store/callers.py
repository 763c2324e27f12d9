"""The callers' part of the store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.errors import NotFoundError
from scaleplug.keys import Keys
from scaleplug.links import Door
from scaleplug.store.scripts import Scripts, as_text
from scaleplug.store.states import Admission, Record, Watched

SHORT_QUEUE: Final = 5_000
"""Queues up to this length are rewritten in one go when a call is cancelled (``cancel.lua``)."""
DROP_SLICE: Final = 500
DOORS: Final = 16
"""So many threads send at once: each takes a connection."""


class Callers(Scripts):
    """What callers write and read."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._door = Door(DOORS)

    def submit(  # noqa: PLR0913  # what the script takes
        self,
        function: str,
        messages: Sequence[str | bytes],
        *,
        most_pending: int,
        most_total: int = 0,
        partial: bool = False,
        record: Record | None = None,
        drafts: Sequence[str] = (),
        weights: Sequence[int] = (),
    ) -> Admission:
        """Check the limits and queue ``messages`` in one step; all or none, or as many as fit when ``partial``.

        ``weights`` tells how many inputs each message holds, where some are packs;
        ``drafts`` names the large arguments of the first messages, with '' for those that have none.
        """
        self.learn_clock()  # the next inputs tell when they were sent
        spawned = record or Record("", 0)
        count = f"{len(messages)}:{','.join(map(str, weights))}" if weights else str(len(messages))
        args = (function, most_pending, most_total, int(partial), *spawned.arguments(), count)
        soon = record is not None and len(messages) == 1  # nothing else is done until it has been accepted
        return Admission(*map(int, self._admit("submit", *args, *_packed(messages), drafts=drafts, soon=soon)))

    def submit_one(
        self, function: str, message: str, *, most_pending: int, most_total: int = 0, call: str = ""
    ) -> Admission:
        """Do the same for the one message of a call, which is written down where ``call`` names it."""
        args = (function, str(most_pending), str(most_total), call, message)
        return Admission(*self._admit("submit_one", *args, soon=call != ""))

    def submit_part(
        self, function: str, messages: Sequence[str], record: Record, *, most_pending: int
    ) -> Callable[[], Admission]:
        """Begin to submit as many of a spawned call's messages as fit; what is returned waits for the answer.

        It must be called. Others can be made while Redis is busy with these.
        """

        def again() -> Admission:
            return self.submit(function, messages, most_pending=most_pending, partial=True, record=record)

        script, pool = self._scripts.get("submit"), self.client.connection_pool
        if script is None:  # not known to Redis yet
            return again
        try:
            link = pool.get_connection()
        except (RedisConnectionError, RedisTimeoutError):
            return again
        args = (self._marked(function), most_pending, 0, 1, *record.arguments(), len(messages), *_packed(messages))

        def answer() -> Admission:
            try:
                found = Admission(*(int(n) for n in link.read_response()))
                return found if found.accepted >= 0 else again()  # it is to be registered again
            except (
                NoScriptError,
                OutOfMemoryError,
                RedisConnectionError,
                RedisTimeoutError,
            ):  # an input that came twice ends once
                return again()
            finally:
                pool.release(link)

        try:
            link.send_command("EVALSHA", script.sha, 1, self.keys.prefix, *args)
        except BaseException as exc:
            link.disconnect()
            pool.release(link)
            if isinstance(exc, (RedisConnectionError, RedisTimeoutError)):
                return again
            raise
        return answer

    def complete(self, function: str, call: str, inputs: int, keep: float) -> None:
        """Say that a spawned call has all its ``inputs``; its results are kept ``keep`` seconds after their end."""
        self.insist(lambda: self._run("complete", function, call, inputs, int(keep)))

    def delay(
        self, function: str, message: str | bytes, due: float, *, most_pending: int, drafts: Sequence[str] = ()
    ) -> Admission:
        """Keep an input until the Unix time ``due``; see :meth:`submit` for ``drafts``."""
        result = self._admit("delay", function, most_pending, repr(due), message, drafts=drafts)
        return Admission(*(int(n) for n in result))

    def _marked(self, function: str) -> str:
        return f"!{function}" if self.inside and function.startswith(f"{self.inside}.") else function

    def _admit(self, script: str, function: str, *args: Any, **options: Any) -> Any:
        """Run a script that adds inputs; a function that isn't registered any more is registered again for that."""
        marked = self._marked(function)

        def add() -> Any:
            with self._door:
                return self._run(script, marked, *args, **options)

        answer = self.insist(add)
        if int(answer[0]) < 0:
            self.register_again(function)
            answer = self.insist(add)
        if int(answer[0]) < 0:
            raise NotFoundError(f"{function} is not registered any more: 'scaleplug deploy' registers an app")
        return answer

    def cancel(
        self, function: str, *calls: str, tell: bool, keep: float, caller: str, grace: float = 5.0
    ) -> tuple[int, int]:
        """Cancel calls, many at the price of one; return how many pending inputs vanished and running ones were told.

        A running one has ``grace`` seconds to end before its container is killed.
        """
        removed, told = self._run("cancel", function, int(tell), int(keep), caller, repr(grace), *calls)
        return int(removed), int(told)

    def drop(self, function: str, call: str, keep: float) -> int:
        """Take the pending inputs of a cancelled spawned call off a long queue, in slices; return how many."""
        if self.client.llen(self.keys.queue(function)) <= SHORT_QUEUE:
            return 0  # the cancelling itself saw to it
        first, dropped = 0, 0
        while first >= 0:
            removed, first = self._run("drop", function, call, int(keep), first, DROP_SLICE)
            dropped += int(removed)
        return dropped

    def watch(self, call: str, index: int, most: int, caller: str) -> Watched:
        """Look at a spawned call and the ends of its inputs from ``index`` on, without a gap, ``most`` of them.

        Tell ``caller`` of the end of that first input, unless it is there.
        """
        function, inputs, over, cancelled, *ends = self._run("watch", call, index, most, caller)
        return Watched(as_text(function), int(inputs), bool(over), bool(cancelled), tuple(bytes(end) for end in ends))

    def take_many(self, container: str, epoch: int, function: str, most: int) -> list[bytes]:
        """Take messages without waiting, also while Redis is out of memory: running inputs frees some."""
        return [bytes(raw) for raw in self._run("take", container, epoch, function, most)]

    def revive(self, caller: str, seconds: float) -> tuple[bool, int, str]:
        """Say that ``caller`` lives; return if it was known, how many parked inputs came back, and which Redis it is.

        The last changes when Redis has lost its data.
        """
        known, back, incarnation = self._run("revive", caller, int(seconds), secrets.token_hex(8))
        return bool(known), int(back), as_text(incarnation)

    def missing(self, function: str, caller: str, inputs: Sequence[str]) -> list[str]:
        """Return those of a caller's inputs, by their ids, that Redis doesn't hold."""
        return [as_text(each) for each in self._run("missing", function, caller, *inputs)]

    def run_id(self) -> str:
        """Return a name that changes when the server is started again."""
        return str(self.client.info("server").get("run_id", ""))

    def grant(self, call: str, part: int | None) -> None:
        """Tell a stream's producer that its consumer has begun to read ``part``, ``None`` when it reads no more."""
        self._run("grant", call, "" if part is None else part)


def _packed(messages: Sequence[str | bytes]) -> Sequence[str | bytes]:
    """Return the messages as one argument, a line each, where none has line ends: the client sends it in one go."""
    if len(messages) == 1:
        return messages
    try:
        lines = "\n".join(messages).encode()  # type: ignore[arg-type]  # bytes are told by the error
    except TypeError:
        return messages
    return (lines,) if lines.count(b"\n") == len(messages) - 1 else messages
