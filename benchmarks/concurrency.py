"""Many inputs in one container: sleeping tasks and threads, memory, no-ops beside arq and taskiq."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import psutil

from benchmarks import shared_functions as functions
from benchmarks.contest import contest
from benchmarks.entrants import descriptions, ready_peers
from benchmarks.harness import Plan, Result, Row, Summary, seconds, wait_until
from benchmarks.memory import pss
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import Peer
from scaleplug.embedded import EmbeddedRedis

ASYNC_PEERS = ("arq", "taskiq")
NO_OPS, RIVALS_NO_OPS, QUICK_NO_OPS = 10_000, 5_000, 2_000
WAITS, COMPUTES = [0.1] * 100, [0.05] * 20


def measure(plan: Plan) -> Result:
    pools = {**functions.waits, **{f"{pool} computes": f for pool, f in functions.computes.items()}}
    shared = (functions.sleep_async, functions.sleep_threads, functions.nothing)
    with surroundings(functions.app, *shared, *(() if plan.quick else pools.values())) as around:
        rounds = plan.rounds(3, 1)
        tasks = _times(functions.sleep_async, [1.0] * 1_000, rounds)
        threads = _times(functions.sleep_threads, [1.0] * 30, rounds)
        with Peer(around.redis.url).worker("--pool", "threads", "--concurrency", "10"):
            peer = Peer(around.redis.url)
            peer.map("hold", [0.01] * 20)
            celery = Summary.of([seconds(lambda: peer.map("hold", [1.0] * 30)) for _ in range(rounds)], "s")
        held, live = _with_a_thousand(around)
        no_ops = _times(functions.nothing, list(range(NO_OPS)), plan.rounds(5, 2))
        shown = {} if plan.quick else pools
        kinds = {name: _times(f, COMPUTES if "computes" in name else WAITS, 1) for name, f in shown.items()}
    rivals, missing = _rivals(plan)
    found = {name: rival.p50 for name, rival in rivals.items()}
    best = max(found, key=lambda name: found[name], default="")
    return Result(
        name="concurrency",
        rows=(
            Row(what="1,000 async inputs that sleep 1 s, one container", unit="s", ours=tasks.p50, peer=None,
                peer_is="", most=1.5),
            Row(what="30 sync inputs that sleep 1 s, max_inputs=10, one container", unit="s", ours=threads.p50,
                peer=celery.p50, peer_is="celery worker -P threads -c 10", most=3.3),
            Row(what="PSS of a container with 1,000 waiting async inputs", unit="MiB", ours=held, peer=None, peer_is="",
                most=100),
            Row(what="threads of that container", unit="", ours=live, peer=None, peer_is="", most=20),
            Row(what=f"{NO_OPS:,} no-op async inputs, one warm container, per second", unit="/s",
                ours=NO_OPS / no_ops.p50, peer=found.get(best),
                peer_is=f"{best}, one worker" if best else "not installed",
                least_ratio=1 if best else None, more_is_better=True),
        ),
        samples={
            "1,000 async x 1 s": tasks, "30 sync x 1 s": threads, "celery threads": celery, "no-ops": no_ops,
            **rivals,
            **{f"100 waits of 0.1 s, {name}" if "computes" not in name else f"20 x 50 ms, {name}": s
               for name, s in kinds.items()},
        },
        unfair=("A map sends its inputs in bulk, which the peers can't.",),
        remarks=(*descriptions(list(rivals)), *missing),
    )  # fmt: skip


def _times(function: Any, inputs: list[Any], rounds: int) -> Summary:
    """Map a warm function; raises RuntimeError if a result is wrong."""

    def run() -> None:
        if list(function.map(inputs)) != inputs:
            raise RuntimeError("the results are not what was sent")

    function.remote(inputs[0])
    return Summary.of([seconds(run) for _ in range(rounds)], "s")


def _with_a_thousand(around: Surroundings) -> tuple[float, int]:
    """Return the memory and the threads of a container in which 1,000 inputs wait."""
    (record,) = around.containers(functions.sleep_async).values()
    name, pid = functions.sleep_async.full_name, int(record["pid"])
    caller = threading.Thread(target=lambda: list(functions.sleep_async.map([3.0] * 1_000)))
    caller.start()
    wait_until(lambda: around.store.census([name])[name].running == 1_000, "1,000 run")
    held, live = pss(pid), psutil.Process(pid).num_threads()
    caller.join()
    return held, live


def _rivals(plan: Plan) -> tuple[dict[str, Summary], list[str]]:
    """Return how many no-ops a second the peers that are asynchronous do with one worker."""
    peers, missing = ready_peers()
    inputs, rates = plan.rounds(RIVALS_NO_OPS, QUICK_NO_OPS), defaultdict(list)
    entrants = [peer for peer in peers if peer.name in ASYNC_PEERS]
    with EmbeddedRedis() as redis, contest(entrants, redis.url, missing=missing) as found:
        for _ in range(plan.rounds(3, 1)):
            for name in found.names:
                took = found.turn(name, "map", inputs=inputs)
                if took is not None:
                    rates[name].append(inputs / took)
    return {name: Summary.of(values, "/s") for name, values in rates.items()}, found.missing
