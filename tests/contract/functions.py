"""The functions of the contract tests: containers import them from here, the twin runs the same ones in this process.

Tests and functions meet in a folder: a function leaves a file there when it begins, and waits for the file ``go``.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from celery.exceptions import Ignore, Reject

from scaleplug import (
    App,
    Function,
    FunctionCall,
    InputCancellation,
    Retries,
    current_function_call_id,
    current_input_id,
    is_local,
    method,
    parameter,
)

app = App("contract")
DEADLINE = 30.0


def wait_for(file: Path) -> None:
    """Return when ``file`` is there."""
    deadline = time.monotonic() + DEADLINE
    while not file.exists():
        if time.monotonic() > deadline:
            raise AssertionError(f"{file} did not appear")
        time.sleep(0.005)


def in_container() -> bool:
    """Tell whether this runs in a container, and not in the process of the tests."""
    return "scaleplug.worker." in " ".join(sys.orig_argv)


# -- values --------------------------------------------------------------------------------------------------------


@app.function(max_containers=4)
def square(x: int) -> int:
    """Return x squared."""
    return x * x


@app.function(max_containers=2)
def add(a: int, b: int = 10, *, scale: int = 1) -> int:
    """Return (a + b) * scale."""
    return (a + b) * scale


@app.function(max_containers=1)
def echo(value: Any) -> Any:
    """Return the value itself."""
    return value


@app.function(max_containers=1)
def length(value: bytes) -> int:
    """Return its length."""
    return len(value)


@app.function(max_containers=1)
def make(kind: str) -> Any:
    """Return a value of some kind."""
    kinds: dict[str, Any] = {
        "none": None,
        "megabytes": bytes(5_000_000),
        "lambda": lambda x: x + 1,
        "generator": (x for x in range(3)),
        "lock": __import__("threading").Lock(),
        "unloadable": Unloadable(),
    }
    return kinds[kind]


class Unloadable:
    """Can be pickled; whoever unpickles it gets an error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_load, ()


def _refuse_to_load() -> None:
    raise RuntimeError("not to be loaded")


class Point:
    """A plain class with a state."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


@app.function(max_containers=20)
async def async_double(x: int) -> int:
    """Return twice x, after a moment."""
    await asyncio.sleep(0.02)
    return x * 2


# -- errors --------------------------------------------------------------------------------------------------------


class OddError(Exception):
    """Carries more than its text."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class PickyError(Exception):
    """Pickles, and can't be built again from its arguments."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


class LockedError(Exception):
    """Can't be pickled at all."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = __import__("threading").Lock()


