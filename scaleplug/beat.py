"""What acts on the timetable: celery-redbeat, with schedules that mean what cron means, and entries it can't die of.

A beat is a thread of every controller, ``scaleplug beat``, and whatever Celery beat imports an App. They share
redbeat's lock, so one of them acts; an entry is also taken by comparing what stood there, so that two could do no harm.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import redbeat.schedulers
from celery import Celery
from celery.schedules import BaseSchedule, schedstate
from celery.schedules import schedule as interval
from redbeat.decoder import RedBeatJSONDecoder, RedBeatJSONEncoder
from redbeat.schedulers import (
    LUA_EXTEND_TO_SCRIPT,
    RedBeatScheduler,
    RedBeatSchedulerEntry,
    ensure_conf,
    get_redis,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import LockError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug import here
from scaleplug.app import DeployedApp
from scaleplug.client import RedisCaller
from scaleplug.errors import NotFoundError
from scaleplug.function import Function
from scaleplug.keys import Keys
from scaleplug.schedules import Cron
from scaleplug.server import celery_url, connect
from scaleplug.settings import Config, FunctionSettings
from scaleplug.store import require_url
from scaleplug.store.scripts import as_text
from scaleplug.timekeeping import apply_rule, beat_settings
from scaleplug.timetable import AUTOSCALE, CRON, LOCK_SECONDS, LOOP_SECONDS, next_due, to_redbeat

logger = logging.getLogger("scaleplug")

TAKE = """
if redis.call('hget', KEYS[1], 'definition') ~= ARGV[1] then return 0 end
if (redis.call('hget', KEYS[1], 'meta') or '') ~= ARGV[2] then return 0 end
redis.call('hset', KEYS[1], 'meta', ARGV[3])
redis.call('zadd', KEYS[2], ARGV[4], KEYS[1])
return 1
"""
"""Take a run of an entry, unless another beat has, or a deployment has changed it."""
UNREADABLE_SECONDS = 60.0


class TakenError(Exception):
    """Another beat has taken this run of an entry, or a deployment has changed it."""


# -- what redbeat learns -------------------------------------------------------------------------------------------


class CronSchedule(BaseSchedule):  # type: ignore[misc]  # Celery has no types
    """A Cron as Celery's schedules are asked; all arithmetic is done in UTC, where every day has its hours."""

    def __init__(self, cron: Cron, since: float = 0.0, nowfun: Any = None, app: Any = None) -> None:
        super().__init__(nowfun=nowfun, app=app)
        self.cron, self.since = cron, since

    def next_due(self, last: datetime) -> datetime:
        """Return when it is due after its last run."""
        return next_due(self.cron, last.astimezone(UTC), self.since)

    def remaining_estimate(self, last_run_at: datetime) -> Any:
        """Return how long it is until then."""
        return self.next_due(last_run_at) - self.now().astimezone(UTC)

    def is_due(self, last_run_at: datetime) -> Any:
        """Return whether it is due, and in how many seconds to ask again."""
        now = self.now().astimezone(UTC)
        due = self.next_due(last_run_at)
        if due > now:
            return schedstate(False, (due - now).total_seconds())
        return schedstate(True, (self.next_due(now) - now).total_seconds())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CronSchedule) and self.cron == other.cron

    def __hash__(self) -> int:
        return hash(self.cron)

    def __repr__(self) -> str:
        return f"<cron: {self.cron}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cron, self.since)


class Decoder(RedBeatJSONDecoder):  # type: ignore[misc]
    """Redbeat's, that knows a Cron too."""

    def dict_to_object(self, d: dict[str, Any]) -> Any:
        """Return what a JSON object stands for."""
        if d.get("__type__") == CRON:
            return CronSchedule(Cron(d["cron"], d["timezone"]), float(d.get("since", 0.0)))
        return super().dict_to_object(d)


class Encoder(RedBeatJSONEncoder):  # type: ignore[misc]
    """Redbeat's, that knows a Cron too."""

    def default(self, obj: Any) -> Any:
        """Return what stands for an object."""
        return to_redbeat(obj.cron, obj.since) if isinstance(obj, CronSchedule) else super().default(obj)


