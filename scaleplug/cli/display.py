"""What a run shows of itself: nothing, plain lines, or a live display."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from redis.exceptions import RedisError
from rich.console import Console

from scaleplug import mapping
from scaleplug.cli.frame import render
from scaleplug.cli.names import Labels, Palette, short_names
from scaleplug.cli.screen import LEAST_BETWEEN_FRAMES, Screen, plain
from scaleplug.cli.tally import Tally, map_line
from scaleplug.mapping import Progress
from scaleplug.store import Census

POLL_SECONDS = 0.25
SETTLED_SECONDS = 0.5
"""How often Redis is asked while nothing goes on."""
END_SECONDS = 2.0
"""How long a last question to Redis may take."""
RESET = "\x1b[0m"

Counts = Callable[[], Mapping[str, Census]]


class QuietDisplay:
    """Shows errors only; the other displays add to it. Enter it for as long as the job's output is to be minded."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.tally = Tally()
        self._lock = threading.RLock()
        self._counts: Counts | None = None
        self._labels: Labels | None = None
        self._quiet: Callable[[], bool] = lambda: False
        self._settled = False
        self._began = time.monotonic()

    def __enter__(self) -> QuietDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def use_labels(self, labels: Labels) -> None:
        """Show people's names of pools."""
        self._labels = labels

    def begin(self, counts: Counts, quiet: Callable[[], bool] = lambda: False) -> None:
        """Begin with the job; ``counts`` asks Redis for its functions, ``quiet`` whether that can be left out."""
        self._counts, self._quiet, self._began = counts, quiet, time.monotonic()

    def end(self) -> None:
        """End: the job has, and everything that it and its containers had to say has been said."""

    def output(self, function: str, line: str) -> None:
        """Show a line that a function has printed."""

    def note(self, line: str) -> None:
        """Show a line of scaleplug's own."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            self.stream.write(f"{line}\n")
            self.stream.flush()

    def stopping(self, line: str) -> None:
        """Say that the first signal has been heard."""

    def poll(self, *, anyway: bool = False) -> None:
        """Ask Redis once, if there may be anything new, or ``anyway``."""
        if self._counts is None:
            return
        with contextlib.suppress(RedisError, OSError):
            if not anyway and self._settled and self._quiet():
                return
            counts = self._counts()
            if self._labels is not None:
                self.tally.shown = self._labels.learn(counts)
            with self._lock:
                self.tally.see(counts, time.monotonic())
            self._settled = not any(c.containers or c.pending or c.delayed or c.running for c in counts.values())

    @property
    def _poll_seconds(self) -> float:
        return SETTLED_SECONDS if self._settled else POLL_SECONDS

    def name(self, function: str) -> str:
        """Return the short name of a function."""
        functions = {*self.tally.functions, function}
        if self._labels is not None:
            with contextlib.suppress(RedisError, OSError):
                self.tally.shown = self._labels.learn(functions)
        return short_names(functions, self.tally.shown)[function]


class PlainDisplay(QuietDisplay):
    """Shows plain lines: what functions print, and a line for each map when it has ended."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="scaleplug-display")

    def begin(self, counts: Counts, quiet: Callable[[], bool] = lambda: False) -> None:
        """See :class:`QuietDisplay`."""
        super().begin(counts, quiet)
        if _same_file(sys.stdout, self.stream) and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # or what the job prints would come after all else
        self.poll()
        mapping.watch = self._on_map
        self._thread.start()

    def end(self) -> None:
        """See :class:`QuietDisplay`."""
        mapping.watch = None
        if self._thread.is_alive():
            self._over.set()
            self._thread.join(END_SECONDS)
        self.poll(anyway=True)

    def output(self, function: str, line: str) -> None:
        """See :class:`QuietDisplay`."""
        self.note(f"{self.name(function)} | {plain(line)}")

    def stopping(self, line: str) -> None:
        """See :class:`QuietDisplay`."""
        self.note(line)

    def _watch(self) -> None:
        while not self._over.wait(self._poll_seconds):
            self.poll()

    def _on_map(self, progress: Progress) -> None:
        if not progress.finished:
            with self._lock:
                self.tally.map_began(progress, time.monotonic())
            return
        self.poll()
        with self._lock:
            record = self.tally.map_ended(progress, time.monotonic())
        if record is not None:
            self.map_ended(map_line(record, self.name(progress.function)))

    def map_ended(self, line: str) -> None:
        """Tell of a map that has ended."""
        self.note(line)


class LiveDisplay(PlainDisplay):
    """Keeps a display below the job's output on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.console = Console(file=stream, highlight=False)
        self.screen = Screen(stream)
        self.palette = Palette()
        self._standing_in = contextlib.ExitStack()

    def __enter__(self) -> LiveDisplay:
        self._standing_in.enter_context(self.screen.standing_in())
        return self

    def __exit__(self, *_: object) -> None:
        self.screen.close()
        self._standing_in.close()

    def end(self) -> None:
        """See :class:`QuietDisplay`; leaves the ended maps and a summary behind."""
        if self._counts is None:
            return  # it never began
        self._over.set()
        self.screen.waiting.set()
        super().end()
        with self._lock:
            self.tally.functions, functions = {}, self.tally.functions  # the containers are gone
            rows = self._rows()
            self.tally.functions = functions
        summary = self.tally.summary(time.monotonic() - self._began)
        self.screen.close("".join(f"{row}\n" for row in [*rows, self._styled(summary, "bold")]))

    def output(self, function: str, line: str) -> None:
        """See :class:`QuietDisplay`."""
        text = plain(line)
        prefix = self._styled(f"{self.name(function)} | ", self.palette[function])
        self.screen.line(prefix + text + (RESET if "\x1b" in text else ""))

    def note(self, line: str) -> None:
        """See :class:`QuietDisplay`."""
        self.screen.line(self._styled(line, "yellow"))

    def stopping(self, line: str) -> None:
        """See :class:`QuietDisplay`."""
        self.screen.line("\r" + self._styled(line, "yellow"))  # over the ^C that the terminal has shown

    def _styled(self, text: str, style: str) -> str:
        with self.console.capture() as capture:
            self.console.print(text, style=style, end="", markup=False, soft_wrap=True)
        return capture.get()

    def map_ended(self, line: str) -> None:  # noqa: ARG002  # it stays in the frame
        """See :class:`PlainDisplay`."""
        self.screen.draw(self._rows())

    def _rows(self) -> list[str]:
        with self._lock:
            return render(self.tally, self.console, self.palette, width=self.screen.width, height=self.screen.height)

    def _watch(self) -> None:
        polled = 0.0
        while not self._over.is_set():
            if time.monotonic() - polled >= self._poll_seconds:
                self.poll()
                polled = time.monotonic()
            self.screen.draw(self._rows())
            if self.screen.waiting.wait(POLL_SECONDS):
                self._over.wait(LEAST_BETWEEN_FRAMES)


def make_display(*, quiet: bool) -> QuietDisplay:
    """Return the display for this process's standard error."""
    if quiet:
        return QuietDisplay(sys.stderr)
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        return LiveDisplay(sys.stderr)
    return PlainDisplay(sys.stderr)


def _same_file(one: TextIO, other: TextIO) -> bool:
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):
        return False
