"""Calls and maps on one container that runs already, beside one Celery worker. For information: there is no target."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary, seconds
from benchmarks.surroundings import surroundings
from benchmarks.workers import LEAN, Peer

BLOCK = 50


def measure(plan: Plan) -> Result:
    ours: list[float] = []
    theirs: list[float] = []
    our_rates: list[float] = []
    their_rates: list[float] = []
    inputs = list(range(plan.rounds(5_000, 1_000)))
    with surroundings(functions.app, functions.warm) as around:
        peer = Peer(around.redis.url)
        with peer.worker("--pool", "solo", *LEAN):
            for _ in range(BLOCK):
                functions.warm.remote(0)
                peer.call("echo", 0)
            for _ in range(plan.rounds(10, 4)):
                ours += [1000 * seconds(lambda: functions.warm.remote(1)) for _ in range(BLOCK)]
                theirs += [1000 * seconds(lambda: peer.call("echo", 1)) for _ in range(BLOCK)]
            for _ in range(plan.rounds(2, 1)):
                our_rates.append(len(inputs) / _checked(lambda: list(functions.warm.map(inputs)), inputs))
                their_rates.append(len(inputs) / _checked(lambda: peer.map("echo", inputs), inputs))
    mine, peers = Summary.of(ours, "ms"), Summary.of(theirs, "ms")
    rate, their_rate = Summary.of(our_rates, "/s"), Summary.of(their_rates, "/s")
    solo = "celery worker -P solo, lean"
    return Result(
        name="round_trip",
        rows=(
            Row(what="remote(), warm, p50", unit="ms", ours=mine.p50, peer=peers.p50, peer_is=f"delay().get(), {solo}"),
            Row(what="remote(), warm, p99", unit="ms", ours=mine.p99, peer=peers.p99, peer_is=f"delay().get(), {solo}"),
            Row(
                what=f"{len(inputs):,} no-ops mapped on one container",
                unit="/s",
                ours=rate.p50,
                peer=their_rate.p50,
                peer_is=f"group()().get(), {solo}",
                more_is_better=True,
            ),
        ),
        samples={"remote()": mine, "delay().get()": peers, "map": rate, "group": their_rate},
        unfair=("A map sends its inputs and reads its results in bulk; a group does both one by one.",),
    )


def _checked(run: Callable[[], list[int]], inputs: list[int]) -> float:
    """Return the seconds that a map takes; raises RuntimeError if its results are wrong."""
    began = time.perf_counter()
    results = run()
    took = time.perf_counter() - began
    if results != inputs:
        raise RuntimeError("the results of a map are not what was sent")
    return took
