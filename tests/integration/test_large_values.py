"""Large values behind the scenes: what lies in Redis and for how long, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scaleplug
from scaleplug import FunctionCall, mapping
from scaleplug.blobs import Drafts, Pickled, argument_key
from scaleplug.errors import (
    ExecutionError,
    InputCancelledError,
    InputRefusedError,
    OutputExpiredError,
    ResourceExhausted,
)
from scaleplug.store import Record
from tests.contract.sides import limits
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

MB = 1_000_000
DATA = np.random.default_rng(7).bytes(10 * MB)
DIGEST = hashlib.sha256(DATA).hexdigest()


def kept(surroundings: Surroundings) -> set[str]:
    """Return the large values that lie in Redis."""
    keys = surroundings.store.keys
    names = [key.decode().removeprefix(keys.prefix) for key in surroundings.store.client.keys(keys.prefix + "*")]
    return {name for name in names if name.startswith(("argument:", "outcome:", "draft:"))}


def gone(surroundings: Surroundings) -> None:
    wait_until(lambda: not kept(surroundings), 10, f"no large value is left of {kept(surroundings)}")


def starts(folder: Path, name: str) -> list[int]:
    file = folder / name
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [int(line.split()[1]) for line in lines if line.endswith("\n")]


@pytest.fixture
def busy(surroundings: Surroundings, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Keep the one container of ``held_digest`` busy until the given function is called."""
    first = jobs.held_digest.spawn(str(tmp_path), "first", b"")
    wait_until(lambda: starts(tmp_path, "first"), 10, "the first input runs")
    yield (tmp_path / "go").touch
    (tmp_path / "go").touch()
    first.get(timeout=10)


# -- nothing is left -----------------------------------------------------------------------------------------------


def test_calls_leave_nothing_behind(surroundings: Surroundings) -> None:
    client = surroundings.store.client
    jobs.echo.remote(1)
    before = {*client.keys("*")}
    assert jobs.echo.remote(DATA) == DATA
    assert list(jobs.echo.map([DATA] * 3)) == [DATA] * 3
    assert jobs.echo.delay(DATA).get(timeout=20) == DATA
    with pytest.raises(ValueError, match="loaded") as failed:
        jobs.fail_with.remote(DATA)
    assert failed.value.args[1] == DATA
    gone(surroundings)
    new = {key.decode() for key in {*client.keys("*")} - before}
    # What is kept of functions and containers, however many calls there are.
    others = ("fail_with", "celery-task-meta", "container", "learned", ":idle:", ":ready:")
    others += (":calm", ":unrung", ":dirty", ":bell", ":history:", ":times:", ":decisions:")
    assert not [key for key in new if not any(other in key for other in others)]


def test_what_is_cancelled_leaves_nothing(surroundings: Surroundings, tmp_path: Path, busy: Callable[[], None]) -> None:
    pending = jobs.held_digest.spawn(str(tmp_path), "second", DATA)
    assert kept(surroundings) == {f"argument:{pending.object_id}"}
    pending.cancel()
    gone(surroundings)
    running = jobs.echo.spawn(DATA, str(tmp_path))
    wait_until(lambda: starts(tmp_path, "echo"), 10, "it runs")
    running.cancel()
    with pytest.raises(InputCancelledError):
        running.get(timeout=20)
    gone(surroundings)


def test_a_map_that_is_left_early_leaves_nothing(surroundings: Surroundings) -> None:
    for result in jobs.echo.map([DATA] * 12):
        assert result == DATA
        break
    gone(surroundings)


