"""The memory of idle containers, however many there are, beside plain Celery workers."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path

import psutil

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary, wait_until
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import Peer

COUNTS = (1, 10, 20, 100)
PROMISED, MOST = 20, 10.0
ALONE, WHOLE = "PSS of an idle container", "the same with a share of zygote and spare"
PEERS = 3


def sample(what: str, count: int) -> str:
    """Return what the sample of so many containers is called."""
    return f"{what}, {count} of them"


def measure(_plan: Plan) -> Result:
    if not Path("/proc/self/smaps_rollup").exists():
        raise RuntimeError("needs Linux: it is read from /proc/PID/smaps_rollup")
    remarks = []
    each: dict[str, dict[int, float]] = {ALONE: {}, WHOLE: {}}
    with surroundings(functions.app, functions.resting) as around:
        for count in COUNTS:
            each[ALONE][count], each[WHOLE][count], remark = _per_container(around, count)
            remarks.append(remark)
        workers = _workers(Peer(around.redis.url))
    peer = statistics.median(workers)
    return Result(
        name="memory",
        rows=tuple(
            Row(
                what=sample(what, count),
                unit="MiB",
                ours=each[what][count],
                peer=peer,
                peer_is="celery worker -P solo, idle",
                most=MOST if (what, count) == (ALONE, PROMISED) else None,
            )
            for what in each
            for count in COUNTS
        ),
        samples={
            **{sample(what, n): Summary.of([each[what][n]], "MiB") for what in each for n in COUNTS},
            "celery worker": Summary.of(workers, "MiB"),
        },
        unfair=(
            "A container shares what its zygote has loaded until it writes to it; this function imports nothing heavy.",
            "A container's Celery worker has no remote control, gossip and heartbeat; the peer has Celery's defaults.",
        ),
        remarks=(
            *remarks,
            f"Each of the {PEERS} workers of the peer had run a task.",
            "The private Redis is left out on both sides.",
        ),
    )


def _per_container(around: Surroundings, count: int) -> tuple[float, float, str]:
    """Return the memory of an idle container of so many, in MiB, alone and with its share, and what else to tell."""
    functions.resting.update_autoscaler(min_containers=count)
    pids = wait_until(lambda: _ready(around, count), f"{count} containers are ready")
    used = set(functions.resting.map([0.3] * count))  # an idle container has run something before
    (zygote,) = {psutil.Process(pid).ppid() for pid in pids}
    family = [zygote, *(child.pid for child in psutil.Process(zygote).children())]
    containers, whole = [pss(pid) for pid in pids], sum(map(pss, family))
    controller = pss(psutil.Process(zygote).ppid())
    others = len(family) - 1 - count
    remark = (
        f"{count}: zygote {pss(zygote):.1f} MiB, {others} others "
        f"forked from it, controller {controller:.1f} MiB; {len(used)} had run an input."
    )
    return statistics.median(containers), whole / count, remark


def _ready(around: Surroundings, count: int) -> list[int]:
    """Return the containers' processes when all are ready."""
    records = around.containers(functions.resting).values()
    processes = [int(record["pid"]) for record in records if record.get("state") == "ready"]
    return processes if len(processes) == count else []


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
