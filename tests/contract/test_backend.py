"""What a controller sees of a backend: the same over the twin and over processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from scaleplug.abc import BackendContainer, ContainerBackend, ContainerExit, StartRequest
from scaleplug.backends import Backend
from scaleplug.backends.process import ProcessBackend
from scaleplug.client import RedisCaller
from scaleplug.controller import Controller
from scaleplug.keys import Keys
from scaleplug.registry import Registration, Source
from scaleplug.serializer import Keyring, use_keyring
from scaleplug.server import connect
from scaleplug.settings import Config, FunctionSettings, use_config
from scaleplug.store import Store
from scaleplug.testing import FakeBackend
from tests.contract import functions
from tests.dockers import docker_config
from tests.engine import Engine
from tests.helpers import wait_until

HOLD, SQUARE, BROKEN = "contract.hold", "contract.square", "broken.f"
LIMIT = 4


class Stage(Protocol):
    """A backend, and what goes on inside its containers."""

    backend: ContainerBackend
    left: list[str]
    """The functions of containers that are gone, as the backend told them."""

    def make_busy(self, container: str) -> None:
        """Let a container of HOLD run an input."""

    def release(self) -> None:
        """Let that input end."""

    def die(self, container: BackendContainer) -> None:
        """Let a container be killed by somebody else."""

    def freeze(self, container: BackendContainer) -> Callable[[], object]:
        """Let a container stand still; return what makes it go on."""


class FakeStage:
    """The twin."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.backend = FakeBackend(limit=LIMIT, on_exit=self.left.append)
        self.backend.fail_starts(BROKEN, "ImportError: it is broken")
        self._busy: list[str] = []

    def make_busy(self, container: str) -> None:
        """See Stage."""
        self.backend.set_busy(container)
        self._busy.append(container)

    def release(self) -> None:
        """See Stage."""
        for container in self._busy:
            self.backend.set_busy(container, busy=False)

    def die(self, container: BackendContainer) -> None:
        """See Stage."""
        self.backend.crash(container.container)

    def freeze(self, container: BackendContainer) -> Callable[[], object]:
        """See Stage."""
        self.backend.freeze(container.container)
        return lambda: self.backend.freeze(container.container, frozen=False)


class ProcessStage:
    """The real thing."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.left: list[str] = []
        self.config = self.configure(redis_url)
        self.folder = folder
        use_config(self.config)
        self.caller = RedisCaller(self.config)
        use_keyring(self.caller.keyring)  # as an app does that makes its caller
        broken = folder / "broken.py"
        broken.write_text("raise ImportError('it is broken')")
        source = Source("module", functions.__name__, str(Path(__file__).parents[2]))
        self.registrations = {
            name: Registration(name, name.partition(".")[0], where, serialized=False, settings=FunctionSettings())
            for name, where in ((HOLD, source), (SQUARE, source), (BROKEN, Source("file", str(broken))))
        }
        sealed = {name: known.seal(self.caller.keyring) for name, known in self.registrations.items()}
        self.caller.store.put_functions(sealed)
        self.backend = self.connect()

    def configure(self, redis_url: str) -> Config:
        """Return the configuration of the backend and its containers."""
        return Config(redis_url=redis_url, secret="x" * 32, max_containers=LIMIT, freeze_timeout=0.2)

    def connect(self) -> Backend:
        """Return a backend on the same folder."""
        return ProcessBackend(
            self.config,
            self.folder / "sockets",
            find=lambda function, _version: self.registrations[function],
            on_exit=self.left.append,
            on_lines=lambda _lines: None,
        )

    def make_busy(self, container: str) -> None:
        """See Stage."""
        self.caller.send(functions.hold, f"fc-{container}", [(0, (self.folder, 0), {})], kind="spawn")
        wait_until((self.folder / "begun-0").exists, message="the input runs")

    def release(self) -> None:
        """See Stage."""
        (self.folder / "go").touch()

    def die(self, container: BackendContainer) -> None:
        """See Stage."""
        os.kill(self.pid(container), signal.SIGKILL)

    def freeze(self, container: BackendContainer) -> Callable[[], object]:
        """See Stage."""
        pid = self.pid(container)
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def pid(self, container: BackendContainer) -> int:
        """Return a container's process, which its zygote tells a moment after it was started."""
        name = container.container
        pids = wait_until(lambda: [c.pid for c in self.backend.containers() or () if c.container == name and c.pid])
        return int(pids[0] or 0)

    def _ended(self) -> bool:
        self.backend.exits()  # what has been told can go
        return self.backend.ended()

    def close(self) -> None:
        """End everything."""
        self.backend.end(0.0)
        wait_until(self._ended, message="the containers and zygotes have ended")
        self.backend.close()
        use_config(None)


