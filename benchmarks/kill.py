"""A container is killed in mid-input: how soon its input starts elsewhere."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

from kombu.transport.redis import Channel

from benchmarks import functions
from benchmarks.harness import Plan, Result, Row, Summary, wait_until
from benchmarks.surroundings import Surroundings, surroundings
from benchmarks.workers import LEAN, Peer

MID_INPUT = 0.02
"""Seconds after its start that an input's process is killed."""
LONG = 60.0
PEER_WAITS = 20.0


def measure(plan: Plan) -> Result:
    visibility = float(Channel.visibility_timeout)
    with surroundings(functions.app, functions.note) as around, tempfile.TemporaryDirectory() as folder:
        functions.note.remote(str(Path(folder, "first")), 0)
        samples = [1000 * _ours(around, Path(folder, str(number))) for number in range(plan.rounds(60, 20))]
        waited = None if plan.quick else _peer(Peer(around.redis.url), Path(folder, "peer"))
    mine = Summary.of(samples, "ms")
    if plan.quick:
        peer, remark = visibility, "not measured, it is the visibility timeout"
    elif waited is None:
        peer, remark = PEER_WAITS, f"the visibility timeout is {visibility:,.0f} s"
    else:
        peer, remark = waited, "measured"
    return Result(
        name="kill",
        rows=(
            Row(
                what="SIGKILL in mid-input to its start elsewhere, p95",
                unit="ms",
                ours=mine.p95,
                peer=1000 * peer,
                peer_is=f"celery, acks_late, another worker standing by; {remark}",
                most=1_000,
                peer_least=waited is None,
            ),
        ),
        samples={"killed to started again": mine},
        unfair=(
            "The kernel of the controller's own host tells of the death at once; a host that is lost is noticed later.",
        ),
        remarks=(
            "No other container stands by: the time includes the start of a new one.",
            f"Celery's visibility timeout is {visibility:,.0f} s by default; tasks that take longer than it run twice.",
        ),
    )


def _ours(around: Surroundings, path: Path) -> float:
    """Return the seconds from the kill until the input starts again."""
    call = functions.note.spawn(str(path), LONG)
    process, _ = wait_until(lambda: _starts(path)[:1], "the input starts")[0]
    time.sleep(MID_INPUT)
    if str(process) not in {record.get("pid") for record in around.containers(functions.note).values()}:
        raise RuntimeError(f"process {process} is none of the function's containers")
    killed = time.time()
    os.kill(process, signal.SIGKILL)
    _, again = wait_until(lambda: _starts(path)[1:], "the input starts again", pause=0.01)[0]
    call.get(timeout=30)
    return again - killed


def _peer(peer: Peer, path: Path) -> float | None:
    """Return the seconds until a killed worker's task starts in the other one; ``None`` if it doesn't in time."""
    with (
        peer.worker("--pool", "solo", *LEAN, "--hostname", "one@%h") as one,
        peer.worker("--pool", "solo", *LEAN, "--hostname", "two@%h") as two,
    ):
        peer.delay("note", str(path), LONG)
        process, _ = wait_until(lambda: _starts(path)[:1], "the task starts")[0]
        victim = {one.pid: one, two.pid: two}[process]
        time.sleep(MID_INPUT)
        killed = time.time()
        victim.kill()
        try:
            _, again = wait_until(lambda: _starts(path)[1:], "the task starts again", timeout=PEER_WAITS)[0]
        except TimeoutError:
            return None
        return again - killed


def _starts(path: Path) -> list[tuple[int, float]]:
    """Return what the input has written: process and Unix time of each start."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    fields = [line.split() for line in lines if line.endswith("\n")]
    return [(int(process), float(began)) for process, began in fields]
