"""Schedules for real: in a run, by scaleplug beat, by Celery's own, and when a beat is killed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from redbeat import RedBeatSchedulerEntry

from scaleplug.beat import Beat
from scaleplug.embedded import EmbeddedRedis
from scaleplug.keys import Keys
from scaleplug.registry import Source
from scaleplug.runtime import Run
from scaleplug.server import connect
from scaleplug.settings import Config
from tests.commands import ROOT, SECRET, environment, python, scaleplug, told
from tests.helpers import wait_until
from tests.integration import two_schedules

PROJECT = """
import time
import scaleplug
from scaleplug import Cron, Daily, Period

app = scaleplug.App("tick")

@app.function(schedule=Period(seconds=1), max_containers=1)
def each_second():
    print(f"ran at {time.time():.3f}", flush=True)

@app.function(schedule=Cron("0 6 * * *"), autoscaler_profile=Daily({"00:00-24:00": {"max_containers": 3}}))
def each_day():
    return "done"

@app.local_entrypoint()
def main():
    deadline = time.monotonic() + 20
    while each_second.task.app and time.monotonic() < deadline:
        if app.store.counters("tick.each_second").get("finished", 0) >= 3:
            break
        time.sleep(0.05)
    print("most", each_day.autoscaler.settings().max_containers)
"""
PLUGGED = """
from celery import Celery
import scaleplug

celery = Celery("project", broker="memory://", backend="cache+memory://")
celery.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
functions = scaleplug.App("plugged", celery=celery, redis_url=URL)

celery.conf.beat_schedule = {"own": {"task": "plugged.named", "schedule": 1.0, "args": [1]}}

@functions.function(schedule=scaleplug.Period(seconds=1))
def each_second():
    pass

@functions.function()
def named(x):
    pass
