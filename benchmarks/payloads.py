"""Bytes there and back: arguments and results of three sizes, beside plain Celery with pickle."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from benchmarks.contest import contest
from benchmarks.entrants import CELERY, OURS, PLAIN_CELERY, SCALEPLUG
from benchmarks.harness import Plan, Result, Row, Summary
from benchmarks.peer import SERIALIZER
from scaleplug.embedded import EmbeddedRedis

KIB, MIB = 1024, 1024 * 1024
SIZES = {"1 KiB": (KIB, 500, True), "100 KiB": (100 * KIB, 100, True), "10 MiB": (10 * MIB, 3, False)}
"""Bytes, how many of them, and whether together (a map, a group) or one call after the other."""


def measure(plan: Plan) -> Result:
    rates = defaultdict(list)
    pickling = replace(PLAIN_CELERY, environ=((SERIALIZER, "pickle"), ("C_FORCE_ROOT", "1")))
    with EmbeddedRedis() as redis, contest((SCALEPLUG, pickling), redis.url) as found:
        for _ in range(plan.rounds(5, 1)):
            for shown, (size, count, together) in SIZES.items():
                for name in found.names:
                    took = found.turn(name, "payloads", size=size, count=count, together=together)
                    if took is not None:
                        rates[f"{name}, {shown}"].append(2 * size * count / took / 1e6)
    samples = {name: Summary.of(values, "MB/s") for name, values in rates.items()}
    return Result(
        name="payloads",
        rows=tuple(
            Row(
                what=f"{shown} there and back, {'a map of' if together else 'calls in turn,'} {count}",
                unit="MB/s",
                ours=samples[f"{OURS}, {shown}"].p50,
                peer=samples[f"{CELERY}, {shown}"].p50 if f"{CELERY}, {shown}" in samples else None,
                peer_is="celery with pickle, " + ("a group" if together else "delay().get()"),
                more_is_better=True,
            )
            for shown, (size, count, together) in SIZES.items()
        ),
        samples=samples,
        unfair=("Ours signs, and hashes what is large; Celery encodes pickles as base64 text inside JSON.",),
        remarks=("Random bytes; both directions count.", *found.missing),
    )
