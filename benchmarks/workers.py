"""Plain Celery: workers as subprocesses, and the caller that uses them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import group

from benchmarks.peer import URL, make_app
from scaleplug.server import celery_url

ROOT = Path(__file__).parents[1]
LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")
PR_SET_PDEATHSIG = 1
PATIENCE = 90.0
"""Seconds to wait for a result before a measurement counts as failed."""


class Peer:
    """Plain Celery on the Redis at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = celery_url(url)
        self.app: Any = make_app(self.url)

    def delay(self, task: str, *args: Any) -> Any:
        """Call a task."""
        return self.app.tasks[f"peer.{task}"].delay(*args)

    def call(self, task: str, *args: Any) -> Any:
        """Call a task and wait for its result."""
        return self.delay(task, *args).get(timeout=PATIENCE)

    def map(self, task: str, inputs: list[Any]) -> list[Any]:
        """Call a task for each input as one group and wait for all results."""
        task_ = self.app.tasks[f"peer.{task}"]
        results: list[Any] = group((task_.s(one) for one in inputs), app=self.app)().get(timeout=PATIENCE)
        return results

    @contextlib.contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start ``celery worker``; it is gone, with its children, when the block ends."""
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.peer", "worker", *options]
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, URL: self.url}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=end_with_parent(),  # noqa: PLW1509  # one system call, made ready before
            )  # fmt: skip
            try:
                yield process
            except Exception as error:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2_000))
                error.add_note(f"the Celery worker's output ends:\n{log.read().decode(errors='replace')}")
                raise
            finally:
                # not asked first: its prefork pool may take half a minute to leave, and nothing of it is kept
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def end_with_parent() -> Callable[[], object] | None:
    """Return what lets a child get SIGTERM should these benchmarks be killed (Linux)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
