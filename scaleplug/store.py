"""Every read and write of the shared state in Redis, each one atomic script (``lua/``) or command."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.errors import ConfigurationError, NotFoundError
from scaleplug.keys import Keys

LEASE_SECONDS: Final = 4.0
DECISIONS_KEPT: Final = 200
LOG_LINES_KEPT: Final = 10_000
SHORT_QUEUE: Final = 5_000
"""Queues up to this length are rewritten in one go when a call is cancelled (``cancel.lua``)."""
DROP_SLICE: Final = 500


def _script_text(name: str, flags: bool) -> str:
    folder = resources.files("scaleplug") / "lua"
    prelude, text = (folder / "prelude.lua").read_text(), (folder / f"{name}.lua").read_text()
    head, _, rest = text.partition("\n")
    if not head.startswith("#!"):
        head, rest = "#!lua", text
    # Redis 6.2 knows no flags; the line would be a syntax error there.
    return f"{head}\n{prelude}\n{rest}" if flags else f"{prelude}\n{rest}"


def _packed(messages: Sequence[str | bytes]) -> Sequence[str | bytes]:
    """Return the messages as one argument, a line each, where none has line ends: the client sends it in one go."""
    try:
        lines = "\n".join(messages).encode()  # type: ignore[arg-type]  # bytes are told by the error
    except TypeError:
        return messages
    return (lines,) if lines.count(b"\n") == len(messages) - 1 else messages


def _str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What :meth:`Store.begin` says: ``status`` is ok, none, stale, parked, cancelled or outdated."""

    status: str
    attempt: int = 0
    verdict: str = ""
    crash: str = ""
    retried: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """What :meth:`Store.submit` says: inputs accepted, and what was pending and running before."""

    accepted: int
    pending: int
    running: int


@dataclass(frozen=True, slots=True)
class Part:
    """Items of a stream: which run of the input sends them, their part's number, and all items up to its end."""

    attempt: int
    number: int
    items: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What :meth:`Store.submit` is to write down of a spawned call."""

    call: str
    """Its id; several, with a space between them, are calls of one message each."""
    keep: float
    """Seconds that its results are kept."""
    before: int = 0
    """Inputs that it had before."""
    more: bool = False
    """Whether it gets others, until :meth:`Store.complete`."""

    def arguments(self) -> tuple[str, int, int, int]:
        """Return the script's arguments."""
        return self.call, int(self.keep), self.before, int(self.more)


@dataclass(frozen=True, slots=True)
class Watched:
    """What :meth:`Store.watch` says; an end is ``+`` and the outcome, or ``-`` and the reason why there is none."""

    function: str
    inputs: int
    over: bool
    cancelled: bool
    ends: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FunctionState:
    """One function's numbers at one moment; times are Unix seconds of the Redis server."""

    pending: int
    running: int
    first_deadline: float | None
    idle: tuple[tuple[str, float], ...]
    ready: tuple[tuple[str, float], ...]
    timed: int
    microseconds: int
    first_cancel: float | None = None

    def first_kill(self, grace: float) -> float | None:
        """Return the earliest time at which an input must have ended: cancelled, or ``grace`` after its timeout."""
        deadline = None if self.first_deadline is None else self.first_deadline + grace
        return min((t for t in (deadline, self.first_cancel) if t is not None), default=None)


@dataclass(frozen=True, slots=True)
class Census:
    """What a function has at one moment: inputs, containers by state, and inputs that came to an end."""

    pending: int
    delayed: int
    running: int
    starting: int
    idle: int
    busy: int
    draining: int
    finished: int
    failed: int
    refused: int

    @property
    def containers(self) -> int:
        """Containers in any state."""
        return self.starting + self.idle + self.busy + self.draining


