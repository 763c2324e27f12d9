"""Processes that the user's code forks in a container: copies of it that must never act as the container."""

from __future__ import annotations

import os
import sys
import traceback

_is_copy = False


def mark_copy() -> None:
    """Note, in the child after a fork, that this process is one."""
    global _is_copy  # noqa: PLW0603  # it is about the process
    _is_copy = True


def leave_copy() -> None:
    """End this process if it is one: the function that has forked it is over here, as a program would be at its end.

    Called where a function has ended, also by an exception that is on its way. Else the copy would hand back the
    outcome of its parent's input, and take further ones under its name.
    """
    if not _is_copy:
        return
    exc = sys.exc_info()[1]
    status = 0 if exc is None else 1
    if isinstance(exc, SystemExit):
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        if exc.code is not None and not isinstance(exc.code, int):
            print(exc.code, file=sys.stderr)  # noqa: T201  # as the interpreter does
    elif exc is not None:
        traceback.print_exception(exc)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF)
