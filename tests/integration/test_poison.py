# ruff: noqa: E501  # what is odd reads better on a line
"""Messages and records that make no sense wedge nothing: they end in quarantine, and what comes after them runs."""

from __future__ import annotations

import gc
import json
import os
import signal
from typing import Any

import pytest

from scaleplug import FunctionCall
from scaleplug.errors import OutputExpiredError
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

FUNCTION = jobs.single_pid
RAW: dict[str, bytes] = {
    "deep": b"[" * 200_000, "deep objects": b'{"headers":' * 50_000, "no text": b"\xff\xfe\x00", "empty": b"",
    "null": b"null", "a number": b"1e999", "digits": b"9" * 5_000, "half": b'{"headers": {"id": "x"',
}  # fmt: skip
PARTS: dict[str, tuple[str, Any]] = {
    "a task list": ("headers.task", []), "a task table": ("headers.task", {}), "an id list": ("headers.id", []),
    "half a character": ("headers.id", "\ud800"), "a body number": ("body", 3), "a body table": ("body", {}),
    "a type list": ("content-type", []), "an encoding list": ("content-encoding", [1]),
    "headers": ("headers", []), "properties": ("properties", None),
    "delivery info": ("properties.delivery_info", []), "body encoding": ("properties.body_encoding", {}),
    "a caller": ("headers.scaleplug.caller", "\ud800"), "a version": ("headers.scaleplug.version", "\ud800"),
    "a call": ("headers.scaleplug.call", ["x"]), "an index": ("headers.scaleplug.index", 10**400),
}  # fmt: skip
HARMLESS: dict[str, tuple[str, Any]] = {
    "a time limit": ("headers.timelimit", 5), "time limits": ("headers.timelimit", ["a", "b", "c"]),
    "retries": ("headers.retries", "many"), "a nested name": ("headers.shadow", {"a": [1]}),
    "stamps": ("headers.stamps", 5), "a priority": ("properties.priority", "x"), "a tag": ("properties.delivery_tag", {}),
    "keep": ("headers.scaleplug.keep", 10**30), "no keep": ("headers.scaleplug.keep", "x"),
    "expiry": ("headers.expires", {}),
}  # fmt: skip
PLAIN = [
    "5", "{", "[[]]", "{}", "[5, {}, {}]", "[[], 5, {}]", "[[], {}, 5]", '[[], {}, {"callbacks": 5}]', "[" * 100_000,
    '[[], {}, {"chain": [{"task": "nope"}]}]', '{"args": [], "task": "jobs.single_pid", "id": "x"}', None, {"a": 1},
]  # fmt: skip


def message(surroundings: Surroundings, call: str) -> dict[str, Any]:
    (text,) = surroundings.caller._make_small(FUNCTION, call, [(0, (), {})], "spawn")
    made: dict[str, Any] = json.loads(text)
    return made


def changed(surroundings: Surroundings, call: str, path: str, value: Any) -> bytes:
    whole = part = message(surroundings, call)
    *way, last = path.split(".")
    for name in way:
        part = part[name]
    part[last] = value
    return json.dumps(whole).encode()


def plain(surroundings: Surroundings, body: Any) -> bytes:
    whole = message(surroundings, "fc-plain") | {
        "body": body, "content-type": "application/json", "content-encoding": "utf-8",
    }  # fmt: skip
    del whole["properties"]["body_encoding"]
    return json.dumps(whole).encode()


def test_messages_that_make_no_sense_end_in_quarantine_and_the_container_lives(surroundings: Surroundings) -> None:
    store, client, queue = (
        surroundings.store,
        surroundings.store.client,
        surroundings.store.keys.queue(FUNCTION.full_name),
    )
    pid = FUNCTION.remote()
    odd = [*RAW.values(), *(changed(surroundings, "fc-odd", *each) for each in PARTS.values())]
    odd += [plain(surroundings, body) for body in PLAIN]
    before = store.counters(FUNCTION.full_name).get("refused", 0)
    for raw in odd:
        client.lpush(queue, raw)
    store.ring(FUNCTION.full_name)
    wait_until(lambda: store.counters(FUNCTION.full_name).get("refused", 0) == before + len(odd), 30, "all are refused")
    assert FUNCTION.remote() == pid
    reasons = [row["reason"] for row in store.quarantined(FUNCTION.full_name, len(odd))]
    assert len(reasons) == len(odd)
    assert all(reasons)


