"""What the functions do: the same code for scaleplug's functions and for plain Celery's tasks."""

from __future__ import annotations

import os
import time
from pathlib import Path


def hold(seconds: float) -> int:
    """Take a while; return the process that did."""
    time.sleep(seconds)
    return os.getpid()


def note(path: str, seconds: float) -> None:
    """Write down each start, as process and Unix time; only the first one takes ``seconds``."""
    began, file = time.time(), Path(path)
    first = not file.exists()
    with file.open("a") as notes:
        notes.write(f"{os.getpid()} {began!r}\n")
    if first:
        time.sleep(seconds)
