"""Functions of which a container runs several inputs at once; tests and functions meet in a folder."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from scaleplug import App, InputCancellation, batched, concurrent, current_input_id, enter, exit, method  # noqa: A004
from tests.contract.functions import DEADLINE, wait_for

app = App("concurrency")
AT_ONCE = 5


def touch(folder: str, name: str) -> None:
    """Leave a file."""
    Path(folder, name).touch()


def count(folder: str, pattern: str) -> int:
    """Count files."""
    return len(list(Path(folder).glob(pattern)))


def begin(folder: str, name: object) -> None:
    """Leave a file, and wait until the test says go."""
    Path(folder, f"begun-{name}").touch()
    wait_for(Path(folder, "go"))


async def async_begin(folder: str, name: object) -> None:
    """Do the same without blocking the loop."""
    touch(folder, f"begun-{name}")
    deadline = time.monotonic() + DEADLINE
    while not count(folder, "go"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@app.function(max_containers=1)
@concurrent(max_inputs=AT_ONCE)
def in_threads(folder: str, x: int) -> tuple[int, str | None, int]:
    """Wait with others; return where it ran."""
    begin(folder, x)
    return x, current_input_id(), threading.get_ident()


@app.function(max_containers=1)
@concurrent(max_inputs=AT_ONCE)
async def in_a_loop(folder: str, x: int) -> tuple[int, str | None, int]:
    """Wait with others, as a task."""
    await async_begin(folder, x)
    return x, current_input_id(), threading.get_ident()


@app.function(max_containers=1)
async def one_at_a_time(folder: str, x: int) -> int:
    """Return how many others run: none."""
    touch(folder, f"began-{x}")
    await asyncio.sleep(0.02)
    others = count(folder, "began-*") - count(folder, "ended-*") - 1
    touch(folder, f"ended-{x}")
    return others


@app.function(max_containers=1, timeout=1)
@concurrent(max_inputs=AT_ONCE)
def may_be_late(folder: str, x: int, seconds: float) -> int:
    """Take a while, in Python."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            time.sleep(0.005)
    except InputCancellation:
        Path(folder, f"interrupted-{x}").touch()
        raise
    return x


@app.function(max_containers=1, timeout=1)
@concurrent(max_inputs=AT_ONCE)
async def may_be_late_async(folder: str, x: int, seconds: float) -> int:
    """Take a while, awaiting."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        touch(folder, f"interrupted-{x}")
        raise
    return x


def _fail_first(folder: str, x: int) -> int:
    tried = Path(folder, f"tried-{x}")
    if not tried.exists():
        tried.touch()
        raise ValueError(x)
    return x


@app.function(max_containers=1, retries=1)
@concurrent(max_inputs=AT_ONCE)
def tries_again(folder: str, x: int) -> int:
    """Fail once."""
    return _fail_first(folder, x)


@app.function(max_containers=1, retries=1)
@concurrent(max_inputs=AT_ONCE)
async def tries_again_async(folder: str, x: int) -> int:
    """Fail once."""
    return _fail_first(folder, x)


@app.function(max_containers=1)
@concurrent(max_inputs=AT_ONCE)
def stream(folder: str, x: int) -> Iterator[int]:
    """Yield x, wait with others, and yield more."""
    yield x
    begin(folder, x)
    yield from range(3)


@app.function(max_containers=1)
@concurrent(max_inputs=AT_ONCE)
async def async_stream(folder: str, x: int) -> AsyncIterator[int]:
    """Yield x, wait with others, and yield more."""
    yield x
    await async_begin(folder, x)
    for n in range(3):
        yield n


@app.cls(max_containers=1, scaledown_window=2)
@concurrent(max_inputs=AT_ONCE)
class Shared:
    """An object whose methods share one container."""

    @enter()
    async def prepare(self) -> None:
        """Make a lock of the loop."""
        self.lock = asyncio.Lock()
        self.entered = getattr(self, "entered", 0) + 1
        self.inside = 0

    @exit()
    async def end(self) -> None:
        """Do nothing."""

    @method()
    async def waits(self, folder: str, x: int) -> tuple[int, int]:
        """Use what the loop's hook has made."""
        async with self.lock:
            self.inside += 1
        await async_begin(folder, x)
        return self.entered, self.inside

    @method()
    def blocks(self, folder: str, x: int) -> tuple[int, int]:
        """Run in a thread of the same container."""
        begin(folder, x)
        return self.entered, os.getpid()


# -- batches -------------------------------------------------------------------------------------------------------


@app.function(max_containers=1)
@batched(max_batch_size=4, wait_ms=300)
def add(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    """Return each sum and the size of the batch."""
    if 13 in a:
        raise ValueError("13 is among them")
    return [(x + y, len(a)) for x, y in zip(a, b, strict=True)]


@app.function(max_containers=1)
@batched(max_batch_size=4, wait_ms=300)
async def add_async(a: list[int]) -> list[int]:
    """Return each plus one."""
    await asyncio.sleep(0.001)
    return [x + 1 for x in a]


@app.function(max_containers=1)
@batched(max_batch_size=3, wait_ms=300)
def too_few(a: list[int]) -> list[int]:
    """Return one result too few."""
    return a[1:]


@app.function(max_containers=1)
@batched(max_batch_size=3, wait_ms=10_000)
def slow(folder: list[str], x: list[int]) -> list[tuple[int, int]]:
    """Wait for the test."""
    begin(folder[0], "batch")
    return [(each, len(x)) for each in x]


@app.function(max_containers=1, retries=1)
@batched(max_batch_size=3, wait_ms=200)
def fails_once(folder: list[str], x: list[int]) -> list[int]:
    """Fail as a whole, once."""
    _fail_first(folder[0], 0)
    return x


@app.function(max_containers=1, timeout=1)
@batched(max_batch_size=3, wait_ms=200)
def late(x: list[int]) -> list[Any]:
    """Take longer than is allowed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return x


@app.cls(max_containers=1)
class Model:
    """A class with a batched method."""

    @batched(max_batch_size=3, wait_ms=200)
    @method()
    def predict(self, x: list[int]) -> list[tuple[int, int]]:
        """Return each twice, and the size of the batch."""
        return [(2 * each, len(x)) for each in x]


@app.function(max_containers=1)
def plain(x: list[int]) -> list[int]:
    """Be batched by a variant."""
    return [len(x)] * len(x)
