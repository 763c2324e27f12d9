"""Bring what containers print into Redis."""

from __future__ import annotations

import threading
from collections import deque

from redis.exceptions import RedisError

from scaleplug.store import Store
from scaleplug.store.control import LOG_LINES_KEPT


class LogShipper:
    """Writes what containers print into Redis, on a thread of its own: output may be lost, inputs may not."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lines: deque[tuple[str, str, str]] = deque(maxlen=10 * LOG_LINES_KEPT)
        self._waiting = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, daemon=True, name="scaleplug-logs").start()

    def add(self, lines: list[tuple[str, str, str]]) -> None:
        """Take (function, container, line); safe from any thread."""
        self._lines.extend(lines)
        self._waiting.set()

    def _run(self) -> None:
        while True:
            self._waiting.wait()
            self._waiting.clear()
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        with self._lock:  # so that it returns only when the thread that ships them has finished too
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(500, len(self._lines)))]
                try:
                    self.store.log(batch)
                except (RedisError, OSError):
                    return
