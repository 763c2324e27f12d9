"""``scaleplug version``: the versions that matter."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import click

from scaleplug import __version__
from scaleplug.cli.place import find_place, place_options
from scaleplug.embedded import find_server
from scaleplug.errors import ConfigurationError, Error
from scaleplug.server import mask_url


@click.command()
@place_options
def command(redis_url: str | None, run: str | None) -> None:
    """Show the versions of scaleplug, Python, Celery and the Redis server."""
    click.echo(f"scaleplug  {__version__}")
    click.echo(f"Python     {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("celery", "kombu", "redis"):
        click.echo(f"{package:10} {metadata.version(package)}")
    click.echo(f"server     {_server(redis_url, run)}")


def _server(redis_url: str | None, run: str | None) -> str:
    try:
        place = find_place(redis_url, run)
    except ConfigurationError as exc:
        if redis_url or run or os.environ.get("SCALEPLUG_REDIS_URL"):
            return f"not reached: {exc}"
    except Error as exc:
        return f"not reached: {exc}"
    else:
        with place.asking():
            info = place.store.client.info("server")
        name = info.get("server_name", "redis").capitalize()
        return f"{name} {info.get('valkey_version', info['redis_version'])} at {mask_url(place.url)}"
    try:
        program = find_server(os.environ)
    except ConfigurationError as exc:
        return str(exc)
    return f"none is running; scaleplug run would start {program.path}, version {'.'.join(map(str, program.version))}"
