"""For which inputs nobody rings: those about which the controller has nothing to decide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from scaleplug.keys import Keys
from scaleplug.server import connect
from scaleplug.store import Store

FUNCTION = "shop.f"


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """Give a store with a function that has an idle container, and a lease that somebody holds."""
    with contextlib.closing(connect(redis_url)) as client:
        made = Store(client, Keys("default"))
        made.put_functions({FUNCTION: b""}, {FUNCTION: ""})
        assert made.connect("shop.f-1", FUNCTION, 1, 1, []) == 1
        client.set(made.keys.lease, "token")
        yield made


def rang(store: Store, *, inputs: int = 1) -> bool:
    """Return whether inputs that come ring, as if whatever rang before had been heard."""
    store.take_dirty()
    store.client.delete(store.keys.bell)
    messages = [f'{{"headers": {{"id": "fc-{n}:0"}}}}' for n in range(inputs)]
    assert store.submit(FUNCTION, messages, most_pending=100).accepted == inputs
    return bool(store.client.llen(store.keys.bell)) and FUNCTION in store.take_dirty()


def test_all_ring_as_long_as_nothing_is_said(store: Store):
    assert rang(store)


def test_where_idle_containers_take_what_comes_only_more_rings(store: Store):
    store.set_calm("token", {FUNCTION: "idle"})
    assert not rang(store)
    assert rang(store, inputs=2)


def test_where_all_containers_are_there_nothing_rings(store: Store):
    store.set_calm("token", {FUNCTION: "full"})
    assert not rang(store, inputs=5)
    assert not rang(store, inputs=5)


def test_what_was_said_is_taken_back(store: Store):
    store.set_calm("token", {FUNCTION: "full"})
    store.set_calm("token", {FUNCTION: ""})
    assert rang(store)
    store.set_calm("token", {FUNCTION: "full"})
    store.forget_calm()
    assert rang(store)


def test_who_does_not_lead_has_no_say(store: Store):
    store.set_calm("another", {FUNCTION: "full"})
    assert rang(store)
