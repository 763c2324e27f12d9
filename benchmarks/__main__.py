"""Run the benchmarks: all, or one; print the table, keep the figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks import (
    aio_calls,
    concurrency,
    decision,
    docker,
    events,
    from_zero,
    idle,
    imports,
    kill,
    large_values,
    map_at_size,
    maps,
    memory,
    payloads,
    picture,
    ramp,
    report,
    round_trip,
    settings,
    short_inputs,
    streams,
    submit,
)
from benchmarks.entrants import ready_peers
from benchmarks.harness import Plan, Result, time_limit
from benchmarks.machine import facts

MEASUREMENTS: dict[str, Callable[[Plan], Result]] = {
    "maps": maps.measure,
    "round_trip": round_trip.measure,
    "submit": submit.measure,
    "from_zero": from_zero.measure,
    "ramp": ramp.measure,
    "memory": memory.measure,
    "idle": idle.measure,
    "map_at_size": map_at_size.measure,
    "payloads": payloads.measure,
    "imports": imports.measure,
    "short_inputs": short_inputs.measure,
    "kill": kill.measure,
    "decision": decision.measure,
    "docker": docker.measure,
    "settings": settings.measure,
    "streams": streams.measure,
    "aio_calls": aio_calls.measure,
    "concurrency": concurrency.measure,
    "large_values": large_values.measure,
    "events": events.measure,
}
LIMIT, QUICK_LIMIT = 900.0, 45.0
"""Seconds that one measurement may take."""
QUICK_BUDGET, LEAST = 168.0, 5.0
"""Seconds that a quick run takes in all: what comes after them, or would have less than ``LEAST``, is left out."""
SLOW = ("docker", "concurrency")
"""What a quick run leaves out from the start: half a minute each, in which several of the others are done."""
MARK = "BENCHMARKS_STARTED_BY"
"""The environment variable by which what was started here is recognised at the end."""
SERVER = "SCALEPLUG_REDIS_BIN"
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "benchmarks.png"
FIGURES = ROOT / "build" / "benchmarks.json"


def main() -> int:
    """Run; return the exit status: 0, or 1 if a measurement failed or left something behind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, in under 3 minutes; writes no page")
    parser.add_argument("--page", action="store_true", help="with --quick: take the time for all, and write the page")
    parser.add_argument("--only", choices=MEASUREMENTS, metavar="NAME", help=f"one of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--json", type=Path, default=FIGURES, metavar="FILE", help="where the figures go")
    options = parser.parse_args()
    os.environ[MARK] = str(os.getpid())
    for variable in [name for name in os.environ if name.startswith("SCALEPLUG_") and name != SERVER]:
        del os.environ[variable]  # ours is measured as it is by default
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that every block ends what it started
    console = Console(width=None if sys.stdout.isatty() else 160)
    machine = facts()
    hurry = options.quick and not options.page and not options.only
    names = [options.only] if options.only else [n for n in MEASUREMENTS if not (hurry and n in SLOW)]
    install_peers(console)
    began = time.monotonic()
    try:
        results = run(names, Plan(quick=options.quick, hurried=hurry), console, hurry=hurry)
    finally:
        left = end_leftovers()
    for line in left:
        console.print(f"left behind, and ended now: {line}", style="red", markup=False)
    machine["load average after"] = f"{os.getloadavg()[0]:.1f}"
    report.print_table(results, console)
    report.write_json(results, machine, options.json)
    if hurry:
        console.print(f"a quick run is without {', '.join(SLOW)}: --only takes one of them, all are in a whole run")
    console.print(f"{time.monotonic() - began:.0f} s; figures: {options.json}", markup=False, highlight=False)
    if len(results) == len(MEASUREMENTS) and (options.page or not options.quick):
        picture.draw(results, machine, PICTURE)
        PAGE.write_text(report.page(results, machine, (time.monotonic() - began) / 60, quick=options.quick))
        console.print(f"page: {PAGE}; picture: {PICTURE}", markup=False, highlight=False)
    return int(bool(left) or len(results) < len(names))


def install_peers(console: Console) -> None:
    """Make the peers' environments where they aren't there yet; that isn't measured."""
    began = time.monotonic()
    _, missing = ready_peers()
    for line in missing:
        console.print(line, style="red", markup=False)
    if time.monotonic() - began > 1:
        console.print(f"peers installed in {time.monotonic() - began:.0f} s", highlight=False)


def run(names: list[str], plan: Plan, console: Console, *, hurry: bool = False) -> list[Result]:
    """Run measurements one after the other; one that fails, or can't be done in a hurry, is told and left out."""
    results = []
    limit, over = LIMIT, time.monotonic() + len(names) * LIMIT
    if hurry:
        limit, over = QUICK_LIMIT, time.monotonic() + QUICK_BUDGET
    for name in names:
        began = time.monotonic()
        if over - began < LEAST:
            console.print(f"{name} is left out: a quick run takes {QUICK_BUDGET:.0f} s", style="red")
            continue
        console.print(f"{name} ...", end=" ", highlight=False)
        try:
            with time_limit(min(limit, over - began)):
                results.append(MEASUREMENTS[name](plan))
            console.print(f"{time.monotonic() - began:.0f} s", highlight=False)
        except Exception:  # noqa: BLE001  # the others can still be measured
            console.print("failed", style="red")
            console.print_exception()
    return results


def end_leftovers() -> list[str]:
    """End, by its id, every process that was started here and has not ended by itself; return what they were."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]:
                process.wait(2.0)  # it may be about to end
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == os.environ[MARK]:
                left.append(f"{process.pid}: {' '.join(process.cmdline())}")
                process.kill()
    return left


if __name__ == "__main__":
    sys.exit(main())
