"""Run the command line for real, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECRET = "a secret of the tests that is long enough"


def scaleplug(*arguments: str, cwd: Path, timeout: float = 60, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `scaleplug` in ``cwd`` to its end; what is started ends with it, also when ``timeout`` ends it."""
    return python("-m", "scaleplug.cli.main", *arguments, cwd=cwd, timeout=timeout, **environ)


def python(*arguments: str, cwd: Path, timeout: float = 60, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in ``cwd`` to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def environment(**more: str) -> dict[str, str]:
    """Return the environment in which this checkout is the package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **more}


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a failed assertion should show of a command."""
    ended = f"{' '.join(done.args[1:])} ended with {done.returncode}"
    return f"{ended}\n--- out\n{done.stdout}\n--- err\n{done.stderr[-4000:]}"
