"""The ``scaleplug`` command."""

from __future__ import annotations

import sys
from typing import Any

import click

from scaleplug.cli.run import run
from scaleplug.errors import Error


class _Group(click.Group):
    """Shows scaleplug's own errors as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Error as exc:
            click.echo(f"scaleplug: {exc}", err=True)
            sys.exit(2)


@click.group(cls=_Group)
def cli() -> None:
    """Run Celery functions whose containers scale themselves."""


cli.add_command(run)

if __name__ == "__main__":
    cli()
