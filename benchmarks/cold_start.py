"""From zero containers to the first result, beside the start of a Celery worker."""

from __future__ import annotations

import time

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary, seconds
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import LEAN, Peer

SETTLE = 0.2
"""Seconds between the end of the last container and the next round."""


def measure(plan: Plan) -> Result:
    ours: list[float] = []
    defaults: list[float] = []
    lean: list[float] = []
    with surroundings(functions.app, functions.cold) as around:
        peer = Peer(around.redis.url)
        functions.cold.remote()  # the first call of all waits until the zygote has imported the app
        _first_result(peer, "--pool", "solo", *LEAN)
        for number in range(plan.rounds(24, 5)):
            _wait(around)
            ours.append(1000 * seconds(functions.cold.remote))
            # while our container waits for its scale-down window, both kinds of worker in turn
            if number % 2 == 0 or plan.quick:
                defaults.append(1000 * _first_result(peer))
            lean.append(1000 * _first_result(peer, "--pool", "solo", *LEAN))
    mine, theirs, leanest = (Summary.of(s, "ms") for s in (ours, defaults, lean))
    what = "zero containers to the first result, p50"
    return Result(
        name="cold_start",
        rows=(
            Row(
                what=what,
                unit="ms",
                ours=mine.p50,
                peer=theirs.p50,
                peer_is="celery worker, its defaults",
                most=80,
                least_ratio=15,
            ),
            Row(what=what, unit="ms", ours=mine.p50, peer=leanest.p50, peer_is="celery worker -P solo, lean"),
        ),
        samples={"from zero": mine, "celery worker, defaults": theirs, "celery worker, lean": leanest},
        unfair=(
            "Ours forks a process that has imported the app and set up its worker; Celery's starts an interpreter.",
            "Without a container ours still has a controller and a zygote in memory; Celery has nothing.",
        ),
        remarks=(f"Lean is a worker with {' '.join(LEAN)}.",),
    )


def _wait(around: Surroundings) -> None:
    around.wait_for_zero(functions.cold)
    time.sleep(SETTLE)


def _first_result(peer: Peer, *options: str) -> float:
    """Return the seconds from the start of a worker to the first result."""
    began = time.perf_counter()
    with peer.worker(*options):
        peer.call("nothing")
        return time.perf_counter() - began
