"""What an App has to do with time: its entries on the timetable, and the beats that act on them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from celery import signals

from scaleplug.client import RedisCaller
from scaleplug.errors import NotFoundError
from scaleplug.pools import Owner
from scaleplug.schedules import rules_from
from scaleplug.server import client_url
from scaleplug.timetable import LOCK_SECONDS, LOOP_SECONDS, Timetable, check_rules, present_changes, read_registration

logger = logging.getLogger("scaleplug")


def keep_time(caller: RedisCaller, app: str, owners: Iterable[Owner]) -> None:
    """Let what nobody deployed happen by itself too, as long as it is registered."""
    made = [registration for owner in owners if (registration := owner.registration()) is not None]
    timetable, now = Timetable(caller.store), datetime.now(UTC)
    check_rules(made, now)
    timetable.put(app, made, now)
    ruled = [registration for registration in made if registration.autoscaler]
    paused = timetable.paused(app) if ruled else set()
    for registration in ruled:
        if changes := present_changes(registration, paused, now):
            caller.override(registration.function, changes)


def apply_rule(caller: RedisCaller, function: str, number: int, now: datetime | None = None) -> None:
    """Put in force what the rules of a function's autoscaler say of the settings that rule ``number`` is about.

    They say what holds ``now``, so that one that comes late changes nothing back; without ``now`` the rule is taken
    at its word. Raises NotFoundError where there is no such rule any more.
    """
    registration = read_registration(caller.store, caller.keyring, function)
    rules = rules_from(registration.autoscaler) if registration is not None else ()
    if registration is None or not 1 <= number <= len(rules):
        raise NotFoundError(f"{function} has no rule {number} of its autoscaler any more")
    changes = dict(rules[number - 1].settings)
    if now is not None:
        present = present_changes(registration, Timetable(caller.store).paused(registration.app), now)
        changes = {name: value for name, value in present.items() if name in changes}
    if changes:
        caller.override(function, changes)


# -- Celery's own beat ---------------------------------------------------------------------------------------------


def beat_settings(url: str, prefix: str) -> dict[str, Any]:
    """Return what lets ``celery beat -S redbeat.RedBeatScheduler`` of an App's own Celery app read the timetable."""
    return {
        "redbeat_redis_url": client_url(url),
        "redbeat_key_prefix": prefix,
        "redbeat_lock_timeout": LOCK_SECONDS,
        "beat_max_loop_interval": LOOP_SECONDS,
    }


def _on_beat(sender: Any = None, **_: Any) -> None:
    """Let a Celery beat that begins in this process serve the timetable too."""
    import_module("scaleplug.beat").join(sender)  # it stands above this module, and few processes need it


signals.beat_init.connect(_on_beat)
