"""Scenarios in which Redis fails; each returns its report and raises where something is lost or stands still."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import OutputExpiredError, ResourceExhausted, StateLostError
from tests.chaos import work
from tests.chaos.proxy import Proxy
from tests.chaos.server import Server
from tests.chaos.redis_site import Load, Site, site
from tests.helpers import wait_until

RESUME_SECONDS = 5.0
"""So soon after Redis is back everything goes on."""
STALL_SECONDS = 10.0
"""So soon after a network is back everything goes on."""


def restarts(folder: Path, *, graceful: bool, pool: str = "solo", inputs: int = 1_000, times: int = 2,
    down: float = 0.0) -> str:
    """Restart Redis with its data under load."""
    server = Server(folder / "redis").start()
    try:
        with site(folder, server) as place:
            load = Load(place, work.POOLS[pool], inputs, 0.02).start()
            recoveries = []
            for count in range(times):
                wait_until(lambda done=count: load.done((done + 1) / (times + 2)), 60, "a share of the load is done")
                server.stop() if graceful else server.kill()
                time.sleep(down)
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


def emptied(folder: Path, *, down: float = 1.0) -> str:
    """Restart Redis without its data: who waits is told, and everything else goes on."""
    server = Server(folder / "redis").start()
    try:
        with site(folder, server) as place:
            pids = {r["pid"] for r in _warm(place, work.alone)}
            loads = [Load(place, function, 500, 0.05).start() for function in work.POOLS.values()]
            spawned = work.alone.spawn(place.ran, -1, 60.0)
            wait_until(lambda: all(load.done(0.1) for load in loads), 30, "the loads are under way")
            server.kill()
            server.wipe()
            time.sleep(down)
            server.start()
            back = time.time()
            told = []
            for load in loads:
                with pytest.raises(StateLostError, match="restarted without its data"):
                    load.join(STALL_SECONDS)
                told.append(time.time() - back)
            with pytest.raises((StateLostError, OutputExpiredError)):
                spawned.get(timeout=15)
            assert work.alone.remote(place.ran, -2, 0.0) == -2
            again = time.time() - back
            wait_until(lambda: place.store.functions().keys() == {"faulty.alone", "faulty.in_threads", "faulty.in_loop"}, 10)
            known = wait_until(lambda: {r.get("pid") for r in _ready(place, work.alone)} & pids, 10, "containers are adopted")
            assert known
            wait_until(lambda: place.store.client.get(place.store.keys.lease), STALL_SECONDS, "a controller acts")
            lines = [(place.ran, x, 0.05) for x in range(200)]
            assert list(work.alone.starmap(lines)) == list(range(200))
            return f"Redis restarted empty: callers told after {max(told):.2f} s, new call done after {again:.2f} s"
    finally:
        server.kill()


def _ready(place: Site, function: Any) -> list[dict[str, str]]:
    return [r for r in place.store.containers(function.full_name).values() if r.get("state") == "ready"]


def _warm(place: Site, function: Any) -> list[dict[str, str]]:
    list(function.starmap((place.ran, -1, 0.2) for _ in range(8)))
    return _ready(place, function)


def network(folder: Path, *, how: str, seconds: float = 30.0, pool: str = "solo", inputs: int = 2_000) -> str:
    """Let the network between Redis and everybody fail for a while, under load."""
    server = Server(folder / "redis").start()
    proxy = Proxy(server.port)
    try:
        with site(folder, server, port=proxy.port) as place:
            load = Load(place, work.POOLS[pool], inputs, 0.02).start()
            wait_until(lambda: load.done(0.2), 60, "the load is under way")
            getattr(proxy, how)()
            time.sleep(seconds)
            proxy.heal()
            back = time.time()
            wait_until(lambda: load.resumed_after(back) < float("inf") or load.error, 60, "the load goes on")
            if how == "stall":  # what was under way arrives at once; the rest is to follow
                wait_until(lambda: load.done(0.5), 60, "the load goes on")
            recovered = load.resumed_after(back)
            assert work.fresh.remote(1) == 1
            started = time.time() - back
            load.join(120)
            told = load.report(f"network {how} for {seconds:g} s, {pool}", recovered)
            assert load.results == list(range(inputs)), told
            assert recovered < STALL_SECONDS, told
            assert started < STALL_SECONDS, told
            return f"{told}; a first container after {started:.2f} s, {len(_ready(place, load.function))} at the end"
    finally:
        proxy.close()
        server.kill()


def full(folder: Path, *, inputs: int = 200) -> str:
    """Let Redis reach its maxmemory: what runs ends, nothing is lost, and it goes on when there is room."""
    server = Server(folder / "redis").start()
    try:
        with site(folder, server) as place, contextlib.closing(server.client) as client:
            _warm(place, work.alone)
            spawned = [work.alone.spawn(place.ran, x, 0.05) for x in range(inputs)]
            load = Load(place, work.in_threads, 4 * inputs, 0.02, first=10_000).start()
            wait_until(lambda: load.done(0.1), 30, "the load is under way")
            client.config_set("maxmemory", 1_000_000)
            begun = time.time()
            with pytest.raises(ResourceExhausted, match=r"out of memory.*raise maxmemory"):
                work.alone.remote(place.ran, -1, 0.0)
            with pytest.raises(ResourceExhausted, match=r"out of memory.*raise maxmemory"):
                work.alone.spawn(place.ran, -1, 0.0)
            assert [call.get(timeout=60) for call in spawned] == list(range(inputs))
            # Another controller can begin to act, and the first container of a function can be started.
            place.controllers[0].kill()
            place.controllers[0].wait()
            place.start_controller()
            wait_until(lambda: client.get(place.store.keys.lease), 15, "the next controller acts")
            while time.time() - begun < 8:  # longer than anything that expires
                time.sleep(0.1)
            client.config_set("maxmemory", 0)
            free = time.time()
            load.join(60)
            told = load.report("Redis full for 8 s", load.resumed_after(free))
            assert load.results == list(range(10_000, 10_000 + 4 * inputs)), told
            return told
    finally:
        server.kill()
