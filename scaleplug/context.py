"""What code can ask about the place it runs in: which input this is, and whether it is in a container at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_current: ContextVar[tuple[str, str] | None] = ContextVar("scaleplug_input", default=None)
_in_container = False


def current_input_id() -> str | None:
    """Return the id of the input that runs here, ``None`` outside of a function."""
    current = _current.get()
    return None if current is None else current[0]


def current_function_call_id() -> str | None:
    """Return the id of the call whose input runs here, ``None`` outside of a function.

    All inputs of one map have the same. A call made with Celery's ``delay`` has the id of its one input.
    """
    current = _current.get()
    return None if current is None else current[1]


def is_local() -> bool:
    """Return False in a container of a function, also while it imports the code; True everywhere else."""
    return not _in_container and _current.get() is None


@contextlib.contextmanager
def running(input_id: str, call: str) -> Iterator[None]:
    """Let the code inside be the run of one input."""
    token = _current.set((input_id, call))
    try:
        yield
    finally:
        _current.reset(token)


def mark_container() -> None:
    """Say that this process is there for containers: a zygote says it, before it imports the user's code."""
    global _in_container  # noqa: PLW0603  # it is true of the process, for good
    _in_container = True
