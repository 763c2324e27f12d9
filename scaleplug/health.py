"""A sign of life for health checks: a file that is as new as the last progress of the process that runs here.

An image that wants one brings the folder. A plain host has none, and nothing is written there.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

FILE = Path("/run/scaleplug/alive")
STANDING_BY = FILE.with_name("standing-by")
"""Is there from when a container stands by: until it becomes one in earnest, there is no progress to make."""
EVERY = 5.0


class SignOfLife:
    """Renews the file, at most every ``EVERY`` seconds; whoever has made progress calls :meth:`renew`."""

    def __init__(self, file: Path = FILE) -> None:
        self._file: Path | None = file if file.parent.is_dir() else None
        self._renewed = float("-inf")

    def renew(self) -> None:
        """Tell that there was progress just now."""
        now = time.monotonic()
        if self._file is None or now - self._renewed < EVERY:
            return
        self._renewed = now
        with contextlib.suppress(OSError):  # then the health check fails, which is what it is for
            self._file.touch()


def stand_by(file: Path = STANDING_BY) -> None:
    """Tell that this process waits for its orders."""
    with contextlib.suppress(OSError):
        file.touch()