def test_headers_that_make_no_sense_don_t_keep_a_signed_input_from_running(surroundings: Surroundings) -> None:
    store, client, queue = (
        surroundings.store,
        surroundings.store.client,
        surroundings.store.keys.queue(FUNCTION.full_name),
    )
    pid = FUNCTION.remote()
    finished = store.counters(FUNCTION.full_name)["finished"]
    for number, each in enumerate(HARMLESS.values()):
        client.lpush(queue, changed(surroundings, f"fc-harmless-{number}", *each))
    store.ring(FUNCTION.full_name)
    wait_until(lambda: store.counters(FUNCTION.full_name)["finished"] >= finished + len(HARMLESS), 30, "all have run")
    assert FUNCTION.remote() == pid


@pytest.mark.parametrize("how", ["expiry", "callbacks"])
def test_arguments_that_can_t_be_unpickled_after_all_are_told(surroundings: Surroundings, how: str) -> None:
    pid = FUNCTION.remote()
    options: dict[str, Any] = {"expires": 0.001} if how == "expiry" else {"link_error": FUNCTION.si()}
    FUNCTION.apply_async(**options)
    gc.collect()  # while there is a Redis for Celery to tell that nobody waits
    assert FUNCTION.remote() == pid


ODD_REPLIES: list[Any] = [
    {"call": "CALL"}, {"call": "CALL", "keep": "x", "index": [], "caller": {}}, {"call": 5}, {"call": {}}, [], "x",
    {"call": "CALL", "keep": 1e300, "index": -1e300}, {"call": "CALL", "keep": -5, "index": 0.5, "caller": 7},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ODD_REPLIES)))
def test_the_controller_gives_back_what_a_dead_container_held_whatever_its_headers_say(
    surroundings: Surroundings, number: int
) -> None:
    store, client, name, container = surroundings.store, surroundings.store.client, "jobs.nobody", f"dead-{number}"
    call = f"fc-dead-{number}"
    reply = json.loads(json.dumps(ODD_REPLIES[number]).replace("CALL", call))
    raw = json.dumps({"headers": {"id": call, "scaleplug": reply}})
    try:
        assert store.connect(container, name, 0, 0, ()) == 1
        client.hset(store.keys.of("claims", f"{container}:1"), call, raw)
        client.set(store.keys.of("cancelled", call), "1", ex=60)
        client.hset(store.keys.of("call", call), mapping={"fn": name, "inputs": "many"})
        assert store.leave(container, name, "the test is over") == 0
        client.rpush(store.keys.queue(name), raw)
        token = client.get(store.keys.lease)
        assert store.fail_pending(token.decode(), name, "no container starts") in (0, 1)
        with pytest.raises((Exception,)) as caught:
            FunctionCall.from_id(call).get(timeout=0)
        assert type(caught.value).__module__ in ("scaleplug.errors", "builtins")
    finally:
        for key in client.keys(f"{store.keys.prefix}*{name}*"):
            client.delete(key)


def test_a_record_that_makes_no_sense_is_told(surroundings: Surroundings) -> None:
    client, keys = surroundings.store.client, surroundings.store.keys
    client.hset(keys.of("call", "fc-odd-record"), mapping={"inputs": "many"})
    with pytest.raises(OutputExpiredError, match="nothing is known of fc-odd-record"):
        FunctionCall.from_id("fc-odd-record").get(timeout=0)


def test_a_broken_key_of_one_container_keeps_no_other_from_being_buried(surroundings: Surroundings) -> None:
    client, store = surroundings.store.client, surroundings.store
    broken = store.keys.of("claims", "broken-1:1")
    client.hset(store.keys.of("container", "broken-1"), "epoch", "1")
    client.set(broken, "no hash")
    client.sadd(store.keys.of("containers", jobs.pid_after.full_name), "broken-1")
    try:
        pid = jobs.pid_after.remote(0)
        os.kill(pid, signal.SIGKILL)
        assert jobs.pid_after.remote(0) != pid
    finally:
        client.delete(broken)
        client.srem(store.keys.of("containers", jobs.pid_after.full_name), "broken-1")
