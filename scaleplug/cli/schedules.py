"""``scaleplug schedules``: what happens by itself, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table

from scaleplug.app import deployed_app
from scaleplug.call import FunctionCall
from scaleplug.cli.names import counted
from scaleplug.cli.place import Place, find_place, place_options
from scaleplug.client import RedisCaller
from scaleplug.errors import InvalidError
from scaleplug.function import Function
from scaleplug.settings import Config, FunctionSettings, use_config
from scaleplug.timekeeping import apply_rule
from scaleplug.timetable import AUTOSCALE, Entry, Timetable


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the timetable; moments are Unix time."""

    name: str
    function: str
    does: str
    """``call`` or ``autoscaler``."""
    schedule: str
    next: float | None
    last: float | None
    runs: int
    state: str
    """``on``, ``paused``, or ``unreadable``."""
    problem: str


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@place_options
@click.pass_context
def command(ctx: click.Context, as_json: bool, redis_url: str | None, run: str | None) -> None:
    """Show what happens by itself and when, or run, pause or resume one of it."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json, redis_url=redis_url, run=run)
    elif as_json or redis_url or run:
        raise click.UsageError(f"write options behind {ctx.invoked_subcommand!r}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@place_options
def show(as_json: bool, redis_url: str | None, run: str | None) -> None:
    """Show all schedules: when each was last run, and when it is due."""
    place = find_place(redis_url, run)
    with place.asking():
        rows = [_row(entry) for entry in Timetable(place.store).entries()]
        acts = place.store.client.exists(place.store.keys.beat + ":lock")
    shown = place.show(
        rows, as_json=as_json, empty="nothing is scheduled: give a function schedule=Cron(...), and deploy it",
        table=_table, notes=[f"{row.name}: {row.problem}" for row in rows if row.problem],
    )  # fmt: skip
    if shown and not acts:
        click.echo(
            "no beat acts, so nothing of this happens: start 'scaleplug controller' or 'scaleplug beat'", err=True
        )


@command.command("run")
@click.argument("name")
@place_options
def run_now(name: str, redis_url: str | None, run: str | None) -> None:
    """Do now what the schedule NAME does; when it is due stays as it is."""
    place = find_place(redis_url, run)
    with place.asking():
        entry = Timetable(place.store).find(name)
        if entry.schedule is None:
            raise InvalidError(f"the schedule {entry.name!r} can't be read ({entry.problem}): deploy its app again")
        click.echo(_start(place, entry))


def _start(place: Place, entry: Entry) -> str:
    config = Config(redis_url=place.url, secret=place.secret, namespace=place.namespace)
    if entry.task == AUTOSCALE:
        apply_rule(RedisCaller(config), entry.function, int(entry.args[1]))
        return f"changed the autoscaler of {entry.function} as {entry.name} does"
    use_config(config)
    app, _, function = entry.function.partition(".")
    call: FunctionCall[Any] = Function(deployed_app(app), None, function, FunctionSettings()).spawn()
    return f"called {entry.function}: {call.object_id}"


@command.command()
@click.argument("name")
@place_options
def pause(name: str, redis_url: str | None, run: str | None) -> None:
    """Let the schedule NAME rest, also over deployments, until it is resumed."""
    _pause(name, redis_url, run, paused=True)


@command.command()
@click.argument("name")
@place_options
def resume(name: str, redis_url: str | None, run: str | None) -> None:
    """Let the schedule NAME go on; what was due meanwhile isn't made up for."""
    _pause(name, redis_url, run, paused=False)


def _pause(name: str, redis_url: str | None, run: str | None, *, paused: bool) -> None:
    place = find_place(redis_url, run)
    with place.asking():
        timetable = Timetable(place.store)
        entry = timetable.find(name)
        timetable.pause(entry.name, paused=paused, now=datetime.now(UTC))
    click.echo(f"{entry.name} {'rests until it is resumed' if paused else 'goes on'}")


def _row(entry: Entry) -> Row:
    due, last = entry.due_at, entry.last_run_at if entry.runs else None
    return Row(
        name=entry.name,
        function=entry.function,
        does="autoscaler" if entry.task == AUTOSCALE else "call",
        schedule=str(entry.schedule) if entry.schedule is not None else "?",
        next=due.timestamp() if due is not None and entry.enabled else None,
        last=last.timestamp() if last is not None else None,
        runs=entry.runs,
        state="unreadable" if entry.problem else "on" if entry.enabled else "paused",
        problem=entry.problem,
    )


def _table(rows: list[Row]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "schedule", "next", "last", "runs", "state"):
        drawn.add_column(name, justify="right" if name == "runs" else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(row.name, row.schedule, _told(row.next), _told(row.last), f"{row.runs:,}", row.state)
    return drawn


def _told(moment: float | None) -> str:
    """Return a moment in this machine's zone, and how far it is."""
    if moment is None:
        return "-"
    seconds = round(moment - datetime.now(UTC).timestamp())
    at = f"{datetime.fromtimestamp(moment, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    if abs(seconds) >= 60:
        return at
    far = counted(abs(seconds), "second")
    return f"{at} (in {far})" if seconds >= 0 else f"{at} ({far} ago)"
