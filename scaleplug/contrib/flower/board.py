"""What the tab shows, read from Redis: all functions at a glance, one of them in detail, and changes to its settings.

It knows nothing of Flower. However many browsers look on, Redis is asked once a second.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import NoPermissionError, RedisError

from scaleplug.client import RedisCaller
from scaleplug.errors import InvalidError, NotFoundError, SerializationError
from scaleplug.keys import Keys
from scaleplug.registry import Registration, open_override, registrations
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.settings import AUTOSCALER, Config, FunctionSettings, override
from scaleplug.store import SERIES, Overview, Store

FRESH_SECONDS: Final = 0.8
SLOW_SECONDS: Final = 5.0
"""How often it is read what functions are called, which settings were changed, and which starts have failed."""
QUEUES_SECONDS: Final = 30.0
UNSERVED_SECONDS: Final = 3.0
"""So long a queue may have inputs and no container before it counts as one without a consumer."""
TREND_SECONDS: Final = 300.0
TREND_POINTS: Final = 60
TREND_READ: Final = 300
SCANNED: Final = 100
"""Steps of a search for queues of nobody: it ends there, however many keys there are."""
COLUMNS: Final = (
    "name", "shown", "pending", "delayed", "running", "starting", "idle", "busy", "draining", "desired",
    "finished", "failed", "refused", "changed", "trouble", "unserved",
)  # fmt: skip
"""What a row of the table holds; the last three are flags."""


@dataclass(slots=True)
class _Seen:
    """What the last look has found."""

    first: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    """The number before the first look: higher than any of a Flower that ran before this one, for browsers stay."""
    number: int = 0
    now: float = 0.0
    leader: str | None = None
    rows: dict[str, list[Any]] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    """In which look each row has changed last."""
    gone: dict[str, int] = field(default_factory=dict)
    queues: list[tuple[str, int]] = field(default_factory=list)
    queues_changed: int = 0


class Board:
    """What there is to see of one namespace; safe to use from several threads."""

    def __init__(self, config: Config) -> None:
        self.config = config
        client = connect(config.redis_url or "", name="scaleplug-flower", connect_timeout=2.0, retry=False)
        self.store = Store(client, Keys(config.namespace))
        self.keyring = Keyring(config.secret) if config.secret else None
        self._lock = threading.Lock()
        self._seen = _Seen()
        self._seen.number = self._seen.first
        self._looked = self._looked_slowly = self._looked_for_queues = float("-inf")
        self._failure: Exception | None = None
        self._failed = 0.0
        self._names: set[str] = set()
        self._known: dict[str, Registration] = {}
        self._overridden: set[str] = set()
        self._troubled: set[str] = set()
        self._waiting: dict[str, float] = {}
        self._caller: RedisCaller | None = None

    # -- all functions ---------------------------------------------------------------------------------------------

    def changes(self, since: int) -> dict[str, Any]:
        """Return what has changed after the look of that number, everything for 0."""
        with self._lock:
            if time.monotonic() - self._looked >= FRESH_SECONDS:
                self._look_or_fail()
            seen = self._seen
            if not seen.first < since <= seen.number:
                since = 0  # it is another Flower's
            found: dict[str, Any] = {
                "number": seen.number,
                "now": round(seen.now, 2),
                "leader": seen.leader,
                "rows": [row for name, row in seen.rows.items() if seen.changed[name] > since],
            }
            if since == 0:
                found["columns"] = COLUMNS
            if gone := [name for name, number in seen.gone.items() if number > since > 0]:
                found["gone"] = gone
            if seen.queues_changed > since or since == 0:
                found["queues"] = seen.queues
            return found

    def _look_or_fail(self) -> None:
        """Look; those who have waited for a look that failed don't try again, each for as long, one after the other."""
        if self._failure is not None and time.monotonic() - self._failed < FRESH_SECONDS:
            raise self._failure.with_traceback(None)
        try:
            self._look()
        except (RedisError, OSError) as exc:
            self._failure, self._failed = exc, time.monotonic()
            raise
        self._failure, self._looked = None, time.monotonic()

    def _look(self) -> None:
        seen, clock = self._seen, time.monotonic()
        if clock - self._looked_slowly >= SLOW_SECONDS:
            self._look_slowly()
            self._looked_slowly = clock
        held, who = self.store.client.mget(self.store.keys.lease, self.store.keys.leader)
        seen.leader = None if held is None else (who or b"somebody").decode(errors="replace")
        seen.now, found = self.store.overview()
        if found.keys() - self._names:
            self._looked_slowly = float("-inf")  # somebody has registered it just now
        seen.number += 1
        self._waiting = {f: self._waiting.get(f, clock) for f, o in found.items() if unserved(o)}
        for name, overview in found.items():
            row = self._row(name, overview, clock)
            if seen.rows.get(name) != row:
                seen.rows[name], seen.changed[name] = row, seen.number
                seen.gone.pop(name, None)
        for name in seen.rows.keys() - found.keys():
            del seen.rows[name], seen.changed[name]
            seen.gone[name] = seen.number
        if clock - self._looked_for_queues >= QUEUES_SECONDS:
            self._looked_for_queues = clock
            queues = self._queues_of_nobody(found)
            if queues != seen.queues:
                seen.queues, seen.queues_changed = queues, seen.number

    def _row(self, name: str, overview: Overview, clock: float) -> list[Any]:
        census, known = overview.census, self._known.get(name)
        waiting = clock - self._waiting.get(name, clock) >= UNSERVED_SECONDS
        return [
            name, known.shown if known is not None else name, census.pending, census.delayed, census.running,
            census.starting, census.idle, census.busy, census.draining, overview.desired,
            census.finished, census.failed, census.refused,
            int(name in self._overridden), int(name in self._troubled), int(waiting),
        ]  # fmt: skip

    def _look_slowly(self) -> None:
        sealed = self.store.functions()
        self._names = set(sealed)
        if self.keyring is not None:
            self._known = registrations(sealed, self.keyring)
        self._overridden = {f for f in self.store.overrides() if self._overrides(f)}
        self._troubled = set(self.store.troubles(sorted(sealed)))

    def _overrides(self, name: str) -> Mapping[str, Any]:
        if self.keyring is None:
            return {}
        try:
            return open_override(self.keyring, name, self.store.function_and_override(name)[1])
        except SerializationError:
            return {}

    def _queues_of_nobody(self, found: Mapping[str, Overview]) -> list[tuple[str, int]]:
        """Return queues that hold inputs of functions that nobody has registered, with how many."""
        prefix, cursor, names = self.store.keys.queue(""), 0, set[str]()
        with contextlib.suppress(NoPermissionError):  # a user who may only look doesn't see all keys
            for _ in range(SCANNED):
                cursor, keys = self.store.client.scan(cursor, match=prefix + "*", count=1_000)
                names |= {key.decode(errors="replace").removeprefix(prefix) for key in keys}
                if not cursor:
                    break
        orphans = sorted(names - found.keys())
        pipe = self.store.client.pipeline(transaction=False)
        for name in orphans:
            pipe.llen(self.store.keys.queue(name))
        return [(name, n) for name, n in zip(orphans, pipe.execute() if orphans else (), strict=True) if n]

    def trends(self) -> dict[str, Any]:
        """Return what every function had over the last minutes: so many containers, so many inputs, by steps."""
        functions = sorted(self._seen.rows) or sorted(self.store.functions())
        histories, now = self.store.histories(functions, TREND_READ), self.store.now()
        rows = {f: trend(points, now) for f, points in histories.items()}
        return {
            "now": round(now, 2),
            "step": TREND_SECONDS / TREND_POINTS,
            "rows": {f: t for f, t in rows.items() if t},
        }

    # -- one function ----------------------------------------------------------------------------------------------

    def function(self, name: str, *, points: bool) -> dict[str, Any]:
        """Return a function's settings, decisions and trouble, and its history where ``points`` says so."""
        sealed, laid_over = self.store.function_and_override(name)
        if sealed is None:
            raise NotFoundError(f"{name} is not registered any more")
        found: dict[str, Any] = {
            "name": name,
            "shown": name,
            "decisions": [told(decision) for decision in self.store.decisions(name, 30)],
            "trouble": self.store.troubles([name]).get(name),
            "learned": self.store.learned(name),
            "refused": self.store.quarantined(name, 3),
            "settings": [],
        }
        if points:
            found["points"] = self.store.histories([name])[name]
            found["series"] = SERIES
        if self.keyring is not None:
            try:
                registration = Registration.unseal(self.keyring, name, sealed)
                changes = open_override(self.keyring, name, laid_over)
                found |= described(registration, changes)
            except (SerializationError, InvalidError) as exc:
                found["unreadable"] = str(exc)
        return found

    def change(self, name: str, changes: Mapping[str, Any], *, reset: bool = False) -> None:
        """Lay changes over a function's settings, or take away what is laid over them; raises InvalidError."""
        unknown = changes.keys() - set(AUTOSCALER)
        if unknown:
            raise InvalidError(f"{', '.join(sorted(unknown))} can't be changed here: {', '.join(AUTOSCALER)} can")
        if self._caller is None:
            self._caller = RedisCaller(self.config)
        if reset:
            self._caller.reset(name)
        if changes:
            self._caller.override(name, changes)
        with self._lock:
            self._looked_slowly = self._looked = float("-inf")


