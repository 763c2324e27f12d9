"""``scaleplug image``: images with your code, for containers of the docker and kubernetes backends."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from scaleplug.errors import InvalidError

BASE = "scaleplug-worker"


@click.group(name="image")
def command() -> None:
    """Make images with your code."""


@command.command()
@click.argument("what", metavar="FILE|PROJECT", type=click.Path(path_type=Path))
@click.option("--tag", metavar="NAME:TAG", help="The image's name; that of the file or folder when left out.")
@click.option("--base", metavar="IMAGE", default=BASE, show_default=True, help="The worker image that it is built on.")
@click.option(
    "--build-arg", "arguments", multiple=True, metavar="NAME=VALUE",
    help="A variable of the build, such as PIP_INDEX_URL; without a value, this shell's.",
)  # fmt: skip
@click.option("--network", metavar="NAME", help="The network of the build: host, say, to reach a mirror on this host.")
@click.option("--quiet", "-q", is_flag=True, help="Print the image's name, and errors.")
def build(what: Path, tag: str | None, base: str, arguments: tuple[str, ...], network: str | None, quiet: bool) -> None:
    """Build an image with a FILE, or with all of a PROJECT's folder, and what it requires.

    The code is in /app then. What it requires is in the requirements.txt beside it, else in the dependencies of its
    pyproject.toml. Left out are what .dockerignore names, .git, .env and virtual environments.
    """
    images = import_module("scaleplug.images")  # it needs an extra
    made_of = images.plan(what)
    options = images.Options(
        tag=tag or made_of.name, base=base, arguments=dict(_argument(each) for each in arguments), network=network
    )
    for told in images.build(made_of, options):
        if isinstance(told, str):
            if not quiet:
                click.echo(told, err=True)
        elif quiet or not sys.stdout.isatty():
            click.echo(told.tag)
        else:
            click.echo(f"{told.tag} ({told.id}): {told.size >> 20} MiB, {told.added / (1 << 20):.1f} of them its own")


def _argument(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals and name not in os.environ:
        raise InvalidError(f"--build-arg {name} has no value, and the environment has none: write {name}=VALUE")
    return name, value if equals else os.environ[name]
