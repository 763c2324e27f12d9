"""Ours: a run with a private Redis, a controller and the functions that one measurement needs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.harness import wait_until
from scaleplug import App
from scaleplug.client import RedisCaller
from scaleplug.embedded import EmbeddedRedis
from scaleplug.runtime import Run
from scaleplug.settings import Config
from scaleplug.store import Store


class Surroundings:
    """What a measurement needs to look behind the scenes."""

    def __init__(self, run: Run, store: Store) -> None:
        self.run, self.store = run, store

    @property
    def redis(self) -> EmbeddedRedis:
        """The private Redis; there is none where the environment names one."""
        assert self.run.redis is not None
        return self.run.redis

    def containers(self, function: Any) -> dict[str, dict[str, str]]:
        """Return the records of the containers a function has."""
        return self.store.containers(function.full_name)

    def wait_for_zero(self, *functions: Any) -> None:
        """Wait until none of the functions has a container."""
        for function in functions:
            wait_until(partial(self._has_none, function), f"{function.full_name} has no container")

    def _has_none(self, function: Any) -> bool:
        return not self.containers(function)

    def started(self, function: Any) -> list[dict[str, str]]:
        """Return the records of all containers a function ever had (in the last hour)."""
        client, name = self.store.client, function.full_name
        records = [client.hgetall(key) for key in client.scan_iter(self.store.keys.of("container", "*"), count=1_000)]
        texts = [{k.decode(): v.decode() for k, v in record.items()} for record in records]
        return [record for record in texts if record.get("fn") == name]


@contextlib.contextmanager
def surroundings(app: App, *functions: Any) -> Iterator[Surroundings]:
    """Start a run of its own for a measurement, set up as the environment says; what it started is gone at the end."""
    # containers that are killed are no news here, but one that does not start is
    run = Run(Config.from_environ(os.environ), title="benchmarks", log_level=logging.ERROR)
    try:
        run.start()
        caller = app.caller()
        assert isinstance(caller, RedisCaller)
        for function in functions:
            app.ready_for_calls(function)
        yield Surroundings(run, caller.store)
    finally:
        run.stop()