def unserved(overview: Overview) -> bool:
    """Return whether a function has inputs and nothing that takes them, or is about to."""
    return bool(overview.census.pending) and not overview.census.containers


def told(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a decision; anybody may have written it."""
    counts = {name: decision.get(name) for name in ("at", "desired", "start", "pending", "running")}
    made = {name: value if isinstance(value, int | float) else 0 for name, value in counts.items()}
    for name in ("stop", "give_up"):
        value = decision.get(name)
        made[name] = len(value) if isinstance(value, list) else 0
    reason, _, _ = str(decision.get("reason", "")).partition(" -> start ")
    return {**made, "reason": reason}


def described(registration: Registration, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's settings, each with where it comes from, and what else is known of it."""
    settings, defaults = registration.settings, FunctionSettings()
    in_force = override(settings, changes)
    rows = []
    for name in AUTOSCALER:
        code, default = getattr(settings, name), getattr(defaults, name)
        origin = "changed" if name in changes else "code" if code != default else "default"
        rows.append({"name": name, "value": getattr(in_force, name), "code": code, "origin": origin})
    shown = {"timeout": in_force.timeout, "startup_timeout": in_force.start_limit}
    if in_force.max_inputs > 1:
        shown |= {"max_inputs": in_force.max_inputs, "target_inputs": in_force.target_inputs}
    if in_force.retries is not None:
        shown["retries"] = in_force.retries.max_retries
    source = registration.source
    where = "pickled" if source.kind == "none" else source.where
    return {
        "shown": registration.shown, "settings": rows, "others": shown, "deployed": registration.deployed,
        "version": registration.version, "source": where,
    }  # fmt: skip


def trend(points: list[list[float]], now: float) -> list[list[int]]:
    """Return the most containers, and the most pending and running inputs, of each step of the last minutes.

    Nothing where there was nothing. What a point says holds until the next one.
    """
    step, first = TREND_SECONDS / TREND_POINTS, now - TREND_SECONDS
    containers, inputs = [0] * TREND_POINTS, [0] * TREND_POINTS
    for number, (at, pending, running, *states, _) in enumerate(points):
        until = points[number + 1][0] if number + 1 < len(points) else now
        if until < first:
            continue
        start, stop = max(0, int((at - first) / step)), min(TREND_POINTS - 1, int((until - first) / step))
        for place in range(start, stop + 1):
            containers[place] = max(containers[place], int(sum(states)))
            inputs[place] = max(inputs[place], int(pending + running))
    return [containers, inputs] if any(containers) or any(inputs) else []
