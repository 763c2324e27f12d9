"""The timetable: what happens by itself, as celery-redbeat keeps it in Redis.

An entry is a hash with redbeat's ``definition`` and ``meta`` (JSON), and a place in its sorted set of due times. They
are written here without redbeat, which only a beat needs; :mod:`scaleplug.beat` is what acts on them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from redis.exceptions import RedisError, WatchError

from scaleplug.errors import InvalidError, NotFoundError, SerializationError, did_you_mean
from scaleplug.registry import Registration, seal_override
from scaleplug.schedules import Cron, Schedule, rules_from, schedule_from, settings_at
from scaleplug.serializer import Keyring
from scaleplug.settings import override
from scaleplug.store import Store
from scaleplug.store.scripts import as_text

AUTOSCALE = "scaleplug.autoscale"
"""Stands in place of a task for a rule of an autoscaler; its arguments are the function and the rule's number."""
CRON = "scaleplug.cron"
"""How redbeat's JSON calls the schedule of a Cron."""
LOCK_SECONDS = 15
"""For so long a beat that was killed keeps others from acting."""
LOOP_SECONDS = 1
"""A beat looks at the timetable at least so often."""
OPTIONS = {"ignore_result": True}
"""What a scheduled call is sent with: nobody waits for its result."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``schedule`` is ``None`` where it can't be read."""

    name: str
    task: str
    args: tuple[Any, ...] = ()
    schedule: Schedule | None = None
    since: float = 0.0
    """Unix time of the deployment that brought a Cron: what was due before isn't made up for."""
    enabled: bool = True
    last_run_at: datetime | None = None
    runs: int = 0
    problem: str = ""
    """Why it can't be read."""

    @property
    def function(self) -> str:
        """Full name of the function it is about."""
        return str(self.args[0]) if self.task == AUTOSCALE and self.args else self.task

    @property
    def due_at(self) -> datetime | None:
        """When it is due next; in the past where beat hasn't come to it, ``None`` for never or unknown."""
        if self.schedule is None:
            return None
        last = self.last_run_at or datetime.fromtimestamp(self.since, UTC)
        with contextlib.suppress(InvalidError, OverflowError):
            return next_due(self.schedule, last, self.since)
        return None

    def same(self, other: Entry) -> bool:
        """Return whether both say the same; what has happened to them doesn't count."""
        return (self.task, self.args, self.schedule) == (other.task, other.args, other.schedule)

    def definition(self) -> str:
        """Return redbeat's ``definition``."""
        assert self.schedule is not None
        return json.dumps(
            {
                "name": self.name, "task": self.task, "args": list(self.args), "kwargs": {}, "options": OPTIONS,
                "schedule": to_redbeat(self.schedule, self.since), "enabled": self.enabled,
            }
        )  # fmt: skip

    def meta(self) -> str:
        """Return redbeat's ``meta``."""
        return json.dumps({"last_run_at": _to_json(self.last_run_at), "total_run_count": self.runs})


def next_due(schedule: Schedule, last: datetime, since: float = 0.0) -> datetime:
    """Return when a schedule is due after its last run; a Cron not before ``since``. Raises InvalidError."""
    if isinstance(schedule, Cron) and last.timestamp() < since:
        last = datetime.fromtimestamp(since, UTC)
    return schedule.next_after(last).astimezone(UTC)


def to_redbeat(schedule: Schedule, since: float) -> dict[str, Any]:
    """Return a schedule as redbeat's JSON has it: a Period is the interval that it knows."""
    if isinstance(schedule, Cron):
        return {"__type__": CRON, **schedule.to_dict(), "since": since}
    return {"__type__": "interval", "every": schedule.interval.total_seconds(), "relative": False}


def entries_of(registration: Registration) -> list[Entry]:
    """Return what a function's registration puts on the timetable."""
    name, found = registration.function, []
    schedule = schedule_from(registration.schedule)
    if registration.base:
        return []
    if schedule is not None:
        found.append(Entry(name, name, (), schedule))
    for number, rule in enumerate(rules_from(registration.autoscaler), 1):
        found.append(Entry(f"{name}:autoscaler-{number}", AUTOSCALE, (name, number), rule.cron))
    return found


