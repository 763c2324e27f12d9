"""``scaleplug ps``: functions, their inputs and their containers."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scaleplug.cli.frame import STATES
from scaleplug.cli.place import Place, find_place, make_console, place_options
from scaleplug.errors import InvalidError, SerializationError
from scaleplug.registry import Registration, open_override
from scaleplug.serializer import Keyring
from scaleplug.settings import FunctionSettings, override
from scaleplug.store import Census

WATCH_SECONDS = 1.0
MARK = "*"
"""Stands behind a setting that was changed while it runs."""
SETTINGS = ("min", "max", "buffer", "window")


@dataclass(frozen=True, slots=True)
class Row:
    """One function; ``settings`` are ``None`` where they were signed with a secret that isn't here."""

    function: str
    shown: str
    settings: FunctionSettings | None
    """Those in force."""
    overridden: tuple[str, ...]
    """Names of those that are not the decorator's."""
    census: Census
    service_time: float | None
    start_time: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "function": self.function,
            "shown": self.shown,
            "settings": None if self.settings is None else self.settings.to_dict(),
            "overridden": list(self.overridden),
            **asdict(self.census),
            "service_time": self.service_time,
            "start_time": self.start_time,
        }


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Show it again every second.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object each time.")
@place_options
def command(watch: bool, as_json: bool, redis_url: str | None, run: str | None) -> None:
    """Show functions, the settings in force, their inputs and their containers."""
    place = find_place(redis_url, run)
    keyring = Keyring(place.secret)
    with place.asking():
        if as_json:
            _print_json(place, keyring, watch=watch)
        else:
            _print_table(place, keyring, watch=watch)


def _print_json(place: Place, keyring: Keyring, *, watch: bool) -> None:
    while True:
        functions = [row.to_dict() for row in read_rows(place, keyring)]
        click.echo(json.dumps({"controller": place.leader(), "functions": functions}, indent=None if watch else 2))
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _print_table(place: Place, keyring: Keyring, *, watch: bool) -> None:
    console = make_console()
    if not watch:
        console.print(_view(place, keyring))
    elif console.is_terminal:
        with Live(_view(place, keyring), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(_view(place, keyring), refresh=True)
    else:
        while True:
            console.print(_view(place, keyring))
            time.sleep(WATCH_SECONDS)


def read_rows(place: Place, keyring: Keyring) -> list[Row]:
    """Return all functions as they are now, by name."""
    store, rows = place.store, []
    registered, overrides = store.functions(), store.overrides()
    for function, census in sorted(store.census(sorted(registered)).items()) if registered else ():
        shown, settings, overridden = _in_force(function, registered[function], overrides.get(function), keyring)
        learned = store.learned(function) or next(iter(store.decisions(function, 1)), {})  # they are saved now and then
        times = learned.get("service_time"), learned.get("start_time")
        rows.append(Row(function, shown, settings, overridden, census, *times))
    return rows


def _in_force(
    function: str, sealed: bytes, laid_over: bytes | None, keyring: Keyring
) -> tuple[str, FunctionSettings | None, tuple[str, ...]]:
    """Return how people read a function's name, its settings, and which of them were changed while it runs."""
    try:
        registration = Registration.unseal(keyring, function, sealed)
        changes = open_override(keyring, function, laid_over)
        return registration.shown, override(registration.settings, changes), tuple(changes)
    except (SerializationError, InvalidError):
        return function, None, ()


def _view(place: Place, keyring: Keyring) -> Group:
    leader = place.leader()
    acts = f"the controller {leader} acts" if leader else "no controller acts, so nothing starts: scaleplug controller"
    head = Text.assemble(place.title, "; ", (acts, "" if leader else "yellow"))
    rows = read_rows(place, keyring)
    return Group(head, table(rows) if rows else Text("no function is registered"))


def table(rows: list[Row]) -> Table:
    """Return the functions as a table."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("function", no_wrap=True)
    refused = any(row.census.refused for row in rows)
    counts = ("finished", "failed", *(("refused",) if refused else ()))
    for name in (*SETTINGS, "pending", "running"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("containers", min_width=12)
    for name in (*counts, "service", "start"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        census = row.census
        pending = f"{census.pending:,}" + (f" +{census.delayed:,} later" if census.delayed else "")
        numbers = [f"{getattr(census, name):,}" for name in counts]
        drawn.add_row(
            row.shown, *told_settings(row.settings, row.overridden), pending, f"{census.running:,}",
            _containers(census), *numbers, told_time(row.service_time), told_time(row.start_time),
        )  # fmt: skip
    return drawn


def told_settings(settings: FunctionSettings | None, overridden: Collection[str] = ()) -> tuple[str, ...]:
    """Return the autoscaler's settings for people; those that were changed while it runs are marked."""
    if settings is None:
        return ("?",) * 4
    values = {
        "min_containers": str(settings.min_containers),
        "max_containers": "-" if settings.max_containers is None else str(settings.max_containers),
        "buffer_containers": str(settings.buffer_containers),
        "scaledown_window": f"{settings.scaledown_window:g} s",
    }
    return tuple(value + (MARK if name in overridden else "") for name, value in values.items())


def settings_table(settings: Mapping[str, tuple[FunctionSettings, Collection[str]]]) -> Table:
    """Return names with their settings as a table."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("function", no_wrap=True)
    for name in (*SETTINGS, "timeout"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for name, (each, overridden) in settings.items():
        drawn.add_row(name, *told_settings(each, overridden), f"{each.timeout:g} s")
    return drawn


def _containers(census: Census) -> Text:
    parts = [
        (f"{getattr(census, state):,} {state}", look[2]) for state, look in STATES.items() if getattr(census, state)
    ]
    return Text(", ").join(Text(text, colour) for text, colour in parts) if parts else Text("none", "dim")


def told_time(seconds: float | None) -> str:
    """Return a learned time: 12 ms, 3.4 s, - while it is unknown."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
