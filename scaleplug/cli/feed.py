"""What comes in from elsewhere while a job runs: what containers print, and what the controller has to say."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable

from redis.exceptions import RedisError

from scaleplug.cli.names import counted
from scaleplug.store import Store

BLOCK_SECONDS = 2.0
RETRY_SECONDS = 0.2
END_SECONDS = 5.0
"""How long a feed may take to come to its end."""


class LogFeed:
    """Reads the output of containers from Redis, in a thread, until :meth:`finish`.

    To come to the end without waiting for a while "just in case", :meth:`finish` appends a mark to the stream and
    returns when the mark has been read: by then everything before it has been shown.
    """

    def __init__(self, store: Store, show: Callable[[str, str], object], note: Callable[[str], object]) -> None:
        self.store, self.show, self.note = store, show, note
        self._mark = f"end-{secrets.token_hex(8)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="scaleplug-logs-reader")
        self._shown = 0

    def start(self) -> None:
        """Begin to read, from the start of the stream."""
        self._thread.start()

    def _read(self) -> None:
        after = "0-0"
        while not self._stop.is_set():
            try:
                entries = self.store.read_logs(after, block=BLOCK_SECONDS)
            except (RedisError, OSError):
                self._stop.wait(RETRY_SECONDS)
                continue
            for after, entry in entries:  # noqa: B007  # the last one is where to go on
                if entry["c"] == self._mark:
                    return
                self._shown += 1
                self.show(entry["f"], entry["l"])

    def finish(self) -> None:
        """Return when everything that is in the stream by now has been shown."""
        if not self._thread.is_alive():
            return
        try:
            self.store.log([("", self._mark, "")])
            self._thread.join(END_SECONDS)
            self._tell_lost()
        except (RedisError, OSError):
            pass  # Redis is gone, and what it held
        self._stop.set()

    def _tell_lost(self) -> None:
        added = self.store.client.xinfo_stream(self.store.keys.logs).get("entries-added")  # not before Redis 7
        lost = 0 if added is None else int(added) - self._shown - 1
        if lost > 0:
            self.note(f"{counted(lost, 'line')} of output not shown: they came faster than they could be")


class NoteFeed:
    """Reads the controller's standard error, in a thread, through a pipe."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self.note = note
        self._reader, self.writer = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True, name="scaleplug-notes-reader")
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self.note(line.rstrip("\n"))

    def finish(self) -> None:
        """Return when everything has been shown; the controller must have ended."""
        if self.writer >= 0:
            with contextlib.suppress(OSError):
                os.close(self.writer)
            self.writer = -1
            self._thread.join(END_SECONDS)
