"""Spares: used, replaced, frozen, killed, cut off; never a lost start, never old code, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psutil
import pytest

from scaleplug import concurrent
from tests.helpers import runs, wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

CONNECTIONS = 3


@pytest.fixture
def surroundings(start_run: Callable[..., Surroundings]) -> Iterator[Surroundings]:
    """Give surroundings of a test's own: it looks at all processes in them."""
    own = start_run()
    yield own
    own.run.stop()


def zygotes(surroundings: Surroundings, function: Any = None) -> list[psutil.Process]:
    """Return the zygotes of a run, or that of a function which has a container."""
    if function is not None:
        pids = [int(record["pid"]) for record in surroundings.containers(function).values()]
        return [parent for pid in pids[:1] if (parent := psutil.Process(pid).parent()) is not None]
    controller = surroundings.run._controller
    return [] if controller is None else psutil.Process(controller.pid).children()


def waiting(surroundings: Surroundings, function: Any = None) -> list[psutil.Process]:
    """Return the spares that wait: children of a zygote that are no containers."""
    store = surroundings.store
    names = [name.decode() for name in store.client.keys(store.keys.of("container", "*"))]
    pids = {int(store.client.hget(name, "pid") or 0) for name in names}
    children = [child for zygote in zygotes(surroundings, function) for child in zygote.children()]
    return [child for child in children if child.pid not in pids and runs(child)]


def connections(surroundings: Surroundings) -> list[dict[str, Any]]:
    """Return the connections of waiting spares."""
    return [c for c in surroundings.store.client.client_list() if c["name"] == "scaleplug-spare"]


def one_spare(surroundings: Surroundings, function: Any = jobs.add, *, but: int = 0) -> psutil.Process:
    """Wait until one spare, another one than ``but``, waits in the zygote of a function that has a container."""

    def found() -> psutil.Process | None:
        spares = [s for s in waiting(surroundings, function) if s.pid != but]
        ready = len(connections(surroundings)) == CONNECTIONS * len(waiting(surroundings))
        return spares[0] if len(spares) == 1 and ready else None

    return wait_until(found, 20, "one spare waits")


