"""Many awaited calls at once from one event loop, beside one map of the same inputs on the same warm container."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary, seconds
from benchmarks.surroundings import surroundings

CALLS = 1_000
MOST = 1.5
"""How many times the cost of a map the calls may take."""


def measure(plan: Plan) -> Result:
    inputs = list(range(CALLS))
    calls: list[float] = []
    maps: list[float] = []
    loops: list[float] = []
    calls_cpu: list[float] = []
    maps_cpu: list[float] = []
    with surroundings(functions.app, functions.warm):
        _checked(_calls, inputs)
        for _ in range(plan.rounds(9, 3)):
            before = time.process_time()
            maps.append(1000 * seconds(lambda: _checked(_map, inputs)))
            between = time.process_time()
            calls.append(1000 * seconds(lambda: _checked(_calls, inputs)))
            after = time.process_time()
            maps_cpu.append(1000 * (between - before))
            calls_cpu.append(1000 * (after - between))
            loops.append(1000 * seconds(lambda: _checked(_async_for, inputs)))
    ours, peers, looped = Summary.of(calls, "ms"), Summary.of(maps, "ms"), Summary.of(loops, "ms")
    cpu, peers_cpu = Summary.of(calls_cpu, "ms"), Summary.of(maps_cpu, "ms")
    what = f"{CALLS:,} remote.aio() at once from one event loop, one warm container"
    peer = f"map of {CALLS:,}"
    return Result(
        name="aio_calls",
        rows=(
            Row(what=what, unit="ms", ours=ours.p50, peer=peers.p50, peer_is=peer, least_ratio=round(1 / MOST, 2)),
            Row(
                what="the same: CPU of the caller's process", unit="ms", ours=cpu.p50, peer=peers_cpu.p50, peer_is=peer
            ),
            Row(what=f"async for over a map of {CALLS:,}", unit="ms", ours=looped.p50, peer=peers.p50, peer_is=peer),
        ),
        samples={
            "remote.aio()": ours,
            "map": peers,
            "async for": looped,
            "remote.aio(), CPU": cpu,
            "map, CPU": peers_cpu,
        },
        remarks=("The peer is our own map: each call is a call of its own, with an id, a future and a wake-up.",),
    )


def _map(inputs: list[int]) -> list[int]:
    return list(functions.warm.map(inputs))


def _calls(inputs: list[int]) -> list[int]:
    async def run() -> list[int]:
        return await asyncio.gather(*(functions.warm.remote.aio(number) for number in inputs))

    return asyncio.run(run())


def _async_for(inputs: list[int]) -> list[int]:
    async def run() -> list[int]:
        return [result async for result in functions.warm.map.aio(inputs)]

    return asyncio.run(run())


def _checked(run: Callable[[list[int]], Any], inputs: list[int]) -> None:
    """Run; raises RuntimeError if the results are wrong."""
    if run(inputs) != inputs:
        raise RuntimeError("the results are not what was sent")
