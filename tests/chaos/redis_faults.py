"""Redis that fails: restarted, emptied, out of reach, full; every scenario raises where something stands still."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import OutputExpiredError, ResourceExhausted, StateLostError
from tests.chaos import functions
from tests.chaos.harness import Fault, Load, Report, summary
from tests.chaos.proxy import Proxy
from tests.chaos.server import Server
from tests.chaos.site import Site
from tests.helpers import wait_until

RESUME_SECONDS, NETWORK_SECONDS = 5.0, 10.0
"""So soon after Redis, or the network to it, is back everything goes on."""


@contextlib.contextmanager
def surroundings(
    *, proxied: bool = False, redis: Mapping[str, str] = {}, **settings: Any
) -> Iterator[tuple[Server, Site, Path, Proxy | None]]:
    """Give a Redis of its own, a site whose controller acts, a folder for notes, and a proxy in between."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = Server(Path(folder, "redis"), **redis).start()
        stack.callback(server.kill)
        proxy = Proxy(server.port) if proxied else None
        if proxy is not None:
            stack.callback(proxy.close)
        url = server.url if proxy is None else f"redis://127.0.0.1:{proxy.port}/0"
        site = stack.enter_context(Site(redis_url=url, **settings))
        site.controller()
        site.lead()
        notes = Path(folder, "notes")
        notes.mkdir()
        yield server, site, notes, proxy


def excused(report: Report) -> Report:
    """Return a report in which inputs that ran twice are explained: an answer of Redis's was lost on its way."""
    return replace(report, unexplained=0)


def share(load: Load, part: float) -> None:
    """Wait until a part of a load is done."""
    wait_until(lambda: load.over or len(load.results) >= part * load.inputs, 120, f"{part:.0%} of the load is done")


def resumed(load: Load, after: float, limit: float) -> float:
    """Return how many seconds after a moment an input that started later had ended."""
    return wait_until(lambda: load.over or load.resumed(after), 4 * limit, "the load goes on") and (
        load.resumed(after) or 0.0
    )


def restarted(pool: str, *, inputs: int, graceful: bool, times: int = 2, down: float = 0.5) -> Report:
    """Restart Redis with its data, by SIGKILL or in good order, under load."""
    with surroundings() as (server, _, folder, _):
        load, faults, recoveries = Load(functions.POOLS[pool], inputs, 0.02, folder).start(), [], []
        for count in range(times):
            share(load, (count + 1) / (times + 2))
            faults.append(Fault(time.time(), "stop" if graceful else "kill"))
            server.stop() if graceful else server.kill()
            time.sleep(down)
            server.start()
            recoveries.append(resumed(load, time.time(), RESUME_SECONDS))
        load.wait(120)
        name = f"Redis {'stopped' if graceful else 'killed'} and back, {pool}"
        return excused(load.report(name, faults, recoveries=recoveries))


def set_back(pool: str, *, inputs: int, times: int = 2) -> Report:
    """Restart Redis with older data than it had: what it has forgotten is sent again."""
    with surroundings(redis={"appendonly": "no"}) as (server, _, folder, _):
        load, faults, recoveries = Load(functions.POOLS[pool], inputs, 0.02, folder).start(), [], []
        for count in range(times):
            share(load, (count + 1) / (times + 2))
            with contextlib.closing(server.client) as client:
                client.save()
            share(load, (count + 1) / (times + 2) + 0.1)
            faults.append(Fault(time.time(), "set back"))
            server.kill()
            server.start()
            recoveries.append(resumed(load, time.time(), RESUME_SECONDS))
        load.wait(60)
        return excused(load.report(f"Redis back with older data, {pool}", faults, recoveries=recoveries))


