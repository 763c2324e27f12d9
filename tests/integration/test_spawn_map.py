"""Calls of many inputs on a real Redis: their size, other processes that read them, and when they go."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaleplug.errors import InputCancelledError, OutputExpiredError
from scaleplug.settings import use_config
from scaleplug.store import Record
from scaleplug.store.callers import SHORT_QUEUE
from tests.commands import python, told
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

MANY = 20_000
READER = """
import sys
from scaleplug import FunctionCall
call = FunctionCall.from_id(sys.argv[1])
print(call.num_inputs(), call.get(timeout=20, index=3), sum(call.iter(start=1)))
"""


@pytest.fixture(autouse=True)
def nobody(surroundings: Surroundings) -> Iterator[None]:
    """Register a function that no container serves."""
    store = surroundings.store
    store.client.hset(store.keys.functions, "jobs.nobody", "")
    yield
    store.client.hdel(store.keys.functions, "jobs.nobody")


def test_twenty_thousand_inputs(surroundings: Surroundings) -> None:
    call = jobs.square.spawn_map(range(MANY))
    assert call.num_inputs() == MANY
    assert list(call.iter()) == [x * x for x in range(MANY)]
    assert sorted(keys_of(surroundings, call.object_id)) == ["call", "results"]


def test_another_process_reads_a_call(surroundings: Surroundings, tmp_path: Path) -> None:
    call = jobs.square.spawn_map(range(100))
    done = python("-c", READER, call.object_id, cwd=tmp_path, **surroundings.run.config.to_environ())
    assert done.stdout.split() == ["100", "9", str(sum(x * x for x in range(100)))], told(done)


def test_a_long_queue_is_freed_of_a_cancelled_call(surroundings: Surroundings) -> None:
    # Without containers, so that nothing else takes them.
    store, name = surroundings.store, "jobs.nobody"
    mine, others = [messages(call, SHORT_QUEUE) for call in ("fc-mine", "fc-others")]
    mixed = [message for pair in zip(mine, others, strict=True) for message in pair]
    store.submit(name, mixed, most_pending=100_000, record=Record("fc-mine", 60, more=True))
    store.complete(name, "fc-mine", len(mine), 60)
    assert store.cancel(name, "fc-mine", tell=True, keep=60, caller="") == (0, 0)
    assert store.drop(name, "fc-mine", 60) == len(mine)
    assert [m.decode() for m in store.client.lrange(store.keys.queue(name), 0, -1)] == others[::-1]
    found = store.watch("fc-mine", 0, 10, "")
    assert (found.over, found.cancelled, set(found.ends)) == (True, True, {b"-cancelled"})
    store.client.delete(store.keys.queue(name))


def test_what_is_cancelled_in_a_long_queue_is_told(surroundings: Surroundings) -> None:
    call = jobs.pid_after.spawn_map(itertools.repeat(0.3, SHORT_QUEUE + 1_000))
    last = SHORT_QUEUE + 999
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            call.get(timeout=30, index=last)
        except InputCancelledError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: keys_of(surroundings, call.object_id).get("watchers"), message="it waits")
    call.cancel()
    waiting.join(10)
    assert errors
    queue = jobs.pid_after.queue
    wait_until(lambda: surroundings.store.client.llen(queue) == 0, message="nothing is pending")
    wait_until(lambda: surroundings.store.watch(call.object_id, last, 1, "").over, message="all inputs have ended")


def test_results_and_records_expire(surroundings: Surroundings, start_run: Callable[..., Surroundings]) -> None:
    before = surroundings.run.config
    short = start_run(result_ttl=1)
    try:
        call = jobs.square.spawn_map(range(10))
        assert list(call.iter()) == [x * x for x in range(10)]
        wait_until(lambda: "results" not in keys_of(short, call.object_id), message="the results are gone")
        for index in (0, 9):
            with pytest.raises(OutputExpiredError, match="no longer kept"):
                call.get(index=index)
        store = short.store
        assert 0 < store.client.ttl(store.keys.of("call", call.object_id)) <= 86_401
        store.client.delete(store.keys.of("call", call.object_id))
        with pytest.raises(OutputExpiredError, match="nothing is known"):
            call.get()
    finally:
        use_config(before)


def test_what_a_dead_sender_left_does_not_stay_for_ever(surroundings: Surroundings) -> None:
    store, name = surroundings.store, "jobs.nobody"
    store.submit(name, messages("fc-left", 2), most_pending=100, record=Record("fc-left", 60, more=True))
    assert 86_400 < store.client.ttl(store.keys.of("call", "fc-left")) <= 86_460
    store.complete(name, "fc-left", 2, 60)
    assert store.client.ttl(store.keys.of("call", "fc-left")) == -1
    store.client.delete(store.keys.queue(name), store.keys.of("call", "fc-left"))


def test_the_first_end_counts_and_a_signed_one_stands_above_a_reason(surroundings: Surroundings) -> None:
    store, name = surroundings.store, "jobs.nobody"
    store.submit(name, messages("fc-twice", 1), most_pending=100, record=Record("fc-twice", 60))
    reply = {"call": "fc-twice", "index": 0, "caller": "", "keep": 60}
    outcomes = []
    for index, outcome in ((7, b"forged"), (0, b""), (0, b"first"), (0, b"second")):
        assert store.connect("c", name, 0, 0, ()) > 0
        epoch = int(store.client.hget(store.keys.of("container", "c"), "epoch"))
        store.client.lpush(store.keys.transit("c", epoch), '{"id": "id"}')
        answer = {**reply, "index": index}
        if outcome:
            store.begin("c", epoch, name, "id", 60, answer)
            store.finish("c", epoch, name, "id", seconds=None, failed=False, reply=answer, outcome=outcome)
        else:
            store.quarantine("c", epoch, name, "bad", answer)
        outcomes.append(store.watch("fc-twice", 0, 9, "").ends)
    assert outcomes == [(), (b"-refused: bad",), (b"+first",), (b"+first",)]
    store.leave("c", name, "the test is over")
    store.client.delete(store.keys.queue(name))


def messages(call: str, count: int) -> list[str]:
    """Return as much of a call's messages as scripts look at."""
    return [
        f'{{"headers": {{"id": "{call}:{i}", "scaleplug": {{"call": "{call}", "index": {i}, "keep": 60}}}}}}'
        for i in range(count)
    ]


def keys_of(surroundings: Surroundings, call: str) -> dict[str, str]:
    """Return the keys in Redis that belong to a call, by their kind."""
    store = surroundings.store
    found = [key.decode() for key in store.client.scan_iter(f"*{call}*", count=1_000)]
    return {key.removeprefix(store.keys.prefix).partition(":")[0]: key for key in found}
