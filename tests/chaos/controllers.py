"""Controllers and zygotes that die or freeze while containers work."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from tests.chaos import functions
from tests.chaos.harness import Fault, Faults, Load, Report
from tests.chaos.site import Site

SHORT = 0.02
STANDBY_SECONDS = 5.0


class Succession:
    """Controllers of which one acts and one stands by."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.leader = site.controller()
        self.token = site.lead()
        self.standby = site.controller()
        self.taken: list[float] = []
        """Seconds from each loss of a leader until another one acted."""

    def lose(self, sig: signal.Signals) -> Fault:
        """Signal the leader; the standby acts, and a new one stands by."""
        fault = Fault(time.time(), f"{sig.name} of the controller")
        self.leader.send_signal(sig)
        self.token = self.site.lead(after=self.token)
        self.taken.append(time.time() - fault.at)
        before, self.leader = self.leader, self.standby
        if sig == signal.SIGSTOP:
            before.send_signal(signal.SIGCONT)
            self.standby = before
        else:
            self.standby = self.site.controller()
        return fault


def lost(pool: str, sig: signal.Signals, *, inputs: int, every: float, limit: float = 300.0) -> Report:
    """Kill or freeze the acting controller now and then; nothing stops, runs twice or is left behind."""
    function = functions.POOLS[pool]
    with Site() as site, tempfile.TemporaryDirectory() as folder:
        succession = Succession(site)
        load = Load(function, inputs, SHORT, Path(folder)).start()
        site.wait_for_containers(function, 1)
        before: set[int] = set()
        with Faults(lambda: succession.lose(sig), every=every) as faults:
            while not load.over and time.time() < load.began + limit:
                before |= set(site.pids(function))
                load.wait(0.5)
        succession.site.lead()
        orphans = site.end()
        missed = [f"gone: {len(orphans)} orphans"] if orphans else []
        if max(succession.taken, default=0.0) > STANDBY_SECONDS:
            missed.append(f"taken over within {STANDBY_SECONDS:g} s")
        what = "controller killed" if sig == signal.SIGKILL else "leader frozen and woken"
        report = load.report(f"{what}, {pool}", faults.done, recoveries=succession.taken, missed=missed)
        return report.none_twice()


def zygotes_killed(pool: str, *, inputs: int, every: float, most: int | None = None, limit: float = 300.0) -> Report:
    """SIGKILL the zygotes now and then, and so all containers."""
    function = functions.POOLS[pool]
    with Site(max_attempts=10) as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        load = Load(function, inputs, SHORT, Path(folder)).start()
        site.wait_for_containers(function, 1)

        def kill() -> list[Fault]:
            zygotes = site.zygotes()
            for zygote in zygotes:
                zygote.suspend()  # no container comes that is not known here
            pids = [child.pid for zygote in zygotes for child in zygote.children()]
            killed = time.time()
            for zygote in zygotes:
                zygote.kill()
            return [Fault(killed, "SIGKILL of its zygote", pid) for pid in pids]

        with Faults(kill, every=every, most=most) as faults:
            load.wait(limit)
        return load.report(f"zygote killed, {pool}", faults.done)
