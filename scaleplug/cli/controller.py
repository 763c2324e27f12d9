"""``scaleplug controller``: a controller in the foreground, for all who use its Redis."""

from __future__ import annotations

import logging
import os

import click

from scaleplug.cli.registrar import register_programs
from scaleplug.loglines import write_logs
from scaleplug.metrics import parse_place
from scaleplug.runtime import control, controller_folder
from scaleplug.serializer import Keyring
from scaleplug.server import mask_url
from scaleplug.settings import BACKENDS, Config


@click.command()
@click.argument("programs", nargs=-1, metavar="[FILE|MODULE]...")
@click.option(
    "--redis-url", metavar="URL", help="The Redis that callers and containers share; else SCALEPLUG_REDIS_URL."
)
@click.option(
    "--max-containers", type=click.IntRange(1), metavar="N",
    help="Containers of all functions on this host; else SCALEPLUG_MAX_CONTAINERS, or what its size allows.",
)  # fmt: skip
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Serve metrics for Prometheus there, under /metrics; to this machine alone without HOST.",
)
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="What starts containers; else SCALEPLUG_BACKEND, or process."
)
@click.option("--quiet", "-q", is_flag=True, help="Tell of warnings and errors only.")
def command(
    *,
    programs: tuple[str, ...],
    redis_url: str | None,
    max_containers: int | None,
    metrics: str | None,
    backend: str | None,
    quiet: bool,
) -> None:
    """Start and stop containers for every function that is registered, until SIGTERM or Ctrl-C.

    The functions of each FILE or MODULE are registered first; callers register theirs with their first call. The
    containers that run get SCALEPLUG_STOP_GRACE seconds at the end; a second signal hurries. Of several controllers
    of one namespace one acts and the others stand by.
    """
    config = Config.from_environ(os.environ, redis_url=redis_url, max_containers=max_containers, backend=backend)
    if config.redis_url is None:
        raise click.UsageError(
            "no Redis is configured: set SCALEPLUG_REDIS_URL, or give --redis-url redis://HOST:6379/0"
        )
    place = None if metrics is None else parse_place(metrics)
    Keyring(config.secret)  # or the error that tells how to make one
    level = logging.WARNING if quiet else logging.INFO
    write_logs(config.log_format, level=level, text="%(asctime)s %(message)s", dates="%H:%M:%S")
    logging.getLogger().setLevel(logging.WARNING)
    logger = logging.getLogger("scaleplug")
    logger.setLevel(level)
    url = mask_url(config.redis_url)
    logger.info("controller %d on Redis at %s, namespace %s", os.getpid(), url, config.namespace)
    names = register_programs(programs, config) if programs else []
    if names:
        logger.info("registered %s", ", ".join(names))

    def ready() -> None:
        logger.info("ready; functions known: %s", ", ".join(names) or "those that callers register")

    control(config, controller_folder(config), lifeline=None, grace=config.stop_grace, ready=ready, metrics=place)
    logger.info("ended")
