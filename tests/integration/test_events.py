"""What Flower is told of short inputs: task events, one by one or of packs."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from scaleplug.client import RedisCaller
from scaleplug.embedded import EmbeddedRedis
from scaleplug.server import celery_url
from tests.helpers import wait_until
from tests.integration.conftest import Surroundings

ENDS = {"task-succeeded", "task-failed"}


@pytest.fixture
def broker() -> Iterator[str]:
    """Start a Redis for Celery's own messages, and tell the containers."""
    with EmbeddedRedis() as server:
        os.environ["WATCHED_BROKER"] = celery_url(server.url)
        yield os.environ["WATCHED_BROKER"]
        del os.environ["WATCHED_BROKER"]


@pytest.fixture
def events(broker: str) -> Iterator[list[dict[str, Any]]]:
    """Give the task events that arrive."""
    found: list[dict[str, Any]] = []
    stop, ready = threading.Event(), threading.Event()

    def listen() -> None:
        app = Celery(broker=broker)
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": found.append})
            with receiver.consumer_context() as (_, channel, _):
                ready.set()
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        channel.connection.client.drain_events(timeout=0.2)

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(10)
    yield found
    stop.set()
    thread.join(10)


@pytest.mark.parametrize("packed_events", [0, 1])
def test_short_inputs_are_told(
    events: list[dict[str, Any]], start_run: Callable[..., Surroundings], packed_events: int
) -> None:
    from tests.integration import watched

    start_run(packed_events=packed_events)
    assert watched.shown.remote(1) == 1
    wait_until(lambda: Counter(e["type"] for e in events if "uuid" in e)["task-succeeded"] == 1)
    caller = watched.app.caller()
    assert isinstance(caller, RedisCaller)
    wait_until(lambda: not any(watched.shown.map([0] * 40)) and caller.pack_size(watched.shown, 400, 1_000) > 1, 30)
    mapped = watched.shown.map(range(60), return_exceptions=True)
    list(mapped)

    def told() -> dict[str, set[str]]:
        own = [e for e in list(events) if e.get("uuid", "").startswith(mapped.call)]  # others' may still come
        return {kind: {e["uuid"] for e in own if e["type"] == kind} for kind in {e["type"] for e in own}}

    if packed_events:
        wait_until(lambda: sum(len(ids) for kind, ids in told().items() if kind in ENDS) >= 60)
        assert {len(ids) for kind, ids in told().items() if kind not in ENDS} == {60}
        (failed,) = told()["task-failed"]
        assert failed.endswith(":13")
    else:  # a pack is told as one, unless a slow machine has it taken apart
        wait_until(lambda: any("+" in input_id for input_id in told().get("task-succeeded", ())))
        assert all(len(ids) < 60 for ids in told().values())
    workers = {event["hostname"] for event in list(events) if "uuid" in event}
    assert all(re.fullmatch(r"watched\.shown-\d+@.+", name) for name in workers), "they are known by their places"
