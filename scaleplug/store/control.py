"""The controller's part of the store, and what people look at."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import OutOfMemoryError

from scaleplug.store.scripts import Scripts, as_text
from scaleplug.store.states import Census, FunctionState

DECISIONS_KEPT: Final = 200
TAKEN_AT_ONCE: Final = 1_000
LOG_LINES_KEPT: Final = 10_000


class Control(Scripts):
    """What the controller writes and reads, and those who look on.

    A full Redis takes nothing that is only to be looked at, and must not keep the controller from its work.
    """

    def take_lease(self, token: str, seconds: float) -> bool:
        """Take the lease unless somebody holds it; also while Redis is full, or nobody could work that off."""
        return bool(self._run("lease", token, int(seconds * 1000)))

    def incarnation(self) -> str:
        """Return which Redis this is; the name changes when it has lost its data."""
        return as_text(self._run("incarnation", secrets.token_hex(8)))

    def restore(self, entries: Iterable[tuple[str, str, str | bytes]]) -> None:
        """Write (hash, field, value) again that Redis has lost, where nobody else has, and ring."""
        self._run("restore", *(each for entry in entries for each in entry))

    def wait_ring(self, seconds: float) -> bool:
        """Wait for the doorbell; True when it rang. Which functions it is about says :meth:`take_dirty`."""
        return self.client.blpop(self.keys.bell, timeout=max(seconds, 0.01)) is not None

    def take_dirty(self) -> set[str]:
        """Return, and forget, the functions the doorbell rang for."""
        pipe = self.client.pipeline(transaction=False)
        pipe.delete(self.keys.bell)  # first: what rings from here on is in the set, or rings again
        pipe.spop(self.keys.prefix + "dirty", TAKEN_AT_ONCE)
        dirty = pipe.execute()[1] or ()
        if len(dirty) == TAKEN_AT_ONCE:
            self.client.lpush(self.keys.bell, "1")  # there may be more
        return {as_text(name) for name in dirty}

    def set_calm(self, token: str, calm: Mapping[str, str]) -> None:
        """Say for which functions nobody has to ring as inputs come: "idle", "full" or '' for each."""
        self._run("calm", token, *(each for pair in calm.items() for each in pair))

    def forget_calm(self) -> None:
        """Let everything that comes ring."""
        self.client.delete(self.keys.prefix + "calm")

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
        return (float(result[0]) if result[0] else None), [as_text(f) for f in result[1:]]

    def load(self, functions: Sequence[str]) -> tuple[float, dict[str, FunctionState]]:
        """Return the server's time and the state of each function."""
        result = self._run("load", *functions)
        states = {f: _function_state(row) for f, row in zip(functions, result[1:], strict=True)}
        now = float(result[0])
        self._note_time(now)
        return now, states

    def taking(self, functions: Sequence[str]) -> set[str]:
        """Return the idle containers that have been given a message and have not claimed it yet."""
        return {as_text(c) for c in self._run("taking", *functions)}

    def started(self, token: str, containers: Sequence[tuple[str, str, int, str, str, float, str]]) -> bool:
        """Write down (container, function, slot, backend, host, time, version) before a start; False without lease."""
        return bool(self._run("started", token, *(value for row in containers for value in row)))

    def set_slots(self, token: str, containers: Sequence[str], slots: int) -> bool:
        """Tell containers how many inputs they may run at once; False without the lease."""
        return bool(self._run("slots", token, slots, *containers))

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

    def sign(self, host: str) -> dict[str, float]:
        """Write down that a host lives; return the time of every host's last sign."""
        return dict(_pairs(self._run("sign", host)))

    def forget_host(self, host: str) -> None:
        """Forget a host that is lost."""
        self.client.zrem(self.keys.prefix + "hosts", host)

    def heard_of(self, seconds: float) -> set[str]:
        """Return the names of connections over which a command has come within so many seconds.

        A container that lives always has one: the wait for orders ends every few seconds.
        """
        return {str(c.get("name")) for c in self.client.client_list() if float(c.get("idle", 0)) < seconds}

    def overdue(self, token: str, function: str, grace: float, verdict: str) -> dict[str, str]:
        """Pass ``verdict`` on inputs past their timeout; return the containers to be killed, and for what.

        ``cancel`` stands for an input that was cancelled and has not ended in time.
        """
        found = [as_text(value) for value in self._run("overdue", token, function, grace, verdict)]
        return dict(zip(found[::2], found[1::2], strict=True))

    def fail_pending(self, token: str, function: str, reason: str) -> int:
        """Fail the pending inputs of a function that can't be started; return how many."""
        return int(self._run("fail", token, function, reason, 5_000))

    def park(self, token: str, function: str, most: int) -> int:
        """Set pending inputs aside whose caller is gone, from the head of the queue up to one that is wanted."""
        return int(self._run("park", token, function, most))

    def decided(self, function: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision for ``scaleplug why``."""
        key = self.keys.of("decisions", function)
        pipe = self.client.pipeline(transaction=False)
        pipe.lpush(key, json.dumps(decision))
        pipe.ltrim(key, 0, DECISIONS_KEPT - 1)
        with contextlib.suppress(OutOfMemoryError):
            pipe.execute()

    def decisions(self, function: str, last: int = 20) -> list[dict[str, Any]]:
        """Return the last decisions, newest first."""
        return _tables(self.client.lrange(self.keys.of("decisions", function), 0, last - 1))

    def put_trouble(self, function: str, trouble: Mapping[str, Any] | None) -> None:
        """Keep why a function's last container did not start; ``None`` when one has."""
        key = self.keys.of("trouble", function)
        if trouble is None:
            self.client.delete(key)
        else:
            with contextlib.suppress(OutOfMemoryError):
                self.client.set(key, json.dumps(trouble), ex=7 * 86_400)

    def troubles(self, functions: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return ``at``, ``version``, ``reason`` and ``lines`` of failed starts, where none has worked since."""
        if not functions:
            return {}
        found = self.client.mget([self.keys.of("trouble", function) for function in functions])
        tables = {f: _tables([text]) for f, text in zip(functions, found, strict=True) if text}
        return {function: table[0] for function, table in tables.items() if table}

    def put_prepared(self, versions: Mapping[str, str]) -> None:
        """Write down the version of each function's code that can be started now."""
        if versions:
            with contextlib.suppress(OutOfMemoryError):
                self.client.hset(self.keys.prepared, mapping=dict(versions))

    def prepared(self) -> dict[str, str]:
        """Return the version of each function's code that can be started."""
        return {as_text(n): as_text(v) for n, v in self.client.hgetall(self.keys.prepared).items()}

    def learn(self, function: str, **seconds: float) -> None:
        """Keep what was learned of a function's ``service_time`` and ``start_time``."""
        with contextlib.suppress(OutOfMemoryError):
            self.client.hset(self.keys.of("learned", function), mapping={k: repr(v) for k, v in seconds.items()})

    def show_leader(self, who: str, seconds: int) -> None:
        """Tell people who holds the lease."""
        with contextlib.suppress(OutOfMemoryError):
            self.client.set(self.keys.leader, who, ex=seconds)

    def learned(self, function: str) -> dict[str, float]:
        """Return what was learned of a function."""
        found = {}
        for name, seconds in self.client.hgetall(self.keys.of("learned", function)).items():
            with contextlib.suppress(ValueError):  # it is learned anew
                found[as_text(name)] = max(0.0, float(seconds))
        return {name: seconds for name, seconds in found.items() if math.isfinite(seconds)}

    # -- containers' records, for ps and adoption ------------------------------------------------------------------

    def containers(self, function: str) -> dict[str, dict[str, str]]:
        """Return the record of every container of a function that has not gone."""
        names = sorted(as_text(c) for c in self.client.smembers(self.keys.of("containers", function)))
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self.keys.of("container", name))
        return {n: {as_text(k): as_text(v) for k, v in r.items()} for n, r in zip(names, pipe.execute(), strict=True)}

    def container_record(self, container: str) -> dict[str, str]:
        """Return the record of a container, empty if there is none."""
        found = self.client.hgetall(self.keys.of("container", container))
        return {as_text(k): as_text(v) for k, v in found.items()}

    def adopt(self, function: str, container: str, record: Mapping[str, str]) -> None:
        """Write a living container down again in a Redis that has lost its data."""
        key = self.keys.of("container", container)
        pipe = self.client.pipeline(transaction=False)
        for name, value in {"fn": function, **record}.items():
            pipe.hsetnx(key, name, value)
        pipe.sadd(self.keys.of("containers", function), container)
        pipe.execute()

    def counters(self, function: str) -> dict[str, int]:
        """Return how many inputs finished, failed and were refused."""
        return {as_text(k): int(v) for k, v in self.client.hgetall(self.keys.of("stats", function)).items()}

    def quarantined(self, function: str, last: int = 20) -> list[dict[str, Any]]:
        """Return the reasons of the last messages that were set aside, newest first."""
        rows = self.client.lrange(self.keys.of("quarantine", function), 0, 2 * last - 1)
        return _tables(rows[1::2])

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
        return [(as_text(entry), {as_text(k): as_text(v) for k, v in values.items()}) for entry, values in rows]

    def logged_until(self) -> float:
        """Return when the last line was kept, by Redis's clock; now, if there is none."""
        found = self.client.xrevrange(self.keys.logs, count=1)
        return int(as_text(found[0][0]).partition("-")[0]) / 1000 if found else self.now()

    def quiet(self) -> bool:
        """Return whether no registered function has an input or a container: cheap, however many there are."""
        return bool(self._run("quiet"))

    def census(self, functions: Sequence[str] = ()) -> dict[str, Census]:
        """Return the counts of each function (of all that are registered), in one command."""
        return {as_text(row[0]): Census(*(int(n) for n in row[1:])) for row in self._run("census", *functions)}


def _tables(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return what is JSON of lines that anybody may have written."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [table for table in found if isinstance(table, dict)]


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
        return tuple((as_text(member), float(score)) for member, score in flat)
    return tuple((as_text(flat[i]), float(flat[i + 1])) for i in range(0, len(flat), 2))
