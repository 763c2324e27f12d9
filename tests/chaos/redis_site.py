"""A Redis that can fail, a controller as a process of its own, and callers in this process."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleplug.here import forget_callers
from scaleplug.registry import Source
from scaleplug.settings import Config, use_config
from scaleplug.store import Store
from tests.chaos import work
from tests.chaos.server import Server
from tests.helpers import wait_until

ROOT = Path(__file__).parents[2]
SOURCE = Source("module", "tests.chaos.work", str(ROOT))
CONTROL = """
import logging, os, pathlib, sys
from scaleplug.runtime import control
from scaleplug.settings import Config
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
control(Config.from_environ(os.environ), pathlib.Path(sys.argv[1]), lifeline=None, grace=2.0)
"""


class Site:
    """A controller and callers on a Redis, reached at ``port`` (a proxy's perhaps)."""

    def __init__(self, folder: Path, server: Server, *, port: int | None = None, **settings: Any) -> None:
        self.server, self.folder = server, folder
        url = f"redis://127.0.0.1:{port or server.port}/0"
        namespace = f"t{secrets.token_hex(3)}"
        self.config = Config(redis_url=url, secret=secrets.token_urlsafe(32), namespace=namespace, **settings)
        self.controllers: list[subprocess.Popen[bytes]] = []
        use_config(self.config)
        work.app.set_source(SOURCE)
        self.caller: Any = work.app.caller()
        self.store: Store = self.caller.store
        (folder / "ran").mkdir()

    @property
    def ran(self) -> str:
        """The folder in which functions write down what has run."""
        return str(self.folder / "ran")

    def start_controller(self, script: str = CONTROL, **environ: str) -> subprocess.Popen[bytes]:
        """Start a controller."""
        with (self.folder / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(self.folder / "z")],
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.config.to_environ(), **environ},
                stdout=log, stderr=log,
            )  # fmt: skip
        self.controllers.append(process)
        return process

    def runs_of(self) -> Counter[int]:
        """Return how often each input has run to its end."""
        lines = (line for path in Path(self.ran).iterdir() for line in path.read_text().splitlines())
        return Counter(int(line.split()[0]) for line in lines)

    def ends(self) -> list[float]:
        """Return when inputs ended, Unix time."""
        lines = (line for path in Path(self.ran).iterdir() for line in path.read_text().splitlines())
        return sorted(float(line.split()[1]) for line in lines)

    def close(self) -> None:
        """End what this has started."""
        forget_callers(self.config.redis_url)
        use_config(None)
        for process in self.controllers:
            process.send_signal(signal.SIGTERM)
        for process in self.controllers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()


@contextlib.contextmanager
def site(folder: Path, server: Server, *, port: int | None = None, **settings: Any) -> Iterator[Site]:
    """Give a site with a controller that acts."""
    made = Site(folder, server, port=port, **settings)
    try:
        made.start_controller()
        with contextlib.closing(server.client) as client:
            wait_until(lambda: client.get(made.store.keys.lease), 15, "a controller acts")
        yield made
    finally:
        made.close()


@dataclass
class Load:
    """A map under way in a thread of this process, and when each of its results came."""

    site: Site
    function: Any
    inputs: int
    seconds: float
    first: int = 0
    results: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: BaseException | None = None

    def start(self) -> Load:
        """Begin."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            numbers = range(self.first, self.first + self.inputs)
            rows = ((self.site.ran, x, self.seconds) for x in numbers)
            for result in self.function.starmap(rows):
                self.results.append(result)
                self.times.append(time.time())
        except BaseException as exc:
            self.error = exc

    def done(self, share: float) -> bool:
        """Return whether this share of the results is there."""
        return self.error is not None or len(self.results) >= share * self.inputs

    def join(self, timeout: float) -> Load:
        """Wait for the end; raises what ended it."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{len(self.results)} of {self.inputs} results after {timeout:g} s"
        if self.error is not None:
            raise self.error
        return self

    def resumed_after(self, moment: float) -> float:
        """Return the seconds from a moment to the next result."""
        return min((t - moment for t in self.times if t >= moment), default=float("inf"))

    def report(self, name: str, *recoveries: float) -> str:
        """Return a line about it."""
        runs = self.site.runs_of()
        wanted = range(self.first, self.first + self.inputs)
        lost = len(set(wanted) - set(self.results))
        twice = sum(runs[x] - 1 for x in wanted if runs[x] > 1)
        took = ", ".join(f"{seconds:.2f}" for seconds in recoveries)
        return (
            f"{name}: submitted {self.inputs:,}, completed {len(self.results):,}, duplicated {twice:,}, lost {lost:,}, "
            f"recovered in {took or '-'} s"
        )
