"""Containers on a Docker engine: from zero, with and without one that stands by; many; a kill; an idle controller.

The engine is DOCKER_HOST's with the image scaleplug-worker; else one that the tests start, which needs root and Linux.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.harness import Plan, Result, Row, Summary, seconds, wait_until
from scaleplug import App, Function
from scaleplug.abc import READY
from scaleplug.client import RedisCaller
from scaleplug.embedded import find_server
from scaleplug.runtime import Run
from scaleplug.settings import Config
from scaleplug.store import Store
from tests import engine as engines
from tests import images
from tests.engine_base import BASE_IMAGE, base_archive
from tests.redis_server import free_port

IMAGE = "scaleplug-worker"
COMMAND = ("true",)
PEER = "a container of the same image that only exits"
AT_ONCE, IDLE = 20, 100
LONG = 60.0

app = App("docker-benchmarks")


@app.function(serialized=True, max_containers=1)
def first() -> None:
    """Do nothing, from zero."""


@app.function(serialized=True, max_containers=2)
def held(duration: float) -> None:
    """Be busy."""
    import time  # noqa: PLC0415  # it travels

    time.sleep(duration)


@app.function(serialized=True)
def many() -> None:
    """Do nothing, in many containers."""


@dataclass(frozen=True)
class Around:
    """An engine, and a run with it."""

    client: Any
    store: Store
    controller: psutil.Process

    def records(self, function: Function[..., Any]) -> dict[str, dict[str, str]]:
        """Return the records of a function's containers."""
        return self.store.containers(function.full_name)

    def boxes(self, role: str = "container") -> list[Any]:
        """Return the run's containers that run."""
        labels = {"label": [f"scaleplug.namespace={self.store.keys.namespace}", f"scaleplug.role={role}"]}
        found: list[Any] = self.client.api.containers(filters=labels)
        return found

    def kill_all(self) -> None:
        """Kill all that run as containers, those that had stood by too."""
        for box in [*self.boxes(), *(b for b in self.boxes("standby") if "standby" not in b["Names"][0])]:
            self.client.api.kill(box["Id"])

    def one_stands_by(self) -> bool:
        """Return whether one waits for its order."""
        waiting = [b for b in self.boxes("standby") if "standby" in b["Names"][0]]
        return any(READY.encode() in self.client.api.logs(b["Id"]) for b in waiting)


def measure(plan: Plan) -> Result:
    problem = None if os.environ.get("DOCKER_HOST") else engines.why_not()
    if problem:
        return Result(name="docker", rows=(), remarks=(f"Left out: {problem}.",))
    with _engine() as url, _redis() as redis:
        with _around(url, redis, standbys=0) as around:
            engine = _rounds(lambda: _bare_start(around), plan.rounds(12, 3))
            bare = _rounds(lambda: _from_zero(around), plan.rounds(12, 3))
            killed = _rounds(lambda: _kill(around), plan.rounds(8, 2))
            ready = _ready(around, AT_ONCE)
            count = plan.rounds(IDLE, AT_ONCE)
            _ready(around, count)
            idle = _cpu(around, plan.rounds(20, 5))
        with _around(url, redis, standbys=1) as around:
            spared = _rounds(lambda: _from_zero(around, standby=True), plan.rounds(12, 3))
    own = bare.p50 - engine.p50
    return Result(
        name="docker",
        rows=(
            _row("zero containers to the first result, p50", "ms", bare.p50, engine.p50, 1_500),
            _row("the same, without the engine's start of a container", "ms", own, None, 400),
            _row("the same, with one that stands by, p50", "ms", spared.p50, engine.p50, 150),
            _row(f"{AT_ONCE} containers ready", "s", ready, None, 6),
            _row("docker kill of a busy container to its input's start elsewhere, p50", "ms", killed.p50, None, 2_000),
            _row(f"CPU of an idle controller that watches {count} containers", "%", idle, None, 3),
        ),
        samples={"engine alone": engine, "from zero": bare, "from zero, standing by": spared, "kill": killed},
        remarks=(
            f"The peer is {PEER}: made, attached to and started, over the same socket.",
            "Functions travel pickled, so nothing is mounted; the network is the host's.",
        ),
    )


def _row(what: str, unit: str, ours: float, peer: float | None, most: float) -> Row:
    return Row(what=f"docker: {what}", unit=unit, ours=ours, peer=peer, peer_is=PEER if peer else "", most=most)


def _rounds(once: Callable[[], float], count: int) -> Summary:
    once()  # the first one reads files that nobody had read
    return Summary.of([1000 * once() for _ in range(count)], "ms")


