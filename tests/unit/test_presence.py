"""What watchers of Celery's events are told of a container, by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from scaleplug.worker import presence
from scaleplug.worker.presence import Presence
from tests.helpers import wait_until


class Dispatcher:
    """Keeps what is sent; while ``broken`` it raises."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.broken = False

    def send(self, event: str, *, retry: bool, **fields: Any) -> None:
        if self.broken:
            raise ConnectionError("no broker")
        self.sent.append((event, fields))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "START_SECONDS", 0.0)
    monkeypatch.setattr(presence, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.02)


def intake(held: int = 0) -> Any:
    return SimpleNamespace(claims={str(n): None for n in range(held)}, slots=2)


def test_it_tells_that_it_is_there_what_it_runs_and_that_it_leaves():
    dispatcher, there = Dispatcher(), intake()
    with Presence(dispatcher, there, packed=False):
        wait_until(lambda: len(dispatcher.sent) > 3, message="an idle one gives signs of life")
        there.claims.update(a=None, b=None, c=None)
        wait_until(lambda: dispatcher.sent[-1][1]["active"] == 2, message="of three taken at once two run")
    events = [event for event, _ in dispatcher.sent]
    assert (events[0], events[-1]) == ("worker-online", "worker-offline")
    assert set(events[1:-1]) == {"worker-heartbeat"}
    assert dispatcher.sent[0][1]["active"] == dispatcher.sent[-1][1]["active"] == 0
    assert all(fields["freq"] == 0.02 for _, fields in dispatcher.sent), "two missed ones mean that it is gone"


def test_a_broker_that_is_away_holds_up_nothing():
    dispatcher, there = Dispatcher(), intake(1)
    dispatcher.broken = True
    with Presence(dispatcher, there, packed=False) as told:
        told.cancelled(SimpleNamespace(id="x", reply={}), "")
        dispatcher.broken = False
        wait_until(lambda: dispatcher.sent, message="it tries again")


@pytest.mark.parametrize(
    ("packed", "reply", "input_id", "told"),
    [
        (False, {}, "", "call:0"),
        (False, {"pack": 3}, "call:1", None),  # the pack is shown, and ends
        (False, {}, "call:1", None),  # it has left its pack, which is what was shown
        (True, {"pack": 3}, "call:1", "call:1"),
        (True, {"pack": 3}, "", None),  # none of them has begun
    ],
)
def test_a_cancelled_input_is_told_where_it_was_shown(packed: bool, reply: dict, input_id: str, told: str | None):
    dispatcher = Dispatcher()
    Presence(dispatcher, intake(), packed=packed).cancelled(SimpleNamespace(id="call:0", reply=reply), input_id)
    assert [fields["uuid"] for _, fields in dispatcher.sent] == ([told] if told else [])
    assert all(event == "task-revoked" for event, _ in dispatcher.sent)
