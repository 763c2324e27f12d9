"""Entrants side by side on one Redis: each has a caller that takes orders, and workers that sleep out of turn."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.entrants import Entrant
from benchmarks.peer import URL
from benchmarks.workers import end_with_parent
from scaleplug.server import celery_url

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds that an order may take."""
CLOSE_SECONDS = 10.0
SECRET = "benchmarks-benchmarks-benchmarks-benchmarks"


class EntrantError(Exception):
    """An entrant did not do what it was told to."""


class Team:
    """One entrant at work: its caller's process and its workers'."""

    def __init__(self, entrant: Entrant, url: str, *, workers: int, log: IO[bytes]) -> None:
        self.entrant, self.log = entrant, log
        self._environ = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent) if not entrant.requires else "",
            "RIVALS_URL": url,
            URL: celery_url(url),
            "SCALEPLUG_REDIS_URL": url,
            "SCALEPLUG_SECRET": SECRET,
            "RIVALS_WORKERS": str(workers),
            **dict(entrant.environ),
        }
        self.workers = [self._start(entrant.command(url, n)) for n in range(workers if entrant.worker else 0)]
        self.caller = self._start([entrant.python, "serve.py", entrant.module], piped=True)

    def _start(self, command: list[str], *, piped: bool = False) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE if piped else subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=HERE / "rivals", env=self._environ, stdin=pipe, stdout=pipe if piped else self.log,
            stderr=self.log, start_new_session=True, preexec_fn=end_with_parent(),  # noqa: PLW1509  # one system call
        )  # fmt: skip

    def do(self, what: str, patience: float = PATIENCE, **options: Any) -> Any:
        """Give an order; return the answer. Raises EntrantError."""
        assert self.caller.stdin is not None
        assert self.caller.stdout is not None
        try:
            self.caller.stdin.write(json.dumps({"do": what, **options}).encode() + b"\n")
            self.caller.stdin.flush()
            deadline = time.monotonic() + patience
            while not select.select([self.caller.stdout], [], [], 0.5)[0]:
                if time.monotonic() > deadline:
                    raise EntrantError(f"{self.entrant.name} gave no answer in {patience:g} s to {what}{self._said()}")
                if any(worker.poll() is not None for worker in self.workers):
                    raise EntrantError(f"a worker of {self.entrant.name} has ended{self._said()}")
            line = self.caller.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise EntrantError(f"the caller of {self.entrant.name} has ended{self._said()}")
        answer = json.loads(line)
        if "error" in answer:
            raise EntrantError(f"{self.entrant.name} failed: {answer['error'].strip()}{self._said()}")
        return answer["answer"]

    def _said(self) -> str:
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - 1_000))
        text = self.log.read().decode(errors="replace").strip()
        return f"\nits output ends: {text}" if text else ""

    @contextlib.contextmanager
    def awake(self) -> Iterator[Team]:
        """Let the workers run for this block only, so that they take nothing from the others."""
        self._signal(signal.SIGCONT)
        try:
            yield self
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, number)

    def hang_up(self) -> None:
        """Let the caller end, and what it started; the workers, and callers that started nothing, end at once."""
        assert self.caller.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.caller.stdin.close()
        self._signal(signal.SIGKILL)
        if self.entrant.worker:
            self.caller.kill()

    def close(self) -> None:
        """End all, whatever interrupts."""
        self.hang_up()
        try:
            self.caller.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self.caller.poll() is None:
                os.killpg(self.caller.pid, signal.SIGKILL)
            for process in (self.caller, *self.workers):
                process.wait()
            assert self.caller.stdout is not None
            self.caller.stdout.close()


class Contest:
    """Those who take part; one that fails is told in ``missing`` and takes part no longer."""

    def __init__(self, missing: Sequence[str] = ()) -> None:
        self.teams: dict[str, Team] = {}
        self.missing = list(missing)

    def turn(self, name: str, what: str, **options: Any) -> Any:
        """Let one take its turn; ``None`` when it is out."""
        team = self.teams.get(name)
        if team is None:
            return None
        try:
            with team.awake():
                return team.do(what, **options)
        except EntrantError as error:
            self.out(name, error)
            return None

    def out(self, name: str, error: EntrantError) -> None:
        """Let one leave."""
        self.missing.append(
            f"{name} is left out: {' / '.join(str(error).splitlines()[:1] + str(error).splitlines()[-3:])}"
        )
        self.teams.pop(name).close()

    @property
    def names(self) -> list[str]:
        """Who still takes part."""
        return list(self.teams)


@contextlib.contextmanager
def contest(
    entrants: Sequence[Entrant], url: str, *, workers: int = 1, missing: Sequence[str] = (), warm: bool = True
) -> Iterator[Contest]:
    """Start entrants on one Redis; all are gone when the block ends."""
    with contextlib.ExitStack() as stack:
        found = Contest(missing)
        for entrant in entrants:
            log = stack.enter_context(tempfile.TemporaryFile())
            found.teams[entrant.name] = team = Team(entrant, url, workers=workers, log=log)
            stack.callback(team.close)
        stack.callback(lambda: [team.hang_up() for team in found.teams.values()])  # all at once, then one by one
        for name in found.names if warm else ():
            found.turn(name, "warm")
        yield found
