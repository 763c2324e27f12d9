"""Containers that die, by SIGKILL."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.chaos import functions
from tests.chaos.harness import Faults, Load, Report
from tests.chaos.site import Site


def killed(pool: str, *, inputs: int, every: float, limit: float = 120.0) -> Report:
    """Kill a random container of a pool now and then, busy or not, while inputs of 20 ms run."""
    function = functions.POOLS[pool]
    with Site() as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        load = Load(function, inputs, 0.02, Path(folder)).start()
        site.wait_for_containers(function, 1)
        with Faults(lambda: site.signal_one(function), every=every) as faults:
            load.wait(limit)
        return load.report(f"SIGKILL of containers, {pool}", faults.done)