"""


class Started:
    """A command under way, and what it has said."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment(**environ), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.said.extend(lines)  # as they come

    def says(self, text: str) -> None:
        """Wait until it says this."""
        wait_until(lambda: text in "".join(self.said), 30, text)

    def end(self, sig: int = signal.SIGTERM) -> int:
        """Signal it, and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(sig)
        code = self.process.wait(20)
        self._reader.join(5)
        return code


class Place:
    """A folder with a project, and a Redis."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.environ = {"SCALEPLUG_REDIS_URL": url, "SCALEPLUG_SECRET": SECRET}
        self.client: Any = connect(url)
        self.keys = Keys("default")
        self.started: list[Started] = []
        (folder / "tick.py").write_text(PROJECT)
        (folder / "plug.py").write_text(f"URL = {url!r}\n{PLUGGED}")

    def run(self, *arguments: str) -> str:
        """Run a command of scaleplug to its end; return what it printed."""
        done = scaleplug(*arguments, cwd=self.folder, **self.environ)
        assert done.returncode == 0, told(done)
        return done.stdout

    def start(self, *arguments: str) -> Started:
        """Start a Python with these arguments."""
        self.started.append(started := Started(self.folder, *arguments, **self.environ))
        return started

    def calls(self, function: str) -> int:
        """Return how many calls of a function wait."""
        return int(self.client.llen(self.keys.queue(function)))

    def more(self, function: str, timeout: float = 20.0) -> None:
        """Wait until a function was called once more."""
        before = self.calls(function)
        wait_until(lambda: self.calls(function) > before, timeout, f"another call of {function}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a project and a Redis of its own, which users' processes reach too."""
    with EmbeddedRedis(tcp=True) as server:
        place = Place(tmp_path, server.url)
        yield place
        for started in place.started:
            if started.process.poll() is None:
                started.end(signal.SIGKILL)
        place.client.close()


def test_a_run_calls_what_is_due(tmp_path: Path) -> None:
    (tmp_path / "tick.py").write_text(PROJECT)
    done = scaleplug("run", "tick.py", cwd=tmp_path)
    assert done.returncode == 0, told(done)
    assert "most 3" in done.stdout
    assert len(re.findall(r"ran at [\d.]+", done.stdout + done.stderr)) >= 3, told(done)


def test_a_killed_beat_is_replaced_and_an_ended_one_at_once(place: Place) -> None:
    place.run("deploy", "tick.py")
    one = place.start("-m", "scaleplug.cli.main", "beat")
    one.says("beat: acts")
    other = place.start("-m", "scaleplug.cli.main", "beat")
    other.says("beat ")
    place.more("tick.each_second")
    one.end(signal.SIGKILL)
    since = datetime.now(UTC)
    other.says("beat: acts")
    place.more("tick.each_second")
    assert datetime.now(UTC) - since < timedelta(seconds=30)
    third = place.start("-m", "scaleplug.cli.main", "beat")
    third.says("beat ")
    assert other.end() == 0
    since = datetime.now(UTC)
    third.says("beat: acts")
    assert datetime.now(UTC) - since < timedelta(seconds=10)
    assert third.end(signal.SIGINT) == 0


def test_celery_s_own_beat_calls_functions_with_redbeat(place: Place) -> None:
    place.run("deploy", "tick.py")
    name = f"{place.keys.beat}tick.each_day:autoscaler-1"
    definition = json.loads(place.client.hget(name, "definition"))
    definition["schedule"]["since"] = 0
    place.client.hset(name, mapping={"definition": json.dumps(definition), "meta": "{}"})  # it is due
    place.client.zadd(f"{place.keys.beat}:schedule", {name: 1})
    place.client.hset(f"{place.keys.beat}bad", "definition", "nonsense")
    place.client.zadd(f"{place.keys.beat}:schedule", {f"{place.keys.beat}bad": 1})
    place.client.delete(place.keys.overrides)
    theirs = RedBeatSchedulerEntry("theirs", "project.task", 1.0, app=Beat(Config(redis_url=place.url)).celery)
    theirs.save()  # an ordinary task that another process has
    beat = place.start("-m", "celery", "-A", "tick", "beat", "-S", "redbeat.RedBeatScheduler", "-l", "info")
    for _ in range(2):
        place.more("tick.each_second")
    wait_until(lambda: place.client.hlen(place.keys.overrides), 10, "the rule of the autoscaler")
    wait_until(lambda: place.client.llen("celery"), 10, "the ordinary task")
    said = "".join(beat.said)
    assert said.count(f"{place.keys.beat}bad is left out") == 1, said
    assert beat.end() == 0


@pytest.mark.parametrize("scheduler", [(), ("-S", "redbeat.RedBeatScheduler")], ids=["default", "redbeat"])
def test_the_beat_of_a_project_with_a_broker_of_its_own_serves_functions_too(
    place: Place, scheduler: tuple[str, ...]
) -> None:
    place.run("deploy", "plug.py")
    options = ("-s", str(place.folder / "schedule")) if not scheduler else ()
    if scheduler:  # memory:// is no place for redbeat
        text = (place.folder / "plug.py").read_text()
        (place.folder / "plug.py").write_text(f"{text}\ncelery.conf.redbeat_redis_url = URL\n")
    beat = place.start("-m", "celery", "-A", "plug", "beat", "-l", "info", *scheduler, *options)
    for _ in range(2):
        place.more("plugged.each_second")
    place.more("plugged.named")  # the project's own entry of a function
    assert beat.end() == 0


def test_people_see_run_pause_and_resume_schedules(place: Place) -> None:
    place.run("deploy", "tick.py")
    rows = {row["name"]: row for row in json.loads(place.run("schedules", "list", "--json"))}
    assert sorted(rows) == ["tick.each_day", "tick.each_day:autoscaler-1", "tick.each_second"]
    assert rows["tick.each_day"]["schedule"] == "0 6 * * * (UTC)"
    assert rows["tick.each_day"]["last"] is None
    assert "every 1 s" in place.run("schedules")
    assert "called tick.each_day" in place.run("schedules", "run", "each_day")
    assert place.calls("tick.each_day") == 1
    assert "changed the autoscaler" in place.run("schedules", "run", "tick.each_day:autoscaler-1")
    place.run("schedules", "pause", "tick.each_second")
    beat = place.start("-m", "scaleplug.cli.main", "beat")
    beat.says("beat: acts")
    (row,) = (r for r in json.loads(place.run("schedules", "list", "--json")) if r["name"] == "tick.each_second")
    assert (row["state"], row["next"]) == ("paused", None)
    assert place.calls("tick.each_second") == 0
    place.run("schedules", "resume", "tick.each_second")
    place.more("tick.each_second")
    wrong = scaleplug("schedules", "run", "each_secon", cwd=place.folder, **place.environ)
    assert wrong.returncode == 2
    assert "did you mean" in wrong.stderr
    assert beat.end() == 0


def test_the_command_is_there_in_celery_s_own(place: Place) -> None:
    entry = "[celery.commands]\nscaleplug = scaleplug.cli.plugin:command\n"
    info = place.folder / "plugin_of_the_test-0.dist-info"  # as what pip installs has it
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-the-test\nVersion: 0\n")
    (info / "entry_points.txt").write_text(entry)
    environ = {"SCALEPLUG_SECRET": SECRET, "PYTHONPATH": f"{ROOT}:{place.folder}"}  # the project knows the Redis

    def celery(*arguments: str) -> str:
        done = python("-m", "celery", "-A", "plug", "scaleplug", *arguments, cwd=place.folder, **environ)
        assert done.returncode == 0, told(done)
        return done.stdout

    assert "schedules" in celery("--help")
    assert "deployed plugged, version 1" in celery("deploy")
    assert "plugged.each_second" in celery("schedules")
    assert "each_second" in celery("ps")


@pytest.fixture
def quiet_run() -> Iterator[Run]:
    """Give a run whose controller leaves schedules alone."""
    run = Run(Config(beat=0), title="moved clock")
    run.start()
    yield run
    run.stop()


def test_two_schedules_that_warm_a_pool_by_day(quiet_run: Run) -> None:
    two_schedules.app.set_source(Source("module", "tests.integration.two_schedules", str(ROOT)))
    two_schedules.app.register()
    zone = ZoneInfo("America/New_York")
    day = (datetime.now(zone) + timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)
    now = [day.astimezone(UTC)]
    beat = Beat(quiet_run.config, clock=lambda: now[0])

    def least_at(days: int, hour: int) -> None:
        now[0] = (day + timedelta(days=days)).replace(hour=hour, second=1).astimezone(UTC)
        beat.turn()

    def least() -> int:
        return two_schedules.inference_server.autoscaler.settings().min_containers

    def ran(function: Any) -> int:
        return two_schedules.app.store.counters(function.full_name).get("finished", 0)

    least_at(0, 0)  # both were missed since the registration
    both = (two_schedules.increase_warm_pool, two_schedules.decrease_warm_pool)
    wait_until(lambda: all(ran(function) == 1 for function in both), 30, "the schedules that were missed")
    two_schedules.inference_server.update_autoscaler(min_containers=1)
    for days, hour, expected in ((0, 6, 2), (0, 22, 0), (1, 6, 2)):
        least_at(days, hour)
        wait_until(lambda wanted=expected: least() == wanted, 20, f"{expected} containers at {hour}:00")  # type: ignore[misc]
    beat.close()