class UnloadableError(Exception):
    """Can be pickled; whoever unpickles it gets an error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_load, ()


def _deeper(text: str) -> None:
    error = OddError(text, code=7)
    error.add_note("noted where it was raised")
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        raise error from cause


@app.function(max_containers=2)
def fail(kind: str, text: str = "oh no") -> None:
    """Raise an error of some kind."""
    if kind == "odd":
        _deeper(text)
    elif kind == "picky":
        raise PickyError("this", "that")
    elif kind == "locked":
        raise LockedError(text)
    elif kind == "unloadable":
        raise UnloadableError(text)
    elif kind == "group":
        raise ExceptionGroup("several", [ValueError("one"), OddError("two", code=2)])
    raise ValueError(text)


@app.function(max_containers=1)
def leave(kind: str) -> int:
    """Try to leave the process in some way; return its id otherwise."""
    errors: dict[str, BaseException] = {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt("pressed"),
        "MemoryError": MemoryError("too much"),
        "GeneratorExit": GeneratorExit("over"),
        "Ignore": Ignore("never mind"),
        "Reject": Reject("not me"),
    }
    if kind in errors:
        raise errors[kind]
    return os.getpid()


@app.function(max_containers=2)
def may_fail(x: int) -> int:
    """Fail for 2."""
    if x == 2:
        raise ValueError("two")
    return x * x


@app.function(max_containers=1)
def die() -> str:
    """Take the container down, as far as there is one."""
    if in_container():
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


# -- time ----------------------------------------------------------------------------------------------------------


@app.function(max_containers=1)
def hold(folder: Path, x: int) -> int:
    """Leave a sign, wait for ``go`` and return x; say so when it is interrupted."""
    try:
        folder.joinpath(f"begun-{x}").touch()
        wait_for(folder / "go")
    except InputCancellation:
        folder.joinpath(f"interrupted-{x}").touch()
        raise
    return x


@app.function(max_containers=2)
def hold_some(folder: Path, x: int) -> int:
    """Wait for ``go`` and return x."""
    wait_for(folder / "go")
    return x


@app.function(max_containers=1)
async def async_hold(folder: Path, x: int) -> int:
    """Do the same as ``hold``."""
    folder.joinpath(f"begun-{x}").touch()
    deadline = time.monotonic() + DEADLINE
    try:
        while not folder.joinpath("go").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        folder.joinpath(f"interrupted-{x}").touch()
        raise
    return x


@app.function(max_containers=2)
def note(folder: Path, x: int) -> int:
    """Leave a sign and return x."""
    folder.joinpath(f"done-{x}").touch()
    return x


@app.function(max_containers=1)
def note_or_fail(folder: Path, x: int, wrong: int) -> int:
    """Leave a sign; fail for the wrong input, and wait for ever after it."""
    folder.joinpath(f"begun-{x}").touch()
    if x == wrong:
        raise ValueError(f"{x} is wrong")
    if x > wrong:
        wait_for(folder / "go")
    return x


@app.function(max_containers=1, timeout=1)
def too_long(folder: Path) -> None:
    """Run longer than is allowed."""
    folder.joinpath("begun-0").touch()
    wait_for(folder / "never")


@app.function(max_containers=1, timeout=1)
async def async_too_long() -> None:
    """Run longer than is allowed."""
    await asyncio.sleep(DEADLINE)


# -- retries -------------------------------------------------------------------------------------------------------

AT_ONCE = Retries(max_retries=2, initial_delay=0)
IN_A_MINUTE = Retries(max_retries=2, initial_delay=60)


def count_attempt(folder: Path) -> int:
    """Leave a sign; return how many there were."""
    attempt = len(list(folder.glob("attempt-*")))
    folder.joinpath(f"attempt-{attempt}").touch()
    return attempt


@app.function(max_containers=1, retries=AT_ONCE)
def fail_first(folder: Path, times: int) -> int:
    """Fail so many times."""
    attempt = count_attempt(folder)
    if attempt < times:
        raise OddError(f"attempt {attempt}", code=attempt)
    return attempt


@app.function(max_containers=1, retries=AT_ONCE)
async def async_fail_first(folder: Path, times: int) -> int:
    """Fail so many times."""
    await asyncio.sleep(0)
    return fail_first.local(folder, times)


@app.cls(max_containers=1, retries=AT_ONCE)
class Flaky:
    """Fails like ``fail_first``."""

    start: int = parameter(default=0)

    @method()
    def fail_first(self, folder: Path, times: int) -> int:
        """Fail so many times."""
        return self.start + fail_first.local(folder, times)


@app.function(max_containers=1, retries=AT_ONCE)
def leave_first(folder: Path) -> int:
    """Try to leave the process at first."""
    attempt = count_attempt(folder)
    if attempt == 0:
        raise SystemExit(3)
    if attempt == 1:
        raise MemoryError("too much")
    return attempt


@app.function(max_containers=1, retries=1)
def fail_once(folder: Path) -> float:
    """Fail at first; return the seconds since then."""
    if count_attempt(folder) == 0:
        raise ValueError("at first")
    return time.time() - folder.joinpath("attempt-0").stat().st_mtime


@app.function(max_containers=1, retries=IN_A_MINUTE)
def fail_for_now(folder: Path) -> None:
    """Fail, and wait long for the next try."""
    count_attempt(folder)
    raise ValueError("not now")


@app.function(max_containers=1, retries=AT_ONCE)
def hold_and_retry(folder: Path) -> None:
    """Wait, and make something else of being cancelled."""
    count_attempt(folder)
    try:
        wait_for(folder / "go")
    except InputCancellation:
        raise ValueError("cancelled") from None


@app.function(max_containers=1, retries=AT_ONCE)
def return_a_lock(folder: Path) -> Any:
    """Return what can't be pickled."""
    count_attempt(folder)
    return __import__("threading").Lock()


