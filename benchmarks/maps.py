"""Maps of no-ops on one and on two containers, packed and not, beside plain Celery and the peers."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.contest import Contest, contest
from benchmarks.entrants import CELERY, EVERYBODY, OURS, UNFAIR, UNPACKED, descriptions, ready_peers, unknown_settings
from benchmarks.harness import Plan, Result, Row, Summary
from scaleplug.embedded import EmbeddedRedis

INPUTS = 10_000
WARM, QUICK_SECONDS = 300, 1.0
"""Inputs before anything counts; in a quick run so many follow as seem to take so long."""
LEAST = {OURS: 50.0, UNPACKED: 8.0}
LEAST_BEST_PEER = 10.0
WORDS = {1: "one container", 2: "two containers"}


def measure(plan: Plan) -> Result:
    peers, missing = ready_peers()
    rates: dict[int, dict[str, list[float]]] = {}
    with EmbeddedRedis() as redis:
        for workers in WORDS:
            others = () if plan.quick and workers > 1 else peers
            with contest((*EVERYBODY, *others), redis.url, workers=workers, missing=missing) as found:
                rates[workers] = _rates(found, plan)
                missing = found.missing
    samples = {
        f"{name}, {WORDS[workers]}": Summary.of(values, "/s")
        for workers, by_name in rates.items()
        for name, values in by_name.items()
    }
    return Result(
        name="maps",
        rows=tuple(row for workers in WORDS for row in _rows(samples, workers, list(rates[workers]))),
        samples=samples,
        unfair=UNFAIR,
        remarks=(*descriptions(list(rates[1])), *unknown_settings(EVERYBODY), *missing, *_inputs(plan)),
    )


def _rates(found: Contest, plan: Plan) -> dict[str, list[float]]:
    rates = defaultdict(list)
    inputs = dict.fromkeys(found.names, INPUTS)
    for name in found.names:  # what is learned of short inputs is known then, and every cache is warm
        took = found.turn(name, "map", inputs=WARM)
        if plan.quick and took is not None:
            inputs[name] = max(WARM, min(INPUTS, round(WARM * QUICK_SECONDS / took)))
    for _ in range(plan.rounds(3, 1)):
        for name in found.names:
            took = found.turn(name, "map", inputs=inputs[name])
            if took is not None:
                rates[name].append(inputs[name] / took)
    return rates


def _rows(samples: dict[str, Summary], workers: int, names: list[str]) -> list[Row]:
    rate = {name: samples[f"{name}, {WORDS[workers]}"].p50 for name in names}
    peers = sorted((name for name in names if name not in (OURS, UNPACKED, CELERY)), key=lambda n: -rate[n])

    def row(ours: str, peer: str, what: str, least: float | None) -> Row:
        return Row(
            what=what, unit="/s", ours=rate[ours], peer=rate[peer], peer_is=peer, least_ratio=least, more_is_better=True
        )

    what = f"{INPUTS:,} no-ops mapped on {WORDS[workers]}"
    found = [
        row(ours, CELERY, f"{what}{', packing off' if ours == UNPACKED else ''}", LEAST[ours])
        for ours in (OURS, UNPACKED)
        if {ours, CELERY} <= rate.keys()
    ]
    if OURS in rate:
        found += [row(OURS, peer, what, LEAST_BEST_PEER if peer == peers[0] else None) for peer in peers]
    return found


def _inputs(plan: Plan) -> tuple[str, ...]:
    if not plan.quick:
        return ()
    told = f"A quick run: each got as many inputs as seemed to take {QUICK_SECONDS:g} s"
    return (f"{told}, and on two containers the peers but for Celery were left out.",)
