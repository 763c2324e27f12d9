"""A Celery app for ``scaleplug flower`` without one of the user's: all it knows is the Redis."""

from __future__ import annotations

from celery import Celery

from scaleplug.server import celery_url
from scaleplug.settings import process_config
from scaleplug.store import require_url

app = Celery("scaleplug", broker=celery_url(require_url(process_config().redis_url)), set_as_current=False)
app.conf.broker_connection_retry_on_startup = True
