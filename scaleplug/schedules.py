"""What happens by itself: when a function is called, and when its autoscaler's settings change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from scaleplug.errors import InvalidError, did_you_mean, listed
from scaleplug.settings import AUTOSCALER, FunctionSettings, override

LONGEST = 10**10
"""What one field of a Period may hold."""
DAYS = {"years": 365, "months": 30}
"""What a year and a month of a Period are, in days."""

TAKES = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31 (as the month has them), L and LW",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, 5#2 and 5L",
}
"""What the fields of a cron expression may hold, by cronsim's names of them."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Call at the times of a cron expression (minute, hour, day of month, month, day of week) in a time zone.

    As in Debian's cron: where both days are given either suits, 7 is Sunday, ``L`` is a month's last day, ``5#2`` its
    second Friday. Raises InvalidError.
    """

    cron_string: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        _check_text("cron_string", "0 6 * * *", self.cron_string)
        _check_text("timezone", "Europe/Paris", self.timezone)
        if self.timezone not in available_timezones():
            near = did_you_mean(self.timezone, available_timezones())
            raise InvalidError(f"timezone {self.timezone!r} is not an IANA time zone such as 'Europe/Paris'{near}")
        if len(self.cron_string.split()) != 5:
            raise InvalidError(
                f"cron_string {self.cron_string!r} needs five fields: minute hour day-of-month month day-of-week"
            )
        try:
            CronSim(self.cron_string, datetime.now(UTC))
        except CronSimError as exc:
            takes = TAKES.get(str(exc).removeprefix("Bad "))
            way = f", which takes {takes}, lists, steps and ranges that go up" if takes else ""
            raise InvalidError(f"cron_string {self.cron_string!r} is not a cron expression: {exc}{way}") from None

    def next_after(self, moment: datetime) -> datetime:
        """Return the next time after ``moment``, which must have a zone; raises InvalidError if there is none.

        A time that the clocks skip in spring is made up for right after, one that they repeat in autumn comes once.
        """
        try:
            return next(CronSim(self.cron_string, _aware(moment).astimezone(ZoneInfo(self.timezone))))
        except StopIteration:
            raise InvalidError(f"cron_string {self.cron_string!r} has no time within the next 50 years") from None

    def last_before(self, moment: datetime) -> datetime | None:
        """Return the last time up to ``moment``, which must have a zone; ``None`` if there was none in 50 years."""
        # From a second later on, so that the moment itself counts.
        local = (_aware(moment).astimezone(UTC) + timedelta(seconds=1)).astimezone(ZoneInfo(self.timezone))
        found: datetime | None = next(CronSim(self.cron_string, local, reverse=True), None)
        # Backwards, cronsim passes over a time that the clocks skipped, which forwards is made up for.
        while found is not None and (later := self.next_after(found)).timestamp() <= moment.timestamp():
            found = later
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"cron": self.cron_string, "timezone": self.timezone}

    def __str__(self) -> str:
        return f"{self.cron_string} ({self.timezone})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Call at a fixed interval, counted from the deployment; a month is 30 days here, a year 365."""

    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0
    minutes: int = 0
    seconds: float = 0.0
    interval: timedelta = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
                raise InvalidError(f"{each.name} must be a number of 0 or more, not {value!r}")
        days = self.days + 7 * self.weeks + sum(getattr(self, name) * count for name, count in DAYS.items())
        try:
            interval = timedelta(days=days, hours=self.hours, minutes=self.minutes, seconds=self.seconds)
        except OverflowError:
            raise InvalidError(f"{self!r} is too long: a Period may have up to a million years") from None
        if interval < timedelta(seconds=1):
            raise InvalidError("a Period must be a second or longer, as in Period(hours=1)")
        object.__setattr__(self, "interval", interval)

    def next_after(self, moment: datetime) -> datetime:
        """Return the time one interval after ``moment``, which must have a zone."""
        return _aware(moment) + self.interval

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"seconds": self.interval.total_seconds()}

    def __str__(self) -> str:
        return f"every {self.interval}" if self.interval >= timedelta(minutes=1) else f"every {self.seconds:g} s"


Schedule = Cron | Period


# -- when an autoscaler's settings change --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """From each time of ``cron`` on these settings hold."""

    cron: Cron
    settings: Mapping[str, Any] = field(hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**self.cron.to_dict(), "settings": dict(self.settings)}


