"""Short functions for the contract tests of packs; some inputs are not short. As in ``functions.py``."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import current_task

from scaleplug import App, Retries, concurrent, current_function_call_id, current_input_id
from scaleplug.store import Store
from tests.contract.functions import wait_for

app = App("packs")


@app.function(max_containers=1)
def echo(x: int) -> int:
    """Return x."""
    return x


@app.function(max_containers=1)
def told(x: int) -> tuple[int, str | None, str | None, str, int]:
    """Return what an input knows of itself."""
    request = current_task.request if current_task else None  # the twin does without Celery
    seen = (request.id, request.group_index) if request else ("", 0)
    return x, current_input_id(), current_function_call_id(), *seen


@app.function(max_containers=1)
async def told_async(x: int) -> tuple[int, str | None]:
    """Return what an input knows of itself."""
    await asyncio.sleep(0)
    return x, current_input_id()


@app.function(max_containers=1)
def may_fail(x: int) -> int:
    """Fail for some."""
    if x % 7 == 3:
        raise ValueError(f"{x} is wrong")
    return x


@app.function(max_containers=1, retries=Retries(max_retries=2, initial_delay=0.0))
def flaky(folder: Path, x: int) -> int:
    """Fail the first time for some, always for one."""
    if x == 15 or (x % 20 == 5 and not runs(folder, x)):
        folder.joinpath(f"{x}-{uuid4().hex}").touch()
        raise ValueError(f"{x} is wrong")
    return x


@app.function(max_containers=2)
def sometimes(folder: Path, x: int, waits: int) -> int:
    """Wait for a sign with one input."""
    if x == waits:
        folder.joinpath("waits").touch()
        wait_for(folder / "go")
    return x


@app.function(max_containers=1, timeout=1, startup_timeout=60)
def too_long(x: int, sleeps: int) -> int:
    """Sleep for ever with one input."""
    if x == sleeps:
        time.sleep(60)
    return x


@app.function(max_containers=1)
def deadly(x: int, dies: int) -> int:
    """Take the container down with one input."""
    if x == dies:
        os._exit(3)
    return x


@app.function(max_containers=1)
def keep(shared: list[int]) -> int:
    """Change the argument."""
    shared.append(1)
    return len(shared)


@app.function(max_containers=1)
def sized(size: int) -> bytes:
    """Return so many bytes."""
    return bytes(size)


@app.function(max_containers=1)
@concurrent(max_inputs=3)
def several(x: int) -> tuple[int, str | None]:
    """Run beside others."""
    return x, current_input_id()


@app.function(max_containers=1)
def forking(folder: Path, x: int, forks: int) -> str | int:
    """Fork with one input; the copy returns as its parent does."""
    folder.joinpath(f"{x}-{uuid4().hex}").touch()
    if x == forks and not os.fork():
        return "copy"
    return x


@app.function(max_containers=1, timeout=20)
def unanswered(x: int, slow: int) -> int:
    """Take long with one input, whose pack is taken apart then; the answer to that is lost once."""
    if x == slow:
        split, asked = Store.split, list[bool]()

        def without_answer(*args: Any) -> bool:
            done = split(*args)
            asked.append(done)
            if len(asked) == 1:
                raise ConnectionError("lost")
            return done

        Store.split = without_answer  # type: ignore[method-assign]
        while len(asked) < 1 + slow % 2:  # asked again, or not before it ends
            time.sleep(0.001)
    return x


class Hostile:
    """Something that ends the process which unpickles it, or pickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        if self.how == "pickled":
            sys.exit(3)
        return {"exit": sys.exit, "die": os._exit}[self.how], (3,)


class Sealed:
    """Something that can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise OSError("it stays shut")


@app.function(max_containers=1)
def opened(what: Any) -> Any:
    """Return what can't be pickled for "generator" and "hostile", or what it was given."""
    if what == "hostile":
        return Hostile("pickled")
    return (x for x in ()) if what == "generator" else what


@app.function(max_containers=1)
def noted(folder: Path, x: int) -> int:
    """Leave a sign of every run."""
    folder.joinpath(f"{x}-{uuid4().hex}").touch()
    time.sleep(0.001)
    return x


def runs(folder: Path, x: int) -> int:
    """Return how often an input has left a sign."""
    return sum(1 for path in folder.iterdir() if path.name.split("-")[0] == str(x))
