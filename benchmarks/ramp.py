"""A hundred inputs of a second each, from zero containers, beside a worker with a hundred threads."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import Peer

INPUTS = 100


def measure(plan: Plan) -> Result:
    ours: list[float] = []
    theirs: list[float] = []
    containers: list[int] = []
    starts: list[float] = []
    bursts = functions.bursts[: plan.rounds(3, 1)]
    with surroundings(functions.app, functions.cold, *bursts) as around:
        peer = Peer(around.redis.url)
        functions.cold.remote()  # the zygote is there, and knows the functions
        with peer.worker("--pool", "threads", "--concurrency", str(INPUTS)):
            peer.map("hold", [0.01] * INPUTS)
            for function in bursts:
                began = time.perf_counter()
                processes = list(function.map([1.0] * INPUTS))
                ours.append(time.perf_counter() - began)
                containers.append(len(set(processes)))
                starts.append(_starts_per_second(around, function))
                around.wait_for_zero(function)
                began = time.perf_counter()
                peer.map("hold", [1.0] * INPUTS)
                theirs.append(time.perf_counter() - began)
    mine, peers, rate = Summary.of(ours, "s"), Summary.of(theirs, "s"), Summary.of(starts, "/s")
    return Result(
        name="ramp",
        rows=(
            Row(
                what="100 inputs of 1 s from zero containers, all results",
                unit="s",
                ours=mine.p50,
                peer=peers.p50,
                peer_is="celery worker -P threads -c 100, running already",
                most=2.5,
            ),
            Row(
                what="containers that took part, the fewest of all rounds",
                unit="",
                ours=min(containers),
                peer=None,
                peer_is="1 process with 100 threads",
                least=INPUTS,
            ),
            Row(
                what="containers started per second, from the first order to the last that is ready",
                unit="/s",
                ours=rate.p50,
                peer=None,
                peer_is="",
                more_is_better=True,
            ),
        ),
        samples={"100 x 1 s": mine, "celery threads": peers, "containers started": rate},
        unfair=(
            "In the peer's favour: its worker and its threads run before the first input and stay after the last.",
        ),
        remarks=(
            f"Each of the {len(bursts)} rounds calls a function of which nothing was learned before.",
            f"Median number of containers: {statistics.median(containers):g}.",
        ),
    )


def _starts_per_second(around: Surroundings, function: Any) -> float:
    records = [record for record in around.containers(function).values() if "ready" in record]
    ordered, ready = (sorted(float(record[key]) for record in records) for key in ("requested", "ready"))
    return len(records) / (ready[-1] - ordered[0])
