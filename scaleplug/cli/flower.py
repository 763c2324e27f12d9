"""``scaleplug flower``: stock Flower, with the options that suit containers that come and go."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from scaleplug.cli.place import find_place, place_options
from scaleplug.errors import ConfigurationError

APP = "scaleplug.contrib.flower.app"
PURGE_SECONDS = 120
MAX_WORKERS = 2_000
MAX_TASKS = 20_000


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "--app", "-A", metavar="APP", help="The Celery app, as 'celery -A' takes it; without one only the Redis is known."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=5555, show_default=True, help="Where to listen.")
@click.option("--address", default="127.0.0.1", show_default=True, help="On which address; 0.0.0.0 for all.")
@click.option(
    "--purge",
    type=click.IntRange(1),
    default=PURGE_SECONDS,
    show_default=True,
    metavar="S",
    help="Forget workers that have been offline for so many seconds, in the list and in Flower's metrics.",
)
@click.option(
    "--persistent/--no-persistent",
    default=False,
    show_default=True,
    help="Keep what Flower has seen in a file; it grows with every worker that ever was.",
)
@place_options
@click.pass_context
def command(
    ctx: click.Context, *, app: str | None, port: int, address: str, purge: int, persistent: bool,
    redis_url: str | None, run: str | None,
) -> None:  # fmt: skip
    """Run Flower with the Autoscaler tab; other options go to Flower as they are.

    Who may look, and change settings, is Flower's to say: FLOWER_BASIC_AUTH=user:password in the environment keeps the
    password off the command line. Without a login the tab shows everything and changes nothing.
    """
    if importlib.util.find_spec("flower") is None:
        raise ConfigurationError("Flower isn't installed: pip install 'scaleplug[flower]'")
    place = find_place(redis_url, run)
    options = {
        "port": port, "address": address, "purge_offline_workers": purge, "persistent": persistent,
        "max_workers": MAX_WORKERS, "max_tasks": MAX_TASKS,
    }  # fmt: skip
    given = {word.lstrip("-").partition("=")[0].replace("-", "_") for word in ctx.args}
    words = [f"--{name}={value}" for name, value in options.items() if name not in given]
    environ = {"SCALEPLUG_REDIS_URL": place.url, "SCALEPLUG_NAMESPACE": place.namespace}
    if place.secret:
        environ["SCALEPLUG_SECRET"] = place.secret
    if not os.environ.get("FLOWER_BASIC_AUTH") and not given & {"basic_auth", "auth", "conf"}:
        click.echo(
            "scaleplug: nobody has to log in, so settings can be seen and not changed: "
            "set FLOWER_BASIC_AUTH=user:password", err=True,
        )  # fmt: skip
    click.echo(f"scaleplug: http://{'localhost' if address == '127.0.0.1' else address}:{port}/autoscaler", err=True)
    command = [sys.executable, "-m", "scaleplug.contrib.flower", "-A", app or APP, "flower", *words, *ctx.args]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **environ})
