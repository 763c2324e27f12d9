"""`scaleplug run` for real: what it shows, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from scaleplug.server import connect
from tests.commands import SECRET, environment, scaleplug, told
from tests.helpers import runs, wait_until
from tests.terminal import Terminal

PROGRAM = '''
import asyncio, os, subprocess, sys, time
import scaleplug

app = scaleplug.App("job")

@app.function(max_containers=3)
def square(x: int) -> int:
    print("squaring", x)
    return x * x

@app.function()
def shout(x, lines):
    for number in range(lines):
        print(f"{x}-{number}")
    return x

@app.function()
def fail(x: int):
    raise ValueError(f"no {x}")

@app.function(max_containers=2)
def nap(seconds):
    print("napping")
    time.sleep(seconds)

@app.local_entrypoint()
def main(upto: int = 10):
    """Square numbers."""
    print("sum", sum(square.map(range(upto))))

@app.local_entrypoint()
def shouts(lines: int):
    list(shout.map(range(4), kwargs={"lines": lines}))

@app.local_entrypoint()
def failing():
    print(list(fail.map(range(3), return_exceptions=True)))
    fail.remote(7)

@app.local_entrypoint()
def leave(status: int):
    sys.exit(status)

@app.local_entrypoint()
def sleep():
    print("begin", flush=True)
    list(nap.map([60] * 5))

@app.local_entrypoint()
async def sleep_async():
    print("begin", flush=True)
    await asyncio.gather(*(nap.remote.aio(60) for _ in range(5)))

@app.local_entrypoint()
def stubborn():
    print("begin", flush=True)
    while True:
        try:
            nap.remote(60)
        except KeyboardInterrupt:
            print("no", flush=True)

@app.local_entrypoint()
def talk():
    results = iter(square.map(range(3)))
    next(results)
    print("dots", end=""); [print(".", end="", flush=True) for _ in range(5)]; print(" done")
    os.write(1, b"straight\\n")
    subprocess.run(["echo", "from a child"])
    print("hello", input("Name? "))
    list(results)
    print("x" * 100)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "job.py").write_text(PROGRAM)
    return folder


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_job_prints_to_stdout_and_all_else_goes_to_stderr(folder: Path):
    done = scaleplug("run", "job.py::main", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "sum 285\n"), told(done)
    of_the_map, *of_containers = sorted(done.stderr.splitlines())
    assert of_containers == sorted(f"square | squaring {x}" for x in range(10))
    assert re.fullmatch(r"map of square: 10 inputs in \d+\.\d s, [\d.]+/s, [123] containers? at most", of_the_map)


def test_quiet_shows_the_job_alone(folder: Path):
    done = scaleplug("run", "--quiet", "job.py::main", "--upto", "4", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sum 14\n", "")


def test_quiet_shows_errors(folder: Path):
    done = scaleplug("run", "-q", "job.py::failing", cwd=folder)
    assert done.returncode == 1
    assert "no 7" in done.stderr


def test_a_function_s_result_is_printed(folder: Path):
    done = scaleplug("run", "job.py::square", "--x", "7", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "49\n", "square | squaring 7\n"), told(done)


def test_a_module_can_be_run(folder: Path):
    done = scaleplug("run", "job::main", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "sum 285\n"), told(done)


def test_the_entrypoint_has_a_help_of_its_own(folder: Path):
    done = scaleplug("run", "job.py::main", "--help", cwd=folder)
    assert done.returncode == 0
    assert "Usage: scaleplug run job.py::main [OPTIONS]" in done.stdout
    assert "Square numbers." in done.stdout
    assert "--upto INTEGER" in done.stdout


@pytest.mark.parametrize("lines", [1, 3_000])
def test_all_that_containers_have_printed_is_shown(folder: Path, lines: int):
    done = scaleplug("run", "job.py::shouts", "--lines", str(lines), cwd=folder)
    shown = [line.removeprefix("shout | ") for line in done.stderr.splitlines() if line.startswith("shout | ")]
    assert sorted(shown) == sorted(f"{x}-{number}" for x in range(4) for number in range(lines)), told(done)


def test_an_exception_comes_with_the_frames_of_the_container(folder: Path):
    done = scaleplug("run", "job.py::failing", cwd=folder)
    assert done.returncode == 1
    assert done.stdout == "[ValueError('no 0'), ValueError('no 1'), ValueError('no 2')]\n"
    assert re.search(r"map of fail: 3 inputs in .*, 3 failed, 1 container at most\n", done.stderr), told(done)
    trace = done.stderr[done.stderr.index("Traceback") :]
    assert re.findall(r", in (\w+)$", trace, re.MULTILINE) == ["failing", "fail"]
    assert trace.endswith("ValueError: no 7\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["job.py"], 2, "job.py has 8 local entrypoints"),
        (["jbo.py"], 2, "there is no file jbo.py: did you mean job.py?"),
        (["job.py::man"], 2, "job.py has no entrypoint and no function 'man': did you mean main?"),
        (["job.py::main", "--upto", "x"], 2, "Invalid value for '--upto': 'x' is not a valid integer"),
        (["job.py::main", "-q"], 2, "scaleplug's own options come first: scaleplug run -q job.py::main"),
        (["job.py::leave", "--status", "0"], 0, ""),
        (["job.py::leave", "--status", "5"], 5, ""),
        ([], 2, "Missing argument 'FILE[::ENTRYPOINT]'"),
    ],
)
def test_exit_codes_and_errors(folder: Path, arguments: list[str], code: int, message: str):
    done = scaleplug("run", *arguments, cwd=folder)
    assert done.returncode == code, told(done)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# -- another Redis -----------------------------------------------------------------------------------------------------


def test_a_shared_redis_is_used_and_left_as_it_was(folder: Path, redis_url: str):
    done = scaleplug("run", "job.py::main", cwd=folder, SCALEPLUG_REDIS_URL=redis_url, SCALEPLUG_SECRET=SECRET)
    assert (done.returncode, done.stdout) == (0, "sum 285\n"), told(done)
    with contextlib.closing(connect(redis_url)) as client:
        assert client.keys("*") == []


def test_the_redis_of_the_app_is_used(folder: Path, redis_url: str):
    text = PROGRAM.replace('App("job")', f'App("job", redis_url={redis_url!r})')
    (folder / "own.py").write_text(text + "\n    assert app.caller().config.redis_url == app.own_redis_url\n")
    done = scaleplug("run", "own.py::main", cwd=folder, SCALEPLUG_SECRET=SECRET)
    assert (done.returncode, done.stdout) == (0, "sum 285\n"), told(done)


def test_a_redis_that_can_t_be_used_is_refused_at_once(folder: Path):
    done = scaleplug(
        "run", "job.py::main", cwd=folder, SCALEPLUG_REDIS_URL="redis://localhost:1", SCALEPLUG_SECRET=SECRET
    )
    assert done.returncode == 2
    assert done.stderr.startswith("scaleplug: Redis at redis://localhost:1/0 can't be reached")
    assert done.stderr.count("\n") == 1


# -- signals -----------------------------------------------------------------------------------------------------------


class Started:
    """A run under way, on a pipe."""

    def __init__(self, folder: Path, entrypoint: str) -> None:
        command = [sys.executable, "-m", "scaleplug.cli.main", "run", f"job.py::{entrypoint}"]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self.family: list[psutil.Process] = []

    def until(self, line: str) -> None:
        """Read until it says this; then look who belongs to it."""
        assert self.process.stdout is not None
        for said in self.process.stdout:
            self.said.append(said.rstrip("\n"))
            if said.rstrip("\n") == line:
                break
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        """Return the exit code, once it and all it has started are gone."""
        code = self.process.wait(10)
        wait_until(lambda: not [told_process(p) for p in self.family if runs(p)], message="all are gone")
        assert self.process.stdout is not None
        self.said += self.process.stdout.read().splitlines()
        return code


def told_process(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return str(process.pid)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[str], Started]]:
    """Give a function that starts an entrypoint; whatever is left of it ends with the test."""
    started: list[Started] = []

    def begin(entrypoint: str) -> Started:
        started.append(Started(folder, entrypoint))
        return started[-1]

    yield begin
    for run in started:
        for process in [*run.family, run.process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        run.process.wait()
        assert run.process.stdout is not None
        run.process.stdout.close()


@pytest.mark.parametrize("entrypoint", ["sleep", "sleep_async"])
@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_stops_everything_in_good_order(
    start: Callable[[str], Started], sig: signal.Signals, code: int, entrypoint: str
):
    run = start(entrypoint)
    run.until("nap | napping")
    assert len(run.family) >= 4  # Redis, the controller, the zygote, a container
    run.process.send_signal(sig)
    assert run.end() == code
    assert "scaleplug: stopping in good order; once more stops at once" in run.said
    assert not [line for line in run.said if "Traceback" in line or "Exception" in line]


def test_a_signal_while_everything_starts_stops_it(start: Callable[[str], Started]):
    run = start("sleep")
    run.until("begin")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130


def test_a_killed_run_leaves_nothing(start: Callable[[str], Started]):
    run = start("sleep")
    run.until("nap | napping")
    run.process.kill()
    assert run.end() == -signal.SIGKILL


def test_a_second_signal_ends_a_job_that_won_t_stop(start: Callable[[str], Started]):
    run = start("stubborn")
    run.until("nap | napping")
    run.process.send_signal(signal.SIGINT)
    run.until("no")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143


# -- on a terminal -----------------------------------------------------------------------------------------------------


class OnTerminal:
    """A run on a terminal of 80 x 24."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.terminal = Terminal(80, 24)
        self.raw = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-m", "scaleplug.cli.main", "run", *arguments]
        env = {k: v for k, v in environment(**{"TERM": "xterm", **environ}).items() if k != "COLUMNS"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)

    def read(self) -> bool:
        """Take in what it has written; False at the end."""
        try:
            text = os.read(self._master, 65_536).decode()
        except OSError:
            return False
        self.raw += text
        self.terminal.feed(text)
        return bool(text)

    def until(self, text: str) -> None:
        """Read until this is on the screen."""
        while not any(text in line for line in self.terminal.text):
            assert self.read(), f"{text!r} never came: {self.terminal.text}"

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end; return the exit code."""
        while self.read():
            pass
        os.close(self._master)
        return self.process.wait(10)


def test_a_terminal_shows_the_job_s_output_above_a_live_display(folder: Path):
    run = OnTerminal(folder, "job.py::talk")
    run.until("Name?")
    run.until("1 idle")  # the frame is below the question
    assert run.terminal.text.index("Name?") < next(i for i, line in enumerate(run.terminal.text) if "idle" in line)
    run.type("Ann\n")
    assert run.end() == 0
    text = run.terminal.text
    for line in ("dots..... done", "straight", "from a child", "Name? Ann", "hello Ann", "x" * 80, "x" * 20):
        assert line in text, text
    assert sorted(line for line in text if line.startswith("square |")) == [f"square | squaring {x}" for x in range(3)]
    assert re.fullmatch(r"square  ✓ 3 inputs in \d+\.\d s, [\d.]+/s", text[-2])
    assert re.fullmatch(r"3 inputs, [123] containers? at most, \d+\.\d s", text[-1])
    assert "━" not in "".join(text)  # no bar is left behind


def test_colours_are_left_out_when_they_are_not_wanted(folder: Path):
    run = OnTerminal(folder, "job.py::main", NO_COLOR="1")
    assert run.end() == 0
    assert "sum 285" in run.terminal.text
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3\d|9\d)m", run.raw)


def test_a_dumb_terminal_gets_plain_lines(folder: Path):
    run = OnTerminal(folder, "job.py::main", TERM="dumb")
    assert run.end() == 0
    assert "\x1b" not in run.raw
    assert any(line.startswith("map of square: 10 inputs in") for line in run.terminal.text)


def test_ctrl_c_on_a_terminal_takes_the_display_away(folder: Path):
    run = OnTerminal(folder, "job.py::sleep")
    run.until("nap | napping")
    run.until("busy")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    text = run.terminal.text
    assert "scaleplug: stopping in good order; once more stops at once" in text
    assert not [line for line in text if "busy" in line or "─" in line], text
    assert any(line.startswith("nap  ✗ 0 of 5 inputs") for line in text)