def teach() -> None:
    """Let redbeat's own entries in this process read and write a Cron."""
    redbeat.schedulers.RedBeatJSONDecoder, redbeat.schedulers.RedBeatJSONEncoder = Decoder, Encoder


_told: dict[str, Any] = {}
"""What was told of entries, by their keys: once for each text that can't be read."""


def _tell(key: str, what: Any, exc: BaseException) -> None:
    if _told.get(key) != what:
        _told[key] = what
        logger.warning("beat: the entry %s is left out, since it can't be read: %s: %s", key, type(exc).__name__, exc)


class TimedEntry(RedBeatSchedulerEntry):  # type: ignore[misc]
    """An entry of the timetable; one that makes no sense is told once and never due."""

    def __init__(self, *args: Any, seen: tuple[Any, Any] = ("", ""), **values: Any) -> None:
        super().__init__(*args, **values)
        self.seen = seen
        """Its definition and meta as they were read."""

    @classmethod
    def from_key(cls, key: Any, app: Any = None) -> TimedEntry:
        """Return the entry under a key; raises KeyError where nothing is."""
        key = as_text(key)
        conf, seen = ensure_conf(app), (None, None)
        try:
            seen = tuple(get_redis(app).hmget(key, "definition", "meta"))
            if seen[0] is not None:
                return cls._made(key, seen, app)
        except (RedisConnectionError, RedisTimeoutError):
            raise
        except Exception as exc:  # noqa: BLE001  # anybody may have written it
            _tell(key, seen, exc)
            return cls(key.removeprefix(conf.key_prefix), "", app=app, enabled=False)
        raise KeyError(key)

    @classmethod
    def _made(cls, key: str, seen: tuple[Any, ...], app: Any) -> TimedEntry:
        values: dict[str, Any] = json.loads(seen[0], cls=Decoder)
        meta: dict[str, Any] = json.loads(seen[1], cls=Decoder) if seen[1] else {}
        names = ("name", "task", "schedule", "args", "kwargs", "options", "enabled")
        entry = cls(
            app=app, seen=(as_text(seen[0]), as_text(seen[1] or "")),
            total_run_count=int(meta.get("total_run_count") or 0), **{n: values[n] for n in names if n in values},
        )  # fmt: skip
        last = entry.last_run_at = meta.get("last_run_at")
        if entry.key != key:
            raise ValueError(f"its name is {entry.name!r}")
        if not isinstance(entry.schedule, BaseSchedule):
            raise TypeError(f"its schedule is {entry.schedule!r}")
        if last is not None and not isinstance(last, datetime):
            raise TypeError(f"its last run was at {last!r}")
        return entry

    @property
    def due_at(self) -> datetime | None:
        """When it is due next."""
        last = self.last_run_at
        if isinstance(self.schedule, CronSchedule) and last is not None:
            return self.schedule.next_due(last)
        if type(self.schedule) is interval and last is not None:
            return last.astimezone(UTC) + self.schedule.run_every  # type: ignore[no-any-return]
        found: datetime | None = super().due_at
        return found

    def is_due(self) -> Any:
        """Return whether it is due, and in how many seconds to ask again."""
        try:
            due, pause = super().is_due()
            if due and type(self.schedule) is interval:  # Celery counts from now on, and so falls behind
                following = self._moment() + self.schedule.run_every
                pause = max(0.0, (following - self.default_now()).total_seconds())
            return schedstate(due, pause)
        except Exception as exc:  # noqa: BLE001  # one entry must not stop the others
            _tell(self.key, self.seen, exc)
            return schedstate(False, UNREADABLE_SECONDS)

    def _next_instance(self, last_run_at: Any = None, only_update_last_run_at: bool = False) -> TimedEntry:
        """Take this run, and return the entry as it waits for the next one; raises TakenError."""
        moment = (last_run_at or self._moment()).astimezone(UTC)  # a zone's own time has an hour twice
        made: TimedEntry = super(RedBeatSchedulerEntry, self)._next_instance(last_run_at=moment)
        if only_update_last_run_at:
            made.total_run_count = self.total_run_count
        meta = {"last_run_at": made.last_run_at, "total_run_count": made.total_run_count}
        made.seen = (self.seen[0], json.dumps(meta, cls=Encoder))
        take = get_redis(self.app).register_script(TAKE)
        if not take(keys=[self.key, self.app.redbeat_conf.schedule_key], args=[*self.seen, made.seen[1], made.score]):
            raise TakenError(self.name)
        return made

    __next__ = next = _next_instance

    def _moment(self) -> datetime:
        """Return the time of this run: of an interval the one it was due, so that it doesn't drift."""
        now: datetime = self.default_now()
        if type(self.schedule) is interval and self.last_run_at is not None:
            due: datetime = self.last_run_at + self.schedule.run_every
            if due <= now < due + self.schedule.run_every:
                return due
        return now


