"""``scaleplug scale``: show or change the settings of a function's autoscaler while it runs."""

from __future__ import annotations

from typing import Any

import click

from scaleplug.cli.place import find_place, place_options
from scaleplug.cli.ps import MARK, told_settings
from scaleplug.client import RedisCaller
from scaleplug.errors import InvalidError
from scaleplug.registry import open_override, registrations
from scaleplug.serializer import Keyring
from scaleplug.settings import Config

NAMES = ("min", "max", "buffer", "window")


class _CountOrNone(click.ParamType[Any]):
    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).lower() == "none":
            return "none"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'none'", param, ctx)


@click.command()
@click.argument("function")
@click.option("--min", "least", type=int, metavar="N", help="Containers kept while nothing is to do.")
@click.option("--max", "most", type=_CountOrNone(), help="Never more containers than these.")
@click.option("--buffer", type=int, metavar="N", help="Containers beyond the need while inputs are under way.")
@click.option("--window", type=float, metavar="S", help="The longest a container may idle, in seconds.")
@click.option("--reset", is_flag=True, help="Go back to what the decorator says.")
@place_options
def command(
    *, function: str, least: int | None, most: Any, buffer: int | None, window: float | None, reset: bool,
    redis_url: str | None, run: str | None,
) -> None:  # fmt: skip
    """Show the settings in force of FUNCTION's containers, or change some until the next deployment.

    FUNCTION is app.function, a class, or one of their pools as 'scaleplug ps' shows it; without the app where that is
    enough.
    """
    place = find_place(redis_url, run)
    changes = {"min_containers": least, "max_containers": most, "buffer_containers": buffer, "scaledown_window": window}
    changes = {name: None if value == "none" else value for name, value in changes.items() if value is not None}
    if reset and changes:
        raise click.UsageError("--reset takes no settings beside it")
    with place.asking():
        name = place.function(function)
        caller = RedisCaller(Config(redis_url=place.url, secret=place.secret, namespace=place.namespace))
        known = registrations(place.store.functions(), caller.keyring)[name]
        if known.template:
            raise InvalidError(
                f"{known.shown} has parameters without defaults: each set of them has containers of its own, "
                "which appear in 'scaleplug ps' when it is used"
            )
        if reset:
            caller.reset(name)
        settings = caller.override(name, changes)
        overridden = open_override(Keyring(place.secret), name, place.store.overrides().get(name))
    told = zip(NAMES, told_settings(settings, overridden), strict=True)
    click.echo(f"{known.shown}: {', '.join(f'{name} {value}' for name, value in told)}")
    if overridden:
        click.echo(f"{MARK} until the next deployment, or --reset", err=True)
