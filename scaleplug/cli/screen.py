"""A terminal with a frame below the cursor: what anybody writes goes above it, as if it weren't there.

The cursor stays where the job's output ends, and the frame is drawn in the rows under it (save the cursor, draw,
restore). So prompts, what is typed, and what other programs or C code write straight to the terminal come out where
they should; at worst they run over rows of the frame, which the next drawing clears.
"""

from __future__ import annotations

import builtins
import codecs
import contextlib
import io
import os
import re
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from rich.cells import cell_len

UP, DOWN, SAVE, RESTORE = "\x1b[{}A", "\x1bD", "\x1b7", "\x1b8"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"
LEAST_BETWEEN_FRAMES = 0.03
"""Seconds: a job that prints faster has its frame drawn again when it pauses."""
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")
OWN_DISPLAY = re.compile(r"\x1b\[(?:\d*[ABEFHJd]|\d+;\d*[Hf]|\?(?:25|1049)[hl])|\x1b[78M]")
"""What only a program writes that draws a display of its own."""
PARTIAL_KEPT = 4_096


class Screen:
    """One terminal; safe to use from several threads."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._fd = terminal.fileno()
        self._lock = threading.RLock()
        self._rows: list[str] = []
        self._shown = self._closed = False
        self._drawn_at = 0.0
        self._partial = ""  # the job's last line, while it has no end
        self._reading = 0  # calls of input() under way
        self._held: list[str] = []
        self._mode = _local_mode()
        self.yielded = False
        """Whether the job draws a display of its own, which gets the terminal to itself."""
        self.waiting = threading.Event()
        """Set while the frame waits to be drawn again."""

    @property
    def width(self) -> int:
        """Columns that a row may have."""
        return self._size().columns - 1  # the last one is left free: terminals differ in when they wrap

    @property
    def height(self) -> int:
        """Rows that the frame may have."""
        return max(1, self._size().lines - 2)

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((80, 24))
        return size if size.columns > 1 else os.terminal_size((80, 24))

    # -- what others write -----------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Write the job's own output, as it is."""
        with self._lock:
            if OWN_DISPLAY.search(text) and not self._closed:
                self.yielded = True
            line = (self._partial + text).rpartition("\n")[2]
            self._partial = next((part for part in reversed(line.split("\r")) if part), "")[-PARTIAL_KEPT:]
            self._put(text)

    def line(self, text: str) -> None:
        """Write one line above the job's unfinished one; it waits while somebody types an answer."""
        with self._lock:
            if self._busy():
                self._held.append(text)
            else:
                self._put(f"{self._back_to_line_start()}{text}\n{self._partial}")

    def _back_to_line_start(self) -> str:
        if not self._partial:
            return ""
        rows = max(0, cell_len(ESCAPES.sub("", self._partial)) - 1) // self._size().columns
        return "\r" + (UP.format(rows) if rows else "") + CLEAR_BELOW

    def _put(self, text: str) -> None:
        before = CLEAR_BELOW if self._shown else ""
        self._shown, frame = False, ""
        if self._may_draw():
            if time.monotonic() - self._drawn_at >= LEAST_BETWEEN_FRAMES:
                frame = self._frame()
            else:
                self.waiting.set()
        self._send(before + text + frame)

    # -- the frame -------------------------------------------------------------------------------------------------

    def draw(self, rows: list[str]) -> None:
        """Show these rows under the cursor, none of them wider than ``width``."""
        with self._lock:
            self.waiting.clear()
            self._rows = rows[: self.height]
            if self._held and not self._busy():
                held, self._held = self._held, []
                self._put("".join([self._back_to_line_start(), *(f"{text}\n" for text in held), self._partial]))
            if self._may_draw():
                self._send(self._frame())
            elif self._shown and (self.yielded or not self._rows):
                self._shown = False
                self._send(CLEAR_BELOW)

    def _frame(self) -> str:
        self._shown, self._drawn_at = True, time.monotonic()
        count = len(self._rows)
        room = DOWN * count + UP.format(count)  # at the bottom of the screen this scrolls, and keeps the column
        rows = "".join(f"\r\n{row}{CLEAR_LINE}" for row in self._rows)
        return f"{CLEAR_LINE}{room}{SAVE}{rows}{CLEAR_BELOW}{RESTORE}"

    def _may_draw(self) -> bool:
        return bool(self._rows) and not self._closed and not self.yielded and self._in_front() and not self._raw()

    def _busy(self) -> bool:
        """Tell whether somebody is asked something."""
        return bool(self._reading) or self._raw()

    def _raw(self) -> bool:
        """Tell whether a program reads keys by itself: a password, an editor, a line with history."""
        return _local_mode() != self._mode

    def _in_front(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True  # not this process's terminal

    def close(self, text: str = "") -> None:
        """Take the frame away and leave ``text`` as the last lines."""
        with self._lock:
            before = CLEAR_BELOW if self._shown else ""
            self._closed, self._shown = True, False
            start = "\n" if self._partial and (text or self._held) else ""
            self._send(before + start + "".join(f"{line}\n" for line in self._held) + text)

    def _send(self, text: str) -> None:
        if text:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the job goes on
                self._terminal.write(text)
                self._terminal.flush()

    # -- the job's streams -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def standing_in(self) -> Iterator[None]:
        """Take the place of the job's stdout and stderr, where they are terminals, and know when it calls ``input``."""
        stdout, stderr, ask = sys.stdout, sys.stderr, builtins.input

        def ask_and_tell(prompt: object = "", /) -> str:
            with self._lock:
                self._reading += 1
            try:
                return ask(prompt)
            finally:
                self._reading -= 1
                self._partial = ""  # Enter has ended the line

        def back() -> None:
            sys.stdout, sys.stderr, builtins.input = stdout, stderr, ask

        def leave_alone() -> None:  # a forked child: some other thread may have held the lock
            self._lock, self._closed, self._shown = threading.RLock(), True, False
            back()

        os.register_at_fork(after_in_child=leave_alone)
        sys.stdout = JobStream(self, stdout) if stdout.isatty() else stdout
        sys.stderr = JobStream(self, stderr) if stderr.isatty() else stderr
        builtins.input = ask_and_tell
        try:
            yield
        finally:
            back()


class JobStream(io.TextIOBase):
    """A stream of the job's: like the original, and its text goes to the screen."""

    def __init__(self, screen: Screen, original: TextIO) -> None:
        self._screen, self._original = screen, original
        self.buffer = _Bytes(self, original)

    def write(self, text: str) -> int:
        """Write text."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._screen.write(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: it has been written."""

    def isatty(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the terminal's, for other programs to write to."""
        return self._original.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's encoding."""
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What happens to characters that it lacks."""
        return self._original.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _Bytes(io.BufferedIOBase):
    """The ``buffer`` of a job's stream."""

    def __init__(self, stream: JobStream, original: TextIO) -> None:
        self._stream, self._original = stream, original
        self._decoder = codecs.getincrementaldecoder(original.encoding)("replace")

    def write(self, data: Any) -> int:
        """Write bytes in the stream's encoding."""
        raw = bytes(data)
        self._stream.write(self._decoder.decode(raw))
        return len(raw)

    def fileno(self) -> int:
        """Return the terminal's."""
        return self._original.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True


def _local_mode() -> int | None:
    try:
        mode: int = termios.tcgetattr(0)[3] & (termios.ICANON | termios.ECHO)
    except (termios.error, ValueError):
        return None
    return mode


def plain(text: str) -> str:
    """Return a line without what would move the cursor; colours stay."""
    text = text.rstrip("\r").rpartition("\r")[2]
    return ESCAPES.sub(lambda found: found[0] if found[0].endswith("m") and found[0].startswith("\x1b[") else "", text)
