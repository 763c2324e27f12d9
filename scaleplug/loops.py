"""Event loops: wake one from another thread, and tell those who block one."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import itertools
import linecache
import re
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Generic, TypeVar

from scaleplug.errors import AsyncUsageWarning

T = TypeVar("T")

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR
_INNER = ("<listcomp>", "<setcomp>", "<dictcomp>")


# -- waking one ----------------------------------------------------------------------------------------------------


class Wakeups:
    """Runs callbacks on one event loop for other threads; those that come together wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._todo: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback soon, on the loop's thread; nowhere when the loop has ended."""
        self._todo.append((callback, args))
        if self._woken:
            return
        self._woken = True
        loop = self._loop()
        try:
            if loop is None:
                raise RuntimeError("the loop is gone")
            loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # it has ended: nobody waits any more
            self._woken = False
            self._todo.clear()

    def _run(self) -> None:
        self._woken = False  # first: what comes from now on wakes anew
        for _ in range(len(self._todo)):
            callback, args = self._todo.popleft()
            callback(*args)


_wakeups: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Wakeups] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def wakeups() -> Wakeups:
    """Return those of the running loop."""
    loop = asyncio.get_running_loop()
    with _lock:
        found = _wakeups.get(loop)
        if found is None:
            found = _wakeups[loop] = Wakeups(loop)
        return found


class Answer(Generic[T]):
    """What another thread is to tell the running loop: ``future`` ends with it."""

    __slots__ = ("_wakeups", "future")

    def __init__(self) -> None:
        self._wakeups = wakeups()
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def give(self, value: T) -> None:
        """End with a value."""
        self._wakeups.call(_settle, self.future, value, None)

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        self._wakeups.call(_settle, self.future, None, error)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():  # nobody waits any more
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def done_now(job: Callable[[], T]) -> asyncio.Future[T]:
    """Run a job that doesn't block, and return what it ended with as a future of the running loop."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(job())
    except Exception as exc:  # noqa: BLE001  # whatever it is, it belongs to whoever awaits
        future.set_exception(exc)
    return future


# -- blocking one --------------------------------------------------------------------------------------------------


def blocks_loop() -> bool:
    """Tell whether the calling code would block an event loop.

    A notebook's cells run inside a loop that is not theirs: plain code of a cell may block.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not _in_cell(sys._getframe(1))


def _in_cell(frame: FrameType | None) -> bool:
    while frame is not None:
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if code.co_flags & _ASYNC or module.partition(".")[0] == "asyncio":
            return False
        if module == "__main__" and code.co_name.startswith(("<module>", "<cell")):
            return True
        frame = frame.f_back
    return False


def warn_if_blocking(name: str, level: int, *, iterated: bool = False) -> None:
    """Warn where a blocking method is called in an event loop, or what it gave is iterated there.

    ``level`` counts as in ``warnings.warn``.
    """
    if not blocks_loop():
        return
    frame = sys._getframe(level - 1)
    text = _advice(frame, name, iterated=iterated)
    warnings.warn(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {text}", AsyncUsageWarning, level)


def _advice(frame: FrameType, name: str, *, iterated: bool) -> str:
    if iterated:
        line = _rewritten_loop(frame, name) or f"async for item in ....{name}.aio(...)"
    else:
        line = _rewritten(frame.f_code, frame.f_lasti, name) or f"await ....{name}.aio(...)"
    around: FrameType | None = frame
    while around is not None and around.f_code.co_name in _INNER:
        around = around.f_back
    if around is None or around.f_code.co_flags & _ASYNC:
        return f"blocks the event loop: write  {line}"
    return f"blocks the event loop: call it from an async function, and write  {line}"


@functools.lru_cache(maxsize=256)
def _rewritten(code: CodeType, instruction: int, name: str) -> str:
    """Return the source of the call that a frame is at, with ``await`` and ``.aio``; empty where it can't be had."""
    place = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    first, last, start, end = place
    if first is None or last is None or start is None or end is None:
        return ""
    lines = [linecache.getline(code.co_filename, number).rstrip("\n").encode() for number in range(first, last + 1)]
    before, after = lines[0][:start], lines[-1][end:]
    lines[-1] = lines[-1][:end]  # before the next one: it may be the same line
    lines[0] = lines[0][start:]
    at = _end_of_name(b"\n".join(lines), name)
    if at is None:
        return ""
    row, column = at
    lines[row] = lines[row][:column] + b".aio" + lines[row][column:]
    call = b"await " + re.sub(rb"(?<=[(\[{]) ", b"", b" ".join(line.strip() for line in lines))
    if after[:1] in (b".", b"[", b"("):  # they bind tighter than await
        call = b"(" + call + b")"
    return (before.lstrip() + call + after).decode(errors="replace").strip()


def _rewritten_loop(frame: FrameType, name: str) -> str:
    """Return the line of a loop that a frame is at, with ``async for`` and ``.aio``; empty where it is no such line."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    line, loops = re.subn(r"\bfor\b", "async for", line, count=1)
    line, calls = re.subn(rf"\.{name}\(", f".{name}.aio(", line, count=1)
    return line if loops and calls else ""


def _end_of_name(source: bytes, name: str) -> tuple[int, int] | None:
    """Return line and column behind the method's name in the source of a call to it."""
    try:
        found = ast.parse(b"(" + source + b")", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, SystemError):  # of deep nesting, or of a part of a line
        return None
    if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Attribute) or found.func.attr != name:
        return None
    row, column = (found.func.end_lineno or 1) - 1, found.func.end_col_offset or 0
    return row, column - (1 if row == 0 else 0)


def in_event_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
