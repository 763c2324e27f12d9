"""The memory of an idle container, beside a plain Celery worker."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path

import psutil

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, wait_until
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import Peer

CONTAINERS = 20
PEERS = 3


def measure(_plan: Plan) -> Result:
    if not Path("/proc/self/smaps_rollup").exists():
        raise RuntimeError("needs Linux: it is read from /proc/PID/smaps_rollup")
    with surroundings(functions.app, functions.resting) as around:
        containers = wait_until(lambda: _ready(around), f"{CONTAINERS} containers are ready")
        used = set(functions.resting.map([0.3] * CONTAINERS))  # an idle container has run something before
        zygotes = {psutil.Process(pid).ppid() for pid in containers}
        each = [pss(pid) for pid in containers]
        zygote = sum(map(pss, zygotes))
        controllers = {psutil.Process(pid).ppid() for pid in zygotes}
        controller = sum(map(pss, controllers))
        workers = _workers(Peer(around.redis.url))
    ours, peer = (sum(each) + zygote) / CONTAINERS, statistics.median(workers)
    return Result(
        name="memory",
        rows=(
            Row(
                what=f"PSS per idle container, {CONTAINERS} of them, their zygote's share counted",
                unit="MiB",
                ours=ours,
                peer=peer,
                peer_is="celery worker -P solo, idle",
                most=18,
            ),
            Row(
                what=f"PSS of {CONTAINERS} idle containers, zygote and controller",
                unit="MiB",
                ours=sum(each) + zygote + controller,
                peer=CONTAINERS * peer,
                peer_is=f"{CONTAINERS} x celery worker -P solo",
            ),
        ),
        unfair=(
            "A container shares what its zygote has loaded until it writes to it; this function imports nothing heavy.",
            "A container's Celery worker has no remote control, gossip and heartbeat; the peer has Celery's defaults.",
        ),
        remarks=(
            f"{len(used)} of the {CONTAINERS} had run an input, and so had each of the {PEERS} workers of the peer.",
            f"Zygote {zygote:.1f} MiB, a container {statistics.median(each):.1f} MiB, controller {controller:.1f} MiB.",
            "The private Redis is left out on both sides.",
        ),
    )


def _ready(around: Surroundings) -> list[int]:
    """Return the containers' processes when all are ready."""
    records = around.containers(functions.resting).values()
    processes = [int(record["pid"]) for record in records if record.get("state") == "ready"]
    return processes if len(processes) == CONTAINERS else []


def _workers(peer: Peer) -> list[float]:
    """Return what each of a few idle workers takes, after one task each."""
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(PEERS):
            queue = f"memory{number}"
            options = ("--pool", "solo", "--queues", queue, "--hostname", f"{queue}@%h")
            processes.append(stack.enter_context(peer.worker(*options)))
        for number in range(PEERS):
            peer.app.tasks["peer.nothing"].apply_async(queue=f"memory{number}").get(timeout=30)
        return [pss(process.pid) for process in processes]


def pss(pid: int) -> float:
    """Return a process's proportional set size in MiB: a page that n processes map counts 1/n."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no line Pss")
