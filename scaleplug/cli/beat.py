"""``scaleplug beat``: a beat in the foreground, for schedules that no controller is to serve."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Any

import click

from scaleplug.beat import serve
from scaleplug.health import SignOfLife
from scaleplug.serializer import Keyring
from scaleplug.server import check_server, connect, mask_url
from scaleplug.settings import Config, use_config


@click.command()
@click.option(
    "--redis-url", metavar="URL", help="The Redis that callers and containers share; else SCALEPLUG_REDIS_URL."
)
@click.option("--quiet", "-q", is_flag=True, help="Tell of warnings and errors only.")
def command(redis_url: str | None, quiet: bool) -> None:
    """Start scheduled functions when they are due, until SIGTERM or Ctrl-C.

    Every controller does so too, unless SCALEPLUG_BEAT=0 keeps it from that. Of several one acts, and another one takes
    its place within 15 seconds when it is killed.
    """
    config = Config.from_environ(os.environ, redis_url=redis_url)
    if config.redis_url is None:
        raise click.UsageError(
            "no Redis is configured: set SCALEPLUG_REDIS_URL, or give --redis-url redis://HOST:6379/0"
        )
    Keyring(config.secret)  # or the error that tells how to make one
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger().setLevel(logging.WARNING)
    logger = logging.getLogger("scaleplug")
    logger.setLevel(level)
    for warning in check_server(connect(config.redis_url, retry=False), config=config):
        logger.warning("%s", warning)
    use_config(config)
    stop = threading.Event()

    def on_signal(*_: Any) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    logger.info("beat %d on Redis at %s, namespace %s", os.getpid(), mask_url(config.redis_url), config.namespace)
    serve(config, stop, SignOfLife().renew)
    logger.info("ended")
