"""``scaleplug run``: a file's entrypoint, with everything it needs started around it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from scaleplug.settings import Config


@click.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    epilog="Options after FILE are the entrypoint's own: scaleplug run FILE --help shows them.",
)
@click.option("--quiet", "-q", is_flag=True, help="Show what the job itself prints, and errors.")
@click.argument("target", metavar="FILE[::ENTRYPOINT]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]...")
def command(target: str, arguments: tuple[str, ...], quiet: bool) -> None:
    """Run a local entrypoint of FILE, with a private Redis, a controller and containers around it.

    FILE is a Python file or a module's dotted name. ENTRYPOINT can be left out if there is only one. It may also be a
    function: then that runs once, in a container, and its result is printed. With SCALEPLUG_REDIS_URL the Redis there
    is used, under a namespace of the run's own.

    The job prints to standard output. What its containers print, and what scaleplug has to say, goes to standard error:
    below a live display on a terminal, else as plain lines.

    Exit codes: 0 done, 1 the job failed, 2 wrong usage or configuration, 130 interrupted.
    """
    job: Any = import_module("scaleplug.cli.job")  # half a second that --help spares
    found = job.Target.parse(target)
    given = list(arguments)
    if "--help" in given:
        program = job.Program.load(found)
        job.make_context(program, found, given)  # shows the help and exits
    code = job.Job(found, given, Config.from_environ(os.environ), quiet=quiet).run()
    # Ctrl-C inside some library's exec() leaves a mark, also where it is caught, by which Python dies of SIGINT at its
    # end instead of exiting with this status; the next exec() takes it away.
    exec("")
    sys.exit(code)
