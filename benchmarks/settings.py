"""How long a change of settings takes: the call, and until the containers that it asks for are ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary, seconds
from benchmarks.surroundings import Surroundings, surroundings

CONTAINERS = 4
MOST_CALL, MOST_READY = 5.0, 300.0
"""Milliseconds: the call's median, and the containers' readiness beyond the time one takes to start."""
WAIT_SECONDS = 10.0


def measure(plan: Plan) -> Result:
    calls: list[float] = []
    writes: list[float] = []
    ready: list[float] = []
    started: list[float] = []
    function = functions.adjusted
    with surroundings(functions.app, function) as place:
        function.remote()  # the zygote has imported the code, and a start time is known
        client = place.store.client
        for number in range(plan.rounds(200, 50)):
            calls.append(1000 * seconds(lambda n=number: function.update_autoscaler(scaledown_window=100 + n)))
            writes.append(1000 * seconds(lambda n=number: client.hset("plain", "settings", str(n))))
        function.update_autoscaler(scaledown_window=2)
        for _ in range(plan.rounds(11, 3)):
            _until(place, 0, function)
            begun = time.monotonic()
            function.update_autoscaler(min_containers=CONTAINERS, scaledown_window=2)
            _until(place, CONTAINERS, function)
            ready.append(1000 * (time.monotonic() - begun))
            started.append(1000 * max(_start_times(place, function)))
            function.autoscaler.update(min_containers=None, scaledown_window=2)
    call, write, until, start = (Summary.of(each, "ms") for each in (calls, writes, ready, started))
    return Result(
        name="settings",
        rows=(
            Row(
                what="update_autoscaler(), the call", unit="ms", ours=call.p50, peer=write.p50,
                peer_is="one HSET with redis-py", most=MOST_CALL,
            ),
            Row(
                what=f"update_autoscaler(min_containers={CONTAINERS}) until all are ready", unit="ms", ours=until.p50,
                peer=start.p50, peer_is="the slowest of their starts alone", most=MOST_READY + start.p50,
            ),
        ),
        samples={"the call": call, "HSET": write, "until ready": until, "slowest start": start},
        remarks=("A call reads the registration and what is laid over it, and replaces that in one step.",),
    )  # fmt: skip


def _until(place: Surroundings, count: int, function: Any) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    key = place.store.keys.of("ready", function.full_name)
    while place.store.client.zcard(key) != count or (not count and place.store.containers(function.full_name)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{function} has not come to {count} containers")
        time.sleep(0.001)


def _start_times(place: Surroundings, function: Any) -> Iterator[float]:
    for record in place.store.containers(function.full_name).values():
        yield float(record["ready"]) - float(record["requested"])
