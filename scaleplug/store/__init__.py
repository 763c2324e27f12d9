"""Every read and write of the shared state in Redis, each one atomic script (``lua/``) or command."""

from __future__ import annotations

from typing import Final

from scaleplug.errors import ConfigurationError
from scaleplug.store.callers import Callers
from scaleplug.store.containers import Containers
from scaleplug.store.control import Control
from scaleplug.store.registered import Registered
from scaleplug.store.states import (
    Admission,
    Census,
    Claimed,
    End,
    Ended,
    FunctionState,
    Part,
    Record,
    Rest,
    Split,
    Turned,
    Watched,
)
from scaleplug.store.watching import EDGES, SERIES, Overview, Times, Watching

LEASE_SECONDS: Final = 4.0

__all__ = [
    "EDGES",
    "LEASE_SECONDS",
    "SERIES",
    "Admission",
    "Census",
    "Claimed",
    "End",
    "Ended",
    "FunctionState",
    "Overview",
    "Part",
    "Record",
    "Rest",
    "Split",
    "Store",
    "Times",
    "Turned",
    "Watched",
    "require_url",
]


class Store(Callers, Containers, Control, Registered, Watching):
    """The shared state of one namespace; safe to use from several threads."""


def require_url(url: str | None) -> str:
    """Return the Redis URL or tell the ways to one."""
    if not url:
        raise ConfigurationError(
            "no Redis is configured: start the file with 'scaleplug run FILE' (it brings a private one), "
            "or set SCALEPLUG_REDIS_URL to the Redis that your controller uses"
        )
    return url
