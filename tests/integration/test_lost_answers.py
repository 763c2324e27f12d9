"""Steps of taking whose answers were lost on their way, so that they are done again: no input may be lost with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from scaleplug.keys import Keys
from scaleplug.server import connect
from scaleplug.store import Store

FUNCTION, CONTAINER = "shop.f", "shop.f-1"
NAMES = [f"fc-{n}:0" for n in range(6)]


def message(name: str) -> str:
    return f'{{"headers": {{"id": "{name}"}}}}'


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """Give a store with a few inputs of a function on its queue, and a container that has connected."""
    with contextlib.closing(connect(redis_url)) as client:
        made = Store(client, Keys("default"))
        made.put_functions({FUNCTION: b""}, {FUNCTION: ""})
        assert made.connect(CONTAINER, FUNCTION, 1, 1, []) == 1
        assert made.submit(FUNCTION, [message(name) for name in NAMES], most_pending=100).accepted == len(NAMES)
        yield made


def take(store: Store, most: int) -> list[str]:
    taken = store.take_many(CONTAINER, 1, FUNCTION, most)
    return [name for raw in taken for name in NAMES if raw.decode() == message(name)]


def begin(store: Store, *names: str) -> list[str]:
    return [each.status for each in store.begin_many(CONTAINER, 1, FUNCTION, 60.0, [(name, {}) for name in names])]


def held(store: Store) -> dict[str, str]:
    claims = store.client.hgetall(store.keys.of("claims", f"{CONTAINER}:1"))
    return {name.decode(): raw.decode() for name, raw in claims.items()}


def test_what_was_taken_is_taken_again_and_nothing_else(store: Store):
    assert take(store, 3) == NAMES[:3]
    assert take(store, 3) == NAMES[:3]
    assert take(store, 4) == NAMES[:4]
    assert begin(store, *NAMES[:4]) == ["ok"] * 4
    assert held(store) == {name: message(name) for name in NAMES[:4]}
    assert take(store, 9) == NAMES[4:]


def test_what_was_claimed_is_claimed_still_and_takes_no_others_place(store: Store):
    assert take(store, 3) == NAMES[:3]
    assert begin(store, NAMES[0]) == ["ok"]  # as if the connection had been lost here
    assert begin(store, *NAMES[:3]) == ["ok"] * 3
    assert begin(store, *NAMES[:3]) == ["ok"] * 3
    assert held(store) == {name: message(name) for name in NAMES[:3]}
    assert store.client.hget(store.keys.of("attempts", FUNCTION), NAMES[0]) == b"1"


def test_what_was_cancelled_takes_no_other_with_it(store: Store):
    assert take(store, 2) == NAMES[:2]
    store.client.set(store.keys.of("cancelled", "fc-0"), "1")
    reply = {"call": "fc-0", "caller": "", "index": 0, "keep": 0}
    for expected in ("cancelled", "none"):
        assert store.begin(CONTAINER, 1, FUNCTION, NAMES[0], 60.0, reply).status == expected
    assert begin(store, NAMES[1]) == ["ok"]


def test_an_input_that_was_sent_twice_is_claimed_once(store: Store):
    store.client.rpush(store.keys.queue(FUNCTION), message(NAMES[0]))
    assert take(store, 3) == [NAMES[0], NAMES[0], NAMES[1]]
    assert begin(store, NAMES[0], NAMES[0], NAMES[1]) == ["ok", "none", "ok"]
    assert held(store) == {name: message(name) for name in NAMES[:2]}
