"""Generator functions for the contract tests; tests and functions meet in a folder, as in ``functions.py``."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

from scaleplug import App
from tests.contract.functions import DEADLINE, OddError, wait_for
from tests.helpers import write_whole

app = App("streams")


@app.function(max_containers=2)
def numbers(n: int, first: int = 0) -> Generator[int, None, str]:
    """Yield n numbers, and return a word."""
    yield from range(first, first + n)
    return f"{n} in all"


@app.function(max_containers=2)
async def async_numbers(n: int) -> AsyncIterator[int]:
    """Yield n numbers."""
    for x in range(n):
        if x % 10 == 0:
            await asyncio.sleep(0.001)
        yield x


@app.function(max_containers=1)
def values() -> Iterator[Any]:
    """Yield all kinds of things, and change one after it was given."""
    kept = [1]
    yield kept
    kept.append(2)
    yield kept
    yield None
    yield bytes(3_000_000)
    yield lambda x: x + 1


@app.function(max_containers=1)
def locks() -> Iterator[Any]:
    """Yield what can't be pickled, after what can."""
    yield 1
    yield threading.Lock()


@app.function(max_containers=2)
def stepwise(folder: Path, n: int) -> Iterator[int]:
    """Wait for a sign before every item but the first."""
    for x in range(n):
        if x:
            wait_for(folder / f"go-{x}")
        yield x


@app.function(max_containers=2)
def fails_after(n: int) -> Iterator[int]:
    """Yield n numbers and raise."""
    yield from range(n)
    raise OddError("the end", code=n)


@app.function(max_containers=2)
async def async_fails_after(n: int) -> AsyncIterator[int]:
    """Yield n numbers and raise."""
    for x in range(n):
        yield x
    raise OddError("the end", code=n)


@app.function(max_containers=1)
def endless(folder: Path, size: int = 0) -> Iterator[Any]:
    """Yield without end; write down how far it is and when it is closed."""
    try:
        for x in itertools.count():
            write_whole(folder / "made", str(x))
            yield bytes(size) if size else x
    finally:
        folder.joinpath("closed").touch()


@app.function(max_containers=1)
async def async_endless(folder: Path) -> AsyncIterator[int]:
    """Do the same, and show that its loop goes on."""
    beats = asyncio.create_task(_beat(folder))
    try:
        for x in itertools.count():
            write_whole(folder / "made", str(x))
            yield x
    finally:
        beats.cancel()
        folder.joinpath("closed").touch()


async def _beat(folder: Path) -> None:
    while True:
        write_whole(folder / "beat", str(time.monotonic()))
        await asyncio.sleep(0.01)


@app.function(max_containers=1)
def busy(folder: Path) -> Iterator[int]:
    """Yield one item and compute for ever."""
    try:
        yield 1
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            pass
    finally:
        folder.joinpath("closed").touch()


@app.function(max_containers=1, timeout=1)
def too_long() -> Iterator[int]:
    """Yield three items and stay."""
    yield from range(3)
    time.sleep(DEADLINE)


@app.function(max_containers=2)
def squares_of(n: int) -> Iterator[int]:
    """Yield what comes from another stream."""
    for x in numbers.remote_gen(n):
        yield x * x
