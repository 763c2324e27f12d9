"""A run's surroundings for tests: a private Redis, a controller, and the functions of ``jobs.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaleplug.client import RedisCaller
from scaleplug.registry import Source
from scaleplug.runtime import Run
from scaleplug.settings import Config
from scaleplug.store import Store
from tests.integration import jobs

SOURCE = Source("module", "tests.integration.jobs", str(Path(__file__).parents[2]))


class Surroundings:
    """What a test needs to look behind the scenes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.caller: Any = jobs.app.caller()
        assert isinstance(self.caller, RedisCaller)
        self.store: Store = self.caller.store

    def containers(self, function: Any) -> dict[str, dict[str, str]]:
        """Return the records of a function's containers."""
        return self.store.containers(function.full_name)

    def key(self, kind: str, function: Any) -> str:
        """Return a function's key."""
        return self.store.keys.of(kind, function.full_name)


@pytest.fixture(scope="module")
def start_run() -> Iterator[Callable[..., Surroundings]]:
    """Give a function that starts surroundings with settings of its own; they end with the module."""
    runs = []

    def start(**settings: Any) -> Surroundings:
        run = Run(Config(**settings), title="tests")
        runs.append(run)
        run.start()
        jobs.app.set_source(SOURCE)
        surroundings = Surroundings(run)
        jobs.app.register()
        return surroundings

    yield start
    for run in runs:
        run.stop()


@pytest.fixture(scope="module")
def surroundings(start_run: Callable[..., Surroundings]) -> Surroundings:
    """Give the surroundings that the tests of a module share."""
    return start_run()