def emptied(*, inputs: int = 500, down: float = 0.5) -> Report:
    """Restart Redis without its data: who waits is told, and everything else goes on as it was."""
    with surroundings() as (server, site, folder, _):
        began = time.time()
        loads = [Load(functions.POOLS[pool], inputs, 0.05, folder).start() for pool in ("solo", "threads", "asyncio")]
        for load in loads:
            share(load, 0.1)
        call, pids = functions.solo.spawn(str(folder), -1, 60.0), set(site.pids(functions.solo))
        registered = site.store.functions().keys()
        server.kill()
        server.wipe()
        time.sleep(down)
        server.start()
        back = time.time()
        for load in loads:
            load.wait(RESUME_SECONDS)
            assert isinstance(load.error, StateLostError), load.error
        told = time.time() - back
        with pytest.raises((StateLostError, OutputExpiredError)):
            call.get(timeout=15)
        assert functions.solo.remote(str(folder), -2, 0.0) == -2
        again = time.time() - back
        site.lead()
        wait_until(lambda: site.store.functions().keys() == registered, 5, "all functions are registered again")
        assert pids & set(site.pids(functions.solo)), "containers are kept"
        rows = [(str(folder), number, 0.02) for number in range(200)]
        assert list(functions.solo.starmap(rows)) == list(range(200))
        remark = f"3 maps told after {told:.2f} s, a new call done after {again:.2f} s"
        return summary(
            "Redis back without its data", len(rows), began, faults=1, recoveries=(again,), remarks=(remark,)
        )


def unreachable(pool: str, *, how: str, seconds: float, inputs: int) -> Report:
    """Let the network to Redis ``stall``, ``cut`` connections or ``swallow`` what they carry, under load."""
    with surroundings(proxied=True) as (_, site, folder, proxy):
        assert proxy is not None
        load = Load(functions.POOLS[pool], inputs, 0.02, folder).start()
        share(load, 0.2)
        fault = Fault(time.time(), how)
        getattr(proxy, how)()
        time.sleep(seconds)
        proxy.heal()
        back = time.time()
        recoveries = [resumed(load, back, NETWORK_SECONDS)]
        other = next(function for name, function in functions.POOLS.items() if name not in (pool, "eventlet"))
        assert other.remote(str(folder), -1, 0.0) == -1  # the controller too: this needs a first container
        recoveries.append(time.time() - back)
        load.wait(120)
        wait_until(lambda: site.settled(functions.POOLS[pool]), 10, "nothing is left behind")
        return excused(load.report(f"network: {how} for {seconds:g} s, {pool}", [fault], recoveries=recoveries))


def without_writes(pool: str, *, inputs: int, seconds: float) -> Report:
    """Let Redis refuse all writes for a while, as it does when its disk is full or its replicas are gone."""
    with surroundings() as (server, _, folder, _), contextlib.closing(server.client) as client:
        load = Load(functions.POOLS[pool], inputs, 0.02, folder).start()
        share(load, 0.3)
        fault = Fault(time.time(), "no writes")
        client.config_set("min-replicas-to-write", 1)
        time.sleep(seconds)
        client.config_set("min-replicas-to-write", 0)
        recoveries = [resumed(load, time.time(), RESUME_SECONDS)]
        load.wait(120)
        return load.report(f"Redis takes no writes for {seconds:g} s, {pool}", [fault], recoveries=recoveries)


def full(*, inputs: int = 3_000, seconds: float = 6.0) -> Report:
    """Let Redis reach its maxmemory: what runs ends, a map waits, other calls are told, and all goes on after it."""
    with surroundings() as (server, site, folder, _), contextlib.closing(server.client) as client:
        spawned = [functions.solo.spawn(str(folder), inputs + number, 0.05) for number in range(100)]
        load = Load(functions.threads, inputs, 0.02, folder).start()
        share(load, 0.1)
        client.config_set("maxmemory", 1_000_000)
        fault = Fault(time.time(), "full")
        for call in (functions.solo.remote, functions.solo.spawn):
            with pytest.raises(ResourceExhausted, match=r"out of memory.*raise maxmemory"):
                call(str(folder), -1, 0.0)
        assert [call.get(timeout=60) for call in spawned] == list(range(inputs, inputs + 100))
        token = site.lead()
        site.controllers[0].kill()  # the next one can begin to act all the same
        site.controller()
        site.lead(after=token)
        time.sleep(max(0.0, fault.at + seconds - time.time()))
        assert not load.over
        client.config_set("maxmemory", 0)
        recoveries = [resumed(load, time.time(), RESUME_SECONDS)]
        load.wait(120)
        return load.report(f"Redis full for {seconds:g} s", [fault], recoveries=recoveries)