def record_of(surroundings: Surroundings, function: Any, pid: int) -> dict[str, str]:
    """Return the record of the container in a process."""
    return next(r for r in surroundings.containers(function).values() if int(r.get("pid", 0)) == pid)


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Give what makes functions that travel pickled; the app forgets them at the end."""
    before = dict(jobs.app.functions)

    def named(raw: Callable[..., Any], name: str = "") -> Any:
        jobs.app.functions.pop(name, None)
        return jobs.app.function(name=name or f"new-{uuid4().hex[:8]}", serialized=True, max_containers=1)(raw)

    yield named
    jobs.app.functions.clear()
    jobs.app.functions.update(before)


def test_a_start_takes_the_spare_and_another_one_follows(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3  # the zygote is there
    spare = one_spare(surroundings)
    assert jobs.single_pid.remote() == spare.pid
    wait_until(lambda: "ended" in record_of(surroundings, jobs.single_pid, spare.pid), 5, "its times")
    record = record_of(surroundings, jobs.single_pid, spare.pid)
    assert record["spare"] == "1"
    times = [float(record[name]) for name in ("requested", "forked", "ready", "taken", "ended")]
    assert times == sorted(times)
    assert one_spare(surroundings, but=spare.pid).pid != spare.pid


def test_a_spare_is_no_container_and_waits_in_silence(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3
    one_spare(surroundings)
    wait_until(lambda: all(int(c["idle"]) >= 2 for c in connections(surroundings)), 20, "no commands for two seconds")
    assert [r["state"] for r in surroundings.containers(jobs.add).values()] == ["ready"]
    assert jobs.add.get_current_stats().num_total_runners == 1


def test_a_frozen_spare_loses_no_start(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3
    spare = one_spare(surroundings)
    os.kill(spare.pid, signal.SIGSTOP)
    assert jobs.single_pid.remote() != spare.pid
    wait_until(lambda: not runs(spare), 5, "the frozen one is gone")
    assert one_spare(surroundings, but=spare.pid)


def test_a_killed_spare_loses_no_start_and_is_replaced(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3
    spare = one_spare(surroundings)
    os.kill(spare.pid, signal.SIGKILL)
    assert jobs.single_pid.remote() != spare.pid
    assert one_spare(surroundings, but=spare.pid)


def test_a_spare_without_connections_opens_others(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3
    spare = one_spare(surroundings)
    lost = connections(surroundings)
    for connection in lost:
        surroundings.store.client.client_kill_filter(_id=int(connection["id"]))
    assert jobs.single_pid.remote() == spare.pid, "at once, without them"
    spare, lost = one_spare(surroundings, but=spare.pid), connections(surroundings)
    for connection in lost:
        surroundings.store.client.client_kill_filter(_id=int(connection["id"]))
    ids = {c["id"] for c in lost}
    wait_until(lambda: len({c["id"] for c in connections(surroundings)} - ids) == len(ids), 20, "it has others")
    assert jobs.square.remote(3) == 9
    assert record_of(surroundings, jobs.square, spare.pid)["spare"] == "1"


def test_a_spare_serves_functions_that_came_later(surroundings: Surroundings, make: Callable[..., Any]) -> None:
    def first() -> int:
        return os.getpid()

    def second() -> tuple[str, int]:
        return "second", os.getpid()

    function = make(first)
    assert function.remote()
    spare = one_spare(surroundings, function)
    assert make(second).remote() == ("second", spare.pid)
    assert jobs.square.with_options(timeout=77).remote(4) == 16


def test_a_spare_that_is_older_serves_code_as_it_is_now(surroundings: Surroundings, make: Callable[..., Any]) -> None:
    def define(text: str) -> Any:
        def again() -> tuple[str, int]:
            return text, os.getpid()

        return make(again, "again")

    old = define("old")
    assert old.remote()[0] == "old"
    spare = one_spare(surroundings, old)
    assert define("new").remote() == ("new", spare.pid)


def test_green_threads_have_spares_too(surroundings: Surroundings, make: Callable[..., Any]) -> None:

    @concurrent(max_inputs=5, pool="eventlet")
    def green() -> int:
        return os.getpid()

    function = make(green)
    assert function.remote()
    spare = one_spare(surroundings, function)
    assert make(green).remote() == spare.pid


def test_a_spare_dies_with_its_zygote(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3
    spare = one_spare(surroundings)
    spare.parent().kill()
    wait_until(lambda: not runs(spare), 5, "the spare is gone")
    assert jobs.add.remote(2, 2) == 4
    assert one_spare(surroundings, but=spare.pid)


def test_nothing_is_left_when_the_run_ends(surroundings: Surroundings) -> None:
    assert jobs.add.remote(1, 2) == 3
    spare = one_spare(surroundings)
    surroundings.run.stop()
    wait_until(lambda: not runs(spare), 5, "the spare is gone")


def test_there_are_as_many_as_wanted(start_run: Callable[..., Surroundings]) -> None:
    none, two = start_run(spares=0), start_run(spares=2)
    try:
        assert jobs.add.remote(1, 2) == 3
        wait_until(lambda: len(waiting(two, jobs.add)) == 2, 20, "two spares")
        assert not connections(none), "there is none, which would have opened some"
    finally:
        none.run.stop()
        two.run.stop()


REHEARSE = """
from celery import current_app, signals
from celery.worker import state
from scaleplug.here import known_apps
from scaleplug.serializer import Keyring, use_keyring
from scaleplug.settings import Config
from scaleplug.worker.rehearsal import prepare_rehearsal
heard = []
for signal in (signals.task_prerun, signals.worker_ready, signals.task_success, signals.task_received):
    signal.connect(lambda *_, **named: heard.append(named["signal"]), weak=False)
config = Config(secret="x" * 40)
use_keyring(Keyring(config.secret))
rehearsal = prepare_rehearsal(config)
assert rehearsal is not None
assert rehearsal.run(), "a spare's rehearsal fails: the container asks Redis for what it doesn't know an answer to"
assert not heard, heard
assert (dict(state.total_count), state.all_total_count, state.should_stop) == ({}, [0], None)
assert not known_apps()
"""


def test_the_rehearsal_works_and_nobody_hears_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", REHEARSE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout + done.stderr
