"""The tests' own Docker Engine: that it does what the others count on."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import psutil
import pytest

from tests.engine import Engine
from tests.engine_base import BASE_IMAGE
from tests.helpers import wait_until

pytestmark = pytest.mark.docker


def test_a_container_runs_and_its_limits_hold(engine: Engine) -> None:
    with contextlib.closing(engine.client()) as client:
        said = client.containers.run(BASE_IMAGE, ["python3", "-c", "print(6 * 7)"], network_mode="host", remove=True)
        assert said == b"42\n"
        greedy = ["python3", "-c", "x = bytearray(200 << 20)"]
        container = client.containers.run(BASE_IMAGE, greedy, network_mode="host", mem_limit="50m", detach=True)
        assert container.wait(timeout=20)["StatusCode"] == 137
        container.reload()
        assert container.attrs["State"]["OOMKilled"]
        container.remove()


def test_it_can_be_killed_and_started_again_and_leaves_nothing() -> None:
    engine = Engine().start()
    try:
        world = psutil.Process(engine._world.pid).children(recursive=True)
        engine.restart(signal.SIGKILL)
        engine.restart()
        world += psutil.Process(engine._world.pid).children(recursive=True)
    finally:
        engine.close()
    wait_until(lambda: not any(process.is_running() for process in world), 5, "all of it has ended")
    assert not engine.folder.exists()
    assert str(engine.folder) not in Path("/proc/self/mountinfo").read_text()
