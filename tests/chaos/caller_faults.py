"""Callers that die, read slowly or ask for much at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.chaos import functions
from tests.chaos.harness import Report, summary
from tests.chaos.site import SOURCE, Site
from tests.commands import environment
from tests.helpers import wait_until

WHERE = (SOURCE.kind, SOURCE.where, SOURCE.folder)
CALLER = """
import sys
from scaleplug.registry import Source
from tests.chaos import functions
functions.app.set_source(Source(*sys.argv[1:4]))
folder, inputs, seconds = sys.argv[4], int(sys.argv[5]), float(sys.argv[6])
spawned = [functions.threads.spawn(folder, 10_000 + number, seconds) for number in range(10)]
print(flush=True)
for result in functions.solo.starmap((folder, number, seconds) for number in range(inputs)):
    pass
"""
MILLION = """
import sys, time
from scaleplug.registry import Source
from tests.chaos import functions
functions.app.set_source(Source(*sys.argv[1:4]))
count = int(sys.argv[4])
began = time.monotonic()
total = sum(functions.batch.map(iter(range(count))))
assert total == count * (count - 1) // 2, total
seconds = time.monotonic() - began
print(next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM")), seconds)
"""


@contextlib.contextmanager
def surroundings(**settings: float) -> Iterator[tuple[Site, Path]]:
    """Give a site whose controller acts, and a folder for notes."""
    with Site(**settings) as site, tempfile.TemporaryDirectory() as folder:
        site.controller()
        site.lead()
        yield site, Path(folder)


def killed(*, ttl: float = 5.0, inputs: int = 400) -> Report:
    """Kill a caller in the middle of a map: its pending inputs are dropped, what it has spawned is done."""
    began = time.time()
    with surroundings(caller_ttl=ttl) as (site, folder):
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER, *WHERE, str(folder), str(inputs), "0.2"],
            env=environment(**site.config.to_environ()), stdout=subprocess.PIPE,
        )  # fmt: skip
        notes, queue = folder / "notes", functions.solo.queue
        client = site.store.client
        try:
            wait_until(lambda: client.llen(queue) > inputs // 2 and notes.exists(), 30, "the map is under way")
        finally:
            caller.kill()
            caller.communicate()
        died = time.monotonic()
        wait_until(lambda: not client.llen(queue), 60, "its pending inputs are dropped")
        gone = time.monotonic() - died
        wait_until(lambda: site.settled(functions.solo) and site.settled(functions.threads), 30, "all is quiet")
        ran = {int(line.split()[1]) for line in notes.read_text().splitlines() if line.startswith("end")}
        assert ran >= set(range(10_000, 10_010)), "what was spawned is done"
        dropped = inputs - len([number for number in ran if number < 10_000])
        assert dropped > 0
        remark = f"{dropped} of {inputs} pending inputs dropped {gone:.1f} s later (caller_ttl {ttl:g} s)"
        return summary("caller killed in a map", 10, began, faults=1, remarks=(remark,))


def killed_before_any_container(*, ttl: float = 5.0, inputs: int = 400) -> Report:
    """Do the same where no container has started yet: none is started only to drop inputs."""
    begun = time.time()
    with Site(caller_ttl=ttl) as site, tempfile.TemporaryDirectory() as folder:
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER, *WHERE, folder, str(inputs), "0.01"],
            env=environment(**site.config.to_environ()), stdout=subprocess.PIPE,
        )  # fmt: skip
        client, queue = site.store.client, functions.solo.queue
        try:
            wait_until(lambda: client.llen(queue) == inputs, 30, "all inputs wait")
        finally:
            caller.kill()
            caller.communicate()
        wait_until(lambda: not client.keys(site.store.keys.prefix + "caller:*"), ttl + 10, "the caller counts as gone")
        site.controller()
        site.lead()
        began = time.monotonic()
        wait_until(lambda: not client.llen(queue), 20, "its inputs are dropped")
        took = time.monotonic() - began
        wait_until(lambda: site.settled(functions.threads), 30, "what was spawned is done")
        assert not client.exists(site.store.keys.of("decisions", functions.solo.full_name)) or not any(
            decision["start"] for decision in site.store.decisions(functions.solo.full_name)
        ), "no container was started for them"
        assert not site.store.counters(functions.solo.full_name).get("finished")
        remark = f"{inputs} inputs dropped within {took:.2f} s, without a container"
        return summary("caller killed, no container yet", 10, begun, faults=1, remarks=(remark,))


def cancelled(*, awaits: int = 1_000) -> Report:
    """Cancel many awaited calls at once."""
    began = time.time()
    with surroundings() as (site, folder):

        async def call_and_cancel() -> float:
            tasks = [
                asyncio.create_task(functions.solo.remote.aio(str(folder), number, 0.2)) for number in range(awaits)
            ]
            client = site.store.client
            wait = partial(wait_until, lambda: client.llen(functions.solo.queue) > awaits * 0.9, 60, "they wait")
            await asyncio.to_thread(wait)
            since = time.monotonic()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return time.monotonic() - since

        took = asyncio.run(call_and_cancel())
        assert site.store.client.llen(functions.solo.queue) == 0
        return summary("awaits cancelled", awaits, began, faults=1, remarks=(f"in {took:.2f} s",))


def many_maps(*, maps: int = 1_000, inputs: int = 5, asynchronous: bool) -> Report:
    """Iterate over many maps at once in one process, in threads or in one event loop."""
    with surroundings(max_pending=100_000, max_total=100_000) as (_, folder):
        wanted, began = list(range(inputs)), time.monotonic()
        rows = [(str(folder), number, 0.0) for number in wanted]
        if asynchronous:

            async def one() -> list[int]:
                return [result async for result in functions.coroutines.starmap(rows)]

            async def every() -> list[list[int]]:
                return await asyncio.gather(*(one() for _ in range(maps)))

            found = asyncio.run(every())
        else:
            found = []
            threads = [
                threading.Thread(target=lambda: found.append(list(functions.coroutines.starmap(rows))))
                for _ in range(maps)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        took = time.monotonic() - began
        assert found == [wanted] * maps, f"{len(found)} of {maps} maps"
        how = "in one event loop" if asynchronous else "in threads"
        return summary(f"{maps:,} maps at once {how}", maps * inputs, time.time() - took, faults=1)


def slow_consumer(*, inputs: int = 3_000, kib: int = 32) -> Report:
    """Take one result of a map and then no more for a while: nothing piles up beyond the map's window."""
    began = time.time()
    with surroundings() as (site, _):
        client = site.store.client
        results = functions.blob.map(kib * 1024 for _ in range(inputs))
        next(results)
        before, memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, client.info("memory")["used_memory"]
        window = site.config.map_window

        def finished() -> int:
            return site.store.counters(functions.blob.full_name).get("finished", 0)

        wait_until(lambda: finished() >= window - 1, 60, "all that was sent is done")
        assert finished() <= window + 1
        kept = client.info("memory")["used_memory"] - memory
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        left = sum(1 for _ in results)
        assert left == inputs - 1
        assert kept < 16 << 20, f"{kept:,} bytes in Redis"
        assert grown < 3 * window * kib // 1024 + 50, f"{grown} MiB here"
        remark = f"left after one result: {window:,} done, {grown} MiB here, {max(0, kept) >> 10:,} KiB in Redis"
        return summary("slow consumer of a map", inputs, began, faults=1, remarks=(remark,))


def long_map(*, inputs: int, limit: int = 300) -> Report:
    """Map over inputs from a generator; the caller's memory stays bounded, and Redis's."""
    with surroundings() as (site, _):
        client, peak, over = site.store.client, [0], threading.Event()
        before = client.info("memory")["used_memory"]

        def look() -> None:
            while not over.wait(0.2):
                peak[0] = max(peak[0], client.info("memory")["used_memory"] - before)

        looker = threading.Thread(target=look)
        looker.start()
        try:
            done = subprocess.run(
                [sys.executable, "-c", MILLION, *WHERE, str(inputs)],
                env=environment(**site.config.to_environ()), capture_output=True, text=True, check=True,
            )  # fmt: skip
            containers = [
                int(Path(f"/proc/{pid}/statm").read_text().split()[1]) >> 8 for pid in site.pids(functions.batch)
            ]
        finally:
            over.set()
            looker.join()
        mib, seconds = done.stdout.split()
        assert int(mib) <= limit, f"{mib} MiB"
        assert peak[0] < 100 << 20, f"{peak[0]:,} bytes in Redis"
        here = max(containers, default=0)
        remark = f"at most {mib} MiB in the caller, {peak[0] >> 20} MiB in Redis, {here} MiB in a container"
        return summary("map over a generator", inputs, time.time() - float(seconds), faults=1, remarks=(remark,))
