"""How many calls a second one thread can submit while nobody takes them, beside plain Celery and the peers."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.contest import contest
from benchmarks.entrants import CELERY, OURS, PLAIN_CELERY, SCALEPLUG, descriptions, ready_peers
from benchmarks.harness import Plan, Result, Row, Summary
from scaleplug.embedded import EmbeddedRedis

CALLS, QUICK_CALLS = 2_000, 1_000
MANY = 100_000
SPAWN_MAP = "scaleplug, spawn_map"
LEAST, LEAST_MAP = 5.0, 30.0


def measure(plan: Plan) -> Result:
    peers, missing = ready_peers()
    rates = defaultdict(list)
    entrants = (SCALEPLUG, PLAIN_CELERY, *peers)
    with (
        EmbeddedRedis() as redis,
        contest(entrants, redis.url, workers=0, missing=missing, warm=False) as found,
    ):
        for name in found.names:
            found.turn(name, "submit", calls=100)
        calls = plan.rounds(CALLS, QUICK_CALLS)
        for _ in range(plan.rounds(5, 2)):
            for name in found.names:
                took = found.turn(name, "submit", calls=calls)
                if took is not None:
                    rates[name].append(calls / took)
        for _ in range(plan.rounds(3, 1)):
            took = found.turn(OURS, "submit_map", inputs=MANY)
            if took is not None:
                rates[SPAWN_MAP].append(MANY / took)
    samples = {name: Summary.of(values, "/s") for name, values in rates.items()}
    others = sorted(samples.keys() - {OURS, SPAWN_MAP, CELERY}, key=lambda name: -samples[name].p50)
    pairs = (
        ("spawn from one thread", OURS, CELERY, LEAST),
        (f"spawn_map of {MANY:,}", SPAWN_MAP, CELERY, LEAST_MAP),
        *(("spawn from one thread", OURS, name, None) for name in others),
    )
    return Result(
        name="submit",
        rows=tuple(
            Row(
                what=what,
                unit="/s",
                ours=samples[ours].p50,
                peer=samples[peer].p50,
                peer_is="celery, delay" if peer == CELERY else f"{peer}, one by one",
                least_ratio=least,
                more_is_better=True,
            )
            for what, ours, peer, least in pairs
            if {ours, peer} <= samples.keys()
        ),
        samples=samples,
        unfair=(
            "In the peers' favour: nobody serves their queues; ours has a controller that looks, and a busy container.",
            "spawn_map sends in bulk; it is compared with delay, since Celery's groups send one by one too.",
        ),
        remarks=(*descriptions(list(samples)), *found.missing),
    )
