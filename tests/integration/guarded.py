"""A program that uses everything a caller can: run against a Redis whose users may do only what they need."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator

import scaleplug
from scaleplug.errors import InputCancelledError

app = scaleplug.App("guarded")


@app.function(max_containers=2)
def square(x: int) -> int:
    """Return the square."""
    return x * x


@app.function(max_containers=1)
def nested(x: int) -> int:
    """Call another function from a container."""
    return sum(square.map([x, x]))


@app.function(max_containers=1)
def echo(data: bytes) -> bytes:
    """Return something large."""
    return data


@app.function(max_containers=1)
def count(n: int) -> Iterator[int]:
    """Give numbers."""
    yield from range(n)


@app.function(max_containers=1)
def slow(seconds: float) -> float:
    """Take a while."""
    time.sleep(seconds)
    return seconds


@app.function(max_containers=1, retries=2)
def fails() -> None:
    """Fail, and again."""
    raise ValueError("as it must")


@app.function(max_containers=1, schedule=scaleplug.Period(seconds=1))
def each_second() -> None:
    """Be called by itself."""


app.schedule_autoscaler(square, "* * * * *", buffer_containers=1)


@app.cls(max_containers=1)
class Shop:
    """A class with a parameter."""

    size: int = scaleplug.parameter(default=1)

    @scaleplug.method()
    def grow(self, by: int) -> int:
        """Return a sum."""
        return self.size + by


def main() -> None:
    """Use everything; print what came of it."""
    found: dict[str, object] = {}
    found["remote"] = square.remote(3)
    found["map"] = list(square.map(range(20)))
    found["nested"] = nested.remote(2)
    found["large"] = len(echo.remote(b"x" * 600_000))
    found["stream"] = list(count.remote_gen(2_000)) == list(range(2_000))
    found["class"] = Shop(size=5).grow.remote(2)
    spawned = square.spawn(4)
    found["spawn"] = spawned.get(timeout=30)
    found["spawn_map"] = list(square.spawn_map(range(5)).iter())
    found["delay"] = square.delay(5).get(timeout=30)
    found["eta"] = square.apply_async((6,), countdown=0.5).get(timeout=30)
    found["aio"] = asyncio.run(square.remote.aio(7))
    call = slow.spawn(20)
    waiting = slow.spawn(0)
    time.sleep(1)
    waiting.cancel()
    call.cancel()
    try:
        call.get(timeout=20)
    except InputCancelledError:
        found["cancelled"] = True
    try:
        fails.remote()
    except ValueError as exc:
        found["failed"] = str(exc)
    square.update_autoscaler(max_containers=3)
    found["stats"] = square.get_current_stats().num_total_runners >= 0
    serialized = app.function(name="pickled", serialized=True)(lambda_free)
    found["pickled"] = serialized.remote(8)
    sys.stdout.write(json.dumps(found))


def lambda_free(x: int) -> int:
    """Travel pickled."""
    return x + 1


WANTED = {
    "remote": 9, "map": [x * x for x in range(20)], "nested": 8, "large": 600_000, "stream": True, "class": 7,
    "spawn": 16, "spawn_map": [0, 1, 4, 9, 16], "delay": 25, "eta": 36, "aio": 49, "cancelled": True,
    "failed": "as it must", "stats": True, "pickled": 9,
}  # fmt: skip

if __name__ == "__main__":
    main()
