"""``celery -A PROJECT scaleplug ...``: the ``scaleplug`` command with what the project says about Redis and its Apps.

Celery imports this module for every one of its commands, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from scaleplug.cli.main import _Group
from scaleplug.settings import defaults


class _Plugin(_Group):
    """The same group, after looking at the project."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        project = getattr(ctx.obj, "app", None)
        if project is not None and found[0] != "run":  # which brings a Redis along
            _adopt(ctx, project)
        return found


def _adopt(ctx: click.Context, project: Any) -> None:
    """Let commands use the project's Redis where no other is named, and its modules where no program is."""
    celery = getattr(project, "celery", project)  # ``-A`` may have found an App
    celery.loader.import_default_modules()
    here = import_module("scaleplug.here")
    apps = [app for app in here.known_apps() if app.celery is celery]
    for variable, value in defaults().items():  # a web framework's settings
        os.environ.setdefault(variable, value)
    url = next((app.redis_url for app in apps if app.redis_url), None)
    if url:
        os.environ.setdefault("SCALEPLUG_REDIS_URL", url)
    modules = tuple(sorted({name for app in apps for name in _modules(app)}))
    if modules:
        ctx.default_map = {command: {"programs": modules} for command in ("deploy", "controller")}


def _modules(app: Any) -> list[str]:
    """Return the modules that hold an App, of those that define what is in it; else all that hold it.

    Of an App that belongs to a web project it is the project, in the command line's words.
    """
    project = app.project_source([*app.functions.values(), *app.classes.values()])
    if project is not None:
        return [f"{project.kind}:{project.where}"]
    found = [
        n for n, m in list(sys.modules.items()) if any(v is app for v in list(getattr(m, "__dict__", {}).values()))
    ]
    own = {made.raw.__module__ for made in (*app.functions.values(), *app.classes.values())}
    return [name for name in found if name in own] or found


@click.group("scaleplug", cls=_Plugin, context_settings={"help_option_names": ["--help", "-h"]})
def command() -> None:
    """Run, deploy, watch and scale autoscaled functions."""
