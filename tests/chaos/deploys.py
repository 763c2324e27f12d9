"""Deployments while inputs run: versions that roll, one that can't start, one with the function renamed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scaleplug import Function
from tests.chaos.harness import Fault, Load, Report
from tests.chaos.site import Site
from tests.commands import environment
from tests.helpers import wait_until

PROGRAM = """
import os, sys, time
import scaleplug
from tests.chaos.functions import noted

app = scaleplug.App("rolling")

@app.function(max_containers=8)
def NAME(folder, number, seconds):
    noted(folder, number, seconds)
    return VERSION
"""
CRASHES = 'if "scaleplug.worker" in " ".join(sys.orig_argv): os._exit(7)\n'
"""In the processes from which containers are forked, before anything is ready."""


class Deployments:
    """Versions of one app."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.file = site, folder / "rolling.py"
        self.faults: list[Fault] = []

    def deploy(self, version: int, name: str = "work", *, more: str = "") -> str:
        """Deploy a version; return what the command printed."""
        self.file.write_text(PROGRAM.replace("VERSION", str(version)).replace("NAME", name) + more)
        self.faults.append(Fault(time.time(), f"deployment of version {version}"))
        done = subprocess.run(
            [sys.executable, "-m", "scaleplug.cli.main", "deploy", str(self.file)], cwd=self.file.parent,
            env=environment(**self.site.config.to_environ()), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def function(self, name: str = "work") -> Any:
        """Return the deployed function."""
        return Function.from_name("rolling", name)


def rolling(*, pause: float, limit: float = 120.0) -> Report:
    """Deploy versions while inputs of 20 ms run: a good one, one that crashes at its start, one more good one."""
    missed: list[str] = []
    with Site() as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        deployments = Deployments(site, Path(folder))
        deployments.deploy(1)
        load = Load(deployments.function(), 1_000_000, 0.02, Path(folder)).start()
        wait_until(lambda: load.results, 30, "version 1 runs")
        deployments.deploy(2)
        wait_until(lambda: load.over or 2 in load.results, 30, "version 2 runs")
        deployments.deploy(3, more=CRASHES)
        load.wait(pause)
        if 3 in load.results:
            missed.append("kept the old version")
        deployments.deploy(4)
        wait_until(lambda: load.over or 4 in load.results, 60, "version 4 runs")
        load.enough.set()
        load.wait(limit)
        if load.results[-1:] != [4]:
            missed.append(f"ended with version 4 but with {load.results[-1:]}")
        report = load.report("deployments, one that crashes", deployments.faults, missed=missed)
        return report.none_twice()


def renamed(*, inputs: int, limit: float = 120.0) -> Report:
    """Deploy a version in which the function has another name, while what was called under the old one waits."""
    with Site() as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        deployments = Deployments(site, Path(folder))
        deployments.deploy(1)
        load = Load(deployments.function(), inputs, 0.02, Path(folder)).start()
        wait_until(lambda: load.results, 30, "version 1 runs")
        deployments.deploy(2, "other")
        with tempfile.TemporaryDirectory() as other:
            result = deployments.function("other").remote(other, 0, 0.0)
        load.wait(limit)
        missed = [] if result == 2 else [f"answered by version 2 but by {result}"]
        report = load.report("function renamed", deployments.faults, missed=missed)
        return report.none_twice()
