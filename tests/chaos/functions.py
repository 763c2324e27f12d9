"""Functions that write down which input ran where and when."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import scaleplug

CONTAINERS = 8
AT_ONCE = 4

app = scaleplug.App("chaos")


def write_note(folder: str, what: str, number: int) -> None:
    """Add a line in one write, which a SIGKILL leaves whole or out."""
    file = os.open(Path(folder, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{what} {number} {os.getpid()} {time.time():.6f}\n".encode())
    finally:
        os.close(file)


def noted(folder: str, number: int, seconds: float) -> int:
    """Note the start and the end of an input that takes some seconds."""
    write_note(folder, "start", number)
    time.sleep(seconds)
    write_note(folder, "end", number)
    return number


@app.function(max_containers=CONTAINERS)
def solo(folder: str, number: int, seconds: float) -> int:
    return noted(folder, number, seconds)


@app.function(max_containers=CONTAINERS)
@scaleplug.concurrent(max_inputs=AT_ONCE)
def threads(folder: str, number: int, seconds: float) -> int:
    return noted(folder, number, seconds)


@app.function(max_containers=CONTAINERS)
@scaleplug.concurrent(max_inputs=AT_ONCE)
async def coroutines(folder: str, number: int, seconds: float) -> int:
    write_note(folder, "start", number)
    await asyncio.sleep(seconds)
    write_note(folder, "end", number)
    return number


@app.function(max_containers=CONTAINERS)
@scaleplug.concurrent(max_inputs=AT_ONCE, pool="eventlet")
def green(folder: str, number: int, seconds: float) -> int:
    return noted(folder, number, seconds)


def forked(how: str) -> tuple[int, int]:
    """Fork and end the child in one way or another; return the container's process and the child's status."""
    if how == "nothing":
        return os.getpid(), 0
    child = os.fork()
    if child == 0 and how == "sys.exit":
        sys.exit(3)
    if child == 0 and how == "raise":
        raise ValueError("in a child")
    return os.getpid(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0


@app.function(max_containers=1)
def fork_solo(how: str) -> tuple[int, int]:
    return forked(how)


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=AT_ONCE)
def fork_threads(how: str) -> tuple[int, int]:
    return forked(how)


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=AT_ONCE)
async def fork_coroutines(how: str) -> tuple[int, int]:
    return forked(how)


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=AT_ONCE, pool="eventlet")
def fork_green(how: str) -> tuple[int, int]:
    return forked(how)


FORKS = {"solo": fork_solo, "threads": fork_threads, "asyncio": fork_coroutines, "eventlet": fork_green}

POOLS = {"solo": solo, "threads": threads, "asyncio": coroutines, "eventlet": green}
"""The function of each pool, by the pool's name."""


@app.function(max_containers=2)
@scaleplug.concurrent(max_inputs=100)
async def batch(number: int) -> int:
    return number


@app.function(max_containers=2)
def blob(size: int) -> bytes:
    return os.urandom(size)


@app.function(max_containers=1, timeout=1)
def endless() -> None:
    time.sleep(3600)


@app.function(max_containers=1, scaledown_window=2)
def brief() -> int:
    return os.getpid()


@app.function(max_containers=1, retries=scaleplug.Retries(max_retries=2, initial_delay=1))
def second_try(folder: str) -> int:
    """Fail at first; return how often it had run before."""
    before = Path(folder, "tried")
    if not before.exists():
        before.touch()
        raise ValueError("the first time")
    return 1
