"""What tests of every kind share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10.0, message: str = "") -> T:
    """Return what ``condition`` gives as soon as it is true; fail after ``timeout`` seconds, and tell what it gave."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{message or condition!r} did not come true within {timeout:g} s (it is {value!r})")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def write_whole(path: Path, text: str) -> None:
    """Write a file that whoever waits for it finds with all its text, or not at all."""
    unfinished = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    unfinished.write_text(text)
    unfinished.replace(path)


def started_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that this one has started and that run: its descendants, and strays that bear its mark.

    ``mark`` is the name of an environment variable that names this process by its id. It finds what has left the
    family: a daemon, or the child of a parent that is gone.
    """
    found = {process for process in psutil.Process().children(recursive=True) if runs(process)}
    own = str(os.getpid())
    found |= {process for process in psutil.process_iter() if process.pid != os.getpid() and _bears(process, mark, own)}
    return sorted(found, key=lambda process: process.pid)


def told(process: psutil.Process) -> str:
    """Return one line that tells which process this is."""
    try:
        return f"{process.pid}: {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        return f"{process.pid}: gone meanwhile"


def runs(process: psutil.Process) -> bool:
    """Tell whether a process does anything: it is no zombie, and none of Python's own."""
    try:
        # It lives as long as the process that made shared memory or semaphores.
        return process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _bears(process: psutil.Process, mark: str, value: str) -> bool:
    try:
        return process.environ().get(mark) == value and runs(process)
    except (psutil.Error, OSError):
        return False
