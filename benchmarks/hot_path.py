"""The hot path alone, for whoever works on it: ``python -m benchmarks.hot_path [map remote spawn]``.

Ours and a lean Celery worker with the same pool take turns on one Redis.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from benchmarks import functions
from benchmarks.harness import Summary, seconds
from benchmarks.surroundings import surroundings
from benchmarks.workers import LEAN, Peer

ROUNDS = 5
MAPPED, SPAWNED = 10_000, 100_000
BLOCK = 200


def _map(peer: Peer) -> None:
    inputs, few = list(range(MAPPED)), list(range(1_000))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(MAPPED / seconds(lambda: _same(list(functions.warm.map(inputs)), inputs)))
        theirs.append(len(few) / seconds(lambda: _same(peer.map("echo", few), few)))
    _tell("map", statistics.median(ours), statistics.median(theirs), "/s", sorted(ours))


def _remote(peer: Peer) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        ours += [1000 * seconds(lambda: functions.warm.remote(1)) for _ in range(BLOCK)]
        theirs += [1000 * seconds(lambda: peer.call("echo", 1)) for _ in range(BLOCK)]
    mine, peers = Summary.of(ours, "ms"), Summary.of(theirs, "ms")
    _tell("remote p50", mine.p50, peers.p50, "ms")
    _tell("remote p99", mine.p99, peers.p99, "ms")


def _spawn(peer: Peer) -> None:
    ours, theirs, many = [], [], []
    for _ in range(ROUNDS):
        ours.append(2_000 / seconds(lambda: [functions.warm.spawn(1) for _ in range(2_000)]))
        theirs.append(500 / seconds(lambda: [peer.delay("echo", 1) for _ in range(500)]))
    for _ in range(2):
        calls = []
        many.append(SPAWNED / seconds(lambda: calls.append(functions.warm.spawn_map(range(SPAWNED)))))  # noqa: B023
        calls[0].cancel()
    _tell("spawn", statistics.median(ours), statistics.median(theirs), "/s")
    _tell("spawn_map", statistics.median(many), statistics.median(theirs), "/s")


def _same(found: object, wanted: object) -> None:
    if found != wanted:
        raise RuntimeError("the results are not what was sent")


def _tell(what: str, ours: float, peer: float, unit: str, samples: object = "") -> None:
    print(f"{what:12} {ours:10,.2f} {unit}  plain {peer:10,.2f} {unit}  {ours / peer:6.2f}x  {samples}", flush=True)


PARTS: dict[str, Callable[[Peer], None]] = {"map": _map, "remote": _remote, "spawn": _spawn}


def main(names: list[str]) -> None:
    with surroundings(functions.app, functions.warm) as around:
        peer = Peer(around.redis.url)
        with peer.worker("--pool", "solo", *LEAN):
            for _ in range(20):
                functions.warm.remote(0)
                peer.call("echo", 0)
            for name in names or list(PARTS):
                PARTS[name](peer)


if __name__ == "__main__":
    main(sys.argv[1:])
