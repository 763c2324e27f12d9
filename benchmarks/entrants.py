"""Who is compared: ours, plain Celery and the peers, each as its own documentation advises.

A peer gets a virtual environment below ``build/rivals``, made when it is first needed; one that can't be installed is
told and left out.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workers import LEAN
from scaleplug.settings import Config

ROOT = Path(__file__).parents[1]
RIVALS = ROOT / "build" / "rivals"
INSTALL_SECONDS = 180.0
OURS, UNPACKED, CELERY = "scaleplug", "scaleplug, packing off", "celery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One of them: the module of its caller, and the command of one worker (none: the caller starts what it needs)."""

    name: str
    module: str
    how: str
    worker: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    licence: str = ""
    environ: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return RIVALS / self.name

    @property
    def python(self) -> str:
        """The interpreter of its caller."""
        return str(self.folder / "bin" / "python") if self.requires else sys.executable

    def command(self, url: str, number: int) -> list[str]:
        """Return the command of one of its workers."""
        program, *options = (part.format(url=url, number=number) for part in self.worker)
        return [str(Path(self.python).with_name(program)), *options]


SCALEPLUG = Entrant(name=OURS, module="benchmarks.ours", how="defaults, min_containers=max_containers")
SCALEPLUG_UNPACKED = Entrant(
    name=UNPACKED,
    module="benchmarks.ours",
    how="SCALEPLUG_PACKING=0: every input is a Celery message of its own",
    environ=(("SCALEPLUG_PACKING", "0"),),
)
PLAIN_CELERY = Entrant(
    name=CELERY,
    module="celery_app",
    how="celery worker -P solo, lean, --prefetch-multiplier 128 (its guide's advice for short tasks)",
    worker=(
        "celery", "-A", "benchmarks.peer", "worker", "--pool", "solo", *LEAN, "--prefetch-multiplier", "128",
        "--hostname", "one{number}@%h",
    ),
)  # fmt: skip
PEERS = (
    Entrant(
        name="dramatiq",
        module="dramatiq_app",
        requires=("dramatiq[redis]==2.2.1", "redis==8.1.0"),
        licence="LGPL-3.0-or-later",
        how="dramatiq --processes 1 --threads 1 with dramatiq_queue_prefetch=100, Redis broker and results, group()",
        worker=("dramatiq", "dramatiq_app", "--processes", "1", "--threads", "1"),
        environ=(("dramatiq_queue_prefetch", "100"),),
    ),
    Entrant(
        name="rq",
        module="rq_app",
        requires=("rq==3.0.0", "redis==8.1.0"),
        licence="BSD-2-Clause",
        how="rq worker with SimpleWorker (its guide's advice for jobs of milliseconds), enqueue_many, latest_result()",
        worker=("rq", "worker", "--worker-class", "rq.SimpleWorker", "--quiet", "--url", "{url}"),
    ),
    Entrant(
        name="huey",
        module="huey_app",
        requires=("huey==3.5.4", "redis==8.1.0"),
        licence="MIT",
        how="huey_consumer -w 1 -k thread, RedisHuey(notify_result=True), task.map().get(blocking=True)",
        worker=("huey_consumer", "huey_app.huey", "-w", "1", "-k", "thread", "-q"),
    ),
    Entrant(
        name="arq",
        module="arq_app",
        requires=("arq==0.28.0", "redis==5.3.1"),
        licence="MIT",
        how="arq worker with max_jobs=100, poll_delay 5 ms on both sides in place of 500 ms",
        worker=("arq", "arq_app.WorkerSettings"),
    ),
    Entrant(
        name="taskiq",
        module="taskiq_app",
        requires=("taskiq-redis==1.2.4", "taskiq==0.13.0", "redis==8.1.0"),
        licence="MIT",
        how="taskiq worker --workers 1 with its stream broker, results asked for each 5 ms in place of 200 ms",
        worker=("taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--log-level", "WARNING"),
    ),
)
EVERYBODY = (SCALEPLUG, SCALEPLUG_UNPACKED, PLAIN_CELERY)
UNFAIR = (
    "A map sends its inputs and reads its results in bulk; of the others only rq sends in bulk.",
    "In the peers' favour: arq and taskiq run up to 100 no-ops at once in one event loop, all others one at a time.",
    "In the peers' favour: arq's and taskiq's polls are 5 ms; with their defaults a call would take 0.2 to 0.5 s.",
    "In dramatiq's favour: with its default prefetch one thread would do 240 a second.",
    "In the peers' favour: the workers of rq, huey and taskiq log less than they do by default.",
    "In the peers' favour: ours signs what it sends; the peers don't, as they are set up here.",
)


def ready_peers() -> tuple[list[Entrant], list[str]]:
    """Return the peers that are installed, after installing those that aren't, and why others are missing."""
    waiting = {peer.name: process for peer in PEERS if (process := _install(peer)) is not None}
    missing = []
    for name, process in waiting.items():
        try:
            output, _ = process.communicate(timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        if process.returncode:
            reason = (output.strip().splitlines() or ["no output"])[-1][:200]
            missing.append(f"{name} is left out, it could not be installed: {reason}")
        else:
            _stamp(name).touch()
    return [peer for peer in PEERS if _stamp(peer.name).exists()], missing


def _install(peer: Entrant) -> subprocess.Popen[str] | None:
    """Start to make a peer's environment; ``None`` when it is there."""
    if _stamp(peer.name).exists():
        return None
    venv = [sys.executable, "-m", "venv", "--clear", str(peer.folder)]
    pip = [peer.python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *peer.requires]
    code = f"import subprocess; [subprocess.run(c, check=True) for c in {[venv, pip]!r}]"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def _stamp(name: str) -> Path:
    """Return the file that says that these very versions are installed."""
    (peer,) = (peer for peer in PEERS if peer.name == name)
    versions = "_".join(requirement.replace("==", "-") for requirement in peer.requires)
    return peer.folder / f"installed-{versions}"


def descriptions(names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for each: what it is and how it runs."""
    known = {entrant.name: entrant for entrant in (*EVERYBODY, *PEERS)}
    lines = []
    for entrant in (known[name] for name in names if name in known):
        versions = f" ({' '.join(entrant.requires)}; {entrant.licence})" if entrant.requires else ""
        lines.append(f"{entrant.name}{versions}: {entrant.how}.")
    return tuple(lines)


def unknown_settings(entrants: Sequence[Entrant]) -> tuple[str, ...]:
    """Return a sentence for each setting that entrants differ by and that this version of ours doesn't know."""
    known = {knob.variable for knob in Config.knobs().values()}
    asked = sorted({variable for entrant in entrants for variable, _ in entrant.environ} - known)
    return tuple(f"This version has no {variable}: it makes no difference." for variable in asked)
