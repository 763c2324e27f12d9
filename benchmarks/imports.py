"""What it takes to import the package and to print the command's help, beside Celery, each in fresh interpreters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.harness import Plan, Result, Row, Summary, seconds

PROGRAMS = {
    "nothing": "pass",
    "import celery": "import celery",
    "import scaleplug": "import scaleplug",
    "celery.Celery": "from celery import Celery",
    "celery.Celery, Redis": "import celery.backends.redis, kombu.transport.redis; from celery import Celery",
    "scaleplug.App": "from scaleplug import App",
}
HELP = "scaleplug --help"
LEAST_RATIO = round(1 / 1.3, 2)
MOST_HELP = 500.0


def measure(plan: Plan) -> Result:
    took = defaultdict(list)
    beside = Path(sys.executable).with_name("scaleplug")
    command = str(beside) if beside.exists() else shutil.which("scaleplug")
    if command is None:
        raise RuntimeError("there is no scaleplug command: pip install --editable .")
    commands = {name: [sys.executable, "-c", code] for name, code in PROGRAMS.items()} | {HELP: [command, "--help"]}
    for number in range(1 + plan.rounds(25, 5)):
        for name, words in commands.items():
            spent = 1000 * seconds(lambda w=words: subprocess.run(w, check=True, stdout=subprocess.DEVNULL))
            if number:  # the first one may have to write the compiled files
                took[name].append(spent)
    samples = {name: Summary.of(values, "ms") for name, values in took.items()}
    pairs = (
        ("import scaleplug", "import celery", LEAST_RATIO),
        ("scaleplug.App", "celery.Celery, Redis", None),
        ("scaleplug.App", "celery.Celery", None),
    )
    return Result(
        name="imports",
        rows=(
            *(
                Row(
                    what=PROGRAMS[ours],
                    unit="ms",
                    ours=samples[ours].p50,
                    peer=samples[peer].p50,
                    peer_is=PROGRAMS[peer],
                    least_ratio=least,
                )
                for ours, peer, least in pairs
            ),
            Row(what=HELP, unit="ms", ours=samples[HELP].p50, peer=None, peer_is="", most=MOST_HELP),
        ),
        samples=samples,
        remarks=(
            f"Whole processes: an interpreter that does nothing takes {samples['nothing'].p50:.0f} ms of each.",
            "Both packages import their parts when they are first used: the further rows are what an app's file pays.",
            "Ours has imported then what it talks to Redis with, which Celery does at its first call.",
        ),
    )
