"""``manage.py scaleplug ...``: the ``scaleplug`` command, which knows the project's settings and functions."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from scaleplug.cli.main import main
from scaleplug.contrib.django import conf, project

DJANGOS = ("--settings", "--pythonpath")


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """The whole command line; ``controller`` and ``deploy`` take the project's functions where nothing is named."""

    help = "Runs scaleplug: manage.py scaleplug --help"
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Give all arguments to scaleplug but for those that Django has read."""
        self._run(_without_djangos(argv[2:]), f"{Path(argv[0]).name} {argv[1]}")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what ``call_command("scaleplug", ...)`` gives."""
        parser.add_argument("arguments", nargs="*")

    def handle(self, *_: Any, arguments: Sequence[str], **__: Any) -> None:
        """Be ``call_command``'s."""
        self._run(arguments, "manage.py scaleplug")

    def _run(self, arguments: Sequence[str], title: str) -> None:
        for variable, value in conf.environ().items():
            os.environ.setdefault(variable, value)
        # What the controller starts imports the project by its name, wherever manage.py was started.
        paths = [project.folder(), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        main(arguments, title=title, programs=(project.target(),))


def _without_djangos(arguments: Sequence[str]) -> list[str]:
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in DJANGOS:
            next(rest, None)
        elif argument.partition("=")[0] not in DJANGOS:
            kept.append(argument)
    return kept
