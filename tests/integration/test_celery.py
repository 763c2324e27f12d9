"""The function is a Celery task: Celery's own calls keep working, are signed, and are autoscaled."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from celery import chain, chord, group

from scaleplug.messages import MessageFactory, record
from scaleplug.serializer import CONTENT_TYPE, EMBED
from scaleplug.store import Admission, Store
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings


def test_delay_and_apply_async(surroundings: Surroundings) -> None:
    assert jobs.square.delay(5).get(timeout=10) == 25
    assert jobs.square.apply_async((6,)).get(timeout=10) == 36


def test_arguments_in_a_class_that_no_container_can_import(surroundings: Surroundings) -> None:
    class Pair(NamedTuple):
        x: int
        y: int

    assert jobs.add.apply_async(Pair(1, 2)).get(timeout=10) == 3
    assert jobs.square.apply_async((3,), defaultdict(lambda: 0)).get(timeout=10) == 9


def test_chains_groups_and_chords(surroundings: Surroundings) -> None:
    assert chain(jobs.add.s(1, 2), jobs.square.s())().get(timeout=10) == 9
    assert group(jobs.square.s(x) for x in range(5))().get(timeout=10) == [0, 1, 4, 9, 16]
    assert chord((jobs.square.s(x) for x in range(5)), jobs.total.s())().get(timeout=20) == 30


def test_an_exception_reaches_the_async_result(surroundings: Surroundings) -> None:
    with pytest.raises(TypeError):
        jobs.square.delay("a").get(timeout=10)


def test_wrong_arguments_are_told_to_the_caller_at_once(surroundings: Surroundings) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        jobs.add.remote(1)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        jobs.add.spawn(1, z=2)


def test_a_countdown_waits_in_redis_and_then_wakes_the_function(surroundings: Surroundings) -> None:
    client, started = surroundings.store.client, time.monotonic()
    result = jobs.square.apply_async((7,), countdown=1.5)
    assert client.zcard(surroundings.key("delayed", jobs.square)) == 1
    assert client.llen(jobs.square.queue) == 0
    assert result.get(timeout=10) == 49
    assert 1.4 < time.monotonic() - started < 4
    assert client.zcard(surroundings.store.keys.due) == 0


def test_an_eta_in_the_past_runs_at_once(surroundings: Surroundings) -> None:
    assert jobs.square.apply_async((8,), eta=datetime.now(UTC) - timedelta(hours=1)).get(timeout=10) == 64


def test_a_message_says_when_it_was_sent(surroundings: Surroundings) -> None:
    store, kept = surroundings.store, list[str]()
    before = store.now()

    def keep(_self: Store, _function: str, messages: Sequence[str], **_: Any) -> Admission:
        kept.extend(messages)
        return Admission(1, 0, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "submit", keep)
        jobs.single_pid.delay()
    (sent,) = re.findall(r'"sent": (\d+\.\d+)}}$', kept[0])
    assert before - 1 <= float(sent) <= store.now() + 1


def test_revoked_by_expiry_does_not_run(surroundings: Surroundings) -> None:
    result = jobs.square.apply_async((9,), countdown=1.0, expires=0.2)
    wait_until(lambda: result.state == "REVOKED", 10, "it is revoked")


def test_messages_made_in_bulk_are_what_celery_sends(surroundings: Surroundings) -> None:
    caller, name = surroundings.caller, jobs.square.full_name
    factory = MessageFactory(jobs.square.task, caller.keyring, caller.inbox.name, name)
    factory.clock = lambda: 1_700_000_000.125
    for many, keep in ((True, 0), (False, 0), (False, 60)):
        text = factory.make("fc-call", [(3, (4,), {})], many=many, keep=keep)[0]
        ours: dict[str, Any] = json.loads(text)
        input_id = "fc-call:3" if many else "fc-call"
        theirs = record(jobs.square.task, input_id, factory._options("fc-call", 3, many, keep), (4,), {})
        assert ours["body"] == theirs["body"]  # the same pickle under the same signature
        theirs["properties"]["delivery_tag"] = ours["properties"]["delivery_tag"]
        theirs["properties"]["sent"] = 1_700_000_000.125  # the transport writes it there, last of all
        assert text == json.dumps(theirs)
        assert ours["content-type"] == CONTENT_TYPE
        if not many:
            alone = json.loads(factory.make_one("fc-call", (4,), {}, keep=keep, limit=1_000) or "")
            theirs["headers"]["scaleplug"]["index"] = 0
            theirs["properties"]["delivery_tag"] = alone["properties"]["delivery_tag"]
            assert alone == theirs
    assert EMBED == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
