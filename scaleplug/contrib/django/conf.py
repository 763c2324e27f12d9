"""What a Django project's settings say of scaleplug: they stand in the namespace of its Celery settings."""

from __future__ import annotations

from typing import Any

from celery import Celery, _state, current_app
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.server import celery_url, redis_of_broker
from scaleplug.settings import Config

PREFIX = "SCALEPLUG_"
URLS = ("SCALEPLUG_REDIS_URL", "SCALEPLUG_CONTAINER_REDIS_URL")


def celery_app() -> Celery | None:
    """Return the project's Celery app, ``None`` where it has none."""
    if _state.default_app is None and _state._tls.current_app is None:  # noqa: SLF001  # asking would make one
        return None
    return current_app._get_current_object()  # noqa: SLF001  # what stands behind Celery's proxy


def prefix() -> str:
    """Return what the names of the settings begin with: ``CELERY_SCALEPLUG_`` with Celery's usual namespace."""
    celery = celery_app()
    namespace = "CELERY" if celery is None else _namespace(celery)
    return f"{namespace}_{PREFIX}" if namespace else PREFIX


def _namespace(celery: Celery) -> str:
    # A Celery app that was made for functions only has not read the project's settings.
    if getattr(celery, "_config_source", None) is None:
        return "CELERY"
    return str(celery.namespace or "").upper()


def given() -> dict[str, Any]:
    """Return the settings that the project has set, by the names of ``Config``'s fields and of unknown ones."""
    start = prefix()
    found = {
        name.removeprefix(start).lower(): getattr(settings, name) for name in dir(settings) if name.startswith(start)
    }
    celery = celery_app()
    for name in Config.knobs():
        value = None if celery is None else celery.conf.get(f"scaleplug_{name}")  # set on the Celery app itself
        if value is not None:
            found.setdefault(name, value)
    return {name: value for name, value in found.items() if value is not None}


def environ() -> dict[str, str]:
    """Return the settings as the variables that they stand for; the broker's URL is the Redis where none is named.

    Raises ImproperlyConfigured for a value that makes no sense.
    """
    knobs, values = Config.knobs(), given()
    broker = None if (celery := celery_app()) is None else redis_of_broker(celery.conf.broker_url)
    if "redis_url" not in values and broker is not None:
        values["redis_url"] = broker
    return dict(_read(knobs[name].variable, value) for name, value in values.items() if name in knobs)


def _read(variable: str, value: object) -> tuple[str, str]:
    text = str(int(value)) if isinstance(value, bool) else str(value)
    try:
        Config.from_environ({variable: text})
        if variable in URLS:
            celery_url(text)
    except (ConfigurationError, InvalidError) as exc:
        name = f"{prefix()}{variable.removeprefix(PREFIX)}"
        if variable not in str(exc):
            raise ImproperlyConfigured(f"{name}: {exc}") from None
        raise ImproperlyConfigured(str(exc).replace(variable, name)) from None
    return variable, text
