"""Containers that give no sign of life, and starts that come to nothing: what becomes of their inputs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaleplug.abc import ContainerExit
from scaleplug.controller import Controller
from scaleplug.errors import ContainerCrashError, ContainerStartError
from scaleplug.losses import UNDEAD_SECONDS, Losses
from scaleplug.registry import Registration, Source
from scaleplug.settings import Config, FunctionSettings
from scaleplug.testing import FakeBackend
from scaleplug.view import Known, View
from tests.chaos import functions
from tests.chaos.harness import Load
from tests.chaos.site import Site
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

FREEZE = 0.5
CONNECT = """
import sys
from scaleplug.server import connect
client = connect(sys.argv[1], name="far-away")
client.ping()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give a site whose containers are soon missed."""
    with Site(freeze_timeout=FREEZE) as made:
        made.controller()
        made.lead()
        yield made


def begun(load: Load) -> int:
    """Wait until the input of a load runs; return its process."""
    return wait_until(lambda: [run.pid for runs in load.runs().values() for run in runs], 20, "it runs")[0]


@pytest.mark.parametrize("pool", functions.POOLS)
def test_a_busy_container_that_is_frozen_is_replaced(site: Site, pool: str, tmp_path: Path) -> None:
    load = Load(functions.POOLS[pool], 1, 1.5, tmp_path).start()
    pid = begun(load)
    os.kill(pid, signal.SIGSTOP)
    load.wait(30)
    first, second = load.runs()[0]
    assert load.results == [0]
    assert (first.pid, first.end) == (pid, None)
    assert second.pid != pid
    wait_until(lambda: not psutil.pid_exists(pid), 10, "it is gone, frozen or not")


def test_a_short_pause_changes_nothing(site: Site, tmp_path: Path) -> None:
    load = Load(functions.solo, 1, 1.0, tmp_path).start()
    pid = begun(load)
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
    load.wait(30)
    assert load.results == [0]
    assert [run.pid for run in load.runs()[0]] == [pid]


def test_a_container_that_wakes_after_it_was_given_up_changes_nothing(site: Site, tmp_path: Path) -> None:
    """As when killing it doesn't help at once: what it held runs elsewhere, it finds out and leaves."""
    load = Load(functions.solo, 1, 1.0, tmp_path).start()
    pid = begun(load)
    name = next(c for c, r in site.containers(functions.solo).items() if r.get("pid") == str(pid))
    os.kill(pid, signal.SIGSTOP)
    token = site.lead().decode()
    assert site.store.gone(token, name, functions.solo.full_name, "given up by a test", blameless=True) == 1
    os.kill(pid, signal.SIGCONT)
    load.wait(30)
    assert load.results == [0]
    assert [run.pid == pid for run in load.runs()[0]] == [True, False]
    wait_until(lambda: not psutil.pid_exists(pid), 10, "it leaves when it finds out")
    wait_until(lambda: site.settled(functions.solo), 10, "nothing is left behind")


def test_a_stopped_zygote_is_made_to_go_on(site: Site, tmp_path: Path) -> None:
    load = Load(functions.solo, 1, 0.0, tmp_path).start().wait(30)
    assert load.results == [0]
    zygotes = site.zygotes()
    for zygote in zygotes:
        zygote.suspend()
    wait_until(lambda: not any(z.status() == psutil.STATUS_STOPPED for z in zygotes), 10, "they go on")


def test_a_container_that_holds_the_gil_is_only_slow(start_run: Callable[..., Surroundings], tmp_path: Path) -> None:
    start_run(freeze_timeout=FREEZE, host_timeout=5.0)
    assert jobs.hold_gil.remote(str(tmp_path), 2.0) == int((tmp_path / "held").read_text())


# -- processes that are not what they seem -------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["return", "sys.exit", "raise"])
@pytest.mark.parametrize("pool", functions.POOLS)
def test_a_process_that_a_function_forks_is_not_taken_for_its_container(site: Site, pool: str, end: str) -> None:
    function = functions.FORKS[pool]
    pid, status = function.remote(end)
    assert status == {"return": 0, "sys.exit": 3, "raise": 1}[end]
    assert function.remote("nothing") == (pid, 0), "the container goes on, and nobody beside it"


# -- a killed container that stays, a host that is gone --------------------------------------------------------------


def held_by(site: Site, name: str, host: str) -> None:
    """Let a container that only Redis knows hold an input of nobody's function."""
    store, fn = site.store, "chaos.nobody"
    store.put_functions({fn: b"only its name is looked at"})
    store.started(site.lead().decode(), [(name, fn, 1, "process", host, time.time(), "")])
    assert store.connect(name, fn, 0, 0, ()) == 1
    store.submit(fn, ['{"headers": {"id": "a"}}'], most_pending=10)
    store.client.lmove(store.keys.queue(fn), store.keys.transit(name, 1), "RIGHT", "LEFT")
    assert store.begin(name, 1, fn, "a", 60, {}).attempt == 1