# -- starting what is due ------------------------------------------------------------------------------------------


class Starter:
    """Starts what entries name: functions of any App in a namespace, and the rules of their autoscalers."""

    def __init__(self, config: Config, clock: Callable[[], datetime]) -> None:
        self._config, self._clock = config, clock
        self._elsewhere: dict[str, DeployedApp] = {}

    def start(self, task: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
        """Start a task; raises NotFoundError where it is none of a function that is registered."""
        if task == AUTOSCALE:
            return apply_rule(self._caller(), str(args[0]), int(args[1]), self._clock())
        return self._function(self._caller(), task).apply_async(args, kwargs, **options)

    def owns(self, task: str) -> bool:
        """Return whether a task's name begins with that of an App that is, or was, deployed."""
        return task == AUTOSCALE or self._caller().store.app(task.partition(".")[0]) is not None

    def _caller(self) -> RedisCaller:
        caller = here.caller_for(self._config)
        assert isinstance(caller, RedisCaller)
        return caller

    def _function(self, caller: RedisCaller, task: str) -> Function[Any, Any]:
        app, _, name = task.partition(".")
        local = here.find_app(app)
        if local is not None and name in local.functions:
            return local.functions[name]
        if caller.store.function(task) is None:
            raise NotFoundError(f"no function {task!r} is registered")
        if app not in self._elsewhere:
            self._elsewhere[app] = DeployedApp(app, redis_url=self._config.redis_url)
        return Function(self._elsewhere[app], None, name, FunctionSettings())

    def start_or(
        self, send: Callable[..., Any], name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Start a task that a beat's process doesn't have; ``send`` takes those that are no functions."""
        try:
            plain = {key: value for key, value in options.items() if key != "producer"}
            return self.start(name, args or (), kwargs or {}, plain)
        except NotFoundError:
            if self.owns(name):
                raise
            return send(name, args, kwargs, **options)


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """Redbeat's scheduler without a project: it starts functions by their names."""

    Entry = TimedEntry

    def __init__(self, app: Celery, starter: Starter) -> None:
        self.starter = starter
        self.told: dict[str, float] = {}
        super().__init__(app, max_interval=LOOP_SECONDS, lock_timeout=LOCK_SECONDS)

    def setup_schedule(self) -> None:
        """Leave the entries as they are: a project's own are none of its business."""

    def maybe_due(self, entry: TimedEntry, **_: Any) -> Any:
        """Start an entry that is due; return in how many seconds to ask again."""
        due, pause = entry.is_due()
        if due:
            try:
                self.reserve(entry)
                self.starter.start_or(self.app.send_task, entry.task, entry.args, entry.kwargs, **entry.options)
                logger.info("beat: started %s", entry.name)
            except (RedisConnectionError, RedisTimeoutError):
                raise
            except TakenError:
                logger.info("beat: %s was taken by another beat, or changed", entry.name)
            except Exception as exc:  # noqa: BLE001  # one entry must not stop the others
                self._tell(entry, exc)
        return pause

    def _tell(self, entry: TimedEntry, exc: Exception) -> None:
        """Tell why an entry was not started; the same once a minute, since it may stay due."""
        what, now = f"{entry.name} was due and not started: {type(exc).__name__}: {exc}", time.monotonic()
        if now - self.told.get(what, -UNREADABLE_SECONDS) >= UNREADABLE_SECONDS:
            self.told = {text: at for text, at in self.told.items() if now - at < UNREADABLE_SECONDS} | {what: now}
            logger.warning("beat: %s", what)

    @property
    def _maybe_due_kwargs(self) -> dict[str, Any]:
        return {}


# -- beats ---------------------------------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


class Beat:
    """A beat of one namespace, which acts while it has redbeat's lock."""

    def __init__(self, config: Config, *, clock: Callable[[], datetime] = _now) -> None:
        url, keys = require_url(config.redis_url), Keys(config.namespace)
        self.celery = Celery("scaleplug-beat", set_as_current=False)
        self.celery.conf.update(broker_url=celery_url(url), **beat_settings(url, keys.beat))
        self.celery.now = clock
        # A command that is sent twice could take a run that nobody starts.
        self.client: Any = connect(url, name=f"scaleplug-beat-{os.getpid()}", retry=False)
        self.celery.redbeat_redis = self.client
        self.scheduler = Scheduler(self.celery, Starter(config, clock))

    @property
    def acts(self) -> bool:
        """Whether it had the lock when it last looked."""
        return self.scheduler.lock is not None

    def turn(self) -> float:
        """Start what is due, if this beat has the lock or gets it; return for how many seconds to wait."""
        if self.scheduler.lock is None and not self._lock():
            return LOOP_SECONDS
        try:
            pause = self.scheduler.tick()
        except LockError:
            self.scheduler.lock = None
            logger.warning("beat: another one acts now, since this one stood still for %d s", LOCK_SECONDS)
            return 0.0
        return min(max(0.001, float(pause)), LOOP_SECONDS)

    def _lock(self) -> bool:
        lock = self.client.lock(self.scheduler.lock_key, timeout=LOCK_SECONDS)
        lock.lua_extend = self.client.register_script(LUA_EXTEND_TO_SCRIPT)  # as redbeat does it
        if not lock.acquire(blocking=False):
            return False
        self.scheduler.lock = lock
        logger.info("beat: acts")
        return True

    def close(self) -> None:
        """Let another beat act."""
        lock, self.scheduler.lock = self.scheduler.lock, None
        if lock is not None:
            try:
                lock.release()
            except (LockError, RedisError, OSError):
                logger.info("beat: its lock was not given back, and runs out within %d s", LOCK_SECONDS)
        self.client.close()


def serve(config: Config, stop: threading.Event, progress: Callable[[], object] = lambda: None) -> None:
    """Be a beat until ``stop`` is set, whatever happens to Redis; call ``progress`` after each turn that went well."""
    teach()
    beat, away = Beat(config), False
    while not stop.is_set():
        try:
            pause, away = beat.turn(), False
            progress()
        except Exception as exc:  # noqa: BLE001  # it goes on as long as its process
            if not away:
                logger.warning("beat: it goes on when it can: %s: %s", type(exc).__name__, exc)
            pause, away = LOOP_SECONDS, True
        stop.wait(pause)
    beat.close()


def join(service: Any) -> None:
    """Let a Celery beat that begins serve the timetables of its Celery app's Apps.

    Where its redbeat reads a timetable, it is told what that takes; for others a thread beside it is the beat.
    """
    configs = {(a.redis_url, a.keys.prefix): a for a in here.known_apps() if a.celery is service.app and a.redis_url}
    scheduler = service.scheduler
    for app in configs.values():
        config = app.config
        place = ensure_conf(service.app).schedule_key if isinstance(scheduler, RedBeatScheduler) else None
        if place == f"{app.keys.beat}:schedule":
            teach()
            scheduler.Entry = TimedEntry
            scheduler.send_task = functools.partial(Starter(config, _now).start_or, scheduler.send_task)
            continue
        stop = threading.Event()
        thread = threading.Thread(target=serve, args=(config, stop), daemon=True, name="scaleplug-beat")
        thread.start()
        atexit.register(_end, thread, stop)


def _end(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    thread.join(2.0)
