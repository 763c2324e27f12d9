"""Scenarios in which Redis fails; each returns its report and raises where something is lost or stands still."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.chaos import work
from tests.chaos.proxy import Proxy
from tests.chaos.server import Server
from tests.chaos.site import Load, Site, site
from tests.helpers import wait_until

RESUME_SECONDS = 5.0
"""So soon after Redis is back everything goes on."""
STALL_SECONDS = 10.0
"""So soon after a network is back everything goes on."""


def restarts(folder: Path, *, graceful: bool, pool: str = "solo", inputs: int = 1_000, times: int = 2) -> str:
    """Restart Redis with its data under load."""
    server = Server(folder / "redis").start()
    try:
        with site(folder, server) as place:
            load = Load(place, work.POOLS[pool], inputs, 0.02).start()
            recoveries = []
            for count in range(times):
                wait_until(lambda done=count: load.done((done + 1) / (times + 2)), 60, "a share of the load is done")
                server.stop() if graceful else server.kill()
                server.start()
                back = time.time()
                wait_until(lambda moment=back: load.resumed_after(moment) < float("inf") or load.error, 30)
                recoveries.append(load.resumed_after(back))
            load.join(120)
            told = load.report(f"Redis {'restarted' if graceful else 'killed'} {times} times, {pool}", *recoveries)
            assert load.results == list(range(inputs)), told
            assert max(recoveries) < RESUME_SECONDS, told
            return told
    finally:
        server.kill()
