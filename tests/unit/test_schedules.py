"""When things happen by themselves: cron with its zones, and the rules of autoscalers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleplug import App, Cron, Daily, InvalidError, Period
from scaleplug.errors import InvalidError as Invalid
from scaleplug.schedules import Rule, rules_from, settings_at
from scaleplug.settings import FunctionSettings
from scaleplug.testing import local

NEW_YORK = ZoneInfo("America/New_York")
SPRING, AUTUMN = datetime(2026, 3, 8, tzinfo=NEW_YORK), datetime(2026, 11, 1, tzinfo=NEW_YORK)


def times(cron: str, begin: datetime, hours: float, zone: str = "America/New_York") -> list[str]:
    """Return the local times of a cron expression in so many real hours."""
    found, moment, end = [], begin.astimezone(UTC), begin.astimezone(UTC) + timedelta(hours=hours)
    while (moment := Cron(cron, zone).next_after(moment).astimezone(UTC)) <= end:
        found.append(f"{moment.astimezone(ZoneInfo(zone)):%d %H:%M %Z}")
    return found


@pytest.mark.parametrize(
    ("cron", "begin", "hours", "expected"),
    [
        ("30 2 * * *", SPRING, 30, ["08 03:00 EDT", "09 02:30 EDT"]),  # skipped: right after
        ("30 1 * * *", AUTUMN, 30, ["01 01:30 EDT", "02 01:30 EST"]),  # repeated: once
        ("0 * * * *", AUTUMN, 4, ["01 01:00 EDT", "01 01:00 EST", "01 02:00 EST", "01 03:00 EST"]),
        ("0 * * * *", SPRING, 3, ["08 01:00 EST", "08 03:00 EDT", "08 04:00 EDT"]),
        ("0 6 * * *", SPRING - timedelta(hours=12), 48, ["08 06:00 EDT", "09 06:00 EDT"]),
    ],
)
def test_changes_of_the_clocks(cron: str, begin: datetime, hours: float, expected: list[str]):
    assert times(cron, begin, hours) == expected


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 9 13 * 5", ["06", "13", "20", "27"]),  # the 13th, or a Friday
        ("0 9 * * 7", ["01", "08", "15", "22"]),
        ("0 9 L * *", ["28"]),
        ("0 9 * * 5#2", ["13"]),
        ("0 9 * FEB MON", ["02", "09", "16", "23"]),
    ],
)
def test_what_cron_means(cron: str, expected: list[str]):
    begin = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert [text[:2] for text in times(cron, begin, 24 * 28, "UTC")] == expected


MOMENTS = st.integers(1735700000, 1798700000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
CRONS = st.sampled_from(
    ["* * * * *", "30 2 * * *", "30 1 * * *", "0 * * * *", "15 2 8 3 *", "0 6 * * 1-5", "0 0 L * *"]
)


@given(CRONS, MOMENTS)
def test_the_last_time_is_the_one_before_the_next(cron: str, moment: datetime):
    when = Cron(cron, "America/New_York")
    last = when.last_before(moment)
    assert last is not None
    assert last.timestamp() <= moment.timestamp() < when.next_after(last).timestamp()


def test_the_last_time_of_one_that_was_skipped_is_right_after():
    when = Cron("30 2 * * *", "America/New_York")
    last = when.last_before(datetime(2026, 3, 8, 3, 10, tzinfo=NEW_YORK))
    assert last is not None
    assert f"{last:%d %H:%M %Z}" == "08 03:00 EDT"


# -- rules of autoscalers ------------------------------------------------------------------------------------------


def rule(cron: str, **settings: Any) -> Rule:
    return Rule(Cron(cron), settings)


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 6, 3, hour, minute, tzinfo=UTC)


def test_rules_say_what_was_last_said_of_each_setting():
    rules = (
        rule("0 6 * * *", min_containers=4),
        rule("0 22 * * *", min_containers=0),
        rule("0 0 1 * *", max_containers=9),
    )
    assert settings_at(rules, at(5, 59)) == {"min_containers": 0, "max_containers": 9}
    assert settings_at(rules, at(6)) == {"min_containers": 4, "max_containers": 9}
    assert settings_at(rules, at(22)) == {"min_containers": 0, "max_containers": 9}
    assert rules_from([each.to_dict() for each in rules]) == rules
    assert settings_at((), at(6)) == {}


def test_a_profile_goes_back_to_the_decorator_between_its_spans():
    day = Daily({"06:00-12:00": {"min_containers": 4}, "12:00-22:30": {"min_containers": 6, "buffer_containers": 2}})
    rules = day.rules(FunctionSettings(min_containers=1, buffer_containers=1))
    at_hours = {hour: settings_at(rules, at(hour, 30)) for hour in (5, 6, 12, 22)}
    assert at_hours == {
        5: {"min_containers": 1, "buffer_containers": 1},
        6: {"min_containers": 4, "buffer_containers": 1},
        12: {"min_containers": 6, "buffer_containers": 2},
        22: {"min_containers": 1, "buffer_containers": 1},
    }


def test_a_span_may_run_over_midnight():
    rules = Daily({"22:00-06:00": {"max_containers": 1}}).rules(FunctionSettings(max_containers=8))
    most = [settings_at(rules, at(hour))["max_containers"] for hour in (21, 22, 0, 5, 6)]
    assert most == [8, 1, 1, 1, 8]


def test_a_profile_of_the_whole_day_and_one_to_midnight():
    rules = Daily({"00:00-12:00": {"min_containers": 2}, "12:00-24:00": {"min_containers": 3}}).rules(
        FunctionSettings()
    )
    assert [settings_at(rules, at(hour))["min_containers"] for hour in (0, 12, 23)] == [2, 3, 3]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({}, r"a Daily needs spans of the day.*not \{\}"),
        ({"6:00-22:00": {"min_containers": 1}}, r"two times of the day, as in '06:00-22:00', not '6:00-22:00'"),
        ({"06:00-06:00": {"min_containers": 1}}, "not '06:00-06:00'"),
        ({"06:00-24:30": {"min_containers": 1}}, "not '06:00-24:30'"),
        ({"06:00-22:00": {}}, r"the span '06:00-22:00' needs settings of the autoscaler.*not \{\}"),
        ({"06:00-22:00": {"min_container": 1}}, r"'min_container' is none of .*did you mean min_containers"),
        (
            {"06:00-12:00": {"min_containers": 1}, "11:00-13:00": {"min_containers": 2}},
            "the spans '06:00-12:00' and '11:00-13:00' overlap",
        ),
    ],
)
def test_spans_that_make_no_sense(spans: Any, message: str):
    with pytest.raises(Invalid, match=message):
        Daily(spans)


def double(x: int = 1) -> int:
    return 2 * x


def items() -> Any:
    yield 1


def test_mistakes_around_schedules_are_told_where_they_are_made():
    app, other = App("mistakes"), App("other")
    function = app.function(max_containers=2)(double)
    for wrong, message in (
        (lambda: app.function(schedule=Period(hours=1))(items), "nobody would read what it yields"),
        (lambda: app.function(autoscaler_profile={"06:00-22:00": {}}), "autoscaler_profile must be a Daily"),
        (
            lambda: app.function(max_containers=2, autoscaler_profile=Daily({"06:00-22:00": {"min_containers": 3}})),
            "min_",
        ),
        (lambda: Daily({"06:00-22:00": {"min_containers": 3}}, timezone="Moon"), "'Moon' is not an IANA time zone"),
        (lambda: other.schedule_autoscaler(function, "0 6 * * *", min_containers=1), "a Function of the app 'other'"),
        (lambda: app.schedule_autoscaler(function, "0 6 * * *"), "needs settings of the autoscaler"),
        (lambda: app.schedule_autoscaler(function, "0 6 * * *", min_containers=3), "min_containers"),
        (lambda: app.schedule_autoscaler(function, "0 25 * * *", min_containers=1), "not a cron expression"),
        (
            lambda: app.schedule_autoscaler(function, Cron("0 6 * * *"), timezone="UTC", min_containers=1),
            "beside a Cron",
        ),
    ):
        with pytest.raises(InvalidError, match=message):
            wrong()
    assert function.rules == ()


# -- the twin ------------------------------------------------------------------------------------------------------


def test_time_passes_in_the_twin():
    app, said = App("passing"), []
    warm = app.function(name="warm", autoscaler_profile=Daily({"06:00-22:00": {"min_containers": 4}}))(double)

    def morning() -> None:
        said.append(("morning", warm.autoscaler.settings().min_containers))

    def each_half_day() -> None:
        said.append(("half a day", warm.autoscaler.settings().min_containers))

    app.function(serialized=False, schedule=Cron("0 7 * * *"))(_top(morning))
    app.function(schedule=Period(hours=12))(_top(each_half_day))
    with local() as run:
        done = run.pass_time(app, at(5, 0), at(23, 0))
        with pytest.raises(InvalidError, match="time zone"):
            run.pass_time(app, datetime(2026, 1, 1), datetime(2026, 1, 2))  # noqa: DTZ001
    assert said == [("morning", 4), ("half a day", 4)]
    assert [(f"{moment:%H:%M}", name) for moment, name in done] == [
        ("06:00", "passing.warm"), ("07:00", "passing.morning"), ("17:00", "passing.each_half_day"),
        ("22:00", "passing.warm"),
    ]  # fmt: skip


def _top(function: Any) -> Any:
    """Let a function look as if it stood at the top level of this module."""
    function.__qualname__ = function.__name__
    return function


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 0 * * SAT-SUN", "Bad day-of-week, which takes 0-7 or SUN-SAT.* ranges that go up"),
        ("0 22-2 * * *", "Bad hour, which takes 0-23"),
        ("0 0 31 2 *", "Bad day-of-month, which takes 1-31"),
    ],
)
def test_what_is_no_cron_tells_what_the_field_takes(cron: str, message: str):
    with pytest.raises(InvalidError, match=message):
        Cron(cron)
