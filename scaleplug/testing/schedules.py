"""Time that passes for a test: what schedules would have started, and what profiles would have changed."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from scaleplug.errors import InvalidError
from scaleplug.function import Function
from scaleplug.schedules import settings_at


class Overridable(Protocol):
    """As much of a run as is needed here."""

    def override(self, function: str, changes: Mapping[str, Any]) -> object:
        """Lay changes over a function's settings."""


def pass_time(
    run: Overridable, functions: Iterable[Function[Any, Any]], begin: datetime, end: datetime
) -> list[tuple[datetime, str]]:
    """Do what falls after ``begin`` and not after ``end``, in its order; return when was what."""
    if begin.tzinfo is None or end.tzinfo is None or end < begin:
        raise InvalidError(f"begin and end must have a time zone, and be in that order, not {begin!r} and {end!r}")
    done: list[tuple[datetime, str]] = []
    number = itertools.count()
    due: list[tuple[float, int, datetime, Function[Any, Any], Any]] = []

    def put(function: Function[Any, Any], schedule: Any, rule: Any, after: datetime) -> None:
        moment = schedule.next_after(after)
        if moment.timestamp() <= end.timestamp():
            heapq.heappush(due, (moment.timestamp(), next(number), moment, function, (schedule, rule)))

    for function in functions:
        if function.schedule is not None:
            put(function, function.schedule, None, begin)
        if function.rules:
            run.override(function.full_name, settings_at(function.rules, begin))
        for rule in function.rules:
            put(function, rule.cron, rule, begin)
    while due:
        _, _, moment, function, (schedule, rule) = heapq.heappop(due)
        if rule is None:
            function.remote()
        else:
            now = settings_at(function.rules, moment)
            run.override(function.full_name, {name: now[name] for name in rule.settings})
        done.append((moment, function.full_name))
        put(function, schedule, rule, moment)
    return done
