"""The two sides of the contract: the twin in this process, and Redis with a controller and containers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from scaleplug.app import App
from scaleplug.function import Function
from scaleplug.runtime import Run
from scaleplug.settings import Config, process_config, use_config
from scaleplug.testing import LocalRun, local
from tests.helpers import wait_until


class Side(Protocol):
    """What a contract test needs to know of the side it runs on."""

    name: str

    def load(self, function: Function[..., Any]) -> tuple[int, int]:
        """Return how many inputs are pending (some for a retry) and running."""

    def crash(self, function: Function[..., Any], times: int) -> None:
        """Make sure that a function's container dies."""

    def keep_time(self, app: App, seconds: float) -> None:
        """Let schedules of an app do what they do in so many seconds."""

    def ran(self, function: Function[..., Any]) -> int:
        """Return how often a function was run."""


class Twin:
    """The twin."""

    name = "twin"

    def __init__(self, run: LocalRun) -> None:
        self.run = run

    def load(self, function: Function[..., Any]) -> tuple[int, int]:
        """See Side."""
        return self.run.pending(function), self.run.running(function)

    def crash(self, function: Function[..., Any], times: int) -> None:
        """See Side."""
        self.run.crash(function, times=times)

    def keep_time(self, app: App, seconds: float) -> None:
        """See Side: it passes at once."""
        now = datetime.now(UTC)
        self.run.pass_time(app, now, now + timedelta(seconds=seconds))

    def ran(self, function: Function[..., Any]) -> int:
        """See Side."""
        return sum(call.runs for call in self.run.calls(function))


class Real:
    """The real thing."""

    name = "real"

    def __init__(self, app: App) -> None:
        self.app = app

    def load(self, function: Function[..., Any]) -> tuple[int, int]:
        """See Side."""
        census = self.app.store.census([function.full_name])[function.full_name]
        return census.pending + census.delayed, census.running

    def crash(self, function: Function[..., Any], times: int) -> None:
        """See Side: the function does it itself."""

    def keep_time(self, app: App, seconds: float) -> None:
        """See Side: the controller does it from now on."""
        app.register()

    def ran(self, function: Function[..., Any]) -> int:
        """See Side."""
        return self.app.store.counters(function.full_name).get("finished", 0)


@contextlib.contextmanager
def twin() -> Iterator[Twin]:
    """Give the twin."""
    with local() as run:
        yield Twin(run)


@contextlib.contextmanager
def real(run: Run, app: App) -> Iterator[Real]:
    """Give the real thing, on the surroundings of ``run``."""
    use_config(run.config)
    try:
        yield Real(app)
    finally:
        use_config(None)


@contextlib.contextmanager
def limits(**values: float) -> Iterator[Config]:
    """Lower limits for a while."""
    before = process_config()
    use_config(replace(before, **values))
    try:
        yield process_config()
    finally:
        use_config(before)


def settle(side: Side, function: Function[..., Any]) -> None:
    """Wait until nothing of a function is pending or running."""
    wait_until(lambda: side.load(function) == (0, 0), message=f"nothing left of {function}")
