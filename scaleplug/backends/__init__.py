"""What starts and stops containers: one adapter per file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from scaleplug.abc import ContainerBackend
from scaleplug.registry import Registration


class Backend(ContainerBackend, Protocol):
    """What the controller needs beyond the port: to find what is there, and to get ready."""

    name: str
    host: str
    """Where its containers are: each has had it written down since before its start."""

    def adopt(self, *, rest: bool = False) -> bool:
        """Find what an earlier controller has left; False while some can't be seen: the ``rest`` is asked for again."""

    def prepared_at(self, registration: Registration) -> float:
        """Return the Unix time from which on containers of the function could be started."""

    def warm(self, registrations: Iterable[Registration]) -> None:
        """Get ready for the first container of these functions."""

    def problem(self, registration: Registration) -> str | None:
        """Return why the function's code can't be imported: empty if it could, ``None`` while that isn't known."""

    def can_start(self, registration: Registration) -> bool:
        """Return whether containers of a version that is registered no longer can still be started."""

    def tidy(self, registrations: Iterable[Registration]) -> None:
        """Let go of what none of these functions and no container needs any more."""

    def end(self, grace: float) -> None:
        """Drain every container; each has so many seconds to finish what it runs."""

    def ended(self) -> bool:
        """Return whether nothing is left, and all that had to be told was asked for."""
