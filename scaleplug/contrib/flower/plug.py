"""How stock Flower gets the tab: Celery loads this module with its commands, and it puts itself before Flower's.

Flower is such a command too, so it is imported in every ``celery`` command anyway; here nothing is added to that until
``celery flower`` is really run.
"""

from __future__ import annotations

import functools
import logging
from importlib import import_module
from typing import Any

import click

logger = logging.getLogger("scaleplug")


@click.command(hidden=True)
def command() -> None:
    """Add the Autoscaler tab to Flower; nothing has to be called for that."""
    click.echo("the Autoscaler tab is there when Flower runs: celery -A project flower")


def hook(flower: Any) -> None:
    """Let Flower's command install the tab before it does anything."""
    run = flower.callback

    @functools.wraps(run)
    def with_tab(*args: Any, **kwargs: Any) -> Any:
        try:
            import_module("scaleplug.contrib.flower.tab").install()
        except Exception:  # Flower without the tab is better than no Flower
            logger.exception("the Autoscaler tab can't be added to Flower")
        return run(*args, **kwargs)

    if getattr(run, "__wrapped_by_scaleplug__", False):
        return
    with_tab.__wrapped_by_scaleplug__ = True  # type: ignore[attr-defined]
    flower.callback = with_tab


def _find_flower() -> Any:
    try:
        return import_module("flower.command").flower
    except ImportError:
        return None  # it isn't installed


_found = _find_flower()
if _found is not None:
    hook(_found)
