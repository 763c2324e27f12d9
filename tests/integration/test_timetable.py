"""The timetable and a beat whose clock is moved: deployments, changes of the clocks, bad entries, two beats."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from redbeat.schedulers import RedBeatSchedulerEntry, ensure_conf

from scaleplug import App, Cron, Daily, Period, here
from scaleplug.beat import Beat, CronSchedule, TakenError, TimedEntry, teach
from scaleplug.deployment import deploy, stop
from scaleplug.errors import InvalidError
from scaleplug.memory import Memory
from scaleplug.registry import registrations
from scaleplug.serializer import Keyring
from scaleplug.settings import Config, use_config
from scaleplug.timekeeping import apply_rule
from scaleplug.timetable import Timetable
from tests.commands import SECRET

NEW_YORK = ZoneInfo("America/New_York")
START = datetime(2026, 6, 3, 10, 0, 30, tzinfo=UTC)


class Clock:
    """A clock that is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return what it shows."""
        return self.now


class Site:
    """A Redis, an app, and a beat by a clock of its own."""

    def __init__(self, url: str) -> None:
        self.config = Config(redis_url=url, secret=SECRET)
        use_config(self.config)
        self.app = App("timed")
        self.clock = Clock(START)
        self.beats = [Beat(self.config, clock=self.clock)]
        self.store = self.app.store
        self.keyring = Keyring(SECRET)
        self.timetable = Timetable(self.store)
        self.client: Any = self.store.client

    def function(self, name: str, **options: Any) -> Any:
        """Make a function."""

        def nothing() -> None: ...

        return self.app.function(name=name, serialized=True, **options)(nothing)

    def deploy(self) -> None:
        """Deploy the app by the site's clock."""
        self.app.deploy()
        self.timetable.drop("timed")  # what was written by this machine's clock
        self.put()

    def put(self) -> None:
        """Put on the timetable what the app has, as a deployment does."""
        self.timetable.put("timed", [f.registration() for f in self.app.functions.values()], self.clock.now)

    def turn(self) -> None:
        """Let the beat look once."""
        self.beats[0].turn()

    def move(self, to: datetime, step: timedelta = timedelta(minutes=10)) -> None:
        """Move the clock on, and let the beat look at each step."""
        while self.clock.now < to:
            self.clock.now = min(to.astimezone(UTC), self.clock.now + step)
            self.turn()

    def calls(self, name: str) -> int:
        """Return how many calls of a function wait."""
        return int(self.client.llen(self.store.keys.queue(f"timed.{name}")))

    def raw(self, name: str) -> dict[bytes, bytes]:
        """Return an entry as it lies in Redis."""
        found: dict[bytes, bytes] = self.client.hgetall(f"{self.store.keys.beat}timed.{name}")
        return found

    def settings(self, function: Any) -> Any:
        """Return a function's settings in force."""
        return function.autoscaler.settings()

    def close(self) -> None:
        """End it."""
        for beat in self.beats:
            beat.close()
        here.forget_app(self.app)
        here.forget_callers(self.config.redis_url)
        use_config(None)


@pytest.fixture
def site(redis_url: str) -> Iterator[Site]:
    """Give a site on an empty Redis."""
    site = Site(redis_url)
    yield site
    site.close()


# -- deployments ---------------------------------------------------------------------------------------------------


def test_entries_are_redbeat_s_own(site: Site) -> None:
    site.function("daily", schedule=Cron("0 6 * * *", timezone="America/New_York"))
    site.function("hourly", schedule=Period(hours=1))
    site.deploy()
    teach()
    celery = site.app.celery
    ensure_conf(celery)
    daily, hourly = (
        RedBeatSchedulerEntry.from_key(f"{site.store.keys.beat}timed.{name}", app=celery)
        for name in ("daily", "hourly")
    )
    assert (daily.name, daily.task, daily.enabled, daily.total_run_count) == ("timed.daily", "timed.daily", True, 0)
    assert isinstance(daily.schedule, CronSchedule)
    assert str(daily.schedule.cron) == "0 6 * * * (America/New_York)"
    assert hourly.schedule.run_every == timedelta(hours=1)
    assert hourly.last_run_at == START
    hourly.save()  # what redbeat writes is read here too
    daily.save()
    assert [entry.problem for entry in site.timetable.entries()] == ["", ""]
    assert site.timetable.find("daily").due_at == datetime(2026, 6, 4, 10, tzinfo=UTC)


