"""Clocks that go wrong: every decision goes by Redis's clock, or by one that only counts seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from scaleplug.errors import FunctionTimeoutError
from tests.chaos import functions
from tests.chaos.harness import Report, summary
from tests.chaos.site import Site
from tests.commands import ROOT, environment
from tests.helpers import wait_until

WRONG_CLOCK = "import time; time.time = lambda right=time.time: right() + {}"
"""A ``sitecustomize`` that every process of a controller runs: zygotes and containers too."""


def controller(site: Site, folder: Path, off: float) -> subprocess.Popen[bytes]:
    """Start a controller on a host whose clock is ``off`` seconds ahead."""
    (folder / "sitecustomize.py").write_text(WRONG_CLOCK.format(off))
    with (site.folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scaleplug.cli.main", "controller"], stdin=subprocess.DEVNULL, stderr=log,
            env=environment(**site.config.to_environ()) | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
            start_new_session=True,
        )  # fmt: skip
    site.controllers.append(process)
    return process


@contextlib.contextmanager
def own_clock(off: float) -> Iterator[None]:
    """Let this process's clock be ahead."""
    right = time.time
    with mock.patch("time.time", side_effect=lambda: right() + off):
        yield


def wrong(*, containers: float = 0.0, caller: float = 0.0) -> Report:
    """Do what depends on time, with the clock of the containers' host or of the caller off by so many seconds."""
    with Site() as site, tempfile.TemporaryDirectory() as name, own_clock(caller):
        folder, notes = Path(name), str(name)
        (folder / "clock").mkdir()
        first = controller(site, folder / "clock", containers)
        token = site.lead()
        assert not containers or "s behind this machine's" in site.said or "s ahead of this machine's" in site.said
        assert list(functions.solo.starmap((notes, n, 0.01) for n in range(100))) == list(range(100))
        began = time.monotonic()
        with_timeout = functions.endless.spawn()
        late = functions.solo.apply_async((notes, 1_000, 0.0), countdown=1.0, ignore_result=True)
        with_retry = functions.second_try.spawn(notes)
        try:
            with_timeout.get(timeout=20)
            raise AssertionError("it ended")
        except FunctionTimeoutError:
            timed_out = time.monotonic() - began
        assert with_retry.get(timeout=20) == 1
        path = folder / "notes"
        wait_until(lambda: f"end {1_000} " in path.read_text(), 10, "what had a countdown is done")
        delayed = time.monotonic() - began
        assert late.id
        assert 1.0 <= timed_out < 10, timed_out
        assert 1.0 <= delayed < 15, delayed
        functions.brief.remote()
        idle = time.monotonic()
        pids = set(site.pids(functions.solo))
        wait_until(lambda: not site.pids(functions.brief), 20, "an idle container leaves")
        left = time.monotonic() - idle
        assert left > 1.5, left
        first.send_signal(signal.SIGKILL)
        first.wait()
        controller(site, folder / "clock", containers)
        site.lead(after=token)
        assert list(functions.solo.starmap((notes, n, 0.01) for n in range(100))) == list(range(100))
        assert set(site.pids(functions.solo)) & pids, "the next controller adopts"
        learned = site.store.learned(functions.solo.full_name).get("start_time", 0.0)
        assert 0 <= learned < 20, learned
        remark = f"timeout of 1 s after {timed_out:.1f} s, an idle container of 2 s left after {left:.1f} s"
        which = f"clocks: hosts' {containers:+g} s, caller's {caller:+g} s"
        return summary(which, 205, time.time() - (time.monotonic() - began), faults=1, remarks=(remark,))
