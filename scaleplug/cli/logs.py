"""``scaleplug logs``: what functions have printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console

from scaleplug.cli.names import Labels, Palette, short_names
from scaleplug.cli.place import Place, find_place, place_options
from scaleplug.cli.screen import plain
from scaleplug.serializer import Keyring
from scaleplug.store.scripts import as_text

BLOCK_SECONDS = 2.0
PAGE = 1_000

Entry = tuple[str, dict[str, str]]


@click.command()
@click.argument("function", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is printed from now on.")
@click.option("--last", "-n", type=click.IntRange(0), default=100, show_default=True, help="How many lines.")
@place_options
def command(function: str | None, follow: bool, last: int, redis_url: str | None, run: str | None) -> None:
    """Show the last lines that functions have printed, or those of FUNCTION alone."""
    place = find_place(redis_url, run)
    with place.asking():
        name = place.function(function) if function is not None else None
        console, palette = Console(highlight=False, soft_wrap=True), Palette()
        labels = Labels(place.store, Keyring(place.secret)) if place.secret else None
        after, entries = last_entries(place, last, name)
        _show(console, palette, entries, labels)
        while follow:
            found = place.store.read_logs(after, block=BLOCK_SECONDS)
            after = found[-1][0] if found else after
            _show(console, palette, _of(found, name), labels)


def last_entries(place: Place, count: int, function: str | None) -> tuple[str, list[Entry]]:
    """Return the id of the stream's last entry, and the last ``count`` entries (of one function), the oldest first."""
    client, key = place.store.client, place.store.keys.logs
    found: list[Entry] = []
    newest, before = "0-0", "+"
    while True:
        rows: list[Any] = client.xrevrange(key, max=before, count=PAGE)
        entries = [(as_text(row), {as_text(k): as_text(v) for k, v in values.items()}) for row, values in rows]
        if before == "+" and entries:
            newest = entries[0][0]
        found += _of(entries, function)
        if len(rows) < PAGE or len(found) >= count:
            return newest, found[:count][::-1]
        before = f"({entries[-1][0]}"


def _of(entries: Iterable[Entry], function: str | None) -> list[Entry]:
    return [(at, entry) for at, entry in entries if entry["f"] and function in (None, entry["f"])]


def _show(console: Console, palette: Palette, entries: Iterable[Entry], labels: Labels | None) -> None:
    entries = list(entries)
    functions = {entry["f"] for _, entry in entries}
    names = short_names(functions, labels.learn(functions) if labels is not None else {})
    for _, entry in entries:
        console.print(f"{names[entry['f']]} | ", style=palette[entry["f"]], end="", markup=False)
        console.file.write(plain(entry["l"]) + ("\x1b[0m\n" if console.is_terminal and "\x1b" in entry["l"] else "\n"))
    console.file.flush()
