"""System checks: ``manage.py check`` tells what is wrong with the settings before a view meets it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from celery.fixups.django import DjangoFixup
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's words

from scaleplug.app import App
from scaleplug.contrib.django import conf
from scaleplug.errors import did_you_mean
from scaleplug.here import known_apps, namesakes
from scaleplug.serializer import Keyring
from scaleplug.settings import Config, process_config


def check_project(**_: Any) -> list[CheckMessage]:
    """Return what is wrong."""
    return [*_check_settings(), *_check_functions(), *_check_tasks()]


def _check_tasks() -> Iterator[CheckMessage]:
    backend: Any = sys.modules.get("scaleplug.contrib.django.backend")  # it is where there are tasks
    for problem in backend.refusals().values() if backend is not None else ():
        hint = "They are of one function: use @app.function() for that one."
        yield Error(problem, hint=hint, id="scaleplug.E003")


def _check_settings() -> Iterator[CheckMessage]:
    start, knobs = conf.prefix(), Config.knobs()
    for name in sorted(conf.given().keys() - knobs.keys()):
        near = did_you_mean(f"{start}{name.upper()}", [f"{start}{known.upper()}" for known in knobs])
        hint = "docs/controller.md has a table of all settings."
        yield Error(f"{start}{name.upper()} is no setting of scaleplug{near}", hint=hint, id="scaleplug.E001")
    config = process_config()
    if config.redis_url is None:
        yield Warning(
            "scaleplug has no Redis, so calls of its functions fail",
            hint=f"Set {start}REDIS_URL, or SCALEPLUG_REDIS_URL, or use Redis as Celery's broker.",
            id="scaleplug.W001",
        )
        return
    try:
        Keyring(config.secret)
    except Exception as exc:  # noqa: BLE001  # whatever is wrong with it
        hint = f"Set {start}SECRET, or SCALEPLUG_SECRET, the same for all processes."
        yield Error(str(exc), hint=hint, id="scaleplug.E002")


def _check_functions() -> Iterator[CheckMessage]:
    for hidden, found in namesakes():
        one, other = (_module_of(app) for app in (hidden, found))
        if one != other:  # else its module was imported again
            yield Error(
                f"two Apps are called {found.name!r}, in {one} and in {other}",
                hint=f"Give each a name of its own, as in scaleplug.App({one.partition('.')[0]!r}, ...).",
                id="scaleplug.E004",
            )
    for app in known_apps():
        if not any(isinstance(fixup, DjangoFixup) for fixup in app.celery._fixups):  # noqa: SLF001  # Celery tells nobody else
            yield Warning(
                f"the Celery app of {app.name!r} was made before Django's settings were named, so database "
                "connections aren't closed after each input",
                hint='Put os.environ.setdefault("DJANGO_SETTINGS_MODULE", ...) above Celery(...).',
                id="scaleplug.W002",
            )


def _module_of(app: App) -> str:
    owners: list[Any] = [*app.functions.values(), *app.classes.values()]
    return str(next((each.raw.__module__ for each in owners if each.raw is not None), ""))
