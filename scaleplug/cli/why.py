"""``scaleplug why``: the last decisions about a function's containers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from scaleplug.cli.deploy import told_trouble
from scaleplug.cli.names import counted
from scaleplug.cli.place import Place, find_place, place_options


@click.command()
@click.argument("function")
@click.option("--last", "-n", type=click.IntRange(1), default=10, show_default=True, help="How many decisions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the newest decision first.")
@place_options
def command(function: str, last: int, as_json: bool, redis_url: str | None, run: str | None) -> None:
    """Show the last decisions about FUNCTION's containers and the numbers behind them, the newest last.

    FUNCTION is app.function, or the function alone where that is enough.
    """
    place = find_place(redis_url, run)
    with place.asking():
        name = place.function(function)
        decisions, trouble = place.store.decisions(name, last), place.store.troubles([name]).get(name)
        if as_json:
            click.echo(json.dumps(decisions, indent=2))
        elif decisions:
            for decision in reversed(decisions):
                click.echo(told(decision))
        else:
            click.echo(_without_decision(place, name))
        if trouble and not as_json:
            click.echo(
                "\n".join([told_trouble(name, trouble, place.store.now()), *(f"  {line}" for line in trouble["lines"])])
            )


def told(decision: dict[str, Any]) -> str:
    """Return a decision in two lines: what, and why."""
    at = datetime.fromtimestamp(decision["at"], UTC).astimezone()
    acts = [("start", decision["start"]), ("stop", len(decision["stop"])), ("give up", len(decision["give_up"]))]
    done = ", ".join(f"{word} {count}" for word, count in acts if count) or "no change"
    reason, _, _ = decision["reason"].partition(" -> start ")  # the numbers stand in the first line
    line = f"{at:%H:%M:%S.%f}"[:-3] + f"  desired {decision['desired']}, {done}"
    back_off = decision.get("back_off_until", 0.0) - decision["at"]
    if back_off > 0:
        line += f" (starts wait {back_off:.1f} s more: they have failed)"
    return f"{line}\n              {reason}"


def _without_decision(place: Place, function: str) -> str:
    census, leader = place.store.census([function])[function], place.leader()
    acts = f"the controller {leader} acts" if leader else "no controller acts (start one: scaleplug controller)"
    lines = [
        f"no decision about {function} has been made yet: {acts}",
        ", ".join(f"{getattr(census, name):,} {name}" for name in ("pending", "running", "delayed", "finished")),
        counted(census.containers, "container"),
    ]
    set_aside = place.store.quarantined(function, 1)
    if set_aside:
        now = place.store.now()
        when = max(0.0, now - float(set_aside[0].get("at", now)))
        lines.append(f"the last input set aside ({when:.0f} s ago): {set_aside[0].get('reason', '')}")
    return "\n".join(lines)
