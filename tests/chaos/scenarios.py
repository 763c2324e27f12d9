"""Every scenario, in the long form that `make chaos` runs and in the short one that the tests run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos import caller_faults, clock_faults, containers, controllers, deploys, functions, redis_faults
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
    # Green threads take more of a processor for each input.
    inputs = 10_000 * (1 if pool == "eventlet" else AT_ONCE[pool])
    return Scenario(
        long=lambda: containers.killed(pool, inputs=inputs, every=2.0),
        short=lambda: containers.killed(pool, inputs=inputs // 25, every=0.5, most=8),
        p50=0.3, p99=1.5,
    )  # fmt: skip


def _frozen(pool: str) -> Scenario:
    return Scenario(
        long=lambda: containers.frozen(pool, inputs=10_000, every=1.0),
        short=lambda: containers.frozen(pool, inputs=400 * AT_ONCE[pool], every=0.4, most=6, timeout=0.5),
        p99=3.0,
    )  # fmt: skip


def _asked_to_leave(pool: str, signals: int) -> Scenario:
    return Scenario(
        long=lambda: containers.asked_to_leave(pool, signals=signals, every=0.1),
        short=lambda: containers.asked_to_leave(pool, signals=20, every=0.1),
        p99=1.0,
    )  # fmt: skip


def _redis_restarted(pool: str, graceful: bool) -> Scenario:
    return Scenario(
        long=lambda: redis_faults.restarted(pool, graceful=graceful, inputs=10_000 * AT_ONCE[pool], down=2.0),
        short=lambda: redis_faults.restarted(pool, graceful=graceful, inputs=400 * AT_ONCE[pool], down=0.2),
        p99=redis_faults.RESUME_SECONDS,
    )  # fmt: skip


def _unreachable(pool: str, how: str) -> Scenario:
    return Scenario(
        long=lambda: redis_faults.unreachable(pool, how=how, seconds=30.0, inputs=5_000 * AT_ONCE[pool]),
        short=lambda: redis_faults.unreachable(pool, how=how, seconds=2.0, inputs=300 * AT_ONCE[pool]),
        p99=redis_faults.NETWORK_SECONDS,
    )  # fmt: skip


def _clocks(containers: float, caller: float) -> Scenario:
    return Scenario(
        long=lambda: clock_faults.wrong(containers=containers, caller=caller),
        short=lambda: clock_faults.wrong(containers=containers, caller=caller),
    )  # fmt: skip


def _many_maps(asynchronous: bool) -> Scenario:
    return Scenario(
        long=lambda: caller_faults.many_maps(asynchronous=asynchronous),
        short=lambda: caller_faults.many_maps(maps=200, asynchronous=asynchronous),
    )  # fmt: skip


LONG_ONLY = frozenset({"frozen-asyncio", "frozen-eventlet", "sigterm-threads", "sigterm-asyncio"}) | {
    "redis-killed-threads", "redis-killed-asyncio", "redis-stopped-solo", "redis-stopped-asyncio",
    "redis-without-writes-threads", "redis-without-writes-solo",
    *(f"network-{how}-{pool}" for how in ("stall", "cut", "swallow") for pool in ("solo", "threads", "asyncio")),
    "clocks-hosts-ahead", "clocks-hosts-behind", "clocks-caller-ahead", "clocks-caller-behind",
} - {"network-stall-threads", "network-cut-solo", "network-swallow-asyncio"}  # fmt: skip
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
        short=lambda: controllers.zygotes_killed("solo", inputs=800, every=0.7, most=8),
    ),
    "deploys": Scenario(
        long=lambda: deploys.rolling(pause=20.0),
        short=lambda: deploys.rolling(pause=0.5),
    ),
    "renamed": Scenario(
        long=lambda: deploys.renamed(inputs=1_000),
        short=lambda: deploys.renamed(inputs=300),
    ),
    **{f"redis-killed-{pool}": _redis_restarted(pool, False) for pool in ("solo", "threads", "asyncio")},
    **{f"redis-stopped-{pool}": _redis_restarted(pool, True) for pool in ("solo", "threads", "asyncio")},
    "redis-set-back": Scenario(
        long=lambda: redis_faults.set_back("threads", inputs=40_000),
        short=lambda: redis_faults.set_back("threads", inputs=1_000),
        p99=redis_faults.RESUME_SECONDS,
    ),
    "redis-emptied": Scenario(
        long=lambda: redis_faults.emptied(down=5.0),
        short=lambda: redis_faults.emptied(inputs=300),
        p99=redis_faults.RESUME_SECONDS,
    ),
    **{
        f"redis-without-writes-{pool}": Scenario(
            long=lambda pool=pool: redis_faults.without_writes(pool, inputs=5_000 * AT_ONCE[pool], seconds=30.0),
            short=lambda pool=pool: redis_faults.without_writes(pool, inputs=200 * AT_ONCE[pool], seconds=2.0),
            p99=redis_faults.RESUME_SECONDS,
        )
        for pool in ("solo", "threads", "asyncio")
    },
    "redis-full": Scenario(
        long=lambda: redis_faults.full(inputs=10_000, seconds=30.0),
        short=lambda: redis_faults.full(inputs=1_500, seconds=5.0),
        p99=redis_faults.RESUME_SECONDS,
    ),
    **{
        f"network-{how}-{pool}": _unreachable(pool, how)
        for how in ("stall", "cut", "swallow")
        for pool in ("solo", "threads", "asyncio")
    },
    "caller-killed": Scenario(
        long=lambda: caller_faults.killed(ttl=60.0, inputs=4_000),
        short=caller_faults.killed,
    ),
    "caller-killed-early": Scenario(
        long=lambda: caller_faults.killed_before_any_container(ttl=60.0, inputs=900),
        short=caller_faults.killed_before_any_container,
    ),
    "cancelled-awaits": Scenario(
        long=caller_faults.cancelled,
        short=lambda: caller_faults.cancelled(awaits=500),
    ),
    "maps-in-threads": _many_maps(False),
    "maps-in-a-loop": _many_maps(True),
    "slow-consumer": Scenario(
        long=lambda: caller_faults.slow_consumer(inputs=10_000),
        short=lambda: caller_faults.slow_consumer(inputs=1_500, kib=16),
    ),
    "million-inputs": Scenario(
        long=lambda: caller_faults.long_map(inputs=1_000_000),
        short=lambda: caller_faults.long_map(inputs=4_000),
    ),
    "clocks-hosts-ahead": _clocks(600.0, 0.0),
    "clocks-hosts-behind": _clocks(-600.0, 0.0),
    "clocks-caller-ahead": _clocks(0.0, 600.0),
    "clocks-caller-behind": _clocks(0.0, -600.0),
    "clocks-apart": _clocks(600.0, -600.0),
}
