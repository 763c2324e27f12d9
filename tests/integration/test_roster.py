"""What the controller makes of the registry, over a backend that a test plays with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from scaleplug.controller import TICK, Controller
from scaleplug.keys import Keys
from scaleplug.pools import variant
from scaleplug.registry import Registration, Source, seal_override
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.settings import Config, FunctionSettings
from scaleplug.store import Store
from scaleplug.testing import FakeBackend
from tests.helpers import wait_until

BASE = Registration("shop.f", "shop", Source("none"), serialized=False, settings=FunctionSettings(scaledown_window=2))
POOL = variant(BASE, "shop.f~1", {"timeout": 5.0}, "", "shop.f(timeout=5.0)")
NEEDY = Registration(
    "shop.Needy", "shop", Source("none"), serialized=False, settings=FunctionSettings(), callables={"get": "function"},
    template=True,
)  # fmt: skip


class Stage:
    """A controller whose rounds are the test's."""

    def __init__(self, client: Any, config: Config) -> None:
        self.store, self.backend = Store(client, Keys(config.namespace)), FakeBackend()
        self.keyring = Keyring(config.secret)
        self.controller = Controller(self.store, self.backend, self.keyring, config)
        assert self.controller.lease.hold()

    def register(self, *registrations: Registration) -> None:
        """Put registrations in force."""
        sealed = {r.function: r.seal(self.keyring) for r in registrations}
        self.store.put_functions(sealed, {r.function: r.version for r in registrations})

    def round(self) -> None:
        """Do one round, with a tick."""
        assert self.controller.lease.hold()
        self.controller._last_tick -= TICK
        self.controller.round(self.store.take_dirty())

    @property
    def known(self) -> set[str]:
        """The registered functions."""
        return set(self.store.functions())


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    """Give a controller on an empty Redis."""
    config = Config(redis_url=redis_url, secret="x" * 32)
    with contextlib.closing(connect(redis_url)) as client:
        yield Stage(client, config)


def forgotten(stage: Stage, function: str) -> None:
    """Do rounds until a function is forgotten."""
    wait_until(lambda: stage.round() or function not in stage.known, message=f"{function} is forgotten")


def test_a_pool_nobody_uses_is_forgotten_and_its_function_is_not(stage: Stage):
    stage.register(BASE, POOL)
    stage.controller.roster.unused_seconds = 0.05
    stage.round()
    assert stage.known == {"shop.f", "shop.f~1"}
    stage.controller.views["shop.f~1"].settings = replace(POOL.settings, scaledown_window=2.0)
    stage.controller.views["shop.f~1"].unused_since = 1.0  # as if it had been long ago
    forgotten(stage, "shop.f~1")
    assert stage.known == {"shop.f"}
    assert stage.store.retiring() == set()


def test_a_pool_with_inputs_or_settings_of_its_own_stays(stage: Stage):
    stage.register(BASE, POOL)
    assert stage.store.override("shop.f~1", None, seal_override(stage.keyring, "shop.f~1", {"max_containers": 3}))
    for _ in range(3):
        stage.round()
        stage.controller.views["shop.f~1"].unused_since = 1.0
    assert "shop.f~1" in stage.known
    assert stage.controller.views["shop.f~1"].settings.max_containers == 3
    stage.store.client.delete(stage.store.keys.overrides)
    stage.backend.limit = 0
    stage.store.submit("shop.f~1", ["{}"], most_pending=10)
    for _ in range(3):
        stage.round()
        stage.controller.views["shop.f~1"].unused_since = 1.0
    assert "shop.f~1" in stage.known
    stage.store.client.delete(stage.store.keys.queue("shop.f~1"))
    forgotten(stage, "shop.f~1")


def test_what_goes_together_waits_for_the_last(stage: Stage):
    other = replace(BASE, function="shop.g")
    pool = variant(NEEDY, "shop.Needy~1", {}, "abc", "shop.Needy(size=1)")
    stage.register(BASE, other, NEEDY, pool)
    stage.round()
    stage.store.submit("shop.f", ["{}"], most_pending=10)
    stage.round()
    (container,) = stage.store.containers("shop.f")
    stage.store.deploy("shop", b"", {}, {}, ["shop.f", "shop.g", "shop.Needy", "shop.Needy~1"])
    for _ in range(3):
        stage.round()
    assert stage.known == {"shop.f", "shop.g", "shop.Needy", "shop.Needy~1"}
    stage.backend.crash(container, 0)
    stage.store.client.delete(stage.store.keys.queue("shop.f"))
    forgotten(stage, "shop.g")
    assert stage.known == set()


