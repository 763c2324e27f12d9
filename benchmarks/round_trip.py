"""One call and its result on one container that runs already, beside plain Celery and the peers."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.contest import contest
from benchmarks.entrants import CELERY, OURS, PLAIN_CELERY, SCALEPLUG, UNFAIR, descriptions, ready_peers
from benchmarks.harness import Plan, Result, Row, Summary
from scaleplug.embedded import EmbeddedRedis

BLOCK, QUICK_BLOCK = 100, 50
"""Calls of one turn."""
LEAST_RATIO = 1 / 0.7


def measure(plan: Plan) -> Result:
    peers, missing = ready_peers()
    took = defaultdict(list)
    with (
        EmbeddedRedis() as redis,
        contest((SCALEPLUG, PLAIN_CELERY, *peers), redis.url, missing=missing) as found,
    ):
        for _ in range(plan.rounds(10, 3)):
            for name in found.names:
                took[name] += [
                    1000 * s for s in found.turn(name, "round_trips", calls=plan.rounds(BLOCK, QUICK_BLOCK)) or ()
                ]
    samples = {name: Summary.of(values, "ms") for name, values in took.items()}
    rows = []
    if OURS in samples:
        fastest = sorted(samples.keys() - {OURS, CELERY}, key=lambda name: samples[name].p50)
        for name in (CELERY, *fastest):
            least = round(LEAST_RATIO, 2) if name == CELERY else 1.0 if name == fastest[0] else None
            rows += [_row(samples, name, share, least) for share in ("p50", "p99") if name in samples]
    return Result(
        name="round_trip",
        rows=tuple(rows),
        samples=samples,
        unfair=UNFAIR[1:],
        remarks=(*descriptions(list(samples)), *found.missing),
    )


def _row(samples: dict[str, Summary], peer: str, share: str, least: float | None) -> Row:
    return Row(
        what=f"remote(), warm, {share}",
        unit="ms",
        ours=getattr(samples[OURS], share),
        peer=getattr(samples[peer], share),
        peer_is="celery, delay().get()" if peer == CELERY else peer,
        least_ratio=least,
    )
