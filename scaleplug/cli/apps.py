"""``scaleplug apps``: the apps that are deployed or registered here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import click
from rich.table import Table

from scaleplug.cli.deploy import told_trouble
from scaleplug.cli.place import Place, find_place, place_options
from scaleplug.deployment import Deployment, find
from scaleplug.errors import ConfigurationError
from scaleplug.registry import Registration, registrations
from scaleplug.serializer import Keyring


@dataclass(frozen=True, slots=True)
class Row:
    """One app; ``trouble`` are sentences about what doesn't start."""

    app: str
    state: str
    """``deployed``, ``registered``, ``stopping``, ``stopped``, or ``?`` where it was signed with another secret."""
    version: int | None
    deployed: float | None
    """Unix time."""
    source: str
    functions: int
    containers: int
    pending: int
    running: int
    trouble: tuple[str, ...]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@place_options
def command(as_json: bool, redis_url: str | None, run: str | None) -> None:
    """Show the apps: what is deployed since when, what is stopping, and what doesn't start."""
    place = find_place(redis_url, run)
    with place.asking():
        rows = read_rows(place, Keyring(place.secret))
    place.show(
        rows, as_json=as_json, empty="no app is deployed or registered: scaleplug deploy FILE", table=_table,
        notes=[sentence for row in rows for sentence in row.trouble],
    )  # fmt: skip


def read_rows(place: Place, keyring: Keyring) -> list[Row]:
    """Return all apps as they are now, by name."""
    every = registrations(place.store.functions(), keyring)
    names = sorted({*place.store.apps(), *(r.app for r in every.values())})
    return [_row(place, keyring, name, {n: r for n, r in every.items() if r.app == name}) for name in names]


def _row(place: Place, keyring: Keyring, app: str, ours: dict[str, Registration]) -> Row:
    try:
        deployment, readable = find(place.store, keyring, app), True
    except ConfigurationError:
        deployment, readable = None, False
    census = place.store.census(sorted(ours)).values() if ours else ()
    troubles = place.store.troubles(sorted(ours))
    source = deployment.source if deployment is not None else ""
    return Row(
        app=app,
        state=_state(deployment, bool(ours)) if readable else "?",
        version=deployment.version or None if deployment is not None else None,
        deployed=deployment.at if deployment is not None and deployment.version else None,
        source=source or next((r.source.where for r in ours.values() if r.source.where), ""),
        functions=sum(1 for r in ours.values() if not r.base),
        containers=sum(c.containers for c in census),
        pending=sum(c.pending + c.delayed for c in census),
        running=sum(c.running for c in census),
        trouble=tuple(
            told_trouble(ours[function].shown, trouble, place.store.now()) for function, trouble in troubles.items()
        ),
    )


def _state(deployment: Deployment | None, anything: bool) -> str:
    if deployment is None or not (deployment.stopped or deployment.functions):
        return "registered"
    if not deployment.stopped:
        return "deployed"
    return "stopping" if anything else "stopped"


def _table(rows: list[Row]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("app", "state", "version", "deployed", "source"):
        drawn.add_column(name, justify="right" if name == "version" else "left", no_wrap=True)
    for name in ("functions", "containers", "pending", "running"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        at = None if row.deployed is None else datetime.fromtimestamp(row.deployed, UTC).astimezone()
        drawn.add_row(
            row.app, row.state, "-" if row.version is None else str(row.version),
            "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}", row.source or "-",
            *(f"{getattr(row, name):,}" for name in ("functions", "containers", "pending", "running")),
        )  # fmt: skip
    return drawn