def test_what_is_gone_stays_as_long_as_old_code_runs_that_may_call_it(stage: Stage):
    one, other = replace(BASE, version="1", deployed=True), replace(BASE, function="shop.g", version="1", deployed=True)
    settings = replace(BASE.settings, min_containers=1)
    stage.register(replace(one, settings=settings), other)
    stage.round()
    (old,) = stage.store.containers("shop.f")
    assert stage.store.connect(old, "shop.f", 1, 1, [])
    stage.backend.set_busy(old)
    two = replace(one, version="2", settings=settings)
    stage.store.deploy("shop", b"", {"shop.f": two.seal(stage.keyring)}, {"shop.f": "2"}, ["shop.g"])
    wait_until(lambda: stage.round() or len(stage.store.containers("shop.f")) == 2)
    (new,) = set(stage.store.containers("shop.f")) - {old}
    assert stage.store.connect(new, "shop.f", 2, 1, [])
    wait_until(lambda: stage.round() or stage.controller.views["shop.f"].containers[old].draining)
    for _ in range(3):
        stage.round()
    assert "shop.g" in stage.known
    stage.backend.set_busy(old, busy=False)
    forgotten(stage, "shop.g")


def test_a_failed_start_of_code_that_was_deployed_over_says_nothing_of_what_comes(stage: Stage):
    one = replace(BASE, version="1", deployed=True, settings=replace(BASE.settings, max_containers=2))

    def deploy(version: str) -> None:
        made = replace(one, version=version)
        stage.store.deploy("shop", b"", {"shop.f": made.seal(stage.keyring)}, {"shop.f": version}, [])
        stage.round()

    def started() -> list[str]:
        return [request.version for request in stage.backend.started]

    deploy("1")
    stage.store.submit("shop.f", ["{}"], most_pending=10)
    wait_until(lambda: stage.round() or started() == ["1"])
    first = stage.backend.started[0].container
    assert stage.store.connect(first, "shop.f", 1, 1, [])
    stage.store.client.delete(stage.store.keys.queue("shop.f"))
    stage.round()
    deploy("2")
    assert started() == ["1", "2"]
    deploy("3")  # the old one makes room
    assert started() == ["1", "2"]
    stage.backend.crash(stage.backend.started[1].container, 1, ["no weights"])
    stage.store.submit("shop.f", ["{}"], most_pending=10)
    wait_until(lambda: stage.round() or len(started()) > 2)
    assert "1" not in started()[2:]
    assert stage.store.troubles(["shop.f"]) == {}


def test_a_version_rolls_once_one_of_it_is_ready(stage: Stage):
    one, two = replace(BASE, version="1", deployed=True), replace(BASE, version="2", deployed=True)
    settings = replace(BASE.settings, min_containers=2, max_containers=3)
    stage.register(replace(one, settings=settings))
    stage.round()
    old = set(stage.store.containers("shop.f"))
    assert len(old) == 2
    for number, container in enumerate(sorted(old)):
        assert stage.store.connect(container, "shop.f", number, 1, [])
    stage.round()
    stage.register(replace(two, settings=settings))
    stage.round()
    (new,) = [request for request in stage.backend.started if request.version == "2"]
    for _ in range(3):
        stage.round()  # as long as that starts, nothing else happens
    assert {c.container for c in stage.backend.containers() or ()} == {*old, new.container}
    assert stage.store.connect(new.container, "shop.f", 9, 1, [])
    wait_until(lambda: stage.round() or not old & {c.container for c in stage.backend.containers() or ()})
    wait_until(lambda: stage.round() or len(stage.store.containers("shop.f")) == 2)
    assert {record["version"] for record in stage.store.containers("shop.f").values()} == {"2"}


