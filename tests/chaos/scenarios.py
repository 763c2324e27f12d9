"""Every scenario, in the long form that `make chaos` runs and in the short one that the tests run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos import containers, controllers, deploys, functions
from tests.chaos.harness import Report

AT_ONCE = {"solo": 1, "threads": functions.AT_ONCE, "asyncio": functions.AT_ONCE, "eventlet": functions.AT_ONCE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One of them; ``p50`` and ``p99`` are the most that its recoveries may take in seconds, in the long form."""

    long: Callable[[], Report]
    short: Callable[[], Report]
    p50: float | None = None
    p99: float | None = None

    def misses(self, report: Report) -> list[str]:
        """Return what a report of the long form has not reached."""
        found = [] if report.whole else ["not every input has come through"]
        if self.p50 is not None and report.p50 > self.p50:
            found.append(f"p50 is {report.p50:.3f} s and may be {self.p50:g} s")
        if self.p99 is not None and report.p99 > self.p99:
            found.append(f"p99 is {report.p99:.3f} s and may be {self.p99:g} s")
        return found


def _killed(pool: str) -> Scenario:
    return Scenario(
        long=lambda: containers.killed(pool, inputs=10_000 * AT_ONCE[pool], every=2.0),
        short=lambda: containers.killed(pool, inputs=400 * AT_ONCE[pool], every=0.5),
        p50=0.3, p99=1.5,
    )  # fmt: skip


def _frozen(pool: str) -> Scenario:
    return Scenario(
        long=lambda: containers.frozen(pool, inputs=10_000 * AT_ONCE[pool], every=2.0),
        short=lambda: containers.frozen(pool, inputs=400 * AT_ONCE[pool], every=0.4, timeout=0.5),
        p99=3.0,
    )  # fmt: skip


def _asked_to_leave(pool: str, signals: int) -> Scenario:
    return Scenario(
        long=lambda: containers.asked_to_leave(pool, signals=signals, every=0.1),
        short=lambda: containers.asked_to_leave(pool, signals=20, every=0.1),
        p99=1.0,
    )  # fmt: skip


LONG_ONLY = frozenset({"frozen-asyncio", "frozen-eventlet", "sigterm-threads", "sigterm-asyncio"})
"""Those whose short form the tests leave out: the other pools' show the same."""

SCENARIOS: Mapping[str, Scenario] = {
    **{f"killed-{pool}": _killed(pool) for pool in functions.POOLS},
    **{f"frozen-{pool}": _frozen(pool) for pool in functions.POOLS},
    **{f"sigterm-{pool}": _asked_to_leave(pool, 1_000 if pool == "solo" else 200) for pool in functions.POOLS},
    "controller-killed": Scenario(
        long=lambda: controllers.lost("solo", signal.SIGKILL, inputs=10_000, every=5.0),
        short=lambda: controllers.lost("solo", signal.SIGKILL, inputs=800, every=0.5),
        p99=controllers.STANDBY_SECONDS,
    ),
    "leader-frozen": Scenario(
        long=lambda: controllers.lost("solo", signal.SIGSTOP, inputs=10_000, every=5.0),
        short=lambda: controllers.lost("solo", signal.SIGSTOP, inputs=800, every=0.5),
        p99=controllers.STANDBY_SECONDS,
    ),
    "zygote-killed": Scenario(
        long=lambda: controllers.zygotes_killed("solo", inputs=10_000, every=5.0),
        short=lambda: controllers.zygotes_killed("solo", inputs=400, every=1.5),
    ),
    "deploys": Scenario(
        long=lambda: deploys.rolling(pause=20.0),
        short=lambda: deploys.rolling(pause=0.5),
    ),
    "renamed": Scenario(
        long=lambda: deploys.renamed(inputs=1_000),
        short=lambda: deploys.renamed(inputs=300),
    ),
}