def test_a_deployment_leaves_alone_what_says_the_same(site: Site) -> None:
    site.function("same", schedule=Period(minutes=30))
    site.function("gone", schedule=Period(minutes=30))
    site.deploy()
    site.move(START + timedelta(minutes=31))
    before, due = site.raw("same"), site.client.zrange(site.timetable.due, 0, -1, withscores=True)
    assert json.loads(before[b"meta"])["total_run_count"] == 1
    deploy(site.store, site.keyring, "timed", site.app.owners())
    assert site.raw("same") == before
    assert site.client.zrange(site.timetable.due, 0, -1, withscores=True) == due
    del site.app.functions["gone"]
    site.app.deploy()
    assert site.raw("same") == before
    assert site.raw("gone") == {}
    stop(site.store, site.keyring, "timed")
    assert site.timetable.entries() == []
    assert not site.client.keys(f"{site.store.keys.prefix}scheduled*")


def test_a_changed_schedule_keeps_its_last_run_and_makes_up_for_nothing(site: Site) -> None:
    site.function("moved", schedule=Cron("0 11 * * *"))
    site.app.deploy()
    site.deploy()
    site.move(START + timedelta(hours=2))
    assert site.calls("moved") == 1
    ran = site.timetable.find("moved").last_run_at
    site.function("moved", schedule=Cron("0 12 * * *"))  # which was half a minute ago
    site.put()
    after = site.timetable.find("moved")
    assert (after.last_run_at, after.runs) == (ran, 1)
    assert after.due_at == datetime(2026, 6, 4, 12, tzinfo=UTC)
    site.move(site.clock.now + timedelta(hours=1))
    assert site.calls("moved") == 1


def test_deployments_do_not_starve_an_interval(site: Site) -> None:
    site.function("often", schedule=Period(minutes=20))
    site.deploy()
    for _ in range(12):
        site.app.deploy()
        site.move(site.clock.now + timedelta(minutes=10))
    assert site.calls("often") == 6


def test_an_interval_does_not_drift(site: Site) -> None:
    site.function("often", schedule=Period(minutes=1))
    site.deploy()
    site.move(START + timedelta(minutes=30), timedelta(seconds=7))
    assert site.calls("often") in (29, 30)
    last = site.timetable.find("often").last_run_at
    assert last is not None
    assert (last - START) % timedelta(minutes=1) == timedelta(0)


def test_what_was_missed_is_made_up_for_once(site: Site) -> None:
    site.function("hourly", schedule=Cron("0 * * * *"))
    site.function("often", schedule=Period(minutes=1))
    site.deploy()
    site.clock.now += timedelta(hours=8)
    for _ in range(3):
        site.turn()
    assert (site.calls("hourly"), site.calls("often")) == (1, 1)


def test_a_redis_that_comes_back_empty_gets_the_timetable_of_what_is_deployed(site: Site) -> None:
    site.function("often", schedule=Period(minutes=1))
    site.app.deploy()
    memory, rows = Memory(site.store), site.store.registry()
    assert not memory.restore()
    memory.note(rows, registrations(site.store.functions(), site.keyring).values(), None)
    site.client.flushall()
    memory.note(site.store.registry(), [], None)  # a round may read it before anybody notices
    assert memory.restore()
    assert [entry.name for entry in site.timetable.entries()] == ["timed.often"]


