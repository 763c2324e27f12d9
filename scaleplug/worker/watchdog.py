"""Progress is what counts as life: a container that is connected, and takes nothing though there is something, ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from scaleplug.health import SignOfLife
from scaleplug.silence import distrust
from scaleplug.worker.holding import EXIT_NO_REDIS
from scaleplug.worker.intake import Intake

logger = logging.getLogger(__name__)

LOOK_SECONDS = 4.0
LOOKS = 3
"""So many looks in a row find the same before anything is done about it, and as many again before the end."""


class Watchdog:
    """Looks now and then whether an intake takes what there is; on another thread and another connection.

    It counts its own looks, not seconds: where code keeps this whole process from running it doesn't count either.
    """

    def __init__(self, intake: Intake, end: Callable[[int], object] = os._exit) -> None:
        self._intake, self._end = intake, end
        self._looked = time.monotonic()
        self._taken, self._found = -1, 0
        self.sign = SignOfLife()

    def look(self) -> None:
        """Look, unless the last time was only just; raises Redis's errors."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        intake = self._intake
        stands = intake.hungry and intake.taken == self._taken and intake.store.client.llen(intake.queue) > 0
        self._taken = intake.taken
        self._found = self._found + 1 if stands and intake.hungry else 0
        if self._found < LOOKS:
            self.sign.renew()
        if self._found == LOOKS:
            logger.error("this container takes nothing though inputs wait: it connects again")
            distrust(intake.store.client)
            intake.wake()
        elif self._found >= 2 * LOOKS:
            logger.critical("this container takes nothing though inputs wait: it ends")
            self._end(EXIT_NO_REDIS)
