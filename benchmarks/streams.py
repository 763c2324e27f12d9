"""The items of a generator function, from one container that runs already, beside one RPUSH and BLPOP for each."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Iterable, Iterator

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary
from benchmarks.surroundings import surroundings
from scaleplug.server import connect

KEY = "benchmarks:items"
PAUSE = 0.01
"""Seconds between two items where it is measured how long one is on its way."""


def measure(plan: Plan) -> Result:
    ours: list[float] = []
    theirs: list[float] = []
    our_delays: list[float] = []
    their_delays: list[float] = []
    many, few = plan.rounds(100_000, 20_000), plan.rounds(300, 100)
    with surroundings(functions.app, functions.count_up, functions.push_up) as around:
        url = around.redis.url
        list(functions.count_up.remote_gen(10))
        list(_pushed(url, 10))
        for _ in range(plan.rounds(3, 1)):
            ours.append(_rate(functions.count_up.remote_gen(many), many))
            theirs.append(_rate(_pushed(url, many // 5), many // 5))
            our_delays += _delays(functions.count_up.remote_gen(few, PAUSE))
            their_delays += _delays(_pushed(url, few, PAUSE))
    rate, their_rate = Summary.of(ours, "/s"), Summary.of(theirs, "/s")
    delay, their_delay = Summary.of(our_delays, "ms"), Summary.of(their_delays, "ms")
    peer = "RPUSH and BLPOP for each item, redis-py"
    return Result(
        name="streams",
        rows=(
            Row(
                what=f"{many:,} small items of one generator function",
                unit="/s",
                ours=rate.p50,
                peer=their_rate.p50,
                peer_is=peer,
                least=10_000,
                more_is_better=True,
            ),
            Row(
                what="an item, from yield to its reader while the function goes on, p50",
                unit="ms",
                ours=delay.p50,
                peer=their_delay.p50,
                peer_is=peer,
            ),
            Row(
                what="an item, from yield to its reader while the function goes on, p99",
                unit="ms",
                ours=delay.p99,
                peer=their_delay.p99,
                peer_is=peer,
            ),
        ),
        samples={"stream": rate, "RPUSH": their_rate, "item": delay, "BLPOP": their_delay},
        unfair=("A stream sends in bulk what gathers during a send; the peer sends each item, but signs none.",),
    )


def _pushed(url: str, items: int, pause: float = 0.0) -> Iterator[tuple[int, float]]:
    call = functions.push_up.spawn(url, KEY, items, pause)
    with contextlib.closing(connect(url)) as client:
        for _ in range(items):
            found = client.blpop([KEY], timeout=10)
            if found is None:
                raise TimeoutError("no item within 10 s")
            yield pickle.loads(found[1])
    call.get(timeout=10)


def _rate(items: Iterable[tuple[int, float]], expected: int) -> float:
    """Return how many items come in a second; raises RuntimeError if they are not what was yielded."""
    began = time.perf_counter()
    numbers = [number for number, _ in items]
    took = time.perf_counter() - began
    if numbers != list(range(expected)):
        raise RuntimeError("the items of a stream are not what was yielded")
    return expected / took


def _delays(items: Iterable[tuple[int, float]]) -> list[float]:
    return [1000 * (time.time() - yielded) for _, yielded in items]