def test_a_version_that_fails_leaves_the_old_one_and_is_tried_again(stage: Stage):
    settings = replace(BASE.settings, min_containers=1, max_containers=3)
    stage.register(replace(BASE, version="1", deployed=True, settings=settings))
    stage.round()
    (old,) = stage.store.containers("shop.f")
    assert stage.store.connect(old, "shop.f", 1, 1, [])
    stage.round()
    stage.backend.fail_starts("shop.f", "RuntimeError: no weights")
    stage.register(replace(BASE, version="2", deployed=True, settings=settings))
    wait_until(lambda: stage.round() or stage.controller.views["shop.f"].failures == 2)
    assert set(stage.store.containers("shop.f")) == {old}
    trouble = stage.store.troubles(["shop.f"])["shop.f"]
    assert (trouble["version"], trouble["lines"]) == ("2", ["RuntimeError: no weights"])
    stage.backend.mend_starts("shop.f")
    wait_until(lambda: stage.round() or len(stage.store.containers("shop.f")) == 2)
    (new,) = set(stage.store.containers("shop.f")) - {old}
    assert stage.store.connect(new, "shop.f", 2, 1, [])
    wait_until(lambda: stage.round() or set(stage.store.containers("shop.f")) == {new})
    assert stage.store.troubles(["shop.f"]) == {}


def rung(stage: Stage) -> bool:
    """Tell if somebody has rung since the last round."""
    return bool(stage.store.client.exists(stage.store.keys.bell))


def idle_container(stage: Stage, settings: FunctionSettings) -> tuple[str, int]:
    """Return a container that idles, of a function with these settings, and its epoch."""
    stage.register(replace(BASE, settings=settings))
    stage.store.submit("shop.f", ["{}"], most_pending=10)
    wait_until(lambda: stage.round() or stage.backend.started)
    container = stage.backend.started[0].container
    epoch = stage.store.connect(container, "shop.f", 1, 1, [])
    stage.store.client.delete(stage.store.keys.queue("shop.f"))
    stage.round()
    return container, epoch


def test_what_an_idle_container_takes_does_not_ring(stage: Stage):
    container, epoch = idle_container(stage, BASE.settings)
    stage.store.submit("shop.f", ['{"id": "one"}'], most_pending=10)
    assert not rung(stage)
    queue, transit = stage.store.keys.queue("shop.f"), stage.store.keys.transit(container, epoch)
    stage.store.client.lmove(queue, transit, "RIGHT", "LEFT")  # it still counts as idle
    stage.store.submit("shop.f", ['{"id": "two"}'], most_pending=10)
    assert not rung(stage)
    assert stage.store.begin(container, epoch, "shop.f", "one", 5.0, {}).status == "ok"
    assert rung(stage)  # for the one that it has left


def test_more_than_the_idle_containers_take_rings(stage: Stage):
    idle_container(stage, BASE.settings)
    stage.store.submit("shop.f", ['{"id": "one"}', '{"id": "two"}'], most_pending=10)
    assert rung(stage)


@pytest.mark.parametrize(
    "settings",
    [FunctionSettings(buffer_containers=1), FunctionSettings(max_inputs=2, target_inputs=2)],
    ids=["a buffer", "several inputs at once"],
)
def test_what_the_controller_has_to_decide_on_rings(stage: Stage, settings: FunctionSettings):
    idle_container(stage, settings)
    stage.store.submit("shop.f", ['{"id": "one"}'], most_pending=10)
    assert rung(stage)


def test_a_controller_that_takes_over_looks_what_the_last_ring_was_about(stage: Stage):
    stage.register(BASE)
    stage.round()
    stage.store.submit("shop.f", ["{}"], most_pending=10)
    stage.store.client.delete(stage.store.keys.bell)  # another has heard it, and was killed
    stage.store.submit("shop.f", ["{}"], most_pending=10)
    assert not rung(stage)
    stage.controller._turn(threading.Event())
    assert stage.backend.started


def test_what_an_emptied_redis_says_is_not_remembered(stage: Stage):
    memory = stage.controller.roster.memory
    assert not memory.restore()
    stage.register(BASE)
    stage.round()
    stage.store.client.flushall()
    stage.store.client.sadd(stage.store.keys.prefix + "dirty", "*")
    stage.controller.round(stage.store.take_dirty())  # the one that acted, before it notices
    stage.controller._last_tick -= TICK
    stage.controller.round(set())
    assert memory.restore()
    assert stage.known == {"shop.f"}
