"""Tell the results: a table for the terminal, JSON, and ``docs/benchmarks.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Result, Row, Summary

COMMAND, QUICKLY = "python -m benchmarks", " --quick --page"
HEADS = ("what", "ours", "peer", "the peer", "ratio", "target", "met")
SAMPLE_HEADS = ("measurement", "samples", "n", "p50", "p95", "p99", "least", "most", "spread")
INTRODUCTION = """\
# Benchmarks

What this printed on {machine}:

```sh
{command}
```

It takes about {minutes} minutes, starts everything it needs and ends it again. `python -m benchmarks` (`make bench`)
takes all rounds, `--quick` fewer: in under 3 minutes as a first look that leaves out what is slow and writes no page
(`make bench-quick`), or, with `--page`, for all measurements. `--only NAME` runs one of them. The peers
are installed into `build/rivals` first, each in an environment of its own; one that can't be is named and left out.

Where the time goes: `python -m benchmarks.flames` (`make flames`) runs a map of packed inputs, one of inputs that go
one by one, warm `remote()` and `spawn` for some seconds each, while py-spy looks at the caller, the container and the
controller. It leaves a flame graph of each in `build/flames`, and prints the functions with the most time of their own.

![Bars: scaleplug beside plain Celery, dramatiq, rq, huey, arq and taskiq](images/benchmarks.png)

Each figure stands beside its peer's from the same run; ours and the peer's rounds take turns. The ratio tells how many
times better ours is. Figures are medians where the row doesn't say otherwise.
"""


def print_table(results: Sequence[Result], console: Console) -> None:
    """Print the rows of all results."""
    table = Table(*HEADS, title="scaleplug beside plain Celery and others", title_justify="left")
    for result in results:
        for row in result.rows:
            table.add_row(*cells(row), style="red" if row.met is False else "")
        table.add_section()
    console.print(table)


def write_json(results: Sequence[Result], machine: Mapping[str, str], path: Path) -> None:
    """Write everything that was found."""
    rows = [
        {**asdict(result), "rows": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in result.rows]}
        for result in results
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": dict(machine), "results": rows}, indent=2) + "\n")


def read_json(path: Path) -> tuple[list[Result], dict[str, str]]:
    """Return what :func:`write_json` wrote: the results, and the machine."""
    kept = json.loads(path.read_text())
    results = []
    for found in kept["results"]:
        rows = tuple(Row(**{k: v for k, v in row.items() if k not in {"ratio", "met"}}) for row in found["rows"])
        samples = {name: Summary(**values) for name, values in found["samples"].items()}
        lists = {name: tuple(found[name]) for name in ("unfair", "remarks")}
        results.append(Result(name=found["name"], rows=rows, samples=samples, **lists))
    return results, kept["machine"]


def page(results: Sequence[Result], machine: Mapping[str, str], minutes: float, *, quick: bool = False) -> str:
    """Return the page of the documentation."""
    where = f"{machine['cores']} cores with {machine['memory']} ({machine['date']})"
    parts = [INTRODUCTION.format(command=COMMAND + QUICKLY * quick, machine=where, minutes=max(1, round(minutes)))]
    parts.append(_grid(HEADS, [cells(row) for result in results for row in result.rows]))
    parts.append("## How each was measured, and what is unfair\n")
    for result in results:
        lines = [f"- {text}" for text in (*result.remarks, *(f"Unfair: {text}" for text in result.unfair))]
        parts.append("\n".join([f"**{result.name}**\n", *lines, ""]))
    parts.append("## The samples\n\nThe spread is the width of the middle half as a share of the median.\n")
    parts.append(_grid(SAMPLE_HEADS, _samples(results)))
    parts.append("## The machine\n")
    parts.append(_grid(("", ""), list(machine.items())))
    return "\n".join(parts).rstrip() + "\n"


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table as text."""
    least = "at least " if row.peer_least else ""
    peer = "" if row.peer is None else least + number(row.peer, row.unit)
    ratio = "" if row.ratio is None else f"{'> ' if row.peer_least else ''}{_digits(row.ratio)} x"
    met = "" if row.met is None else ("yes" if row.met else "NO")
    return row.what, number(row.ours, row.unit), peer, row.peer_is, ratio, _target(row), met


def number(value: float, unit: str) -> str:
    """Return a value with three digits or so, and its unit."""
    if unit == "ms" and abs(value) >= 10_000:
        value, unit = value / 1_000, "s"
    return f"{_digits(value)}{'' if unit == '%' or not unit else ' '}{unit}"


def _digits(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _target(row: Row) -> str:
    bounds = []
    if row.most is not None:
        bounds.append(f"at most {number(row.most, row.unit)}")
    if row.least is not None:
        bounds.append(f"at least {number(row.least, row.unit)}")
    if row.least_ratio is not None:
        bounds.append(f"at least {row.least_ratio:g} x")
    return ", ".join(bounds)


def _samples(results: Sequence[Result]) -> list[tuple[str, ...]]:
    rows = []
    for result in results:
        for name, s in result.samples.items():
            values = (number(value, s.unit) for value in (s.p50, s.p95, s.p99, s.low, s.high))
            rows.append((result.name, name, str(s.count), *values, f"{100 * s.spread:.0f} %"))
    return rows


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
