"""When a function is to be called by itself: a cron expression in a time zone, or a fixed interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from scaleplug.errors import InvalidError, did_you_mean

LONGEST = 10**10
"""What one field of a Period may hold."""
DAYS = {"years": 365, "months": 30}
"""What a year and a month of a Period are, in days."""


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
            raise InvalidError(f"cron_string {self.cron_string!r} is not a cron expression: {exc}") from None

    def next_after(self, moment: datetime) -> datetime:
        """Return the next time after ``moment``, which must have a zone; raises InvalidError if there is none."""
        try:
            return next(CronSim(self.cron_string, _aware(moment).astimezone(ZoneInfo(self.timezone))))
        except StopIteration:
            raise InvalidError(f"cron_string {self.cron_string!r} has no time within the next 50 years") from None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"cron": self.cron_string, "timezone": self.timezone}


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


Schedule = Cron | Period


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
