"""Many inputs in one container: sleeping tasks and threads, memory, no-ops beside arq and taskiq.

The rivals need a Python of their own each, since arq can't be installed beside this version of redis-py::

    python -m venv build/rivals/arq && build/rivals/arq/bin/pip install arq
    python -m venv build/rivals/taskiq && build/rivals/taskiq/bin/pip install taskiq-redis
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import shared_functions as functions
from benchmarks.harness import Plan, Result, Row, Summary, seconds, wait_until
from benchmarks.memory import pss
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import Peer
from scaleplug.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[1]
RIVALS = ROOT / "build" / "rivals"
WORKERS = {
    "arq": ["arq", "arq_app.WorkerSettings"],
    "taskiq": ["taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--max-async-tasks", "1000"],
}
NO_OPS, RIVALS_NO_OPS = 10_000, 5_000
WAITS, COMPUTES = [0.1] * 100, [0.05] * 20


def measure(plan: Plan) -> Result:
    pools = {**functions.waits, **{f"{pool} computes": f for pool, f in functions.computes.items()}}
    everything = (functions.sleep_async, functions.sleep_threads, functions.nothing, *pools.values())
    with surroundings(functions.app, *everything) as around:
        rounds = plan.rounds(3, 1)
        tasks = _times(functions.sleep_async, [1.0] * 1_000, rounds)
        threads = _times(functions.sleep_threads, [1.0] * 30, rounds)
        with Peer(around.redis.url).worker("--pool", "threads", "--concurrency", "10"):
            peer = Peer(around.redis.url)
            peer.map("hold", [0.01] * 20)
            celery = Summary.of([seconds(lambda: peer.map("hold", [1.0] * 30)) for _ in range(rounds)], "s")
        held, live = _with_a_thousand(around)
        no_ops = _times(functions.nothing, list(range(NO_OPS)), plan.rounds(5, 2))
        kinds = {name: _times(f, COMPUTES if "computes" in name else WAITS, 1) for name, f in pools.items()}
    rivals = {name: _rival(name, plan.rounds(2, 1)) for name in WORKERS}
    found = {name: RIVALS_NO_OPS / rival.p50 for name, rival in rivals.items() if rival is not None}
    best = max(found, key=lambda name: found[name], default="")
    return Result(
        name="concurrency",
        rows=(
            Row(what="1,000 async inputs that sleep 1 s, one container", unit="s", ours=tasks.p50, peer=None,
                peer_is="", most=1.5),
            Row(what="30 sync inputs that sleep 1 s, max_inputs=10, one container", unit="s", ours=threads.p50,
                peer=celery.p50, peer_is="celery worker -P threads -c 10", most=3.3),
            Row(what="PSS of a container with 1,000 waiting async inputs", unit="MiB", ours=held, peer=None, peer_is="",
                most=100),
            Row(what="threads of that container", unit="", ours=live, peer=None, peer_is="", most=20),
            Row(what=f"{NO_OPS:,} no-op async inputs, one warm container, per second", unit="/s",
                ours=NO_OPS / no_ops.p50, peer=found.get(best),
                peer_is=f"{best}, one worker" if best else "not installed",
                least_ratio=1 if best else None, more_is_better=True),
        ),
        samples={
            "1,000 async x 1 s": tasks, "30 sync x 1 s": threads, "celery threads": celery, "no-ops": no_ops,
            **{name: rival for name, rival in rivals.items() if rival is not None},
            **{f"100 waits of 0.1 s, {name}" if "computes" not in name else f"20 x 50 ms, {name}": s
               for name, s in kinds.items()},
        },
        unfair=(
            "A map sends its inputs in bulk, which the rivals can't; it reads its results, theirs aren't read.",
        ),
        remarks=(
            ", ".join(f"{name}: {rate:,.0f}/s" for name, rate in found.items()) or "No rival is installed.",
            f"{RIVALS_NO_OPS:,} no-ops of each rival, one worker each.",
            "arq with max_jobs=1000 and poll_delay=0.01, taskiq with its stream broker and --max-async-tasks 1000.",
        ),
    )  # fmt: skip


def _times(function: Any, inputs: list[Any], rounds: int) -> Summary:
    """Map a warm function; raises RuntimeError if a result is wrong."""

    def run() -> None:
        if list(function.map(inputs)) != inputs:
            raise RuntimeError("the results are not what was sent")

    function.remote(inputs[0])
    return Summary.of([seconds(run) for _ in range(rounds)], "s")


def _with_a_thousand(around: Surroundings) -> tuple[float, int]:
    """Return the memory and the threads of a container in which 1,000 inputs wait."""
    (record,) = around.containers(functions.sleep_async).values()
    name, pid = functions.sleep_async.full_name, int(record["pid"])
    caller = threading.Thread(target=lambda: list(functions.sleep_async.map([3.0] * 1_000)))
    caller.start()
    wait_until(lambda: around.store.census([name])[name].running == 1_000, "1,000 run")
    held, live = pss(pid), psutil.Process(pid).num_threads()
    caller.join()
    return held, live


def _rival(name: str, rounds: int) -> Summary | None:
    """Return how long a rival takes for the no-ops; ``None`` where it isn't installed."""
    python = RIVALS / name / "bin" / "python"
    if not python.exists():
        return None
    with EmbeddedRedis() as redis:
        environ = {**os.environ, "RIVALS_URL": redis.url}
        with _worker(name, environ):
            command = [str(python), f"{name}_app.py", str(RIVALS_NO_OPS)]
            where = {"cwd": Path(__file__).parent / "rivals", "env": environ}
            runs = [
                subprocess.run(command, check=True, capture_output=True, timeout=90, **where) for _ in range(rounds)
            ]
    return Summary.of([float(run.stdout) for run in runs], "s")


@contextlib.contextmanager
def _worker(name: str, environ: dict[str, str]) -> Iterator[None]:
    program, *options = WORKERS[name]
    process = subprocess.Popen(
        [str(RIVALS / name / "bin" / program), *options], cwd=Path(__file__).parent / "rivals", env=environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
