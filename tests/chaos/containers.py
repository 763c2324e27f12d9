"""Containers that are killed, frozen or asked to leave while they work."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos import functions
from tests.chaos.harness import Fault, Faults, Load, Report
from tests.chaos.site import Site
from tests.helpers import wait_until

SHORT = 0.02
"""Seconds of an input."""
ATTEMPTS = 10
"""On a busy machine chance may hit an input more than three times."""
WINDOW = 100


def killed(pool: str, *, inputs: int, every: float, most: int | None = None, limit: float = 300.0) -> Report:
    """SIGKILL a random container of a pool now and then, busy or not."""
    function = functions.POOLS[pool]
    with Site(max_attempts=ATTEMPTS) as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        load = Load(function, inputs, SHORT, Path(folder)).start()
        site.wait_for_containers(function, 1)
        with Faults(lambda: site.signal_one(function), every=every, most=most) as faults:
            load.wait(limit)
        return load.report(f"containers killed, {pool}", faults.done)


def frozen(
    pool: str, *, inputs: int, every: float, most: int | None = None, limit: float = 300.0, timeout: float = 1.0
) -> Report:
    """SIGSTOP a random container now and then; some wake up again before and after they are given up."""
    function = functions.POOLS[pool]
    woken: list[threading.Timer] = []
    with Site(freeze_timeout=timeout) as site, tempfile.TemporaryDirectory() as folder:

        def freeze() -> Fault | None:
            fault = site.signal_one(function, signal.SIGSTOP)
            if fault is not None and fault.pid and len(woken) % 2:
                woken.append(threading.Timer(timeout / 2, _signal, [fault.pid, signal.SIGCONT]))
                woken[-1].start()
            elif fault is not None:
                woken.append(threading.Timer(0.0, lambda: None))
            return fault

        site.controller()
        site.lead()
        load = Load(function, inputs, SHORT, Path(folder)).start()
        site.wait_for_containers(function, 1)
        with Faults(freeze, every=every, most=most) as faults:
            load.wait(limit)
        for timer in woken:
            timer.cancel()
        # A container may be frozen long after its input has ended: it is a later one that is cut off.
        return load.report(f"containers frozen, {pool}", faults.done, remarks=[f"given up after {timeout:g} s"])


def _signal(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


class Leavers:
    """Asks busy containers to leave, and writes down when they have gone."""

    def __init__(self, site: Site, function: Any) -> None:
        self.site, self.function = site, function
        self.asked: dict[int, float] = {}
        self.gone: dict[int, float] = {}
        self._watchers: list[threading.Thread] = []

    def ask(self) -> Fault | None:
        """Send one a SIGTERM."""
        pids = [pid for pid in self.site.busy(self.function) if pid not in self.asked]
        if not pids:
            return None
        pid = self.site.chance.choice(pids)
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return None
        self.asked[pid] = time.time()
        _signal(pid, signal.SIGTERM)
        self._watchers.append(threading.Thread(target=self._watch, args=(pid, handle), daemon=True))
        self._watchers[-1].start()
        return Fault(self.asked[pid], "SIGTERM", pid)

    def _watch(self, pid: int, handle: int) -> None:
        if select.select([handle], [], [], 60)[0]:
            self.gone[pid] = time.time()
        os.close(handle)

    def excess(self, load: Load) -> list[float]:
        """Return how much longer than what they ran took them to leave; an hour where one has not left."""
        for watcher in self._watchers:
            watcher.join()
        ends: dict[int, float] = {}
        for run in (run for runs in load.runs().values() for run in runs):
            ends[run.pid] = max(ends.get(run.pid, 0.0), run.end or run.start)
        return [self.gone.get(pid, at + 3600) - max(at, ends.get(pid, 0.0)) for pid, at in self.asked.items()]


def asked_to_leave(pool: str, *, signals: int, every: float, limit: float = 600.0) -> Report:
    """SIGTERM busy containers: none loses its input or lets it run twice."""
    function = functions.POOLS[pool]
    with Site(map_window=WINDOW) as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        load = Load(function, 1_000_000, 0.1, Path(folder)).start()
        site.wait_for_containers(function, 1)
        leavers = Leavers(site, function)
        with Faults(leavers.ask, every=every, most=signals) as faults:
            wait_until(lambda: load.over or len(faults.done) >= signals, limit, "all are asked")
            load.enough.set()
            load.wait(limit)
        excess = leavers.excess(load)
        missed = [] if len(faults.done) >= signals else [f"{signals} signals, but {len(faults.done)}"]
        report = load.report(f"SIGTERM of busy containers, {pool}", faults.done, recoveries=excess, missed=missed)
        return report.none_twice()