def test_what_is_refused_leaves_nothing(
    surroundings: Surroundings, tmp_path: Path, busy: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    waiting = jobs.held_digest.spawn(str(tmp_path), "second", b"")
    with limits(max_pending=1, max_spawned=1):
        for call in (jobs.held_digest.remote, jobs.held_digest.spawn, jobs.held_digest.delay):
            with pytest.raises(ResourceExhausted):
                call(str(tmp_path), "third", DATA)
    assert not kept(surroundings)
    with limits(max_pending=1):
        results: list[str] = []
        thread = threading.Thread(
            daemon=True,
            target=lambda: results.extend(jobs.held_digest.map([str(tmp_path)] * 2, ["a", "b"], [DATA] * 2)),
        )
        thread.start()
        wait_until(lambda: "waits" in caplog.text, 10, "the map waits")
        assert not kept(surroundings)
        busy()
        thread.join(20)
    assert results == [DIGEST, DIGEST]
    waiting.get(timeout=10)
    gone(surroundings)


def test_an_input_of_a_killed_container_has_its_arguments_again(surroundings: Surroundings, tmp_path: Path) -> None:
    call = jobs.held_digest.spawn(str(tmp_path), "held", DATA)
    wait_until(lambda: starts(tmp_path, "held"), 10, "it runs")
    os.kill(starts(tmp_path, "held")[0], signal.SIGKILL)
    wait_until(lambda: len(starts(tmp_path, "held")) == 2, 20, "it runs again")
    (tmp_path / "go").touch()
    assert call.get(timeout=20) == DIGEST
    gone(surroundings)


def test_an_input_that_is_retried_has_its_arguments_again(surroundings: Surroundings, tmp_path: Path) -> None:
    assert jobs.digest_at_last.remote(str(tmp_path), DATA) == DIGEST
    gone(surroundings)


def test_a_purged_queue_leaves_nothing(surroundings: Surroundings, tmp_path: Path, busy: Callable[[], None]) -> None:
    for name in ("a", "b"):
        jobs.held_digest.delay(str(tmp_path), name, DATA)
    assert len(kept(surroundings)) == 2
    channel = jobs.held_digest.producer().connection.default_channel
    assert channel._purge(jobs.held_digest.queue) == 2
    assert not kept(surroundings)


def test_a_delayed_input_has_its_arguments_when_it_is_due(surroundings: Surroundings) -> None:
    result = jobs.echo.apply_async((DATA,), countdown=1)
    (name,) = kept(surroundings)
    assert name == f"argument:{result.id}"
    assert surroundings.store.client.ttl(surroundings.store.keys.prefix + name) == -1
    assert result.get(timeout=20) == DATA
    gone(surroundings)


def test_what_was_not_submitted_expires(surroundings: Surroundings) -> None:
    caller = surroundings.caller
    drafts = Drafts(caller.blobs, "jobs.echo", lambda: None)
    drafts.pack(0, "never-sent", ((DATA,), {}))
    key = surroundings.store.keys.of("draft", argument_key("never-sent"))
    assert 0 < surroundings.store.client.ttl(key) <= 3_600
    with drafts:  # and is deleted where the caller lives
        assert drafts.keys() == ["argument:never-sent"]
    assert not kept(surroundings)


def test_the_arguments_of_a_caller_that_seemed_gone_wait_with_its_inputs(surroundings: Surroundings) -> None:
    store, name = surroundings.store, "jobs.nobody"
    store.client.hset(store.keys.functions, name, "")
    surroundings.caller.blobs.write("argument:id", Pickled((memoryview(DATA),)))
    message = json.dumps({"headers": {"id": "id"}})
    assert store.submit(name, [message], most_pending=10, drafts=["argument:id"]).accepted == 1
    key = store.keys.of("argument", "id")
    assert store.client.ttl(key) == -1
    assert store.connect("c", name, 0, 0, ()) == 1
    store.take_many("c", 1, name, 1)
    assert store.begin("c", 1, name, "id", 60, {"caller": "gone", "call": "id"}).status == "parked"
    assert store.client.ttl(key) > 86_400
    assert store.revive("gone", 60)[:2] == (False, 1)
    assert store.client.ttl(key) == -1
    store.take_many("c", 1, name, 1)
    store.quarantine("c", 1, name, "the test is over", {})
    assert not kept(surroundings)
    store.leave("c", name, "the test is over")
    store.client.hdel(store.keys.functions, name)


def test_an_outcome_that_comes_too_late_is_deleted_and_one_that_was_stored_is_not(surroundings: Surroundings) -> None:
    store, name, blobs = surroundings.store, "jobs.nobody", surroundings.caller.blobs
    store.client.hset(store.keys.functions, name, "")
    store.submit(name, ['{"id": "id"}'], most_pending=10)
    store.connect("d", name, 0, 0, ())
    store.take_many("d", 1, name, 1)
    store.begin("d", 1, name, "id", 60, {})
    blobs.write("outcome:id:0:x", Pickled((memoryview(DATA),)))
    options: dict[str, Any] = {"seconds": 1.0, "failed": False, "reply": {}, "outcome": None, "draft": "outcome:id:0:x"}
    assert store.finish("d", 1, name, "id", **options)
    assert not store.finish("d", 1, name, "id", **options)  # again, as after a lost reply
    assert kept(surroundings) == {"outcome:id:0:x"}
    assert 0 < store.client.ttl(store.keys.prefix + "outcome:id:0:x") <= 3_600
    blobs.write("outcome:id:0:late", Pickled((memoryview(DATA),)))
    assert not store.finish("d", 1, name, "id", **{**options, "draft": "outcome:id:0:late"})
    assert kept(surroundings) == {"outcome:id:0:x"}
    blobs.drop("outcome:id:0:x")
    store.leave("d", name, "the test is over")
    store.client.hdel(store.keys.functions, name)


def test_a_result_that_waits_to_be_read_does_not_expire(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, keys, caller = surroundings.store.client, surroundings.store.keys, surroundings.caller
    results = iter(jobs.echo.map([DATA] * 3))
    next(results)
    wait_until(lambda: len([name for name in kept(surroundings) if name.startswith("outcome:")]) == 2, 20, "both wait")
    names = kept(surroundings)
    for name in names:
        client.expire(keys.prefix + name, 100)
    caller.inbox._renewed -= 3_600
    caller.inbox._renew()
    assert all(client.ttl(keys.prefix + name) > 100 for name in names)
    assert list(results) == [DATA] * 2
    gone(surroundings)
    caller.inbox._renewed -= 3_600
    caller.inbox._renew()


@pytest.mark.parametrize("delay", [0, 1])
def test_a_retry_has_its_arguments_again(surroundings: Surroundings, tmp_path: Path, delay: int) -> None:
    function = jobs.fail_large.with_options(retries=scaleplug.Retries(max_retries=1, initial_delay=delay))
    assert function.remote(str(tmp_path), DATA) == DATA
    assert len(starts(tmp_path, "tries")) == 2
    gone(surroundings)
    call = jobs.fail_large.spawn(str(tmp_path / "nowhere"), DATA)
    with pytest.raises(FileNotFoundError):
        call.get(timeout=20)
    gone(surroundings)


def test_what_a_generator_returns_may_be_large(surroundings: Surroundings) -> None:
    items = jobs.count_and_return.remote_gen(3, DATA)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as ended:
        next(items)
    assert ended.value.value == DATA
    assert asyncio.run(_all(jobs.count_and_return.remote_gen.aio(3, DATA))) == [0, 1, 2]
    gone(surroundings)


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def test_what_only_turns_out_to_be_large_when_it_is_pickled(surroundings: Surroundings) -> None:
    async def main() -> object:
        return await jobs.echo.remote.aio(Hidden())

    assert asyncio.run(main()) == DATA
    gone(surroundings)


class Hidden:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (DATA,)


def test_large_results_of_a_spawn_map_live_and_go_with_the_others(surroundings: Surroundings, tmp_path: Path) -> None:
    store = surroundings.store

    def ttls(call: FunctionCall[Any]) -> list[int]:
        names = [name for name in kept(surroundings) if name.startswith(f"outcome:{call.object_id}:")]
        return [store.client.ttl(store.keys.prefix + name) for name in names]

    with limits(result_ttl=2):
        call = jobs.echo.spawn_map([DATA] * 3, ["", "", str(tmp_path)])
        assert [call.get(timeout=20, index=index) for index in (0, 1)] == [DATA] * 2
        assert ttls(call) == [-1, -1]  # the third is not over, however long it takes
        (tmp_path / "go").touch()
        assert call.get(timeout=20, index=2) == DATA
        assert all(0 <= ttl <= 2 for ttl in ttls(call))
        gone(surroundings)
        wait_until(lambda: not store.client.exists(store.keys.of("large", call.object_id)), 10, "the list is gone too")
        with pytest.raises(OutputExpiredError):
            call.get(index=0)


def test_a_cancelled_spawn_map_leaves_no_large_arguments(
    surroundings: Surroundings, tmp_path: Path, busy: Callable[[], None]
) -> None:
    call = jobs.held_digest.spawn_map([str(tmp_path)] * 3, ["a", "b", "c"], [DATA] * 3)
    assert kept(surroundings) == {f"argument:{call.object_id}:{index}" for index in range(3)}
    call.cancel()
    gone(surroundings)
    with pytest.raises(InputCancelledError):
        call.get(timeout=20, index=2)


def test_a_second_large_end_of_a_kept_input_is_deleted(surroundings: Surroundings) -> None:
    store, name, blobs = surroundings.store, "jobs.nobody", surroundings.caller.blobs
    store.client.hset(store.keys.functions, name, "")
    store.submit(name, ['{"id": "id"}'], most_pending=10, record=Record("fc-again", 60))
    reply = {"call": "fc-again", "index": 0, "caller": "", "keep": 60}
    for end in ("first", "second"):
        store.connect("e", name, 0, 0, ())
        epoch = int(store.client.hget(store.keys.of("container", "e"), "epoch"))
        if not store.take_many("e", epoch, name, 1):
            store.client.lpush(store.keys.transit("e", epoch), '{"id": "id"}')
        store.begin("e", epoch, name, "id", 60, reply)
        draft = f"outcome:fc-again:0:{end}"
        blobs.write(draft, Pickled((memoryview(DATA),)), keep=True)
        assert store.finish(
            "e", epoch, name, "id", seconds=1.0, failed=False, reply=reply, outcome=end.encode(), draft=draft
        )
    assert kept(surroundings) == {"outcome:fc-again:0:first"}
    blobs.drop("outcome:fc-again:0:first")
    store.leave("e", name, "the test is over")
    store.client.hdel(store.keys.functions, name)


# -- nothing unverified is read ------------------------------------------------------------------------------------


def _change(chunks: dict[bytes, bytes]) -> None:
    chunks[b"1"] = chunks[b"1"][:-1] + bytes([chunks[b"1"][-1] ^ 1])


def _swap(chunks: dict[bytes, bytes]) -> None:
    chunks[b"0"], chunks[b"1"] = chunks[b"1"], chunks[b"0"]


def _truncate(chunks: dict[bytes, bytes]) -> None:
    del chunks[max(chunks)]


def _shorten(chunks: dict[bytes, bytes]) -> None:
    chunks[max(chunks)] = chunks[max(chunks)][:-1]


def _lengthen(chunks: dict[bytes, bytes]) -> None:
    chunks[max(chunks)] += b"x" * MB


def _remove(chunks: dict[bytes, bytes]) -> None:
    chunks.clear()


CHANGES = [_change, _swap, _truncate, _shorten, _lengthen, _remove]


def tamper(surroundings: Surroundings, name: str, change: Callable[[dict[bytes, bytes]], None]) -> None:
    client, key = surroundings.store.client, surroundings.store.keys.prefix + name
    chunks = client.hgetall(key)
    assert len(chunks) > 2
    change(chunks)
    client.delete(key)
    if chunks:
        client.hset(key, mapping=chunks)


@pytest.mark.parametrize("change", CHANGES)
def test_arguments_that_are_not_what_was_signed_are_refused(
    surroundings: Surroundings, tmp_path: Path, busy: Callable[[], None], change: Callable[..., None]
) -> None:
    call = jobs.held_digest.spawn(str(tmp_path), "second", DATA)
    tamper(surroundings, f"argument:{call.object_id}", change)
    busy()
    text = r"refused an argument of jobs\.held_digest: .*argument:\S+ is (gone|missing|not the one that was signed)"
    with pytest.raises(InputRefusedError, match=text):
        call.get(timeout=20)
    assert not starts(tmp_path, "second")
    assert jobs.held_digest.remote(str(tmp_path), "third", DATA) == DIGEST  # the container goes on
    gone(surroundings)


def test_arguments_of_another_input_are_refused(
    surroundings: Surroundings, tmp_path: Path, busy: Callable[[], None]
) -> None:
    client, keys = surroundings.store.client, surroundings.store.keys
    calls = [jobs.held_digest.spawn(str(tmp_path), "second", data) for data in (DATA, DATA[::-1])]
    client.rename(*(keys.of("argument", call.object_id) for call in calls))
    busy()
    for call, text in zip(calls, ("is gone", "is not the one"), strict=True):
        with pytest.raises(InputRefusedError, match=text):
            call.get(timeout=20)


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_that_is_not_what_was_signed_is_refused(
    surroundings: Surroundings, change: Callable[..., None]
) -> None:
    call = jobs.echo.spawn(DATA)
    assert call.get(timeout=20) == DATA
    (name,) = kept(surroundings)
    tamper(surroundings, name, change)
    try:
        kind, text = ExecutionError, r"the result could not be read: chunk \d of \d of outcome:"
        if change is _remove:
            kind, text = OutputExpiredError, "no longer kept"
        with pytest.raises(kind, match=text):
            call.get(timeout=20)
    finally:
        surroundings.caller.blobs.drop(name)


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_map_keeps_a_bounded_number_of_bytes_under_way(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "WINDOW_BYTES", 4 * MB)
    given = 0

    def inputs() -> Iterator[bytes]:
        nonlocal given
        for given in range(1, 21):  # read outside
            yield np.random.default_rng(given).bytes(MB)

    results: list[bytes] = []
    thread = threading.Thread(
        daemon=True, target=lambda: results.extend(jobs.echo.map(inputs(), kwargs={"folder": str(tmp_path)}))
    )
    thread.start()
    wait_until(lambda: len(starts(tmp_path, "echo")) == 2, 10, "two run")
    wait_until(lambda: len(kept(surroundings)) >= 4, 10, "what fits into the window is sent")
    assert given <= 5
    (tmp_path / "go").touch()
    thread.join(30)
    assert results == list(inputs())
    gone(surroundings)


# -- trouble -------------------------------------------------------------------------------------------------------


def test_connections_that_break_change_nothing(surroundings: Surroundings) -> None:
    client = surroundings.store.client
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.15):
            client.client_kill_filter(_type="normal", skipme=True)

    thread = threading.Thread(daemon=True, target=kill)
    thread.start()
    try:
        for _ in range(3):
            assert jobs.echo.remote(DATA * 4) == DATA * 4
    finally:
        done.set()
        thread.join()
    gone(surroundings)