class DockerStage(ProcessStage):
    """The real thing, on a Docker engine."""

    def __init__(self, redis_url: str, folder: Path, engine: Engine, image: str) -> None:
        self.engine, self.image = engine, image
        self.client = engine.client()
        super().__init__(redis_url, folder)
        assert self.backend.adopt()

    def configure(self, redis_url: str) -> Config:
        """See ProcessStage."""
        return docker_config(
            self.engine, self.image, redis_url=redis_url, max_containers=LIMIT, freeze_timeout=0.2, stop_grace=5.0
        )

    def connect(self) -> Backend:
        """See ProcessStage."""
        from scaleplug.backends.docker import DockerBackend

        return DockerBackend(
            self.config,
            find=lambda function, _version: self.registrations[function],
            find_record=self.caller.store.container_record,
            on_exit=self.left.append,
            on_lines=lambda _lines: None,
        )

    def found(self, container: BackendContainer) -> Any:
        """Return a container as the engine has it."""
        return self.client.containers.get(f"scaleplug-{container.container}")

    def die(self, container: BackendContainer) -> None:
        """See Stage."""
        self.found(container).kill()

    def freeze(self, container: BackendContainer) -> Callable[[], object]:
        """See Stage."""
        found = self.found(container)
        found.pause()
        return cast("Callable[[], object]", found.unpause)

    def close(self) -> None:
        """End everything."""
        super().close()
        label = f"scaleplug.namespace={self.config.namespace}"
        assert self.client.api.containers(all=True, filters={"label": label}) == []
        self.client.close()


