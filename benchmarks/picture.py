"""Draw the figures as one picture: ``python -m benchmarks.picture`` draws the last ones again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.clocks import PARTS
from benchmarks.entrants import CELERY, OURS, UNPACKED
from benchmarks.from_zero import BARE, SPARED
from benchmarks.harness import Result, Summary
from benchmarks.map_at_size import rates_of
from benchmarks.maps import WORDS
from benchmarks.memory import ALONE, COUNTS, sample
from benchmarks.payloads import SIZES
from benchmarks.submit import SPAWN_MAP

INK, QUIET, GRID = "#1f2933", "#7b8794", "#e4e7eb"
ACCENT, ACCENT_LIGHT, PEER, PEER_CELERY = "#d9480f", "#ffb08a", "#cbd2d9", "#9aa5b1"
PART_COLOURS = ("#fdd0b5", "#fbb38a", "#f28c52", "#d9480f", "#a63603", "#f2b134", "#ffe3a3", "#c9a66b")
WIDTH, HEIGHT, DOTS = 10.0, 12.4, 100
"""Inches, and dots per inch: a README shows about a thousand dots."""
LABELS = {OURS: "scaleplug", UNPACKED: "packing off", SPAWN_MAP: "spawn_map", BARE: "no spare", SPARED: "a spare"}

Samples = dict[str, dict[str, Summary]]


def draw(results: Sequence[Result], machine: Mapping[str, str], path: Path) -> None:
    """Write the picture; what was not measured stays empty."""
    import matplotlib as mpl  # noqa: PLC0415  # a development dependency that takes a second, and a run may do without

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    samples = {result.name: result.samples for result in results}
    with plt.rc_context({"font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.edgecolor": GRID}):
        figure = plt.figure(figsize=(WIDTH, HEIGHT), dpi=DOTS, facecolor="white")
        grid = figure.add_gridspec(
            4, 6, height_ratios=(1.25, 1.25, 0.8, 1.05), hspace=0.5, wspace=1.0, left=0.11, right=0.975, top=0.895,
            bottom=0.05,
        )  # fmt: skip
        _head(figure, machine)
        panels: tuple[tuple[Any, Callable[[Any, Samples], None]], ...] = (
            (grid[0, 0:3], lambda axes, found: _maps(axes, found, 1)),
            (grid[0, 3:6], lambda axes, found: _maps(axes, found, 2)),
            (grid[1, 0:3], _round_trips),
            (grid[1, 3:6], _submits),
            (grid[2, 0:6], _starts),
            (grid[3, 0:2], _memory),
            (grid[3, 2:4], _payloads),
            (grid[3, 4:6], _size),
        )
        for place, panel in panels:
            axes = figure.add_subplot(place)
            try:
                panel(axes, samples)
            except (KeyError, ValueError):  # its measurement, or an entrant, is missing
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not measured", ha="center", va="center", color=QUIET, transform=axes.transAxes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor="white")
        plt.close(figure)


def _head(figure: Any, machine: Mapping[str, str]) -> None:
    figure.text(
        0.02, 0.968, "scaleplug beside plain Celery, dramatiq, rq, huey, arq and taskiq", size=15, weight="bold"
    )
    where = f"{machine['cores']} cores, {machine['memory']}, {machine['date']}; the same Redis, in turns; medians"
    figure.text(0.02, 0.948, f"{where}. Orange is scaleplug.", size=10, color=QUIET)


def _title(axes: Any, text: str, more: str) -> None:
    axes.set_title(text, loc="left", size=11, weight="bold", pad=20, x=0)
    axes.text(0, 1.03, more, transform=axes.transAxes, size=9, color=QUIET, va="bottom")


def _bars(axes: Any, found: dict[str, Summary], unit: str, *, log: bool) -> None:
    """Draw a bar for each, the best on top, its value beside it; ``log`` where more is better."""
    names = sorted(found, key=lambda name: found[name].p50, reverse=log)
    values = [found[name].p50 for name in names]
    axes.barh(range(len(names)), values, color=[_colour(name) for name in names], height=0.72)
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], color=INK)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 6)
    else:
        axes.set_xlim(0, max(values) * 1.75)
    for place, name in enumerate(names):
        tail = "" if log else f", p99 {report.number(found[name].p99, '')}"
        label = f" {report.number(found[name].p50, unit)}{tail}"
        axes.text(
            values[place], place, label, va="center", size=9, weight="bold" if name.startswith(OURS) else "normal"
        )
    _clean(axes)


def _clean(axes: Any) -> None:
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, which="both")
    axes.set_xticks([])
    axes.minorticks_off()


def _colour(name: str) -> str:
    if name.startswith(OURS):
        return ACCENT_LIGHT if name == UNPACKED else ACCENT
    return PEER_CELERY if name == CELERY else PEER


def _maps(axes: Any, samples: Samples, workers: int) -> None:
    ending = f", {WORDS[workers]}"
    found = {name.removesuffix(ending): s for name, s in samples["maps"].items() if name.endswith(ending)}
    _bars(axes, found, "/s", log=True)
    _title(axes, f"10,000 no-ops mapped, {WORDS[workers]}", "per second, log scale; more is better")


def _round_trips(axes: Any, samples: Samples) -> None:
    _bars(axes, samples["round_trip"], "ms", log=False)
    _title(axes, "One call and its result, warm", "median, and the slowest hundredth; less is better")


def _submits(axes: Any, samples: Samples) -> None:
    _bars(axes, samples["submit"], "/s", log=True)
    _title(axes, "Calls submitted by one thread", "per second, log scale; more is better")


def _starts(axes: Any, samples: Samples) -> None:
    found = samples["from_zero"]
    names = [name for name in (BARE, SPARED) if name in found][::-1]
    totals = {name: sum(found[f"{name}: {part}"].p50 for part in PARTS) for name in names}
    longest = max(totals.values())
    for place, name in enumerate(names):
        left = 0.0
        for part, colour in zip(PARTS, PART_COLOURS, strict=True):
            value = found[f"{name}: {part}"].p50
            axes.barh(place, value, left=left, color=colour, height=0.62, edgecolor="white", lw=0.8)
            if value > 0.055 * longest:
                dark = colour in {"#d9480f", "#a63603"}
                text = f"{part}\n{value:.1f}"
                axes.text(
                    left + value / 2, place, text, ha="center", va="center", size=8.5, color="white" if dark else INK
                )
            left += value
        small = [f"{p} {found[f'{name}: {p}'].p50:.1f}" for p in PARTS if found[f"{name}: {p}"].p50 <= 0.055 * longest]
        axes.text(left, place + 0.07, f"  {found[name].p50:.1f} ms", va="bottom", size=10.5, weight="bold")
        axes.text(left, place - 0.07, "  " + ", ".join(small), va="top", size=8, color=QUIET)
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names])
    axes.set_xlim(0, longest * 1.42)
    _clean(axes)
    workers = [(w, found[f"celery worker, {w}"].p50) for w in ("lean", "defaults") if f"celery worker, {w}" in found]
    told = ", ".join(f"{report.number(value, 'ms')} ({which})" for which, value in workers)
    _title(
        axes,
        "From zero containers to the first result",
        f"ms; the start of a celery worker and its first result: {told}",
    )


def _memory(axes: Any, samples: Samples) -> None:
    found = samples["memory"]
    names = [sample(ALONE, count) for count in COUNTS]
    values = [found[name].p50 for name in names] + [found["celery worker"].p50]
    labels = [*(f"{count}" for count in COUNTS), "celery\nworker"]
    axes.bar(range(len(values)), values, color=[ACCENT] * len(names) + [PEER_CELERY], width=0.7)
    for place, value in enumerate(values):
        axes.text(place, value, f"{value:.1f}", ha="center", va="bottom", size=9)
    axes.set_xticks(range(len(values)), labels, size=9)
    axes.set_ylim(0, max(values) * 1.12)
    _upright(axes)
    _title(axes, "Memory per idle container", "MiB PSS, by how many there are")


def _payloads(axes: Any, samples: Samples) -> None:
    found = samples["payloads"]
    for offset, (name, colour) in enumerate(((OURS, ACCENT), (CELERY, PEER_CELERY))):
        for place, shown in enumerate(SIZES):
            value = found[f"{name}, {shown}"].p50
            axes.bar(place + 0.4 * offset, value, color=colour, width=0.38)
            axes.text(place + 0.4 * offset, value, report.number(value, ""), ha="center", va="bottom", size=8)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 2, high * 2)
    axes.set_xticks([place + 0.2 for place in range(len(SIZES))], list(SIZES), size=9)
    _upright(axes)
    _title(axes, "Bytes there and back", "MB/s, log scale; grey: Celery, pickle")


def _size(axes: Any, samples: Samples) -> None:
    rates = rates_of(samples["map_at_size"])
    axes.plot(range(1, 11), rates, color=ACCENT, lw=2.5, marker="o", ms=4)
    axes.set_ylim(0, max(rates) * 1.25)
    for place in (0, 9):
        axes.text(place + 1, rates[place] * 1.06, f"{rates[place]:,.0f}", ha="center", va="bottom", size=9)
    axes.set_xticks([1, 5, 10], ["first tenth", "", "last"], size=9)
    axes.set_xlim(0, 11)
    _upright(axes)
    _title(axes, "A very large map", "results per second, by tenths of it")


def _upright(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, which="both")
    axes.set_yticks([])
    axes.minorticks_off()


if __name__ == "__main__":
    from benchmarks.__main__ import FIGURES, PICTURE

    read, facts = report.read_json(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES)
    draw(read, facts, PICTURE)