# -- changes of the clocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (datetime(2026, 3, 8, tzinfo=NEW_YORK), {"half_past_two": 1, "half_past_one": 1, "hourly": 5}),
        (datetime(2026, 11, 1, tzinfo=NEW_YORK), {"half_past_two": 1, "half_past_one": 1, "hourly": 7}),
    ],
)
def test_each_runs_once_when_the_clocks_change(site: Site, begin: datetime, expected: dict[str, int]) -> None:
    for name, cron in {"half_past_two": "30 2 * * *", "half_past_one": "30 1 * * *", "hourly": "0 * * * *"}.items():
        site.function(name, schedule=Cron(cron, timezone="America/New_York"))
    site.clock.now = begin.astimezone(UTC)
    site.deploy()
    site.beats[0].celery.conf.timezone = "America/New_York"  # as a project may have it
    site.move(begin.replace(hour=6), timedelta(minutes=5))
    assert {name: site.calls(name) for name in expected} == expected


# -- what can't be read --------------------------------------------------------------------------------------------

BROKEN: dict[str, dict[str, Any]] = {
    "no JSON": {"definition": "{"},
    "another thing": {"definition": "[1]"},
    "no schedule": {"definition": '{"name": "timed.bad", "task": "t"}'},
    "an unknown schedule": {"definition": '{"name": "timed.bad", "task": "t", "schedule": {"__type__": "moon"}}'},
    "a zone nobody has": {
        "definition": '{"name": "timed.bad", "task": "t", "schedule": {"__type__": "scaleplug.cron", '
        '"cron": "* * * * *", "timezone": "Moon/Crater"}}'
    },
    "another name": {
        "definition": '{"name": "timed.good", "task": "t", "schedule": {"__type__": "interval", "every": 1, '
        '"relative": false}}'
    },
    "a task nobody has": {
        "definition": '{"name": "timed.bad", "task": "timed.nobody", "schedule": {"__type__": "interval", "every": 60, '
        '"relative": false}}'
    },
    "a broken past": {"meta": "{"},
    "a past that is no time": {"meta": '{"last_run_at": "yesterday"}'},
}


@pytest.mark.parametrize("what", [*BROKEN, "no hash"])
def test_a_bad_entry_is_told_once_and_stops_no_other(site: Site, what: str, caplog: pytest.LogCaptureFixture) -> None:
    site.function("good", schedule=Period(minutes=1))
    site.function("bad", schedule=Period(minutes=1))
    site.deploy()
    key = f"{site.store.keys.beat}timed.bad"
    if what == "no hash":
        site.client.delete(key)
        site.client.set(key, "nonsense")
    else:
        site.client.hset(key, mapping=BROKEN[what])
    with caplog.at_level(logging.INFO, "scaleplug"):
        site.move(START + timedelta(minutes=1), timedelta(seconds=20))
    warned = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1, warned
    assert "timed.bad" in warned[0]
    assert (site.calls("good"), site.calls("bad")) == (1, 0)
    site.move(START + timedelta(minutes=3), timedelta(seconds=20))
    assert site.calls("good") == 3
    site.put()  # which mends it
    site.move(START + timedelta(minutes=5), timedelta(seconds=20))
    assert site.calls("bad") >= 1


def test_a_dangling_entry_goes(site: Site) -> None:
    site.client.zadd(site.timetable.due, {f"{site.store.keys.beat}nothing": 1})
    site.turn()
    assert site.client.zcard(site.timetable.due) == 0


# -- beats ---------------------------------------------------------------------------------------------------------


def test_of_two_beats_one_acts(site: Site) -> None:
    site.beats.append(Beat(site.config, clock=site.clock))
    site.function("often", schedule=Period(minutes=1))
    site.deploy()
    for _ in range(5):
        site.clock.now += timedelta(minutes=1)
        for beat in site.beats:
            beat.turn()
    assert site.calls("often") == 5
    assert [beat.acts for beat in site.beats] == [True, False]
    site.beats[0].close()
    site.beats[1].turn()
    assert site.beats[1].acts


def test_a_beat_that_lost_its_lock_stands_by(site: Site) -> None:
    site.turn()
    site.client.set(f"{site.store.keys.beat}:lock", "another's")
    site.turn()
    assert not site.beats[0].acts
    site.client.delete(f"{site.store.keys.beat}:lock")
    site.turn()
    assert site.beats[0].acts


