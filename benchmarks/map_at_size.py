"""A map of a million inputs from a generator: does it keep its speed, and how much memory does it take."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.contest import contest
from benchmarks.entrants import OURS, SCALEPLUG
from benchmarks.harness import Plan, Result, Row, Summary
from scaleplug.embedded import EmbeddedRedis

INPUTS, QUICK_INPUTS = 1_000_000, 100_000
BUDGET, QUICK_BUDGET = 150, 8
"""Seconds after which a map is left."""
LEAST_SHARE = 0.8
"""Of the rate of the median tenth, that the last one may have."""
MOST_MEMORY = {"caller": 100.0, "containers": 50.0, "redis": 50.0}
"""MiB that each may grow by."""


def measure(plan: Plan) -> Result:
    inputs, budget = plan.rounds(INPUTS, QUICK_INPUTS), plan.rounds(BUDGET, QUICK_BUDGET)
    with EmbeddedRedis() as redis, contest((SCALEPLUG,), redis.url, workers=2) as found:
        found.turn(OURS, "map", inputs=1_000)
        told: dict[str, Any] | None = found.turn(
            OURS, "map_at_size", inputs=inputs, budget=budget, patience=2 * budget + 30
        )
    if told is None:
        raise RuntimeError(found.missing[-1])
    marks = [(int(done), float(at)) for done, at in told["marks"]]
    done, took = marks[-1]
    rates = tenths(marks)
    middle = sorted(rates)[len(rates) // 2]
    names = {"caller": "the caller (RSS)", "containers": "two containers (RSS)", "redis": "Redis (used_memory)"}
    return Result(
        name="map_at_size",
        rows=(
            Row(
                what=f"a map of {inputs:,} from a generator, two containers: results within {budget} s",
                unit="",
                ours=done,
                peer=None,
                peer_is="",
                least=inputs,
            ),
            Row(
                what="the same: its last tenth, beside its median tenth",
                unit="/s",
                ours=rates[-1],
                peer=middle,
                peer_is="its own median tenth",
                least_ratio=LEAST_SHARE,
                more_is_better=True,
            ),
            *(
                Row(
                    what=f"the same: peak of {shown}, beyond {told['before'][name]:.0f} MiB before",
                    unit="MiB",
                    ours=told["peaks"][name] - told["before"][name],
                    peer=None,
                    peer_is="",
                    most=MOST_MEMORY[name],
                )
                for name, shown in names.items()
            ),
        ),
        samples={f"tenth {number}": Summary.of([rate], "/s") for number, rate in enumerate(rates, start=1)},
        remarks=(
            f"{done:,} results in {took:.1f} s; by tenths: {', '.join(f'{rate:,.0f}' for rate in rates)} a second.",
            "A group of a million would be held in memory whole, by Celery's caller and by Redis; it was not tried.",
            *found.missing,
        ),
    )


def rates_of(samples: dict[str, Summary]) -> list[float]:
    """Return the rate of each tenth, from the samples of :func:`measure`."""
    return [samples[f"tenth {number}"].p50 for number in range(1, 11)]


def tenths(marks: list[tuple[int, float]]) -> list[float]:
    """Return the rate of each tenth of what was done, given (how many, when) from (0, 0) on."""
    done = marks[-1][0]
    times = [_time_of(marks, done * n / 10) for n in range(11)]
    return [done / 10 / max(end - start, 1e-9) for start, end in itertools.pairwise(times)]


def _time_of(marks: list[tuple[int, float]], count: float) -> float:
    for (low, start), (high, end) in itertools.pairwise(marks):
        if low <= count <= high:
            return start + (end - start) * (count - low) / (high - low)
    return marks[-1][1]
