"""The containers' part of the store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis

from scaleplug.store.scripts import Scripts, as_text
from scaleplug.store.states import Claimed, End, Ended, Part, Split, Turned


class Containers(Scripts):
    """What containers write and read."""

    def connect(  # noqa: PLR0913  # what the script takes
        self, container: str, function: str, client_id: int, pid: int, running: Iterable[str], *,
        age: float | None = None, spare: bool = False, timeout: float = 0.0,
    ) -> int:  # fmt: skip
        """Begin a new epoch of a container's connection; 0 when it must leave.

        ``age`` is how many seconds ago its process was forked or, if it was a ``spare``, told what to be. ``timeout``
        is that of an input which it runs and whose claim got lost.
        """
        birth = ("" if age is None else f"{age:.6f}", int(spare), timeout)
        return int(self._run("connect", container, function, client_id, pid, *birth, *running))

    def note_first(self, container: str, seconds: float) -> None:
        """Write down when a container claimed its first input, so many seconds ago, and had handed it back: now."""
        now = self.now()
        times = {"taken": f"{now - seconds:.6f}", "ended": f"{now:.6f}"}
        self.client.hset(self.keys.of("container", container), mapping=times)

    def slots(self, container: str) -> int | None:
        """Return how many inputs a container was told to run at once, ``None`` if it wasn't."""
        found = self.client.hget(self.keys.of("container", container), "slots")
        return None if found is None else int(found)

    def begin(
        self, container: str, epoch: int, function: str, input_id: str, timeout: float, reply: Mapping[str, Any],
        version: str = "",
    ) -> Claimed:  # fmt: skip
        """Claim the message just taken and count the attempt; ``version`` is that of the container's code."""
        return self.begin_many(container, epoch, function, timeout, [(input_id, reply)], version)[0]

    def begin_many(
        self, container: str, epoch: int, function: str, timeout: float,
        inputs: Sequence[tuple[str, Mapping[str, Any]]], version: str = "",
    ) -> list[Claimed]:  # fmt: skip
        """Claim messages that were taken, (id, reply) of each, the first one taken first."""
        rows = [
            (container, epoch, function, input_id, timeout, reply.get("caller", ""), reply.get("call", ""),
             int(reply.get("keep", 0)), int(reply.get("index", 0)), reply.get("version", ""), version)
            for input_id, reply in inputs
        ]  # fmt: skip
        return [_claimed(result) for result in self._run_many("begin", [(row, "") for row in rows])]

    def look(self, container: str, epoch: int, function: str, version: str) -> tuple[Any, ...]:
        """Return the command that looks at what has been taken: its id if it may begin before it is claimed."""
        return ("EVALSHA", self._script("look").sha, 1, self.keys.prefix, container, epoch, function, version)

    def begun(
        self, container: str, epoch: int, function: str, input_id: str | bytes, timeout: float
    ) -> tuple[Any, ...]:
        """Return the command that claims what was looked at, and has begun."""
        where = (container, epoch, function, input_id, timeout)
        return ("EVALSHA", self._script("begun").sha, 1, self.keys.prefix, *where)

    def finish_many(self, container: str, function: str, ends: Sequence[End]) -> list[bool]:
        """Do what :meth:`finish` does for several."""
        rows = [
            ((container, end.epoch, function, end.id,
              *_finish_arguments(end.seconds, end.failed, end.reply, end.outcome)), end.draft)
            for end in ends
        ]  # fmt: skip
        return [bool(done) for done in self._run_many("finish", rows)]

    def finish(  # noqa: PLR0913  # what the script takes
        self,
        container: str,
        epoch: int,
        function: str,
        input_id: str,
        *,
        seconds: float | None,
        failed: bool,
        reply: Mapping[str, Any],
        outcome: bytes | None,
        draft: str = "",
    ) -> bool:
        """Acknowledge an input and store its outcome; False when the container no longer owns it.

        ``seconds`` it took count for the function's service time, unless they are ``None``. ``draft`` names the large
        value to which the outcome refers.
        """
        how = _finish_arguments(seconds, failed, reply, outcome)
        drafts = [draft] if draft else ()
        return bool(self._run("finish", container, epoch, function, input_id, *how, drafts=drafts))

    def turn(  # noqa: PLR0913  # what the script takes
        self, container: str, epoch: int, function: str, timeout: float, *,
        version: str = "", most: int, ended: Sequence[Ended] = (), link: Any = None, unread: bool = False,
    ) -> Turned:  # fmt: skip
        """Hand back what has ended and claim up to ``most`` inputs; ``link`` is a connection to do it on.

        ``unread``: the answer to an earlier command is still to come there, and tells nothing that this one doesn't.
        """
        args: list[Any] = [container, epoch, function, timeout, version, most, len(ended)]
        for end in ended:
            args += (end.id, end.inputs, *_finish_arguments(end.seconds, end.failed, end.reply, end.outcome))
        script, found = self._script("turn"), None
        if link is not None:
            try:
                # A PING before it would read that answer for its own.
                link.send_command("EVALSHA", script.sha, 1, self.keys.prefix, *args, check_health=not unread)
                if unread:
                    with contextlib.suppress(redis.exceptions.ResponseError):
                        link.read_response(disable_decoding=True)
                found = link.read_response(disable_decoding=True)
            except redis.exceptions.NoScriptError:
                found = None
        if found is None:
            found = script(keys=[self.keys.prefix], args=args)
        owned, ours, *rows = found
        claimed = [(bytes(row[0]), _claimed((b"ok", *row[1:]))) for row in rows]
        return Turned([each == 49 for each in owned], not int(ours), claimed)  # b"1"

    def split(self, container: str, epoch: int, function: str, split: Split) -> bool:
        """Take a pack apart; False when the container no longer owns it."""
        end, run = split.ended, split.running
        seconds, failed, call, index, caller, _, outcome = _finish_arguments(
            end.seconds, end.failed, end.reply, end.outcome
        )
        args: list[Any] = [container, epoch, function, end.id, end.inputs, seconds, failed]
        args += (call, index, caller, outcome)
        args += ("", "", "") if run is None else (run.id, run.message, split.seconds_left)
        for each in split.rest:
            args += (each.id, each.attempts, each.crash, each.message)
        return bool(self._run("split", *args))

    def requeue_many(self, container: str, function: str, held: Sequence[tuple[int, str]]) -> list[bool]:
        """Do what :meth:`requeue` does for several, (epoch, id) of each, the last one first: they keep their order."""
        rows = [((container, epoch, function, input_id), "") for epoch, input_id in reversed(held)]
        return [bool(done) for done in self._run_many("requeue", rows)][::-1]

    def retry(
        self, container: str, epoch: int, function: str, input_id: str, *,
        delay: float, seconds: float | None, reply: Mapping[str, Any],
    ) -> bool:  # fmt: skip
        """Put a failed input off for ``delay`` seconds; False when the container no longer owns it."""
        microseconds = "" if seconds is None else int(seconds * 1e6)
        return bool(
            self._run(
                "retry", container, epoch, function, input_id, repr(delay), microseconds,
                reply.get("call", ""), int(reply.get("index", 0)), reply.get("caller", ""), int(reply.get("keep", 0)),
            )
        )  # fmt: skip

    def send_part(
        self, container: str, epoch: int, function: str, input_id: str, reply: Mapping[str, Any], part: Part
    ) -> tuple[str, int | None]:
        """Send a part of a stream, or only look if it has no payload; return the status and the last part granted.

        The status is ok, lost (the container doesn't own the input any more), cancelled or gone (the caller is).
        """
        status, granted = self._run(
            "yield", container, epoch, function, input_id, reply["call"], reply["index"], reply["caller"],
            part.attempt, part.number, part.items, part.payload,
        )  # fmt: skip
        return as_text(status), int(granted) if granted else None

    def wait_grant(self, call: str, seconds: float) -> int | None:
        """Wait until a stream's consumer has read a part."""
        found = self.client.blpop(self.keys.of("credit", call), timeout=seconds)
        return None if found is None else int(found[1])

    def owns(self, container: str, epoch: int, input_id: str) -> bool:
        """Return whether the container still owns the input."""
        return bool(self._run("owns", container, epoch, input_id))

    def requeue(self, container: str, epoch: int, function: str, input_id: str) -> bool:
        """Put one claimed input back at the head of its queue."""
        return bool(self._run("requeue", container, epoch, function, input_id))

    def quarantine(self, container: str, epoch: int, function: str, reason: str, reply: Mapping[str, Any]) -> None:
        """Set aside the message just taken, and tell whoever seems to wait for it."""
        caller, call = str(reply.get("caller", "")), str(reply.get("call", ""))
        index, keep = reply.get("index", 0), reply.get("keep", 0)
        numbers = (n if isinstance(n, int) else 0 for n in (index, keep))
        self._run("quarantine", container, epoch, function, reason, caller, call, *numbers)

    def leave_will(self, container: str, topic: str, event: str) -> None:
        """Have an event published when the container is found dead."""
        self.client.set(self.keys.of("will", container), f"{topic}\n{event}")

    def leave(self, container: str, function: str, reason: str) -> int:
        """Take a container out in good order; return how many inputs it gave back."""
        return int(self._run("gone", "", container, function, reason, 1))


def _claimed(result: Sequence[Any]) -> Claimed:
    if len(result) == 1:
        return Claimed(as_text(result[0]))
    return Claimed(as_text(result[0]), int(result[1]), as_text(result[2]), as_text(result[3]), int(result[4]))


def _finish_arguments(
    seconds: float | None, failed: int, reply: Mapping[str, Any], outcome: bytes | None
) -> tuple[Any, ...]:
    microseconds = "" if seconds is None else int(seconds * 1e6)
    where = (reply.get("call", ""), int(reply.get("index", 0)), reply.get("caller", ""), int(reply.get("keep", 0)))
    return (microseconds, int(failed), *where, outcome or b"")
