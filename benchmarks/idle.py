"""What it costs that nothing happens, by the number of functions, and that some of them are called now and then."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psutil

from benchmarks.harness import Plan, Result, Row
from benchmarks.memory import pss
from benchmarks.probes import app, probes
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import Peer
from scaleplug.embedded import EmbeddedRedis
from scaleplug.server import connect

COUNTS = (10, 100, 1_000)
ACTIVE = 100
SETTLE = 2.0
MOST_CPU, MOST_COMMANDS = 2.0, 20.0
"""Of a core in percent, and a second: with a hundred idle functions. Ten times as many may cost ten times that."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a while has cost; ``controller`` is its memory in MiB, ``redis`` that of Redis."""

    cpu: float
    commands: float
    controller: float
    redis: float


class Meter:
    """Reads what some processes and their Redis do from now on."""

    def __init__(self, url: str, processes: list[psutil.Process]) -> None:
        self.client: Any = connect(url, name="benchmarks-idle")
        self.processes = processes
        self._commands()  # opens the connection, which takes commands too
        self.began, self.cpu, self.commands = time.monotonic(), _cpu(processes), self._commands()

    def _commands(self) -> int:
        return int(self.client.info("stats")["total_commands_processed"])

    def read(self) -> Cost:
        """Return the cost since the beginning, without the commands of this very look."""
        took, commands = time.monotonic() - self.began, self._commands() - self.commands - 1
        return Cost(
            cpu=100 * (_cpu(self.processes) - self.cpu) / took,
            commands=commands / took,
            controller=sum(pss(process.pid) for process in self.processes),
            redis=int(self.client.info("memory")["used_memory"]) / MIB,
        )


def measure(plan: Plan) -> Result:
    window, counts = plan.rounds(20, 3), COUNTS[1:] if plan.hurried else COUNTS
    costs: dict[int, Cost] = {}
    with EmbeddedRedis() as other, Peer(celery := other.url).worker() as worker:
        Peer(celery).call("nothing")
        meter = Meter(celery, [main := psutil.Process(worker.pid), *main.children(recursive=True)])
        for count in counts:
            with _idle_functions(count) as around:
                costs[count] = _cost(around, [psutil.Process(), *_control()], window)
                if count == COUNTS[-1]:
                    with _calls_now_and_then():
                        costs[0] = _cost(around, _control(), window)
        peer = meter.read()
    return Result(
        name="idle",
        rows=tuple(row for count, cost in costs.items() for row in _rows(count, cost, costs, peer)),
        remarks=(
            f"Over {window} s each; CPU of controller and zygote, and for idle ones of the run's process, of one core.",
            f"Active: each of {ACTIVE} of 1,000 functions is called once a second, and has a container all the time.",
            "Commands inside scripts count too; those of the measurement itself don't.",
            "The peer is one idle celery worker with its defaults, on a Redis of its own, all the while.",
        ),
        unfair=(
            "In the peer's favour: its one worker serves one queue; 1,000 that scale apart would be 1,000 workers.",
            "An idle function has no container here; one with min_containers sends a command each 10 s.",
        ),
    )


@contextlib.contextmanager
def _idle_functions(count: int) -> Iterator[Surroundings]:
    functions = probes[:count]
    with surroundings(app, *functions) as around:
        functions[-1].remote()  # every function has been prepared when the last one can be started
        around.wait_for_zero(functions[-1])
        time.sleep(SETTLE)  # its process ends a moment after its record
        yield around


@contextlib.contextmanager
def _calls_now_and_then() -> Iterator[None]:
    """Call the active functions in turn, each once a second; when the block begins each has had its container."""
    over = threading.Event()

    def call() -> None:
        turn, began = 0, time.monotonic()
        while not over.wait(max(0.0, began + turn / ACTIVE - time.monotonic())):
            probes[turn % ACTIVE].spawn()
            turn += 1

    caller = threading.Thread(target=call)
    caller.start()
    try:
        time.sleep(2 * SETTLE)
        yield
    finally:
        over.set()
        caller.join()


def _control() -> list[psutil.Process]:
    """Return the controller and its zygotes."""
    (controller,) = (p for p in psutil.Process().children() if "scaleplug.runtime" in " ".join(p.cmdline()))
    return [controller, *controller.children()]


def _cost(around: Surroundings, processes: list[psutil.Process], window: float) -> Cost:
    meter = Meter(around.redis.url, processes)
    time.sleep(window)
    return replace(meter.read(), controller=pss(_control()[0].pid))


def _rows(count: int, cost: Cost, costs: dict[int, Cost], peer: Cost) -> list[Row]:
    what = f"{count:,} idle functions" if count else f"1,000 functions, {ACTIVE} of them active"
    share = max(count, 100) / 100
    base = costs[100]
    bounds = (
        (MOST_CPU * share, MOST_COMMANDS * share, base.controller + 0.05 * count, base.redis + 0.05 * count)
        if count
        else (None,) * 4
    )
    figures = (
        ("CPU", "%", cost.cpu, peer.cpu),
        ("Redis commands", "/s", cost.commands, peer.commands),
        ("PSS of the controller", "MiB", cost.controller, peer.controller),
        ("memory of Redis", "MiB", cost.redis, peer.redis),
    )
    processes = f"one idle celery worker ({1 + (os.cpu_count() or 1)} processes)"
    return [
        Row(what=f"{what}: {name}", unit=unit, ours=ours, peer=theirs, peer_is=processes, most=most)
        for (name, unit, ours, theirs), most in zip(figures, bounds, strict=True)
    ]


def _cpu(processes: Iterable[psutil.Process]) -> float:
    """Return the processor seconds that processes have used."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))
