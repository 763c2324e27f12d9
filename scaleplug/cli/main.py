"""The ``scaleplug`` command: its groups are imported when they are used, so that help comes at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from scaleplug import __version__
from scaleplug.errors import Error, did_you_mean

COMMANDS = {
    "run": "Run a local entrypoint, with all it needs started around it.",
    "controller": "Be the controller that starts and stops containers.",
    "deploy": "Register apps as they are now, as a new version.",
    "stop": "Let an app finish what it has, and go.",
    "apps": "Show the apps that are deployed or registered.",
    "schedules": "Show what happens by itself; run, pause or resume it.",
    "beat": "Start scheduled functions, where no controller does.",
    "scale": "Show or change a function's containers while it runs.",
    "ps": "Show functions, their inputs and their containers.",
    "why": "Show the last decisions about a function's containers.",
    "logs": "Show what functions have printed.",
    "flower": "Run Flower with the Autoscaler tab.",
    "image": "Make images with your code, for containers in Docker and on Kubernetes.",
    "version": "Show the versions that matter.",
}
"""Each is the ``command`` of the module of its name."""
INTERRUPTED = 130


class _Group(click.Group):
    """A group that imports a command when it is asked for, and shows scaleplug's own errors as one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's interface
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"scaleplug.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Error as exc:
            click.echo(f"scaleplug: {exc}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # whoever read has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(__version__, message="scaleplug %(version)s")
def cli() -> None:
    """Run Celery functions whose containers scale themselves."""


def main(arguments: Sequence[str] | None = None, *, title: str = "scaleplug", programs: Sequence[str] = ()) -> None:
    """Be the command; ``programs`` are what it registers or deploys where nothing is named."""
    defaults = {name: {"programs": tuple(programs)} for name in ("controller", "deploy")} if programs else None
    cli.main(args=arguments, prog_name=title, default_map=defaults)


if __name__ == "__main__":
    main()
