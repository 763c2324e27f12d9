"""From the publish of an input on an idle function to the decision to start its container."""

from __future__ import annotations

import time

from benchmarks.harness import Plan, Result, Row, Summary
from benchmarks.probes import app, probes
from benchmarks.surroundings import surroundings

POLL = 1.0
PAUSE = 0.05
"""Seconds between two rounds."""


def measure(plan: Plan) -> Result:
    requested: list[float] = []
    ready: list[float] = []
    *measured, last = used = probes[: plan.rounds(120, 30)]
    with surroundings(app, *used) as around:
        last.remote()  # the zygote has prepared every function when this one has run
        around.wait_for_zero(last)
        for function in measured:
            published = time.time()
            call = function.spawn()
            call.get(timeout=30)
            [record] = around.containers(function).values()
            requested.append(1000 * (float(record["requested"]) - published))
            ready.append(1000 * (float(record["ready"]) - published))
            time.sleep(PAUSE)
    decided, started = Summary.of(requested, "ms"), Summary.of(ready, "ms")
    polled = Summary.of([1000 * POLL * n / 1000 for n in range(1_000)], "ms")
    return Result(
        name="decision",
        rows=(
            Row(
                what="publish on an idle function to the decision to start, p99",
                unit="ms",
                ours=decided.p99,
                peer=polled.p99,
                peer_is="a poll each 1 s (arithmetic: even between 0 and 1 s)",
                most=20,
            ),
            Row(
                what="the same, p50",
                unit="ms",
                ours=decided.p50,
                peer=polled.p50,
                peer_is="a poll each 1 s (arithmetic)",
            ),
        ),
        samples={"publish to decision": decided, "publish to a ready container": started, "poll, arithmetic": polled},
        unfair=("The peer's figure is arithmetic: a real poll adds the work of polling.",),
        remarks=(
            f"{len(measured)} functions, each called once, from zero containers.",
            "Published: the caller's clock just before spawn().",
            "Decided: the clock of Redis, on the same host, when the controller read the load that it decided on.",
            f"The slowest of all decisions took {decided.high:.1f} ms.",
            f"The order goes out a moment later; the container is ready {started.p50:.1f} ms (p50) after the publish.",
        ),
    )
