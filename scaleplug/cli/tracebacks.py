"""Tracebacks as the user's code sees them: without the frames in between that are scaleplug's own."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

import click

import scaleplug

PLUMBING = (str(Path(scaleplug.__file__).parent), str(Path(click.__file__).parent), "<frozen importlib")


def format_exception(exc: BaseException) -> str:
    """Return the traceback of an exception and of what caused it."""
    shown = traceback.TracebackException.from_exception(exc)
    _clear(shown)
    return "".join(shown.format())


def show_exception(exc: BaseException) -> None:
    """Print the traceback of an exception, through the hook that the job has set, if any."""
    if sys.excepthook is sys.__excepthook__:
        sys.stderr.write(format_exception(exc))
    else:
        sys.excepthook(type(exc), exc, exc.__traceback__)


def last_place(trace: TracebackType | None) -> str:
    """Return `file.py, line 7` of the innermost frame that is not scaleplug's."""
    places = [(f.filename, f.lineno) for f in traceback.extract_tb(trace) if not _is_plumbing(f.filename)]
    return f"{Path(places[-1][0]).name}, line {places[-1][1]}" if places else ""


def _clear(shown: traceback.TracebackException) -> None:
    """Take out the plumbing around the user's frames; what is inside the innermost of them stays, for it has failed."""
    users = [i for i, frame in enumerate(shown.stack) if not _is_plumbing(frame.filename)]
    last = users[-1] if users else -1
    shown.stack[:] = [frame for i, frame in enumerate(shown.stack) if i > last or i in users]
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        if other is not None:
            _clear(other)


def _is_plumbing(filename: str) -> bool:
    return filename.startswith(PLUMBING)