def _bare_start(around: Around) -> float:
    """Return the seconds that the engine takes for a container which does nothing."""
    api, found = around.client.api, []

    def start() -> None:
        host = api.create_host_config(network_mode="host", cap_drop=["ALL"], security_opt=["no-new-privileges"])
        found.append(api.create_container(IMAGE, COMMAND, stdin_open=True, host_config=host, entrypoint=[])["Id"])
        line = api.attach_socket(found[0], params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        api.start(found[0])
        with contextlib.closing(getattr(line, "_sock", line)) as connection:
            while connection.recv(4096):
                pass
        line.close()

    took = seconds(start)
    api.remove_container(found[0], force=True)
    return took


def _from_zero(around: Around, *, standby: bool = False) -> float:
    around.kill_all()
    wait_until(lambda: not around.records(first), "no container is left")
    if standby:
        wait_until(around.one_stands_by, "one stands by")
    return seconds(first.remote)


def _kill(around: Around) -> float:
    """Return the seconds from the kill of a busy container until its input begins in another one."""
    call = held.spawn(LONG)
    name = held.full_name

    def running(but: str = "") -> tuple[str, dict[str, str]] | None:
        """Return the container that runs the input, which it takes milliseconds after it is ready."""
        ready = next(((n, r) for n, r in around.records(held).items() if n != but and "ready" in r), None)
        return ready if around.store.census([name])[name].running else None

    found = wait_until(running, "the input runs")
    assert found is not None
    at = around.store.now()
    around.client.api.kill(f"scaleplug-{found[0]}")
    again = wait_until(lambda: running(but=found[0]), "the input runs again")
    assert again is not None
    call.cancel()
    around.kill_all()
    wait_until(lambda: not around.records(held), "no container is left")
    return float(again[1]["ready"]) - at


def _ready(around: Around, count: int) -> float:
    """Return the seconds until so many containers are ready."""
    if around.boxes():
        many.update_autoscaler(min_containers=0)
        around.kill_all()
        wait_until(lambda: not around.records(many), "no container is left")
    else:
        many.remote()  # the registry knows it from here on
        around.kill_all()
        wait_until(lambda: not around.records(many), "no container is left")
    began = around.store.now()
    many.update_autoscaler(min_containers=count)

    def all_ready() -> list[float]:
        found = [float(r["ready"]) for r in around.records(many).values() if "ready" in r]
        return found if len(found) >= count else []

    return max(wait_until(all_ready, f"{count} containers are ready", 120)) - began


def _cpu(around: Around, window: float) -> float:
    time.sleep(3.0)  # what has just started settles
    before = sum(around.controller.cpu_times()[:2])
    time.sleep(window)
    return 100 * (sum(around.controller.cpu_times()[:2]) - before) / window


@contextlib.contextmanager
def _engine() -> Iterator[str]:
    if os.environ.get("DOCKER_HOST"):
        yield os.environ["DOCKER_HOST"]
        return
    started, archive = engines.Engine(), base_archive()
    try:
        started.start()
        with contextlib.closing(started.client()) as client, archive.open("rb") as data:
            client.api.import_image_from_data(data, repository=BASE_IMAGE, tag="latest", changes=['CMD ["python3"]'])
        with images.serving_wheels() as arguments:
            images.build(started, "worker_images/base/Dockerfile", IMAGE, {**arguments, "BASE_IMAGE": BASE_IMAGE})
        yield started.url
    finally:
        started.close()


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    """Start a Redis that the image's user reaches."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [find_server(os.environ).path, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(10)


@contextlib.contextmanager
def _around(url: str, redis: str, *, standbys: int) -> Iterator[Around]:
    import docker  # noqa: PLC0415  # an extra

    config = Config(
        redis_url=redis, secret=secrets.token_urlsafe(48), backend="docker", docker_hosts=url, docker_image=IMAGE,
        docker_network="host", docker_pull="never", standby_containers=standbys, max_containers=IDLE + 10,
    )  # fmt: skip
    run = Run(config, title="benchmarks of Docker")
    with contextlib.closing(docker.DockerClient(base_url=url)) as client:
        try:
            run.start()
            caller = app.caller()
            assert isinstance(caller, RedisCaller)
            for function in (first, held, many):
                app.ready_for_calls(function)
            (controller,) = (p for p in psutil.Process().children() if "scaleplug.runtime" in " ".join(p.cmdline()))
            yield Around(client, caller.store, controller)
        finally:
            run.stop()
