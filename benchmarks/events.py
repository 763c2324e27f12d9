"""What it costs a map of no-ops that Flower can watch it: task events of each pack, or of each input."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from benchmarks.contest import contest
from benchmarks.entrant_functions import EVENTS
from benchmarks.entrants import OURS, SCALEPLUG
from benchmarks.harness import Plan, Result, Row, Summary
from scaleplug.embedded import EmbeddedRedis

INPUTS = 10_000
WARM = 1_000
PACKS, EACH = "task events of each pack", "task events of each input (SCALEPLUG_PACKED_EVENTS=1)"
ENTRANTS = (
    SCALEPLUG,
    replace(SCALEPLUG, name=PACKS, environ=((EVENTS, "1"),)),
    replace(SCALEPLUG, name=EACH, environ=((EVENTS, "1"), ("SCALEPLUG_PACKED_EVENTS", "1"))),
)


def measure(plan: Plan) -> Result:
    rates = defaultdict(list)
    with EmbeddedRedis() as redis, contest(ENTRANTS, redis.url) as found:
        for name in found.names:
            found.turn(name, "map", inputs=WARM)
        for _ in range(plan.rounds(7, 3)):
            for name in found.names:
                took = found.turn(name, "map", inputs=INPUTS)
                if took is not None:
                    rates[name].append(INPUTS / took)
    samples = {name: Summary.of(values, "/s") for name, values in rates.items()}
    silent = samples[OURS].p50
    return Result(
        name="events",
        rows=tuple(
            Row(
                what=f"{INPUTS:,} no-ops mapped on one container, {name}",
                unit="/s",
                ours=samples[name].p50,
                peer=silent,
                peer_is="scaleplug without task events",
                more_is_better=True,
            )
            for name in (PACKS, EACH)
            if name in samples
        ),
        samples=samples,
        remarks=(
            "Nobody listens to the events here; Flower itself takes in about 7,000 inputs a second.",
            *found.missing,
        ),
    )
