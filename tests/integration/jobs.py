"""Functions that containers in tests import: ordinary ones, and some that resist."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import scaleplug
from tests.helpers import write_whole

app = scaleplug.App("jobs")


@app.function(max_containers=4)
def square(x: int) -> int:
    """Return the square."""
    return x * x


@app.function(max_containers=4)
def pid_after(seconds: float) -> int:
    """Return the container's process id after a while."""
    time.sleep(seconds)
    return os.getpid()


@app.function(max_containers=1)
def single_pid() -> int:
    """Return the process id of the one container."""
    return os.getpid()


@app.function(max_containers=1, timeout=1, startup_timeout=30)
def brief_pid() -> int:
    """Return the process id of the one container, which has a second."""
    return os.getpid()


@app.function(max_containers=4)
def note(folder: str, name: str, seconds: float) -> str:
    """Write down every start and end of the input."""
    path = Path(folder) / name
    with path.open("a") as notes:
        notes.write(f"start {os.getpid()} {time.time()}\n")
    time.sleep(seconds)
    with path.open("a") as notes:
        notes.write(f"end {os.getpid()} {time.time()}\n")
    return name


@app.function(max_containers=2)
def crash(how: str) -> str:
    """Take the container down, in one way or another."""
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        ctypes.string_at(0)
    return how


@app.function(max_containers=2)
def leave(how: str) -> str:
    """Raise what would end an ordinary worker."""
    if how == "sys.exit":
        sys.exit(5)
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "MemoryError":
        raise MemoryError("full")
    return f"{how} {os.getpid()}"


@app.function(max_containers=1, timeout=1)
def stuck(how: str) -> str:
    """Run for ever, deaf to signals and with the GIL held where that is asked for."""
    if how == "sleep":
        time.sleep(3600)
    if how == "in C":
        pattern, text = "(a+)+$", "a" * 64 + "b"
        __import__("re").match(pattern, text)
    return how


@app.function(max_containers=1)
def with_child(folder: str) -> int:
    """Start a process that outlives the input."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    write_whole(Path(folder, "child"), str(child.pid))
    return child.pid


@app.function(max_containers=1)
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@app.function(max_containers=2)
def total(numbers: list[int]) -> int:
    """Return the sum of a list, for a chord."""
    return sum(numbers)


@app.function(max_containers=2, retries=scaleplug.Retries(max_retries=3, initial_delay=0))
def follow(folder: str, orders: list[str]) -> int:
    """Do what is written for this attempt; return how many there were before."""
    attempt = len(list(Path(folder).glob("attempt-*")))
    (Path(folder) / f"attempt-{attempt}").touch()
    order = orders[attempt] if attempt < len(orders) else ""
    if order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "fail":
        raise ValueError(f"attempt {attempt}")
    return attempt


@app.function(max_containers=2, retries=scaleplug.Retries(max_retries=1, initial_delay=2))
def fail_once(folder: str) -> int:
    """Fail in the first container, and return the process id of the second attempt's."""
    path = Path(folder) / "failed"
    if not path.exists():
        write_whole(path, str(os.getpid()))
        raise ValueError("at first")
    return os.getpid()


@app.function(max_containers=1)
def cancel_me(folder: str, how: str) -> str:
    """Go on for ever, deaf in one way or another."""
    write_whole(Path(folder, "begun"), str(os.getpid()))
    if how == "the GIL is held":
        __import__("re").match("(a+)+$", "a" * 64 + "b")
    while how == "everything is caught":
        try:
            time.sleep(3600)
        except BaseException as exc:  # noqa: BLE001
            write_whole(Path(folder, "caught"), type(exc).__name__)
    return how


@app.function(max_containers=1)
def raise_from(folder: str) -> None:
    """Raise an error whose class only this container can import."""
    Path(folder, "only_here.py").write_text("class OnlyHereError(Exception):\n    pass\n")
    sys.path.insert(0, folder)
    raise __import__("only_here").OnlyHereError("nobody else knows it")


@app.function(max_containers=4, single_use_containers=True)
def once(x: int) -> tuple[int, int]:
    """Return x and the process id."""
    return x, os.getpid()


@app.function(max_containers=1)
def held_digest(folder: str, name: str, data: bytes) -> str:
    """Write down the start, wait for ``go`` and return the data's hash."""
    with (Path(folder) / name).open("a") as notes:
        notes.write(f"start {os.getpid()} {time.time()}\n")
    deadline = time.monotonic() + 30
    while not (Path(folder) / "go").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return hashlib.sha256(data).hexdigest()


@app.function(max_containers=2)
def echo(value: object, folder: str = "") -> object:
    """Return the value, after ``go`` where a folder is given."""
    if folder:
        held_digest.local(folder, "echo", b"")
    return value


@app.function(max_containers=2, retries=scaleplug.Retries(max_retries=1, initial_delay=0))
def fail_large(folder: str, data: bytes) -> bytes:
    """Fail the first time with an error that carries the data, and return it the second time."""
    with (Path(folder) / "tries").open("a+") as tries:
        tries.seek(0)
        begun = len(tries.readlines())
        tries.write(f"start {os.getpid()}\n")
    if not begun:
        raise ValueError("loaded", data)
    return data


@app.function(max_containers=1)
def count_and_return(n: int, data: bytes) -> Iterator[int]:
    """Yield numbers and return the data."""
    yield from range(n)
    return data


@app.function(max_containers=2, retries=scaleplug.Retries(max_retries=2, initial_delay=0))
def digest_at_last(folder: str, data: bytes) -> str:
    """Fail twice, then return the data's hash."""
    attempt = len(list(Path(folder).glob("attempt-*")))
    (Path(folder) / f"attempt-{attempt}").touch()
    if attempt < 2:
        raise ValueError(f"attempt {attempt}")
    return hashlib.sha256(data).hexdigest()


@app.function(max_containers=1)
def fail_with(data: bytes) -> None:
    """Raise an error that carries the data."""
    raise ValueError("loaded", data)


@app.cls(max_containers=1, startup_timeout=1)
class Starting:
    """An object that is not made, in one way or another."""

    how: str = scaleplug.parameter()

    @scaleplug.enter()
    def prepare(self) -> None:
        if self.how == "raise":
            raise RuntimeError("no weights")
        if self.how == "hang":
            time.sleep(3600)
        crash.local(self.how)

    @scaleplug.method()
    def get(self) -> str:
        return self.how


@app.function(max_containers=1, memory=200)
def eat(mebibytes: int) -> int:
    """Use so much memory for a while."""
    food = bytearray(mebibytes << 20)
    time.sleep(30 if mebibytes > 200 else 0)
    return len(food) >> 20


@app.function(max_containers=2)
def hold_gil(folder: str, seconds: float) -> int:
    """Let no other thread of the container run for a while; return the process id."""
    write_whole(Path(folder, "held"), str(os.getpid()))
    libc, began = ctypes.PyDLL(None), time.monotonic()
    libc.usleep(int(seconds * 1e6))
    assert time.monotonic() - began >= seconds
    return os.getpid()


@app.local_entrypoint()
def hold(folder: str, seconds: float = 3600.0) -> None:
    """Keep two containers busy until something happens to the run."""
    write_whole(Path(folder, "run"), str(os.getpid()))
    for _ in note.starmap([(folder, "a", seconds), (folder, "b", seconds)]):
        pass
