"""Controllers come and go; containers and inputs stay."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaleplug.embedded import EmbeddedRedis
from scaleplug.here import forget_callers
from scaleplug.settings import Config, use_config
from scaleplug.store import Store
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import SOURCE
from tests.integration.test_delivery import starts

CONTROL = """
import logging, os, pathlib, sys
from scaleplug.runtime import control
from scaleplug.settings import Config
logging.basicConfig(level=logging.INFO)
control(Config.from_environ(os.environ), pathlib.Path(sys.argv[1]), lifeline=None, grace=5.0)
"""


class Site:
    """A shared Redis, and controllers as processes of their own."""

    def __init__(self, redis: EmbeddedRedis, folder: Path) -> None:
        self.config = Config(
            redis_url=redis.url, secret=secrets.token_urlsafe(32), namespace=f"t{secrets.token_hex(3)}"
        )
        self.folder = folder / "z"
        self.processes: list[subprocess.Popen[bytes]] = []
        use_config(self.config)
        jobs.app.set_source(SOURCE)
        caller: Any = jobs.app.caller()
        self.store: Store = caller.store
        jobs.app.register()

    def controller(self) -> subprocess.Popen[bytes]:
        """Start a controller."""
        environ = {**os.environ, **self.config.to_environ()}
        process = subprocess.Popen([sys.executable, "-c", CONTROL, str(self.folder)], env=environ)
        self.processes.append(process)
        return process

    def leads(self) -> bytes | None:
        """Return the token of the acting controller."""
        token: bytes | None = self.store.client.get(self.store.keys.lease)
        return token

    def pids(self, function: Any) -> set[int]:
        """Return the processes of a function's containers."""
        records = self.store.containers(function.full_name).values()
        return {int(r["pid"]) for r in records if r.get("pid")}

    def close(self) -> None:
        """End the controllers, which end their containers."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(20)
        forget_callers(self.config.redis_url)
        use_config(None)


@pytest.fixture
def site(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a site whose controllers are gone at the end, and all their containers with them."""
    made = Site(redis_server, tmp_path_factory.mktemp("s"))
    yield made
    last = made.controller() if all(p.poll() == -9 for p in made.processes) else None
    if last is not None:
        wait_until(made.leads, 10, "a controller that cleans up")
    made.close()


def background(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run something on a thread; its result is appended to the list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(action()))
    thread.start()
    return thread, results


def test_a_standby_takes_over_and_adopts(site: Site) -> None:
    first = site.controller()
    before = wait_until(site.leads, 10, "the first leads")
    pids = {*jobs.pid_after.map([0.6] * 8)}
    second = site.controller()
    thread, results = background(lambda: list(jobs.pid_after.map([0.05] * 200)))
    first.kill()
    killed = time.monotonic()
    wait_until(lambda: site.leads() not in (None, before), 8, "the standby leads")
    assert time.monotonic() - killed < 5.5
    thread.join(30)
    assert len(results[0]) == 200
    assert set(results[0]) <= pids | site.pids(jobs.pid_after)
    assert pids <= site.pids(jobs.pid_after), "every container was adopted, none replaced"
    assert second.poll() is None


def test_containers_go_on_without_a_controller_and_are_adopted_by_the_next(site: Site) -> None:
    first = site.controller()
    wait_until(site.leads, 10, "it leads")
    pids = set(jobs.pid_after.map([0.6] * 8))
    first.kill()
    first.wait()
    assert set(jobs.pid_after.map([0.05] * 20)) <= pids
    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not alive(victim), 5, "a container dies while nobody looks")
    site.controller()
    wait_until(lambda: victim not in site.pids(jobs.pid_after), 10, "its record is swept")
    assert pids <= site.pids(jobs.pid_after)
    assert jobs.square.remote(4) == 16


def test_what_a_container_held_that_died_without_a_controller_comes_back(site: Site, tmp_path: Path) -> None:
    first = site.controller()
    wait_until(site.leads, 10, "it leads")
    call = jobs.note.spawn(str(tmp_path), "held", 1.0)
    ((pid, _),) = wait_until(lambda: starts(tmp_path, "held"), 10, "the input starts")
    first.kill()
    first.wait()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 5, "the container dies")
    site.controller()
    assert call.get(timeout=20) == "held"


def test_retries_survive_the_controller(site: Site, tmp_path: Path) -> None:
    first = site.controller()
    wait_until(site.leads, 10, "it leads")
    call = jobs.fail_once.spawn(str(tmp_path))
    wait_until((tmp_path / "failed").exists, 10, "it fails")
    wait_until(lambda: site.store.census()[jobs.fail_once.full_name].delayed, 5, "it waits")
    first.kill()
    first.wait()
    pid = int((tmp_path / "failed").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 5, "its container is gone too")
    site.controller()
    assert call.get(timeout=20) != pid


def test_an_orderly_stop_finishes_what_runs_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    controller = site.controller()
    wait_until(site.leads, 10, "it leads")
    call = jobs.note.spawn(str(tmp_path), "last", 1.0)
    wait_until((tmp_path / "last").exists, 10, "the input starts")
    family = psutil.Process(controller.pid).children(recursive=True)
    controller.send_signal(signal.SIGTERM)
    assert controller.wait(10) == 0
    assert call.get(timeout=5) == "last"
    _, left = psutil.wait_procs(family, timeout=5)
    assert not left
    assert site.leads() is None, "the lease is given up at once"
    assert not site.store.containers(jobs.note.full_name)


def test_a_frozen_leader_does_nothing_when_it_wakes(site: Site) -> None:
    first = site.controller()
    before = wait_until(site.leads, 10, "it leads")
    pids = set(jobs.pid_after.map([0.6] * 8))
    first.send_signal(signal.SIGSTOP)
    site.controller()
    after = wait_until(lambda: (site.leads() not in (None, before) and site.leads()) or None, 10, "the standby leads")
    first.send_signal(signal.SIGCONT)
    assert set(jobs.pid_after.map([0.05] * 40)) <= pids
    assert pids == site.pids(jobs.pid_after)
    assert site.leads() == after


def test_idle_containers_leave_after_the_window_and_the_function_is_at_zero(site: Site) -> None:
    def container_pid() -> int:
        return os.getpid()

    quick = jobs.app.function(name="quick", scaledown_window=2, serialized=True)(container_pid)
    site.controller()
    pid = quick.remote()
    started = time.monotonic()
    wait_until(lambda: not alive(pid), 10, "the idle container leaves")
    assert 1.5 < time.monotonic() - started < 5
    wait_until(lambda: not site.store.containers(quick.full_name), 5, "nothing of it is left")
    decisions = site.store.decisions(quick.full_name)
    assert decisions[0]["stop"]
    assert "desired 0" in decisions[0]["reason"]


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_caller_is_told_when_nobody_starts_containers(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    call = jobs.square.spawn(3)
    thread, results = background(lambda: call.get(timeout=60))
    wait_until(lambda: "no controller acts" in caplog.text, 12, "it is told")
    site.controller()
    thread.join(30)
    assert results == [9]
    assert caplog.text.count("no controller acts") == 1
