"""A large array as the argument and the result of one call, beside writing and reading it once with redis-py."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import scaleplug
from benchmarks.harness import Plan, Result, Row, Summary, seconds
from benchmarks.surroundings import surroundings
from scaleplug.server import connect

MIB = 1024 * 1024
SIZE = 100 * MIB
CLEAR_PEAK = "5"

app = scaleplug.App("benchmarks-large")


@app.function(max_containers=1)
def echo(value: object) -> object:
    return value


@app.function(max_containers=1)
def plus_one(array: np.ndarray) -> np.ndarray:
    return array + np.uint8(1)


def measure(plan: Plan) -> Result:
    if not Path("/proc/self/clear_refs").exists():
        raise RuntimeError("needs Linux: memory is read from /proc/PID/status")
    array = np.frombuffer(np.random.default_rng(1).bytes(SIZE), dtype=np.uint8)
    ours: list[float] = []
    theirs: list[float] = []
    with surroundings(app, echo, plus_one) as around, connect(around.redis.url) as client:
        echo.remote(array), plus_one.remote(array[:10])
        for _ in range(plan.rounds(9, 3)):
            gc.collect()
            ours.append(1000 * seconds(lambda: echo.remote(array)))
            theirs.append(1000 * seconds(lambda: write_and_read(client, array)))
        _check(plus_one.remote(array), array)
        pids = {f: int(next(iter(around.containers(f).values()))["pid"]) for f in (echo, plus_one)}
        call_here, call_there = growth(lambda: echo.remote(array), os.getpid(), pids[echo])
        _, new_there = growth(lambda: plus_one.remote(array), os.getpid(), pids[plus_one])
        (plain_here,) = growth(lambda: write_and_read(client, array), os.getpid())
    mine, plain, size = Summary.of(ours, "ms"), Summary.of(theirs, "ms"), SIZE // MIB
    once = f"redis-py: SET and GET of {size} MiB"
    return Result(
        name="large_values",
        rows=(
            Row(
                what=f"remote() with an array of {size} MiB that comes back",
                unit="ms",
                ours=mine.p50,
                peer=plain.p50,
                peer_is=f"{once}, once",
                least_ratio=0.33,
            ),
            Row(
                what="the caller's memory grows by, at its peak",
                unit="MiB",
                ours=call_here,
                peer=plain_here,
                peer_is=once,
                most=3 * size,
            ),
            Row(
                what="the container's memory grows by, argument and result being one",
                unit="MiB",
                ours=call_there,
                peer=None,
                peer_is="",
                most=3 * size,
            ),
            Row(
                what="the container's memory grows by, the result being a new array",
                unit="MiB",
                ours=new_there,
                peer=None,
                peer_is="",
                most=3 * size,
            ),
        ),
        samples={"remote()": mine, "SET and GET": plain},
        remarks=("A call writes the array twice and reads it twice, and hashes it four times.",),
        unfair=("redis-py copies the bytes that it sends and receives; ours sends them from where they lie.",),
    )


def write_and_read(client: object, array: np.ndarray) -> None:
    client.set("plain", array.tobytes())
    np.frombuffer(client.get("plain"), dtype=np.uint8)
    client.delete("plain")


def growth(action: Callable[[], object], *pids: int) -> list[float]:
    """Return by how many MiB the memory of each process grows in ``action``, at its peak."""
    gc.collect()
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(CLEAR_PEAK)
    before = [_memory(pid, "VmRSS") for pid in pids]
    action()
    return [_memory(pid, "VmHWM") - was for pid, was in zip(pids, before, strict=True)]


def _memory(pid: int, kind: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no line {kind}")


def _check(result: np.ndarray, array: np.ndarray) -> None:
    if not np.array_equal(result, array + np.uint8(1)):
        raise RuntimeError("a large array did not come back as it should")