@app.function(max_containers=1, timeout=1, retries=Retries(max_retries=1, initial_delay=0))
def too_long_first(folder: Path, times: int) -> int:
    """Run longer than is allowed, so many times."""
    attempt = count_attempt(folder)
    if attempt < times:
        wait_for(folder / "never")
    return attempt


# -- resisting -----------------------------------------------------------------------------------------------------


@app.function(max_containers=1)
def swallow(folder: Path) -> int:
    """Go on to the end when it is interrupted."""
    try:
        folder.joinpath("begun-0").touch()
        wait_for(folder / "go")
    except InputCancellation:
        folder.joinpath("interrupted-0").touch()
    return 1


@app.function(max_containers=1)
async def async_swallow(folder: Path) -> int:
    """Go on to the end when it is interrupted."""
    try:
        folder.joinpath("begun-0").touch()
        await asyncio.sleep(DEADLINE)
    except asyncio.CancelledError:
        folder.joinpath("interrupted-0").touch()
    return 1


@app.function(max_containers=1)
def resist(folder: Path, x: int) -> int:
    """Go on whatever happens, until ``go`` is there."""
    folder.joinpath(f"begun-{x}").touch()
    while True:
        try:
            wait_for(folder / "go")
        except BaseException:  # noqa: BLE001
            continue
        return x


@app.function(max_containers=1)
def stuck_in_c(folder: Path, seconds: float) -> float:
    """Wait in C, where no signal handler of Python's runs."""
    folder.joinpath("begun-0").touch()
    (ctypes.PyDLL if in_container() else ctypes.CDLL)(None).usleep(ctypes.c_uint(int(seconds * 1e6)))
    return seconds


# -- where it runs -------------------------------------------------------------------------------------------------


@app.function(max_containers=2)
def where(_: int = 0) -> tuple[str | None, str | None, bool]:
    """Return what it can ask."""
    return current_input_id(), current_function_call_id(), is_local()


@app.function(max_containers=2)
async def async_where(_: int = 0) -> tuple[str | None, str | None, bool]:
    """Return what it can ask, from a task of its own."""
    await asyncio.sleep(0)

    async def ask() -> tuple[str | None, str | None, bool]:
        return current_input_id(), current_function_call_id(), is_local()

    return await asyncio.create_task(ask())


@app.function(max_containers=3, single_use_containers=True)
def once(x: int) -> tuple[int, int]:
    """Return x and the process."""
    return x, os.getpid()


# -- functions and functions ---------------------------------------------------------------------------------------


@app.function(max_containers=2)
def sum_of_squares(n: int) -> int:
    """Call another function for each number."""
    return sum(square.map(range(n)))


@app.function(max_containers=1)
def countdown(n: int) -> list[int]:
    """Call another function, and give back what it says."""
    return [n, echo.remote(n - 1)]


@app.function(max_containers=2)
async def async_sum_of_squares(n: int) -> int:
    """Await calls of another function."""
    return sum(await asyncio.gather(*(square.remote.aio(x) for x in range(n))))


@app.function(max_containers=1)
async def block_the_loop(x: int) -> tuple[int, list[str]]:
    """Call another function in the way that isn't for event loops; return what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = square.remote(x)
    return value, [f"{warning.category.__name__}: {warning.message}" for warning in caught]


@app.function(max_containers=1)
def block_no_loop(x: int) -> tuple[int, list[str]]:
    """Do the same where no loop runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = square.remote(x)
    return value, [str(warning.message) for warning in caught]


@app.function(max_containers=1)
async def iterate_plainly(n: int) -> list[int]:
    """Iterate over a map in the way that isn't for event loops."""
    return list(square.map(range(n)))


@app.function(max_containers=2)
def call_it(function: Function[..., Any], *args: Any) -> Any:
    """Call a Function that came as an argument."""
    return function.remote(*args)


@app.function(max_containers=1)
def spawn_it(x: int) -> FunctionCall[int]:
    """Return a call that somebody else waits for."""
    return square.spawn(x)


@app.function(max_containers=1)
def wait_for_it(call: FunctionCall[int]) -> int:
    """Wait for a call that somebody else made."""
    return call.get(timeout=DEADLINE)