def rules_from(values: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Return the rules whose ``to_dict`` gave these values."""
    return tuple(Rule(Cron(each["cron"], each["timezone"]), dict(each["settings"])) for each in values)


def settings_at(rules: Sequence[Rule], moment: datetime) -> dict[str, Any]:
    """Return what the rules say at a moment, wherever they have been before: each setting as it was last set."""
    past = [(last, place) for place, rule in enumerate(rules) if (last := rule.cron.last_before(moment)) is not None]
    said: dict[str, Any] = {}
    for _, place in sorted((last.timestamp(), place) for last, place in past):
        said |= rules[place].settings
    return said


SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")
DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Daily:
    """Settings of the autoscaler for parts of the day, as in ``Daily({"06:00-22:00": {"min_containers": 4}})``.

    Outside of its spans the decorator's settings hold. A span may run over midnight, as ``"22:00-06:00"`` does.
    Raises InvalidError.
    """

    spans: Mapping[str, Mapping[str, Any]] = field(hash=False)
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        Cron("0 0 * * *", self.timezone)  # it knows what is wrong with a zone
        spans: object = self.spans
        if not isinstance(spans, Mapping) or not spans:
            raise InvalidError(
                "a Daily needs spans of the day, as in Daily({'06:00-22:00': {'min_containers': 4}}), "
                f"not {self.spans!r}"
            )
        taken: dict[int, str] = {}
        for span, settings in self.spans.items():
            check_changes(f"the span {span!r}", settings)
            begin, end = _minutes(span)
            for minute in range(begin, end if begin < end else end + DAY):
                other = taken.setdefault(minute % DAY, span)
                if other != span:
                    raise InvalidError(f"the spans {other!r} and {span!r} overlap: let one end where the other begins")

    def rules(self, settings: FunctionSettings) -> tuple[Rule, ...]:
        """Return the rules of a function with these settings; raises InvalidError where they don't go together."""
        spans = [(*_minutes(span), changes) for span, changes in self.spans.items()]
        names = sorted({name for _, _, changes in spans for name in changes})
        outside = {name: getattr(settings, name) for name in names}
        begins = {begin: outside | dict(changes) for begin, _, changes in spans}
        changes_at = {end % DAY: outside for _, end, _ in spans} | begins
        for changes in begins.values():
            override(settings, changes)
        return tuple(
            Rule(Cron(f"{minute % 60} {minute // 60} * * *", self.timezone), changes)
            for minute, changes in sorted(changes_at.items())
        )


def _minutes(span: object) -> tuple[int, int]:
    """Return when a span begins and ends, in minutes since midnight."""
    found = SPAN.fullmatch(span) if isinstance(span, str) else None
    begin, end = (60 * int(h) + int(m) for h, m in (found.group(1, 2), found.group(3, 4))) if found else (0, 0)
    if begin == end or end > DAY:
        raise InvalidError(f"a span of a Daily is two times of the day, as in '06:00-22:00', not {span!r}")
    return begin, end


def check_changes(where: str, changes: object) -> None:
    """Refuse what an autoscaler can't be told; raises InvalidError."""
    if not isinstance(changes, Mapping) or not changes:
        raise InvalidError(f"{where} needs settings of the autoscaler, as in min_containers=4, not {changes!r}")
    for name in changes:
        if name not in AUTOSCALER:
            near = did_you_mean(str(name), AUTOSCALER)
            raise InvalidError(f"{where}: {name!r} is none of {listed(AUTOSCALER)}{near}")


def check_profile(profile: object) -> Daily | None:
    """Return what was given as ``autoscaler_profile``; raises InvalidError."""
    if profile is not None and not isinstance(profile, Daily):
        raise InvalidError(
            "autoscaler_profile must be a Daily, as in Daily({'06:00-22:00': {'min_containers': 4}}), "
            f"not {profile!r}"
        )
    return profile


def _check_text(name: str, example: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidError(f"{name} must be a string such as {example!r}, not {value!r}")


def schedule_from(values: Mapping[str, Any]) -> Schedule | None:
    """Return the schedule whose ``to_dict`` gave these values, ``None`` for none."""
    if not values:
        return None
    return Cron(values["cron"], values["timezone"]) if "cron" in values else Period(seconds=values["seconds"])


def check_schedule(schedule: object) -> Schedule | None:
    """Return what was given as ``schedule``; raises InvalidError."""
    if schedule is not None and not isinstance(schedule, Cron | Period):
        raise InvalidError(f"schedule must be a Cron or a Period, as in Cron('0 6 * * *'), not {schedule!r}")
    return schedule


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise InvalidError(f"the moment {moment} has no time zone: use datetime.now(UTC) and its like")
    return moment
