"""Run the scenarios in their long form, or some of them: a line each, and at the end what was missed."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import sys

from tests.chaos.scenarios import SCENARIOS


def main() -> int:
    """Return how many scenarios missed something."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all if none is named")
    parser.add_argument("--short", action="store_true", help="in the form that the tests run")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario is called {', '.join(unknown)}: they are {', '.join(SCENARIOS)}")
    for sig in (signal.SIGTERM, signal.SIGINT):  # so that what a scenario has started ends with it
        signal.signal(sig, lambda number, _: sys.exit(128 + number))
    logging.getLogger("scaleplug").setLevel(logging.CRITICAL)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)  # noqa: T201
    missed = 0
    for name in options.names or SCENARIOS:
        scenario = SCENARIOS[name]
        report = scenario.short() if options.short else scenario.long()
        misses = scenario.misses(report)
        missed += bool(misses)
        print(report.line(), *(f"  MISSED: {miss}" for miss in misses), sep="\n", flush=True)  # noqa: T201
    print("all reached" if not missed else f"{missed} scenarios missed something")  # noqa: T201
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