@pytest.fixture(params=["fake", "process", pytest.param("docker", marks=pytest.mark.docker)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Give both backends: the test runs once on each."""
    if request.param == "fake":
        yield FakeStage()
    else:
        surroundings = request.getfixturevalue("redis_url"), request.getfixturevalue("tmp_path")
        if request.param == "docker":
            images = request.getfixturevalue("engine"), request.getfixturevalue("tests_image")
            stage: ProcessStage = DockerStage(*surroundings, *images)
        else:
            stage = ProcessStage(*surroundings)
        with contextlib.closing(stage):
            yield stage


def asked_for(function: str, slot: int = 1) -> StartRequest:
    """Return a request for a container."""
    return StartRequest(
        container=f"{function}-{slot}-abc", app=function.partition(".")[0], function=function, slot=slot
    )


def start(stage: Stage, *requests: StartRequest) -> list[BackendContainer]:
    """Start containers and wait until they are ready."""
    stage.backend.start(requests)
    if isinstance(stage, ProcessStage):
        store = stage.caller.store
        for request in requests:
            wait_until(
                lambda r=request: store.containers(r.function).get(r.container, {}).get("state") == "ready",
                message=f"{request.container} is ready",
            )
    listed = stage.backend.containers()
    assert listed is not None
    return [c for request in requests for c in listed if c.container == request.container]


def one_exit(stage: Stage) -> ContainerExit:
    """Wait for an exit; it is told once."""
    found: list[ContainerExit] = []
    wait_until(lambda: found.extend(stage.backend.exits()) or found, message="an exit is told")
    assert stage.backend.exits() == []
    (exit_,) = found
    return exit_


def names(stage: Stage) -> set[str]:
    """Return the names of the containers that exist."""
    return {container.container for container in stage.backend.containers() or ()}


def test_there_is_nothing_at_first(stage: Stage) -> None:
    assert stage.backend.containers() == []
    assert stage.backend.exits() == []


def test_started_containers_are_listed_as_they_were_asked_for(stage: Stage) -> None:
    before = time.time()
    requests = [asked_for(HOLD, 1), asked_for(HOLD, 2), asked_for(SQUARE, 1)]
    found = start(stage, *requests)
    assert [(c.container, c.app, c.function, c.slot) for c in found] == [
        (r.container, r.app, r.function, r.slot) for r in requests
    ]
    assert all(before <= c.started_at <= time.time() for c in found)
    assert stage.backend.exits() == []


def test_an_idle_container_leaves_when_asked(stage: Stage) -> None:
    (container,) = start(stage, asked_for(HOLD))
    stage.backend.stop(container.container, grace=20)
    exit_ = one_exit(stage)
    assert (exit_.container, exit_.function) == (container.container, HOLD)
    assert (exit_.exit_code, exit_.reason, exit_.asked) == (0, "exited with status 0", True)
    assert names(stage) == set()
    assert HOLD in stage.left


def test_a_busy_container_finishes_before_it_leaves(stage: Stage) -> None:
    (container,) = start(stage, asked_for(HOLD))
    stage.make_busy(container.container)
    stage.backend.stop(container.container, grace=20)
    assert stage.backend.exits() == []
    assert names(stage) == {container.container}
    stage.release()
    exit_ = one_exit(stage)
    assert (exit_.exit_code, exit_.asked) == (0, True)


def test_a_busy_container_puts_back_what_it_runs_after_its_grace(stage: Stage) -> None:
    (container,) = start(stage, asked_for(HOLD))
    stage.make_busy(container.container)
    stage.backend.stop(container.container, grace=0.1)
    exit_ = one_exit(stage)
    assert (exit_.exit_code, exit_.reason, exit_.asked) == (0, "exited with status 0", True)
    assert names(stage) == set()


def test_a_killed_container_is_gone_at_once(stage: Stage) -> None:
    containers = start(stage, asked_for(HOLD, 1), asked_for(HOLD, 2))
    stage.backend.kill(containers[0].container)
    exit_ = one_exit(stage)
    assert exit_.container == containers[0].container
    assert (exit_.exit_code, exit_.reason, exit_.asked) == (-signal.SIGKILL, "killed by SIGKILL", False)
    assert names(stage) == {containers[1].container}


def test_a_frozen_container_is_told_until_it_goes_on(stage: Stage) -> None:
    containers = start(stage, asked_for(HOLD, 1), asked_for(HOLD, 2))
    assert stage.backend.frozen() == set()
    thaw = stage.freeze(containers[0])
    wait_until(lambda: stage.backend.frozen() == {containers[0].container}, message="it is told")
    thaw()
    wait_until(lambda: stage.backend.frozen() == set(), message="it goes on")
    thaw = stage.freeze(containers[0])
    wait_until(stage.backend.frozen, message="it is told again")
    stage.backend.kill(containers[0].container)
    assert one_exit(stage).container == containers[0].container
    assert stage.backend.frozen() == set()


def test_a_container_that_dies_by_itself_is_told(stage: Stage) -> None:
    (container,) = start(stage, asked_for(HOLD))
    stage.die(container)
    exit_ = one_exit(stage)
    assert (exit_.container, exit_.exit_code, exit_.asked) == (container.container, -signal.SIGKILL, False)
    assert exit_.reason == "killed by SIGKILL"
    assert HOLD in stage.left


def test_a_start_that_fails_is_told_with_its_reason(stage: Stage) -> None:
    stage.backend.start([asked_for(BROKEN)])
    exit_ = one_exit(stage)
    assert exit_.container == asked_for(BROKEN).container
    assert (exit_.function, exit_.exit_code, exit_.asked) == (BROKEN, 1, False)
    assert any("ImportError: it is broken" in line for line in exit_.last_lines)
    assert names(stage) == set()


def test_a_start_that_fails_leaves_the_others_alone(stage: Stage) -> None:
    stage.backend.start([asked_for(BROKEN)])
    (container,) = start(stage, asked_for(HOLD))
    assert one_exit(stage).function == BROKEN
    assert names(stage) == {container.container}


@pytest.mark.parametrize("act", [lambda b: b.stop("nobody", grace=0), lambda b: b.kill("nobody")])
def test_unknown_containers_are_no_error(stage: Stage, act: Callable[[Any], None]) -> None:
    act(stage.backend)
    assert stage.backend.containers() == []
    assert stage.backend.exits() == []


def test_capacity_is_what_is_left_of_the_host(stage: Stage) -> None:
    assert stage.backend.capacity() == LIMIT
    containers = start(stage, asked_for(HOLD, 1), asked_for(HOLD, 2))
    assert stage.backend.capacity() == LIMIT - 2
    stage.backend.kill(containers[0].container)
    one_exit(stage)
    assert stage.backend.capacity() == LIMIT - 1
    start(stage, *(asked_for(SQUARE, slot) for slot in range(1, 5)))
    assert stage.backend.capacity() == 0


def test_closing_lets_go_of_the_containers_without_touching_them(stage: Stage) -> None:
    (container,) = start(stage, asked_for(HOLD))
    zygotes = list(getattr(stage.backend, "_zygotes", {}).values())  # children of this process: to be waited for
    stage.backend.close()
    if isinstance(stage, ProcessStage):
        stage.backend = stage.connect()
        stage.backend.adopt()
    assert names(stage) == {container.container}
    stage.backend.kill(container.container)
    assert one_exit(stage).container == container.container
    if isinstance(stage, ProcessStage):
        stage.backend.end(0.0)
        for zygote in zygotes:
            zygote.process.wait(10)


def test_a_controller_runs_on_the_twin(redis_url: str) -> None:
    config = Config(redis_url=redis_url, secret="x" * 32)
    keyring, backend = Keyring(config.secret), FakeBackend(limit=2)
    with contextlib.closing(connect(redis_url)) as client:
        store = Store(client, Keys(config.namespace))
        registration = Registration(SQUARE, "contract", Source("none"), serialized=False, settings=FunctionSettings())
        store.put_functions({SQUARE: registration.seal(keyring)})
        controller = Controller(store, backend, keyring, config)
        assert controller.lease.hold()
        controller.round({"*"})
        assert backend.started == []
        assert backend.warmed == {SQUARE}
        store.submit(SQUARE, ["{}"] * 5, most_pending=100)
        controller.round({SQUARE})
        assert {(request.function, request.app) for request in backend.started} == {(SQUARE, "contract")}
        assert 1 <= len(backend.started) <= 2
        assert set(store.containers(SQUARE)) == {request.container for request in backend.started}
