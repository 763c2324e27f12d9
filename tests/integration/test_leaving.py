"""Containers, controllers and runs that are asked to leave: they finish, or put back what they run, and exit 0."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaleplug.worker.leaving import Deadline, Leaving
from tests.chaos import functions
from tests.chaos.harness import Load
from tests.chaos.site import Site
from tests.helpers import wait_until

GRACE = 2.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give a site where a container has little time to leave."""
    with Site(stop_grace=GRACE) as made:
        made.controller()
        made.lead()
        yield made


def begun(load: Load) -> int:
    """Wait until the input of a load runs; return its process."""
    return wait_until(lambda: [run.pid for runs in load.runs().values() for run in runs], 20, "it runs")[0]


def attempts(site: Site, function: Any) -> list[bytes]:
    """Return how often each input that isn't over was taken."""
    return list(site.store.client.hvals(site.store.keys.of("attempts", function.full_name)))


@pytest.mark.parametrize("pool", functions.POOLS)
def test_a_container_that_is_asked_to_leave_finishes_first(site: Site, pool: str, tmp_path: Path) -> None:
    load = Load(functions.POOLS[pool], 1, 0.5, tmp_path).start()
    pid = begun(load)
    os.kill(pid, signal.SIGTERM)
    load.wait(30)
    assert load.results == [0]
    assert len(load.runs()[0]) == 1
    wait_until(lambda: not psutil.pid_exists(pid), 10, "it has left")


@pytest.mark.parametrize("pool", functions.POOLS)
def test_what_is_not_finished_in_time_is_put_back_and_runs_elsewhere(site: Site, pool: str, tmp_path: Path) -> None:
    function = functions.POOLS[pool]
    load = Load(function, 1, GRACE + 3.0, tmp_path).start()
    pid = begun(load)
    os.kill(pid, signal.SIGTERM)
    asked = time.time()
    wait_until(lambda: len(load.runs()[0]) == 2 or load.runs()[0][0].end, 20, "it runs again, or was let finish")
    runs = load.runs()[0]
    assert len(runs) == 2, f"it had no more time, and took it: {runs}"
    first, second = runs
    assert (first.end, second.pid == pid) == (None, False)
    assert second.start - asked >= GRACE * 0.9
    assert attempts(site, function) == [b"1"], "the first one doesn't count"
    assert load.wait(30).results == [0]


@pytest.mark.parametrize("pool", functions.POOLS)
def test_a_second_signal_hurries(site: Site, pool: str, tmp_path: Path) -> None:
    load = Load(functions.POOLS[pool], 1, 2.5, tmp_path).start()
    pid = begun(load)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not _again(pid), GRACE * 0.9, "it is gone before its time is up")
    assert load.wait(30).results == [0]
    assert [run.pid == pid for run in load.runs()[0]] == [True, False]


def _again(pid: int) -> bool:
    """Signal a process once more, for two signals at once are one; return whether it was there."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("hurry", [False, True])
def test_a_controller_puts_back_what_its_containers_have_not_finished(hurry: bool, tmp_path: Path) -> None:
    with Site(stop_grace=30.0 if hurry else GRACE) as site:
        first = site.controller()
        site.lead()
        load = Load(functions.solo, 1, 3.0, tmp_path).start()
        pid = begun(load)
        first.send_signal(signal.SIGTERM)
        if hurry:
            wait_until(lambda: "a second signal" in site.said, 10, "it ends")
            first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0
        assert not psutil.pid_exists(pid)
        assert not site.processes()
        key = site.store.keys.of("attempts", functions.solo.full_name)
        assert site.store.client.hvals(key) == [b"0"]
        assert site.store.client.llen(functions.solo.queue) == 1
        site.controller()
        assert load.wait(30).results == [0]


# -- the deadline --------------------------------------------------------------------------------------------------


def leaving(grace: float) -> tuple[Leaving, Deadline, list[float]]:
    """Return how a container would leave, what its zygote tells it, and when it has given up."""
    deadline, ends = Deadline(), list[float]()
    return Leaving(deadline, grace, lambda: ends.append(time.monotonic())), deadline, ends


def test_the_zygotes_word_counts_more_than_the_containers_own_grace() -> None:
    end, deadline, ends = leaving(0.0)
    deadline.set(time.monotonic() + 0.5)
    end.on_signal()
    began = time.monotonic()
    deadline.set(began + 0.3)  # it changes its mind: that is no second signal of somebody in a hurry
    end.on_signal()
    wait_until(lambda: ends, 5, "it gives up")
    assert ends[0] - began >= 0.3


def test_a_second_signal_from_elsewhere_ends_it_at_once() -> None:
    end, _, ends = leaving(3600.0)
    end.on_signal()
    end.on_signal()
    wait_until(lambda: ends, 5, "it gives up")
    assert len(ends) == 1


def test_a_page_is_shared_with_a_child(tmp_path: Path) -> None:
    deadline = Deadline()
    assert deadline.get() is None
    pid = os.fork()
    if pid == 0:
        deadline.set(12.5)
        os._exit(0)
    os.waitpid(pid, 0)
    assert deadline.get() == 12.5
    deadline.close()