def view_of(name: str) -> View:
    """Return a controller's view of that function."""
    registration = Registration(
        "chaos.nobody", "chaos", Source("none"), serialized=False, settings=FunctionSettings()
    )  # fmt: skip
    return View(registration, registration.settings, containers={name: Known(1, time.time(), ready=True)})


def losses(site: Site, **settings: Any) -> Losses:
    """Return what a controller that acts would have."""
    lease: Any = type("Held", (), {"token": site.lead().decode()})()
    return Losses(site.store, lease, FakeBackend(), Config(**settings), "here")


def pending(site: Site) -> int:
    return int(site.store.client.llen(site.store.keys.queue("chaos.nobody")))


@pytest.fixture
def no_leftovers(site: Site) -> Iterator[None]:
    """Forget the function that nobody has."""
    yield
    client, keys = site.store.client, site.store.keys
    records = [keys.of("container", name) for name in ("undead", "far-away")]
    client.delete(*client.keys(f"{keys.prefix}*:chaos.nobody"), *records)
    client.hdel(keys.functions, "chaos.nobody")


def test_a_killed_container_that_stays_holds_nothing_for_long(site: Site, no_leftovers: None) -> None:
    held_by(site, "undead", "here")
    view = view_of("undead")
    killed = time.time()
    view.containers["undead"].kill(killed)
    of_here = losses(site)
    of_here.bury_undead({"chaos.nobody": view}, killed + UNDEAD_SECONDS - 0.1)
    assert pending(site) == 0
    of_here.bury_undead({"chaos.nobody": view}, killed + UNDEAD_SECONDS)
    assert pending(site) == 1
    assert not site.store.finish("undead", 1, "chaos.nobody", "a", seconds=1, failed=False, reply={}, outcome=None)


def test_what_a_lost_host_held_comes_back(site: Site, no_leftovers: None) -> None:
    held_by(site, "far-away", "elsewhere")
    site.store.sign("elsewhere")
    views = {"chaos.nobody": view_of("nothing")}
    of_here = losses(site, host_timeout=5.0)
    of_here.sign()
    of_here.sweep_lost_hosts(views)
    assert pending(site) == 0
    seen = of_here._signs["elsewhere"]
    of_here._signs["elsewhere"] = (seen[0], seen[1] - 5.0)  # five seconds later
    of_here.sweep_lost_hosts(views)
    assert pending(site) == 1
    assert site.store.client.hget(site.store.keys.prefix + "attempts:chaos.nobody", "a") == b"0"
    assert "elsewhere" not in site.store.sign("here")


def test_a_container_that_is_heard_of_is_not_lost_with_its_controller(site: Site, no_leftovers: None) -> None:
    held_by(site, "far-away", "elsewhere")
    command = [sys.executable, "-c", CONNECT, str(site.config.redis_url)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as container:
        assert container.stdin is not None
        assert container.stdout is not None
        container.stdout.readline()
        of_here = losses(site, host_timeout=5.0)
        of_here._signs["elsewhere"] = (1.0, time.monotonic() - 5.0)
        of_here.sweep_lost_hosts({"chaos.nobody": view_of("nothing")})
        assert pending(site) == 0
        container.stdin.close()
    wait_until(lambda: "far-away" not in site.store.heard_of(15), 5, "it is gone")
    of_here.sweep_lost_hosts({"chaos.nobody": view_of("nothing")})
    assert pending(site) == 1


# -- starts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raise", "no weights"),
        ("hang", "not ready within its startup_timeout of 1 s"),
        ("exit", "exited with status 3"),
        ("kill", "killed by SIGKILL"),
        ("segfault", "killed by SIGSEGV"),
    ],
)
def test_a_start_that_comes_to_nothing_is_told_to_who_waits(surroundings: Surroundings, how: str, why: str) -> None:
    began = time.monotonic()
    with pytest.raises(ContainerStartError, match=why):
        jobs.Starting(how=how).get.remote()
    assert time.monotonic() - began < 30


def test_a_container_that_uses_too_much_memory_is_killed_and_its_input_told(surroundings: Surroundings) -> None:
    assert jobs.eat.remote(10) == 10
    with pytest.raises(ContainerCrashError, match=r"it used \d+ MiB of memory and may use 200"):
        jobs.eat.remote(400)
    assert jobs.eat.remote(10) == 10


def test_containers_that_go_with_their_zygote_are_no_failed_starts(surroundings: Surroundings) -> None:
    backend: Any = FakeBackend()
    controller = Controller(surroundings.store, backend, surroundings.caller.keyring, Config())
    controller.lease.token = surroundings.store.client.get(surroundings.store.keys.lease).decode()
    view = controller.views["chaos.nobody"] = view_of("starting")
    for bystander, failures in ((True, 0), (False, 1)):
        view.containers["starting"] = Known(1, time.time())
        controller._bury(
            [ContainerExit(container="starting", function="chaos.nobody", exit_code=-9, reason="", bystander=bystander)]
        )
        assert view.failures == failures
