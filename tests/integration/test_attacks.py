"""What once went wrong under attack."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from scaleplug.abc import ContainerExit
from scaleplug.controller import Controller
from scaleplug.errors import ContainerStartError, InputCancelledError
from scaleplug.settings import Config
from scaleplug.testing import FakeBackend
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings


def test_cancelling_a_call_leaves_what_its_inputs_have_spawned(surroundings: Surroundings) -> None:
    store = surroundings.store
    parent, child = "fc-parent", "fc-child"
    messages = [
        f'{{"headers": {{"id": "{c}", "root_id": "{parent}", "scaleplug": {{"call": "{c}"}}}}}}'
        for c in (parent, child)
    ]
    name = "jobs.nobody"
    store.put_functions({name: b"only its name is looked at"})
    store.submit(name, messages, most_pending=10)
    assert store.cancel(name, parent, tell=False, keep=0, caller="") == (1, 0)
    assert [m.decode() for m in store.client.lrange(store.keys.queue(name), 0, -1)] == messages[1:]
    store.client.delete(store.keys.queue(name))
    store.client.hdel(store.keys.functions, name)


def test_a_take_whose_reply_was_lost_is_still_a_take(surroundings: Surroundings) -> None:
    store, name = surroundings.store, "jobs.nobody"
    assert store.connect("c", name, 0, 0, ()) == 1
    store.client.lpush(store.keys.transit("c", 1), '{"id": "id"}')
    first = store.begin("c", 1, name, "id", 60, {})
    assert (first.status, first.attempt) == ("ok", 1)
    assert store.begin("c", 1, name, "id", 60, {}) == first
    assert store.begin("c", 1, name, "another", 60, {}).status == "none"
    assert store.leave("c", name, "the test is over") == 1
    store.client.delete(store.keys.queue(name))


def test_an_outcome_waits_for_a_caller_that_was_paused(surroundings: Surroundings) -> None:
    call = threading.Thread(target=lambda: results.append(jobs.pid_after.remote(1.0)))
    results: list[int] = []
    inbox = surroundings.caller.inbox
    key = surroundings.store.keys.of("caller", inbox.name)
    call.start()
    wait_until(lambda: surroundings.store.client.zcard(surroundings.key("running", jobs.pid_after)), 10, "it runs")
    surroundings.store.client.delete(key)  # as if it had run out while the caller was frozen
    call.join(10)
    assert results
    assert surroundings.store.client.ttl(surroundings.store.keys.of("inbox", inbox.name)) > 0
    surroundings.store.revive(inbox.name, 60)


def test_many_threads_wait_for_one_call(surroundings: Surroundings) -> None:
    call = jobs.pid_after.spawn(0.5)
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(call.get(timeout=20))) for _ in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert len(results) == 8
    assert time.monotonic() - started < 5


def test_a_spawned_call_that_failed_without_an_outcome_tells_whoever_asks_later(surroundings: Surroundings) -> None:
    class Unbuildable:
        def __reduce__(self) -> tuple[Any, ...]:
            return int, ("not a number",)

    broken = Unbuildable()

    def uses_it() -> str:
        return repr(broken)

    function = jobs.app.function(name="broken_code", serialized=True)(uses_it)
    calls = [function.spawn() for _ in range(3)]
    for call in calls:
        with pytest.raises(ContainerStartError):
            call.get(timeout=20)
        with pytest.raises(ContainerStartError):  # and again
            call.get(timeout=0)


def test_a_cancelled_call_tells_whoever_asks_later(surroundings: Surroundings) -> None:
    busy = [jobs.stuck.spawn("fine") for _ in range(2)]
    call = jobs.pid_after.spawn(0.5)
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=10)
    assert [b.get(timeout=10) for b in busy] == ["fine", "fine"]


def test_what_is_ready_does_not_wait_for_an_input_that_is_long_in_coming(surroundings: Surroundings) -> None:
    go_on = threading.Event()

    def inputs() -> Any:
        yield 1
        yield 2
        go_on.wait(20)
        yield 3

    results = iter(jobs.square.map(inputs()))
    threading.Timer(1.0, go_on.set).start()
    assert list(results) == [1, 4, 9]


def test_a_process_that_a_function_forks_can_be_ended(surroundings: Surroundings, tmp_path: Path) -> None:
    def forks() -> int:
        import signal

        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    function = jobs.app.function(name="forks", serialized=True, timeout=20)(forks)
    assert function.remote() == -15


def test_a_full_redis_is_worked_off(start_run: Callable[..., Surroundings]) -> None:
    surroundings = start_run()
    client = surroundings.store.client
    calls = [jobs.square.spawn(x) for x in range(20)]
    assert [c.get(timeout=20) for c in calls] == [x * x for x in range(20)]
    calls = [jobs.pid_after.spawn(0.2) for _ in range(20)]
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - 100_000)
    try:
        with pytest.raises(Exception, match=r"memory|OOM"):
            jobs.square.spawn(1)
        wait_until(lambda: client.llen(jobs.pid_after.queue) == 0, 20, "the queue is worked off")
    finally:
        client.config_set("maxmemory", 0)
    assert len({c.get(timeout=20) for c in calls}) >= 1


def test_an_exit_is_not_forgotten_when_redis_fails_in_between(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([RedisConnectionError(), 1])
    asked = []

    def gone(*arguments: Any, **_: Any) -> int:
        asked.append(arguments[1])
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(surroundings.store, "gone", gone)
    backend: Any = FakeBackend()
    controller = Controller(surroundings.store, backend, surroundings.caller.keyring, Config())
    exit_ = ContainerExit(container="c", function="f", exit_code=-9, reason="killed")
    with pytest.raises(RedisConnectionError):
        controller._bury([exit_])
    controller._bury([])
    controller._bury([])
    assert asked == ["c", "c"]
