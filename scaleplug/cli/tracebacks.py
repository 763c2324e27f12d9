"""Tracebacks as the user's code sees them: without the frames in between that are scaleplug's own."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

import click

import scaleplug
from scaleplug.errors import Error

PLUMBING = (str(Path(scaleplug.__file__).parent), str(Path(click.__file__).parent), "<frozen importlib")
TBLIB = ("__traceback_maker",)
"""Marks frames that tblib has brought from a container: what they say of columns is not the truth."""


def format_exception(exc: BaseException) -> str:
    """Return the traceback of an exception and of what caused it."""
    shown = traceback.TracebackException.from_exception(exc)
    _clear(shown, exc)
    return "".join(shown.format())


def show_exception(exc: BaseException) -> None:
    """Print the traceback of an exception, through the hook that the job has set, if any."""
    if sys.excepthook is sys.__excepthook__:
        sys.stderr.write(format_exception(exc))
    else:
        sys.excepthook(type(exc), exc, exc.__traceback__)


def last_place(trace: TracebackType | None) -> str:
    """Return `file.py, line 7` of the innermost frame that is not scaleplug's."""
    places = [
        (f.filename, f.lineno)
        for f in traceback.extract_tb(trace)
        if not _is_plumbing(f.filename) and f.filename[0] != "<"
    ]
    return f"{Path(places[-1][0]).name}, line {places[-1][1]}" if places else ""


def _clear(shown: traceback.TracebackException, exc: BaseException) -> None:
    """Take out the plumbing around the user's frames.

    What is inside the innermost of them stays, for that is what has failed; not so with scaleplug's own errors, which
    tell all in their message.
    """
    for frame, (real, _) in zip(shown.stack, traceback.walk_tb(exc.__traceback__), strict=False):
        if real.f_code.co_names == TBLIB:
            frame.colno = frame.end_colno = None
    users = [i for i, frame in enumerate(shown.stack) if not _is_plumbing(frame.filename)]
    last = -1 if not users else len(shown.stack) if isinstance(exc, Error) else users[-1]
    shown.stack[:] = [frame for i, frame in enumerate(shown.stack) if i > last or i in users]
    others = [(shown.__cause__, exc.__cause__), (shown.__context__, exc.__context__)]
    if isinstance(exc, BaseExceptionGroup):
        others += list(zip(shown.exceptions or (), exc.exceptions, strict=False))
    for other, its_exc in others:
        if other is not None and its_exc is not None:
            _clear(other, its_exc)


def _is_plumbing(filename: str) -> bool:
    return filename.startswith(PLUMBING)