class Timetable:
    """The entries of one namespace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client: Any = store.client
        self.prefix = store.keys.beat
        self.due = f"{self.prefix}:schedule"

    def _key(self, name: str) -> str:
        return self.prefix + name

    def _names(self, app: str) -> str:
        return self._store.keys.of("scheduled", app)

    # -- what apps want --------------------------------------------------------------------------------------------

    def put(self, app: str, registrations: Iterable[Registration], now: datetime) -> None:
        """Let an app's entries be those of these registrations: one that says the same as before isn't touched."""
        wanted = {entry.name: entry for each in registrations for entry in entries_of(each)}
        known = {as_text(name) for name in self._client.smembers(self._names(app))}
        if gone := known - set(wanted):
            self._drop(app, gone)
        if new := set(wanted) - known:
            self._client.sadd(self._names(app), *new)
        for entry in wanted.values():
            self._put(entry, now)

    def _put(self, entry: Entry, now: datetime) -> None:
        def change(before: Entry | None) -> Entry | None:
            if before is None or before.problem:
                return replace(entry, since=now.timestamp(), last_run_at=now)
            if before.same(entry):
                if due := before.due_at:  # a beat that couldn't read it may have taken it off
                    self._client.zadd(self.due, {self._key(entry.name): int(due.timestamp())}, nx=True)
                return None
            moved = before.schedule != entry.schedule
            since = now.timestamp() if moved else before.since
            return replace(entry, since=since, enabled=before.enabled, last_run_at=before.last_run_at, runs=before.runs)

        self._change(entry.name, change)

    def drop(self, app: str) -> None:
        """Take an app's entries away."""
        if names := {as_text(name) for name in self._client.smembers(self._names(app))}:
            self._drop(app, names)

    def _drop(self, app: str, names: Iterable[str]) -> None:
        keys = {name: self._key(name) for name in names}
        pipe = self._client.pipeline(transaction=True)
        pipe.srem(self._names(app), *keys)
        pipe.zrem(self.due, *keys.values())
        pipe.delete(*keys.values())
        pipe.execute()

    # -- what people do --------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all entries, by their names."""
        keys = [as_text(key) for key in self._client.zrange(self.due, 0, -1)]
        return sorted((e for key in keys if (e := self._read(key)) is not None), key=lambda entry: entry.name)

    def find(self, name: str) -> Entry:
        """Return an entry; raises NotFoundError."""
        known = {entry.name: entry for entry in self.entries()}
        ends = [n for n in known if n.endswith(f".{name}")]
        if name not in known and len(ends) != 1:
            raise NotFoundError(f"there is no schedule {name!r}{did_you_mean(name, known)}")
        return known[name if name in known else ends[0]]

    def pause(self, name: str, *, paused: bool, now: datetime) -> None:
        """Let an entry rest, or go on: then what was due meanwhile isn't made up for."""

        def change(before: Entry | None) -> Entry | None:
            if before is None or before.schedule is None:
                raise InvalidError(f"the schedule {name!r} can't be read: deploy its app again")
            if before.enabled is not paused:
                return None
            return replace(before, enabled=False) if paused else replace(before, enabled=True, last_run_at=now)

        self._change(name, change)

    def paused(self, app: str) -> set[str]:
        """Return the names of an app's entries that rest."""
        names = [as_text(name) for name in self._client.smembers(self._names(app))]
        entries = [self._read(self._key(name)) for name in names]
        return {entry.name for entry in entries if entry is not None and not entry.enabled}

    # -- Redis -----------------------------------------------------------------------------------------------------

    def _change(self, name: str, change: Any) -> None:
        """Write what ``change`` makes of an entry, ``None`` for nothing; anew where a beat was quicker."""
        key = self._key(name)
        while True:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.watch(key)
                after: Entry | None = change(self._read(key))
                if after is None:
                    return
                pipe.multi()
                pipe.delete(key)  # it may be of another type
                pipe.hset(key, mapping={"definition": after.definition(), "meta": after.meta()})
                pipe.zadd(self.due, {key: int(due.timestamp()) if (due := after.due_at) else -1})
                try:
                    pipe.execute()
                    return
                except WatchError:
                    continue

    def _read(self, key: str) -> Entry | None:
        name = key.removeprefix(self.prefix)
        try:
            definition, meta = self._client.hmget(key, "definition", "meta")
        except RedisError as exc:
            if "WRONGTYPE" not in str(exc):
                raise
            return Entry(name, "", problem="it is no hash")
        if definition is None:
            return None
        try:
            return _read(name, json.loads(definition), json.loads(meta) if meta else {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, InvalidError) as exc:
            return Entry(name, "", problem=f"{type(exc).__name__}: {exc}")


def _read(name: str, definition: dict[str, Any], meta: dict[str, Any]) -> Entry:
    """Return an entry of redbeat's JSON; the errors are those of values that nobody has checked."""
    if definition["name"] != name:
        raise ValueError(f"its name is {definition['name']!r}")
    schedule, values = None, definition["schedule"]
    kind = values["__type__"]
    if kind == CRON:
        schedule = schedule_from({"cron": values["cron"], "timezone": values["timezone"]})
    elif kind == "interval":
        schedule = schedule_from({"seconds": values["every"]})
    return Entry(
        name, str(definition["task"]), tuple(definition["args"] or ()), schedule, float(values.get("since", 0.0)),
        bool(definition.get("enabled", True)), _from_json(meta.get("last_run_at")),
        int(meta.get("total_run_count") or 0), "" if schedule else f"its schedule is a {kind}, as others make them",
    )  # fmt: skip


def _to_json(moment: datetime | None) -> dict[str, Any] | None:
    """Return a moment as redbeat's JSON has it."""
    if moment is None:
        return None
    names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
    utc = moment.astimezone(UTC)
    return {"__type__": "datetime", **{name: getattr(utc, name) for name in names}, "timezone": "UTC"}


def _from_json(values: dict[str, Any] | None) -> datetime | None:
    if values is None:
        return None
    given = {name: value for name, value in values.items() if name not in ("__type__", "timezone")}
    zone = values.get("timezone", "UTC")
    if isinstance(zone, str):
        return datetime(**given, tzinfo=ZoneInfo(zone))
    return datetime(**given, tzinfo=UTC) - timedelta(seconds=zone)  # redbeat's: seconds east of Greenwich


def check_rules(registrations: Iterable[Registration], now: datetime) -> None:
    """Refuse rules of an autoscaler that don't go together at their next times, or now; raises InvalidError."""
    for each in registrations:
        rules = rules_from(each.autoscaler)
        for moment in (now, *(rule.cron.next_after(now) for rule in rules)):
            try:
                override(each.settings, settings_at(rules, moment))
            except InvalidError as exc:
                raise InvalidError(
                    f"the autoscaler of {each.shown} would be told on {moment:%Y-%m-%d at %H:%M %Z}: {exc}"
                ) from None


def present_overrides(
    keyring: Keyring, registrations: Iterable[Registration], paused: set[str], now: datetime
) -> dict[str, bytes]:
    """Return what the rules of functions' autoscalers lay over their settings now, signed, by function."""
    found = {}
    for each in registrations:
        if changes := present_changes(each, paused, now):
            found[each.function] = seal_override(keyring, each.function, changes)
    return found


def present_changes(registration: Registration, paused: set[str], now: datetime) -> dict[str, Any]:
    """Return what the rules of a function's autoscaler say now, but for those that rest."""
    rules = rules_from(registration.autoscaler)
    names = [entry.name for entry in entries_of(registration) if entry.task == AUTOSCALE]
    return settings_at([rule for name, rule in zip(names, rules, strict=True) if name not in paused], now)


def read_registration(store: Store, keyring: Keyring, function: str) -> Registration | None:
    """Return what a function is registered as; ``None`` where nobody has, or with another secret."""
    sealed = store.function(function)
    with contextlib.suppress(SerializationError):
        return Registration.unseal(keyring, function, sealed) if sealed is not None else None
    return None
