"""What a Docker container prints, line by line."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

LINES_KEPT = 20
LINE_BYTES = 16_384


class Pieces(Protocol):
    """Where it comes from."""

    def pieces(self) -> Iterator[bytes]:
        """Yield what is printed, until the end."""

    def send(self, data: bytes) -> None:
        """Write to the container's input."""

    def close(self) -> None:
        """Let go of it."""


class Output:
    """Reads one container's output on a thread of its own, and keeps the last lines."""

    def __init__(
        self,
        line: Pieces,
        on_lines: Callable[[list[tuple[str, str, str]]], object],
        *,
        marker: str = "",
        on_marker: Callable[[], object] = lambda: None,
    ) -> None:
        self.line, self.last = line, deque[str](maxlen=LINES_KEPT)
        self.function = self.container = ""
        self._on_lines, self._marker, self._on_marker = on_lines, marker, on_marker
        self._thread = threading.Thread(target=self._read, daemon=True, name="docker-output")

    def start(self, function: str = "", container: str = "") -> Output:
        """Begin; with the names of who prints, if they are known already."""
        self.function, self.container = function, container
        self._thread.start()
        return self

    def _read(self) -> None:
        tail = b""
        for piece in self.line.pieces():
            *whole, tail = (tail + piece).split(b"\n")
            if len(tail) > LINE_BYTES:
                whole, tail = [*whole, tail], b""
            self._take(whole)
        self._take([tail] if tail else [])

    def _take(self, raw: Sequence[bytes]) -> None:
        lines = []
        for each in raw:
            text = each[:LINE_BYTES].decode(errors="replace").rstrip("\r")
            if self._marker and text == self._marker:
                self._on_marker()
            else:
                lines.append(text)
        self.last.extend(lines)
        if lines and self.function:
            self._on_lines([(self.function, self.container, text) for text in lines])

    def finish(self, seconds: float) -> None:
        """Wait until all has been read, but not longer than that; then let go of it."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self.line.close()
