"""`scaleplug controller` for real: what it says, what it does, and how it ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import SECRET, python, scaleplug, told
from tests.controllers import Controller
from tests.helpers import wait_until

PROGRAM = """
import time
import scaleplug

app = scaleplug.App("shop")

@app.function(max_containers=2)
def square(x):
    return x * x

@app.function(max_containers=1)
def nap(seconds):
    print("napping", flush=True)
    time.sleep(seconds)
    return "rested"
"""
SCRIPT = """
import sys
import scaleplug

app = scaleplug.App("alone")

class Oops(Exception): pass
class Point: pass

@app.function()
def point(wrong):
    if wrong:
        raise Oops("neg")
    return Point()

if "zygote" not in " ".join(sys.orig_argv):
    print("read")  # once: its classes are those of this module, not of a copy

if __name__ == "__main__":
    same = type(point.remote(False)) is Point
    try:
        point.remote(True)
    except Oops as error:
        print("Oops", error, same)
"""
CALL = "import shop; print(list(shop.square.map(range(4))))"
SPAWN = "import shop; print(shop.nap.spawn(2).object_id)"
RESULT = "import sys, scaleplug; print(scaleplug.FunctionCall.from_id(sys.argv[1]).get(timeout=0))"


Start = Callable[..., Controller]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    return {"SCALEPLUG_REDIS_URL": redis_url, "SCALEPLUG_SECRET": SECRET}


@pytest.fixture
def start(folder: Path, environ: dict[str, str]) -> Iterator[Start]:
    """Give a function that starts a controller; what is left of it ends with the test."""
    started: list[Controller] = []

    def begin(*arguments: str) -> Controller:
        started.append(Controller(folder, *arguments, **environ))
        return started[-1]

    yield begin
    for controller in started:
        controller.kill()


def test_it_registers_programs_and_runs_their_functions(start: Start, folder: Path, environ: dict[str, str]):
    controller = start("shop.py", "--max-containers", "1")
    controller.says("^this controller acts now$")
    done = python("-c", CALL, cwd=folder, **environ)
    assert done.stdout == "[0, 1, 4, 9]\n", told(done)
    assert controller.end(signal.SIGTERM) == 0
    said = controller.said
    assert re.fullmatch(
        rf"controller {controller.process.pid} on Redis at unix://:\*\*\*@\S+, namespace default", said[0]
    )
    assert "registered shop.nap, shop.square" in said
    assert "ready; functions known: shop.nap, shop.square" in said
    assert any(re.match(r"shop\.square: need 1 of 4: service unknown.* start 1, stop 0", line) for line in said), said
    assert said[-1] == "ended"
    assert SECRET not in "".join(said)


def test_callers_register_their_functions_themselves(start: Start, folder: Path, environ: dict[str, str]):
    start().says("functions known: those that callers register")
    done = python("-c", CALL, cwd=folder, **environ)
    assert done.stdout == "[0, 1, 4, 9]\n", told(done)


def test_a_script_gets_its_own_classes_back(start: Start, folder: Path, environ: dict[str, str]):
    start().says("acts now")
    (folder / "script.py").write_text(SCRIPT)
    done = python("script.py", cwd=folder, **environ)
    assert done.stdout == "read\nOops neg True\n", told(done)


def test_quiet_tells_of_nothing_usual(start: Start, folder: Path, environ: dict[str, str]):
    controller = start("--quiet", "shop.py")
    done = python("-c", CALL, cwd=folder, **environ)
    assert done.stdout == "[0, 1, 4, 9]\n", told(done)
    assert controller.end(signal.SIGTERM) == 0
    assert not [line for line in controller.said if "keeps nothing on disk" not in line]


def test_a_second_one_stands_by_and_takes_over(start: Start):
    first = start()
    first.says("acts now")
    second = start()
    second.says("^standing by: another controller acts$")
    assert first.end(signal.SIGINT) == 0
    second.says("acts now")


def test_it_lets_running_inputs_finish(start: Start, folder: Path, environ: dict[str, str]):
    controller = start("shop.py")
    call = python("-c", SPAWN, cwd=folder, **environ).stdout.strip()
    wait_until(lambda: "napping" in scaleplug("logs", cwd=folder, **environ).stdout, 15)
    assert controller.end(signal.SIGTERM) == 0
    done = python("-c", RESULT, call, cwd=folder, **environ)
    assert done.stdout == "rested\n", told(done)


def test_a_second_signal_hurries(start: Start, folder: Path, environ: dict[str, str]):
    controller = start("shop.py")
    python("-c", SPAWN.replace("2", "600"), cwd=folder, **environ)
    wait_until(lambda: "napping" in scaleplug("logs", cwd=folder, **environ).stdout, 15)
    controller.process.send_signal(signal.SIGTERM)
    controller.says("^ending: running inputs get 30 s, a second signal ends them at once$")
    assert controller.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        ([], {}, "no Redis is configured: set SCALEPLUG_REDIS_URL, or give --redis-url"),
        (["--redis-url", "redis://localhost:1"], {}, "SCALEPLUG_SECRET is not set"),
        (["--redis-url", "redis://localhost:1"], {"SCALEPLUG_SECRET": SECRET}, "localhost:1/0 can't be reached"),
        (["--max-containers", "0"], {}, "Invalid value for '--max-containers'"),
    ],
)
def test_what_is_missing_is_told(folder: Path, arguments: list[str], environ: dict[str, str], message: str):
    done = scaleplug("controller", *arguments, cwd=folder, **environ)
    assert done.returncode == 2, told(done)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_can_t_be_imported_is_told(folder: Path, environ: dict[str, str]):
    (folder / "broken.py").write_text("import nosuch\n")
    done = scaleplug("controller", "shop.py", "broken.py", cwd=folder, **environ)
    assert done.returncode == 2, told(done)
    assert "scaleplug: broken.py can't be imported: there is no module 'nosuch'" in done.stderr
    assert 'broken.py", line 1' in done.stderr
