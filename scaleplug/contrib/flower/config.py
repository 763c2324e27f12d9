"""Which Redis the tab shows."""

from __future__ import annotations

from typing import Any

from scaleplug import here
from scaleplug.errors import ConfigurationError
from scaleplug.settings import Config, process_config

REDIS = ("redis://", "rediss://", "redis+socket://")


def find_config(celery: Any) -> Config:
    """Return the configuration of this process; without a Redis in it that of its Apps, or the broker of ``celery``."""
    config = process_config()
    if config.redis_url is None:
        apps = (app.redis_url for app in here.known_apps())
        broker = celery.conf.broker_url
        ways = [*apps, broker if isinstance(broker, str) and broker.startswith(REDIS) else None]
        url = next((url for url in ways if url is not None), None)
        if url is None:
            raise ConfigurationError(
                "no Redis is configured: set SCALEPLUG_REDIS_URL and SCALEPLUG_SECRET where Flower runs, "
                "or start it with 'scaleplug flower'"
            )
        values = {name: getattr(config, name) for name in Config.knobs()}
        config = Config(**{**values, "redis_url": url})
    return config
