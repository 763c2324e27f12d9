"""``scaleplug ps``: functions, their inputs and their containers."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scaleplug.cli.frame import STATES
from scaleplug.cli.place import Place, find_place, place_options
from scaleplug.errors import SerializationError
from scaleplug.registry import Registration
from scaleplug.serializer import Keyring
from scaleplug.settings import FunctionSettings
from scaleplug.store import Census

WATCH_SECONDS = 1.0
WIDE = 200
"""Columns where the output is no terminal: nothing is cut off there."""


@dataclass(frozen=True, slots=True)
class Row:
    """One function; ``settings`` are ``None`` where they were signed with a secret that isn't here."""

    function: str
    settings: FunctionSettings | None
    census: Census
    service_time: float | None
    start_time: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "function": self.function,
            "settings": None if self.settings is None else self.settings.to_dict(),
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
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
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
    registered = store.functions()
    for function, census in sorted(store.census(sorted(registered)).items()) if registered else ():
        try:
            settings = Registration.unseal(keyring, function, registered[function]).settings
        except SerializationError:
            settings = None
        learned = store.learned(function) or next(iter(store.decisions(function, 1)), {})  # they are saved now and then
        rows.append(Row(function, settings, census, learned.get("service_time"), learned.get("start_time")))
    return rows


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
    for name in ("min", "max", "buffer", "window", "pending", "running"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("containers", min_width=12)
    for name in (*counts, "service", "start"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        census = row.census
        pending = f"{census.pending:,}" + (f" +{census.delayed:,} later" if census.delayed else "")
        numbers = [f"{getattr(census, name):,}" for name in counts]
        drawn.add_row(
            row.function, *_settings(row.settings), pending, f"{census.running:,}", _containers(census),
            *numbers, told_time(row.service_time), told_time(row.start_time),
        )  # fmt: skip
    return drawn


def _settings(settings: FunctionSettings | None) -> tuple[str, ...]:
    if settings is None:
        return ("?",) * 4
    most = "-" if settings.max_containers is None else str(settings.max_containers)
    return str(settings.min_containers), most, str(settings.buffer_containers), f"{settings.scaledown_window:g} s"


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
