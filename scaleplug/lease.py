"""The right to be the acting controller: a Redis lock with a token that every changing script checks."""

from __future__ import annotations

import secrets
import time
from typing import Any

from redis.exceptions import LockError
from redis.lock import Lock

from scaleplug.store import LEASE_SECONDS, Store

RENEW_SECONDS = 1.0
SHOW_SECONDS = 10.0


class Lease:
    """A lease that is held, or not; nothing here waits."""

    def __init__(self, store: Store, who: str) -> None:
        self._store, self._who = store, who
        self._lock: Any = Lock(
            store.client, store.keys.lease, timeout=LEASE_SECONDS, blocking=False, thread_local=False
        )
        self._renewed = self._shown = 0.0
        self.token = ""

    @property
    def held(self) -> bool:
        """Whether it was held when last asked."""
        return bool(self.token)

    def hold(self) -> bool:
        """Take or renew the lease where that is due; return whether it is held."""
        now = time.monotonic()
        if self.token and now - self._renewed < RENEW_SECONDS:
            return True
        if self.token:
            try:
                self._lock.reacquire()
                self._renewed = now
            except LockError:
                self.token = ""
        else:
            token = secrets.token_hex(16)
            if self._store.take_lease(token, LEASE_SECONDS):
                self._lock.local.token = token.encode()
                self.token, self._renewed = token, now
        if self.token and now - self._shown > SHOW_SECONDS:
            self._store.show_leader(self._who, 60)
            self._shown = now
        return bool(self.token)

    def release(self) -> None:
        """Give the lease up, so that a standby acts at once."""
        if self.token:
            self.token, self._shown = "", 0.0
            try:
                self._lock.release()
                self._store.client.delete(self._store.keys.leader)
            except LockError:
                pass  # it had run out
