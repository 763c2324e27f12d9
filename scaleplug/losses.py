"""Containers that give no sign of life: frozen ones, killed ones that don't end, those of a host that is lost.

Each is fenced first: its connection's epoch ends, so that whatever it still does changes nothing. The same step gives
back what it holds. A container that is only slow is never among them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from scaleplug.backends import Backend
from scaleplug.lease import Lease
from scaleplug.settings import Config
from scaleplug.store import Store
from scaleplug.view import View

logger = logging.getLogger("scaleplug")

SIGN_SECONDS = 5.0
HEARD_SECONDS = 15.0
"""A container that lives is heard of more often, see ``TAKE_SECONDS`` and ``ORDER_SECONDS``."""
UNDEAD_SECONDS = 5.0
"""How long a killed container may take to be gone: the kernel may keep one that waits for a disk."""


class Losses:
    """What one controller knows of them."""

    def __init__(self, store: Store, lease: Lease, backend: Backend, config: Config, host: str) -> None:
        self.store, self.lease, self.backend, self.config, self.host = store, lease, backend, config, host
        self._signs: dict[str, tuple[float, float]] = {}
        """The last sign of every other host, and the monotonic time at which it was first seen."""
        self._signed = 0.0

    def sign(self) -> None:
        """Show, now and then, that this host lives; for every controller, whether it acts or not."""
        now = time.monotonic()
        if now - self._signed < SIGN_SECONDS:
            return
        if now - self._signed > 2 * SIGN_SECONDS:
            self._signs.clear()  # this one was frozen or cut off itself, and has not seen what the others did
        signs = self.store.sign(self.host)
        self._signed = now
        seen = self._signs
        self._signs = {
            host: seen[host] if seen.get(host, (None, 0.0))[0] == at else (at, now)
            for host, at in signs.items()
            if host != self.host
        }

    def replace_frozen(self, views: Mapping[str, View]) -> None:
        """Give up the containers of this host that have been stopped for too long."""
        frozen = self.backend.frozen()
        for view in views.values() if frozen else ():
            for container in frozen & view.containers.keys():
                known = view.containers[container]
                if known.fenced:
                    continue
                known.blameless = True
                if self._fence(view, container, "it was frozen"):
                    shown, limit = view.registration.shown, self.config.freeze_timeout
                    logger.warning("a container of %s has been frozen for %g s: it is replaced", shown, limit)
                    known.kill(time.monotonic())
                    self.backend.kill(container)

    def bury_undead(self, views: Mapping[str, View], now: float) -> None:
        """Give up killed containers whose end doesn't come."""
        for view in views.values():
            for container, known in view.containers.items():
                if known.fenced or known.killed_at is None or now - known.killed_at < UNDEAD_SECONDS:
                    continue
                if self._fence(view, container, "it was killed, and its process does not end"):
                    shown = view.registration.shown
                    logger.warning("a container of %s was killed and does not end: it is given up", shown)

    def _fence(self, view: View, container: str, reason: str) -> bool:
        known, function = view.containers[container], view.registration.function
        if self.store.gone(self.lease.token, container, function, reason, blameless=known.blameless) < 0:
            return False
        known.fenced = known.draining = True
        return True

    def sweep_lost_hosts(self, views: Mapping[str, View]) -> None:
        """Give back what containers of hosts held that have been silent for too long."""
        limit, now = self.config.host_timeout, time.monotonic()
        for host in [h for h, (_, since) in self._signs.items() if now - since >= limit]:
            self._sweep(host, views)

    def _sweep(self, host: str, views: Mapping[str, View]) -> None:
        held = [(f, c) for f in views for c, record in self.store.containers(f).items() if record.get("host") == host]
        # Its controller may be gone and its containers not: those are still heard of.
        heard = self.store.heard_of(max(self.config.host_timeout, HEARD_SECONDS)) if held else set()
        lost = [(function, container) for function, container in held if container not in heard]
        for function, container in lost:
            self.store.gone(self.lease.token, container, function, f"its host {host} was lost", blameless=True)
        if lost:
            logger.warning("the host %s gives no sign of life: its %d containers are given up", host, len(lost))
        if len(lost) == len(held):
            self.store.forget_host(host)
            self._signs.pop(host, None)