def test_a_run_is_taken_once_even_without_a_lock(site: Site) -> None:
    site.function("often", schedule=Period(minutes=1))
    site.deploy()
    site.clock.now += timedelta(minutes=1)
    key, celery = f"{site.store.keys.beat}timed.often", site.beats[0].celery
    one, other = TimedEntry.from_key(key, app=celery), TimedEntry.from_key(key, app=celery)
    next(one)
    with pytest.raises(TakenError):
        next(other)
    third = TimedEntry.from_key(key, app=celery)
    site.timetable.drop("timed")
    with pytest.raises(TakenError):
        next(third)
    assert site.client.exists(key) == 0


def test_an_ordinary_task_of_a_celery_app_goes_to_its_queue(site: Site) -> None:
    celery = site.beats[0].celery
    RedBeatSchedulerEntry("theirs", "project.task", 60, args=[1], app=celery).save()
    site.move(datetime.now(UTC) + timedelta(minutes=2), timedelta(days=400))
    (message,) = site.client.lrange("celery", 0, -1)
    assert json.loads(message)["headers"]["task"] == "project.task"


# -- pauses, autoscalers -------------------------------------------------------------------------------------------


def test_a_pause_outlives_deployments_and_is_not_made_up_for(site: Site) -> None:
    site.function("often", schedule=Period(minutes=1))
    site.deploy()
    site.timetable.pause("timed.often", paused=True, now=site.clock.now)
    site.app.deploy()
    site.move(START + timedelta(minutes=5))
    assert site.calls("often") == 0
    site.timetable.pause("timed.often", paused=False, now=site.clock.now)
    site.turn()
    assert site.calls("often") == 0
    site.move(START + timedelta(minutes=6))
    assert site.calls("often") == 1


def test_a_profile_holds_from_the_deployment_on_and_changes_with_the_day(site: Site) -> None:
    warm = site.function("warm", min_containers=1, autoscaler_profile=Daily({"06:00-22:00": {"min_containers": 4}}))
    site.app.deploy()
    least = 4 if 6 <= datetime.now(UTC).hour < 22 else 1
    assert site.settings(warm).min_containers == least
    site.deploy()
    site.move(START.replace(hour=22, minute=1))
    assert site.settings(warm).min_containers == 1
    site.move(START.replace(hour=23))
    warm.update_autoscaler(min_containers=2)
    site.move(START.replace(day=4, hour=5))
    assert site.settings(warm).min_containers == 2  # by hand, until the next time
    site.move(START.replace(day=4, hour=6, minute=1))
    assert site.settings(warm).min_containers == 4


def test_rules_that_do_not_go_together_are_refused_by_the_deployment(site: Site) -> None:
    warm = site.function("warm")
    site.app.schedule_autoscaler(warm, "0 6 * * *", min_containers=4)
    site.app.schedule_autoscaler(warm, "0 22 * * *", max_containers=2)
    with pytest.raises(InvalidError, match=r"the autoscaler of timed.warm would be told on .*min_containers \(4\)"):
        site.app.deploy()
    assert site.store.functions() == {}
    assert site.timetable.entries() == []


def test_rules_that_come_late_say_what_holds_now(site: Site) -> None:
    warm = site.function("warm")
    site.app.schedule_autoscaler(warm, "0 6 * * *", timezone="America/New_York", min_containers=4)
    site.app.schedule_autoscaler(
        warm, Cron("0 22 * * *", timezone="America/New_York"), min_containers=1, buffer_containers=2
    )
    site.clock.now = datetime(2026, 6, 3, 5, 0, tzinfo=NEW_YORK).astimezone(UTC)
    site.deploy()
    site.clock.now += timedelta(hours=30)  # 11 o'clock of the next day: beat comes to both at once
    site.turn()
    assert (site.settings(warm).min_containers, site.settings(warm).buffer_containers) == (4, 2)
    caller: Any = site.app.caller()
    apply_rule(caller, "timed.warm", 2)  # at its word
    assert site.settings(warm).min_containers == 1