class Store:
    """The shared state of one namespace; safe to use from several threads."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client: Any = client  # redis-py's types mix its sync and async results
        self.keys = keys
        self.registered: dict[str, object] = {}
        """The functions that this process knows to be in the registry, by the owner of each pool."""
        self.inside = ""
        """The app of which this process is a container."""
        self.register_again: Callable[[str], object] = lambda _function: None
        """Called with a function that is in the registry no longer, or retires; raises NotFoundError."""
        self._scripts: dict[str, Any] = {}
        self._flags: bool | None = None

    def _run(self, name: str, *args: Any, drafts: Sequence[str] = ()) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.client.register_script(_script_text(name, self._knows_flags()))
        return script(keys=[self.keys.prefix, *(d and self.keys.of("draft", d) for d in drafts)], args=args)

    def _knows_flags(self) -> bool:
        if self._flags is None:
            self._flags = int(str(self.client.info("server")["redis_version"]).split(".")[0]) >= 7
        return self._flags

    def prepare_scripts(self) -> None:
        """Read every script now, so that a process forked from this one need not."""
        for path in (resources.files("scaleplug") / "lua").iterdir():
            name, _, ending = path.name.rpartition(".")
            if ending == "lua" and name != "prelude":
                text = _script_text(name, self._knows_flags())
                self._scripts[name] = self.client.register_script(text)
        self.client.connection_pool.disconnect()

    # -- callers ---------------------------------------------------------------------------------------------------

    def submit(  # what the script takes
        self,
        function: str,
        messages: Sequence[str | bytes],
        *,
        most_pending: int,
        most_total: int = 0,
        partial: bool = False,
        record: Record | None = None,
        drafts: Sequence[str] = (),
    ) -> Admission:
        """Check the limits and queue ``messages`` in one step; all or none, or as many as fit when ``partial``.

        ``drafts`` names the large arguments of the first messages, with '' for those that have none.
        """
        spawned = record or Record("", 0)
        args = (function, most_pending, most_total, int(partial), *spawned.arguments(), len(messages))
        return Admission(*(int(n) for n in self._admit("submit", *args, *_packed(messages), drafts=drafts)))

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
        link = pool.get_connection()
        args = (self._marked(function), most_pending, 0, 1, *record.arguments(), len(messages), *_packed(messages))

        def answer() -> Admission:
            try:
                found = Admission(*(int(n) for n in link.read_response()))
                return found if found.accepted >= 0 else again()  # it is to be registered again
            except (NoScriptError, RedisConnectionError, RedisTimeoutError):  # an input that came twice ends once
                return again()
            finally:
                pool.release(link)

        try:
            link.send_command("EVALSHA", script.sha, 1, self.keys.prefix, *args)
        except BaseException:
            link.disconnect()
            pool.release(link)
            raise
        return answer

    def complete(self, function: str, call: str, inputs: int, keep: float) -> None:
        """Say that a spawned call has all its ``inputs``; its results are kept ``keep`` seconds after their end."""
        self._run("complete", function, call, inputs, int(keep))

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
        answer = self._run(script, marked, *args, **options)
        if int(answer[0]) < 0:
            self.register_again(function)
            answer = self._run(script, marked, *args, **options)
        if int(answer[0]) < 0:
            raise NotFoundError(f"{function} is not registered any more: 'scaleplug deploy' registers an app")
        return answer

    def cancel(
        self, function: str, call: str, *, tell: bool, keep: float, caller: str, grace: float = 5.0
    ) -> tuple[int, int]:
        """Cancel a call; return how many pending inputs vanished and how many running ones were told.

        A running one has ``grace`` seconds to end before its container is killed.
        """
        removed, told = self._run("cancel", function, call, int(tell), int(keep), caller, repr(grace))
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
        return Watched(_str(function), int(inputs), bool(over), bool(cancelled), tuple(bytes(end) for end in ends))

    def take_now(self, container: str, epoch: int, function: str) -> bytes | None:
        """Take a message without waiting, also while Redis is out of memory: running inputs frees some."""
        raw = self._run("take", container, epoch, function)
        return None if raw is None else bytes(raw)

    def revive(self, caller: str, seconds: float) -> tuple[bool, int, str]:
        """Say that ``caller`` lives; return if it was known, how many parked inputs came back, and which Redis it is.

        The last changes when Redis has lost its data.
        """
        known, back, incarnation = self._run("revive", caller, int(seconds), secrets.token_hex(8))
        return bool(known), int(back), _str(incarnation)

    def grant(self, call: str, part: int | None) -> None:
        """Tell a stream's producer that its consumer has begun to read ``part``, ``None`` when it reads no more."""
        self._run("grant", call, "" if part is None else part)

    # -- containers ------------------------------------------------------------------------------------------------

    def connect(self, container: str, function: str, client_id: int, pid: int, running: Iterable[str]) -> int:
        """Begin a new epoch of a container's connection; 0 when it must leave."""
        return int(self._run("connect", container, function, client_id, pid, *running))

    def begin(
        self, container: str, epoch: int, function: str, input_id: str, timeout: float, reply: Mapping[str, Any],
        version: str = "",
    ) -> Claimed:  # fmt: skip
        """Claim the message just taken and count the attempt; ``version`` is that of the container's code."""
        result = self._run(
            "begin", container, epoch, function, input_id, timeout,
            reply.get("caller", ""), reply.get("call", ""), int(reply.get("keep", 0)), int(reply.get("index", 0)),
            reply.get("version", ""), version,
        )  # fmt: skip
        if len(result) == 1:
            return Claimed(_str(result[0]))
        return Claimed(_str(result[0]), int(result[1]), _str(result[2]), _str(result[3]), int(result[4]))

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
        return bool(
            self._run(
                "finish",
                container,
                epoch,
                function,
                input_id,
                "" if seconds is None else int(seconds * 1e6),
                int(failed),
                reply.get("call", ""),
                int(reply.get("index", 0)),
                reply.get("caller", ""),
                int(reply.get("keep", 0)),
                outcome or b"",
                drafts=[draft] if draft else (),
            )
        )

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
        return _str(status), int(granted) if granted else None

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
        self._run("quarantine", container, epoch, function, reason, repr(time.time()), caller, call, *numbers)

    def leave(self, container: str, function: str, reason: str) -> int:
        """Take a container out in good order; return how many inputs it gave back."""
        return int(self._run("gone", "", container, function, reason, 1))

    # -- the controller --------------------------------------------------------------------------------------------

    def wait_ring(self, seconds: float) -> bool:
        """Wait for the doorbell; True when it rang. Which functions it is about says :meth:`take_dirty`."""
        return self.client.blpop(self.keys.bell, timeout=max(seconds, 0.01)) is not None

    def take_dirty(self) -> set[str]:
        """Return, and forget, the functions the doorbell rang for."""
        dirty = self.client.spop(self.keys.prefix + "dirty", 1_000)
        return {_str(name) for name in dirty or ()}

    def ring(self, function: str) -> None:
        """Ring the doorbell for a function."""
        pipe = self.client.pipeline(transaction=False)
        pipe.sadd(self.keys.prefix + "dirty", function)
        pipe.lpush(self.keys.bell, "1")
        pipe.execute()

    def any_pending(self, functions: Sequence[str]) -> bool:
        """Return whether any of the functions has a pending input: one command, however many there are."""
        return bool(functions) and bool(self.client.exists(*(self.keys.queue(f) for f in functions)))

    def move_due(self, most: int = 1_000) -> tuple[float | None, list[str]]:
        """Queue the delayed inputs that are due; return the seconds until the next one and the functions moved for."""
        result = self._run("due", most)
        return (float(result[0]) if result[0] else None), [_str(f) for f in result[1:]]

    def load(self, functions: Sequence[str]) -> tuple[float, dict[str, FunctionState]]:
        """Return the server's time and the state of each function."""
        result = self._run("load", *functions)
        states = {f: _function_state(row) for f, row in zip(functions, result[1:], strict=True)}
        return float(result[0]), states

    def taking(self, functions: Sequence[str]) -> set[str]:
        """Return the idle containers that have been given a message and have not claimed it yet."""
        return {_str(c) for c in self._run("taking", *functions)}

    def started(self, token: str, containers: Sequence[tuple[str, str, int, str, str, float, str]]) -> bool:
        """Write down (container, function, slot, backend, host, time, version) before a start; False without lease."""
        return bool(self._run("started", token, *(value for row in containers for value in row)))

    def release(self, token: str, container: str, function: str) -> bool:
        """Let an idle container go; False when it holds something or the lease is lost."""
        return int(self._run("release", token, container, function)) == 1

    def gone(self, token: str, container: str, function: str, reason: str, *, blameless: bool = False) -> int:
        """Give back what a dead container held; return how many inputs, -1 without the lease.

        Its blocking connection is ended first: a take that still waits inside Redis could fire after the sweep.
        """
        client_id = self.client.hget(self.keys.of("container", container), "client")
        if client_id and any(c.get("name") == container for c in self.client.client_list(client_id=[int(client_id)])):
            self.client.client_kill_filter(_id=int(client_id))
        return int(self._run("gone", token, container, function, reason, int(blameless)))

    def overdue(self, token: str, function: str, grace: float, verdict: str) -> dict[str, str]:
        """Pass ``verdict`` on inputs past their timeout; return the containers to be killed, and for what.

        ``cancel`` stands for an input that was cancelled and has not ended in time.
        """
        found = [_str(value) for value in self._run("overdue", token, function, grace, verdict)]
        return dict(zip(found[::2], found[1::2], strict=True))

    def fail_pending(self, token: str, function: str, reason: str) -> int:
        """Fail the pending inputs of a function that can't be started; return how many."""
        return int(self._run("fail", token, function, reason, 5_000))

    def decided(self, function: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision for ``scaleplug why``."""
        key = self.keys.of("decisions", function)
        pipe = self.client.pipeline(transaction=False)
        pipe.lpush(key, json.dumps(decision))
        pipe.ltrim(key, 0, DECISIONS_KEPT - 1)
        pipe.execute()

    def decisions(self, function: str, last: int = 20) -> list[dict[str, Any]]:
        """Return the last decisions, newest first."""
        return [json.loads(line) for line in self.client.lrange(self.keys.of("decisions", function), 0, last - 1)]

    def put_trouble(self, function: str, trouble: Mapping[str, Any] | None) -> None:
        """Keep why a function's last container did not start; ``None`` when one has."""
        key = self.keys.of("trouble", function)
        if trouble is None:
            self.client.delete(key)
        else:
            self.client.set(key, json.dumps(trouble), ex=7 * 86_400)

    def troubles(self, functions: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return ``at``, ``version``, ``reason`` and ``lines`` of failed starts, where none has worked since."""
        if not functions:
            return {}
        found = self.client.mget([self.keys.of("trouble", function) for function in functions])
        return {function: json.loads(text) for function, text in zip(functions, found, strict=True) if text}

    def put_prepared(self, versions: Mapping[str, str]) -> None:
        """Write down the version of each function's code that can be started now."""
        if versions:
            self.client.hset(self.keys.prepared, mapping=dict(versions))

    def prepared(self) -> dict[str, str]:
        """Return the version of each function's code that can be started."""
        return {_str(n): _str(v) for n, v in self.client.hgetall(self.keys.prepared).items()}

    def learn(self, function: str, **seconds: float) -> None:
        """Keep what was learned of a function's ``service_time`` and ``start_time``."""
        self.client.hset(self.keys.of("learned", function), mapping={k: repr(v) for k, v in seconds.items()})

    def learned(self, function: str) -> dict[str, float]:
        """Return what was learned of a function."""
        return {_str(k): float(v) for k, v in self.client.hgetall(self.keys.of("learned", function)).items()}

    # -- containers' records, for ps and adoption ------------------------------------------------------------------

    def containers(self, function: str) -> dict[str, dict[str, str]]:
        """Return the record of every container of a function that has not gone."""
        names = sorted(_str(c) for c in self.client.smembers(self.keys.of("containers", function)))
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self.keys.of("container", name))
        return {n: {_str(k): _str(v) for k, v in r.items()} for n, r in zip(names, pipe.execute(), strict=True)}

    def counters(self, function: str) -> dict[str, int]:
        """Return how many inputs finished, failed and were refused."""
        return {_str(k): int(v) for k, v in self.client.hgetall(self.keys.of("stats", function)).items()}

    def quarantined(self, function: str, last: int = 20) -> list[dict[str, Any]]:
        """Return the reasons of the last messages that were set aside, newest first."""
        rows = self.client.lrange(self.keys.of("quarantine", function), 0, 2 * last - 1)
        return [json.loads(row) for row in rows[1::2]]

    # -- logs ------------------------------------------------------------------------------------------------------

    def log(self, lines: Iterable[tuple[str, str, str]]) -> None:
        """Keep (function, container, line) of what functions printed."""
        pipe = self.client.pipeline(transaction=False)
        for function, container, line in lines:
            entry = {"f": function, "c": container, "l": line}
            pipe.xadd(self.keys.logs, entry, maxlen=LOG_LINES_KEPT, approximate=True)
        pipe.execute()

    def read_logs(
        self, after: str = "0-0", *, count: int = 1_000, block: float | None = None
    ) -> list[tuple[str, dict[str, str]]]:
        """Return (id, values) after an id: ``f`` function, ``c`` container, ``l`` line; wait ``block`` seconds."""
        wait = None if block is None else max(1, int(block * 1000))
        found = self.client.xread({self.keys.logs: after}, count=count, block=wait)
        if not found:
            return []
        rows = found[0][1] if isinstance(found, list) else next(iter(found.values()))[0]
        return [(_str(entry), {_str(k): _str(v) for k, v in values.items()}) for entry, values in rows]

    def quiet(self) -> bool:
        """Return whether no registered function has an input or a container: cheap, however many there are."""
        return bool(self._run("quiet"))

    def census(self, functions: Sequence[str] = ()) -> dict[str, Census]:
        """Return the counts of each function (of all that are registered), in one command."""
        return {_str(row[0]): Census(*(int(n) for n in row[1:])) for row in self._run("census", *functions)}

    # -- the registry ----------------------------------------------------------------------------------------------

    def put_functions(self, sealed: Mapping[str, bytes], versions: Mapping[str, str] = {}) -> None:
        """Register functions with the versions of their code; a running controller sees them at once."""
        pipe = self.client.pipeline(transaction=True)
        self._put(pipe, sealed, versions)
        pipe.execute()

    def _put(self, pipe: Any, sealed: Mapping[str, bytes], versions: Mapping[str, str]) -> None:
        pipe.hset(self.keys.functions, mapping=dict(sealed))
        pipe.hset(self.keys.versions, mapping={name: versions.get(name, "") for name in sealed})
        pipe.srem(self.keys.retiring, *sealed)
        self._ring_for(pipe, sealed)

    def _ring_for(self, pipe: Any, functions: Collection[str]) -> None:
        names = [f"={name}" for name in functions] if len(functions) <= 100 else ["*"]
        pipe.sadd(self.keys.prefix + "dirty", *names)
        pipe.lpush(self.keys.bell, "1")

    def deploy(
        self, app: str, record: bytes, sealed: Mapping[str, bytes], versions: Mapping[str, str], gone: Iterable[str]
    ) -> None:
        """Put a deployment in force in one step: its functions, none of the overrides, those that are gone retire."""
        retired = list(gone)
        pipe = self.client.pipeline(transaction=True)
        pipe.hset(self.keys.apps, app, record)
        if retired or sealed:
            pipe.hdel(self.keys.overrides, *retired, *sealed)
            pipe.delete(*(self.keys.of("trouble", name) for name in (*retired, *sealed)))
        if retired:
            pipe.sadd(self.keys.retiring, *retired)
        if sealed:
            self._put(pipe, sealed, versions)
        self._ring_for(pipe, [*retired, *sealed] or [app])
        pipe.execute()

    def apps(self) -> dict[str, bytes]:
        """Return every app's sealed record of its deployment."""
        return {_str(name): bytes(record) for name, record in self.client.hgetall(self.keys.apps).items()}

    def app(self, name: str) -> bytes | None:
        """Return one app's sealed record of its deployment."""
        found = self.client.hget(self.keys.apps, name)
        return bytes(found) if found is not None else None

    def put_app(self, name: str, record: bytes) -> None:
        """Change an app's record."""
        self.client.hset(self.keys.apps, name, record)

    def retiring(self) -> set[str]:
        """Return the functions that take no new inputs and go when the last one has ended."""
        return {_str(name) for name in self.client.smembers(self.keys.retiring)}

    def retire(self, token: str, functions: Sequence[str]) -> bool:
        """Remove retiring functions from the registry; False while something of any of them is left."""
        gone = bool(self._run("retire", token, *functions))
        if gone:
            for function in functions:
                self.drop_code(function, keep=())
        return gone

    def let_be(self, token: str, function: str) -> bool:
        """Let a function that nobody uses retire; False when something of it is left."""
        return bool(self._run("let_be", token, function))

    def registry(self, functions: Collection[str] | None = None) -> dict[str, tuple[bytes, bytes | None, bool]]:
        """Return (sealed registration, sealed override, retiring) of registered functions; of all for ``None``."""
        keys, pipe = self.keys, self.client.pipeline(transaction=True)
        if functions is None:
            pipe.hgetall(keys.functions)
            pipe.hgetall(keys.overrides)
            pipe.smembers(keys.retiring)
            registered, overrides, retiring = pipe.execute()
            return {_str(n): (bytes(s), overrides.get(n), n in retiring) for n, s in registered.items()}
        names = list(functions)
        pipe.hmget(keys.functions, names)
        pipe.hmget(keys.overrides, names)
        pipe.smismember(keys.retiring, names)
        rows = zip(names, *pipe.execute(), strict=True)
        return {n: (bytes(sealed), laid_over, bool(r)) for n, sealed, laid_over, r in rows if sealed is not None}

    def functions(self) -> dict[str, bytes]:
        """Return every function's sealed registration."""
        return {_str(name): bytes(sealed) for name, sealed in self.client.hgetall(self.keys.functions).items()}

    def function(self, name: str) -> bytes | None:
        """Return one function's sealed registration."""
        found = self.client.hget(self.keys.functions, name)
        return bytes(found) if found is not None else None

    def function_and_override(self, name: str) -> tuple[bytes | None, bytes | None]:
        """Return one function's sealed registration, and the sealed settings laid over it."""
        pipe = self.client.pipeline(transaction=False)
        pipe.hget(self.keys.functions, name)
        pipe.hget(self.keys.overrides, name)
        registered, override = pipe.execute()
        return registered, override

    def overrides(self) -> dict[str, bytes]:
        """Return every function's sealed override."""
        return {_str(name): bytes(sealed) for name, sealed in self.client.hgetall(self.keys.overrides).items()}

    def override(self, function: str, before: bytes | None, after: bytes | None) -> bool:
        """Replace a function's override; False when it is no longer the one that was read."""
        return bool(self._run("override", function, before or b"", after or b""))

    def put_code(self, function: str, version: str, sealed: bytes) -> None:
        """Register pickled code."""
        self.client.hset(self.keys.code, f"{function}@{version}", sealed)

    def code(self, function: str, version: str) -> bytes | None:
        """Return sealed pickled code."""
        found = self.client.hget(self.keys.code, f"{function}@{version}")
        return bytes(found) if found is not None else None

    def drop_code(self, function: str, *, keep: Collection[str]) -> None:
        """Forget a function's pickled code but for some versions."""
        fields = [_str(f) for f in self.client.hkeys(self.keys.code)]
        old = [f for f in fields if f.startswith(f"{function}@") and f.removeprefix(f"{function}@") not in keep]
        if old:
            self.client.hdel(self.keys.code, *old)

    def version(self, function: str) -> str:
        """Return the version of the code that is registered; empty where there is none."""
        return _str(self.client.hget(self.keys.versions, function) or "")


def _function_state(row: Sequence[Any]) -> FunctionState:
    return FunctionState(
        pending=int(row[0]),
        running=int(row[1]),
        first_deadline=float(row[2]) if row[2] else None,
        idle=_pairs(row[3]),
        ready=_pairs(row[4]),
        timed=int(row[5]),
        microseconds=int(row[6]),
        first_cancel=float(row[7]) if row[7] else None,
    )


def _pairs(flat: Sequence[Any]) -> tuple[tuple[str, float], ...]:
    if flat and isinstance(flat[0], (list, tuple)):  # RESP3 answers in pairs
        return tuple((_str(member), float(score)) for member, score in flat)
    return tuple((_str(flat[i]), float(flat[i + 1])) for i in range(0, len(flat), 2))


def require_url(url: str | None) -> str:
    """Return the Redis URL or tell the ways to one."""
    if not url:
        raise ConfigurationError(
            "no Redis is configured: start the file with 'scaleplug run FILE' (it brings a private one), "
            "or set SCALEPLUG_REDIS_URL to the Redis that your controller uses"
        )
    return url
