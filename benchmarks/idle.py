"""What it costs that nothing happens: 50 functions without work, beside an idle Celery worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import psutil

from benchmarks.harness import Plan, Result, Row
from benchmarks.probes import app, probes
from benchmarks.surroundings import surroundings
from benchmarks.workers import Peer
from scaleplug.embedded import EmbeddedRedis
from scaleplug.server import connect

FUNCTIONS = 50
SETTLE = 2.0


class Server:
    """A Redis whose commands are counted."""

    def __init__(self, url: str) -> None:
        self.client: Any = connect(url, name="benchmarks-idle")
        self.began = self.commands()
        self.began = self.commands()  # the first one has opened the connection, which takes commands too

    def commands(self) -> int:
        """Return how many commands the server has run."""
        return int(self.client.info("stats")["total_commands_processed"])

    def since(self) -> int:
        """Return the commands since the beginning, but for the one that asks."""
        return self.commands() - self.began - 1


def measure(plan: Plan) -> Result:
    window = plan.rounds(25, 6)
    functions = probes[:FUNCTIONS]
    with surroundings(app, *functions) as around, EmbeddedRedis() as other:
        functions[-1].remote()
        around.wait_for_zero(functions[-1])
        time.sleep(SETTLE)  # its process ends a moment after its record
        redis = {around.redis.pid, other.pid}
        run = [psutil.Process(), *(p for p in psutil.Process().children(recursive=True) if p.pid not in redis)]
        peer = Peer(other.url)
        with peer.worker() as worker:
            peer.call("nothing")
            time.sleep(SETTLE)
            main = psutil.Process(worker.pid)
            workers = [main, *main.children(recursive=True)]
            servers = Server(around.redis.url), Server(other.url)
            groups = (run, workers, [psutil.Process(around.redis.pid)])
            began, before = time.monotonic(), [_cpu(group) for group in groups]
            time.sleep(window)
            took, after = time.monotonic() - began, [_cpu(group) for group in groups]
            commands = servers[0].since(), servers[1].since()
    ours, theirs, redis_cpu = (100 * (end - start) / took for start, end in zip(before, after, strict=True))
    return Result(
        name="idle",
        rows=(
            Row(
                what=f"{FUNCTIONS} functions without work: CPU of controller, zygote and run, of one core",
                unit="%",
                ours=ours,
                peer=theirs,
                peer_is=f"one idle celery worker, its defaults ({os.cpu_count()} processes)",
                most=2,
            ),
            Row(
                what=f"{FUNCTIONS} functions without work: Redis commands",
                unit="/s",
                ours=commands[0] / took,
                peer=commands[1] / took,
                peer_is="one idle celery worker, its defaults",
                most=20,
            ),
        ),
        remarks=(
            f"Over {took:.0f} s, both at the same time, each on a Redis of its own.",
            f"Our Redis itself takes {redis_cpu:.2f} % of a core, which is not in the row above.",
            "Commands inside scripts count too; those of the measurement itself don't.",
            "The run's process is this one, which also takes the measurement.",
        ),
        unfair=(
            "In the peer's favour: its one worker serves one queue; 50 that scale apart would be 50 workers.",
            "An idle function has no container here; one with min_containers sends a command each 10 s.",
        ),
    )


def _cpu(processes: Iterable[psutil.Process]) -> float:
    """Return the processor seconds that processes have used."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))
