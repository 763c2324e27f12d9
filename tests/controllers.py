"""A `scaleplug controller` of its own, and what it says."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.commands import environment
from tests.helpers import runs, wait_until

PROGRAM = ("-m", "scaleplug.cli.main")


class Controller:
    """A controller under way, and what it has said."""

    def __init__(self, folder: Path, *arguments: str, program: Sequence[str] = PROGRAM, **environ: str) -> None:
        command = [sys.executable, *program, "controller", *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment(**environ), stderr=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.said.append(re.sub(r"^\d\d:\d\d:\d\d ", "", line.rstrip("\n")))

    def says(self, pattern: str) -> str:
        """Wait until it says this; return the line."""
        return wait_until(lambda: next((line for line in self.said if re.search(pattern, line)), ""), 15, pattern)

    def kill(self) -> None:
        """End it and its containers at once, in whatever state they are."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._reader.join(5)

    def end(self, sig: signal.Signals) -> int:
        """Signal it; return the exit code when it and all it has started are gone."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(sig)
        code = self.process.wait(20)
        wait_until(lambda: not [process for process in family if runs(process)])
        self._reader.join(5)
        return code
