"""``scaleplug stop``: let an app finish what it has, and go."""

from __future__ import annotations

import sys
import time

import click

from scaleplug.cli.names import counted
from scaleplug.cli.place import Place, find_place, place_options
from scaleplug.deployment import stop
from scaleplug.errors import listed
from scaleplug.registry import registrations
from scaleplug.serializer import Keyring
from scaleplug.store import Census

POLL_SECONDS = 0.2
SAY_SECONDS = 2.0


@click.command()
@click.argument("app")
@click.option("--no-wait", is_flag=True, help="Return at once; the controller does the rest.")
@place_options
def command(app: str, no_wait: bool, redis_url: str | None, run: str | None) -> None:
    """Stop APP: the inputs that are there are run to their end, new calls are refused, then it goes.

    What runs in its containers may still call it until then. 'scaleplug deploy' brings it back.
    """
    place = find_place(redis_url, run)
    keyring = Keyring(place.secret)
    with place.asking():
        names = stop(place.store, keyring, app)
        if not names:
            click.echo(f"{app} is stopped")
            return
        if place.leader() is None:
            click.echo(f"{app} takes no new calls; no controller acts: it goes when one does (scaleplug controller)")
            sys.exit(0 if no_wait else 1)
        if no_wait:
            click.echo(f"{app} takes no new calls, and goes when what it has is done")
            return
        _wait(place, keyring, app)
        click.echo(f"{app} is stopped")


def _wait(place: Place, keyring: Keyring, app: str) -> None:
    said, at = "", 0.0
    while left := [n for n, r in registrations(place.store.functions(), keyring).items() if r.app == app]:
        text = _told(place.store.census(left))
        if text != said and time.monotonic() - at >= SAY_SECONDS:
            said, at = text, time.monotonic()
            click.echo(f"{app} is stopping: {text}", err=True)
        time.sleep(POLL_SECONDS)


def _told(left: dict[str, Census]) -> str:
    total = {name: sum(getattr(c, name) for c in left.values()) for name in ("pending", "running", "delayed")}
    inputs = [f"{count:,} {name}" for name, count in total.items() if count]
    containers = counted(sum(c.containers for c in left.values()), "container")
    return f"{listed(inputs)}, {containers}" if inputs else f"nothing to do any more, {containers}"
