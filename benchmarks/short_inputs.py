"""Two thousand inputs of a millisecond must not start hundreds of containers."""

from __future__ import annotations

import os
import time

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary
from benchmarks.surroundings import surroundings
from benchmarks.workers import Peer

INPUTS = [0.001] * 2_000


def measure(plan: Plan) -> Result:
    ours: list[float] = []
    theirs: list[float] = []
    started: list[int] = []
    cores = os.cpu_count() or 1
    shorts = functions.shorts[: plan.rounds(3, 1)]
    with surroundings(functions.app, functions.cold, *shorts) as around:
        peer = Peer(around.redis.url)
        functions.cold.remote()  # the zygote is there, and knows the functions
        with peer.worker("--pool", "prefork", "--concurrency", str(cores)):
            peer.map("hold", [0.001] * 200)
            for function in shorts:
                began = time.perf_counter()
                for _ in function.map(INPUTS):
                    pass
                ours.append(time.perf_counter() - began)
                started.append(len(around.started(function)))
                began = time.perf_counter()
                peer.map("hold", INPUTS)
                theirs.append(time.perf_counter() - began)
    mine, peers = Summary.of(ours, "s"), Summary.of(theirs, "s")
    running = f"celery worker -P prefork -c {cores}, running already"
    return Result(
        name="short_inputs",
        rows=(
            Row(
                what="2,000 inputs of 1 ms: containers ever started, the most of all rounds",
                unit="",
                ours=max(started),
                peer=None,
                peer_is=f"{cores} processes, always",
                most=20,
            ),
            Row(
                what="2,000 inputs of 1 ms from zero containers, all results",
                unit="s",
                ours=mine.p50,
                peer=peers.p50,
                peer_is=running,
            ),
        ),
        samples={"2,000 x 1 ms": mine, "celery prefork": peers},
        unfair=("A map sends its inputs and reads its results in bulk; a group does both one by one.",),
        remarks=(f"Containers started, by round: {', '.join(map(str, started))}; max_containers is 200.",),
    )
