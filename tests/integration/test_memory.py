"""What the controller writes again into a Redis that came back without its data."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from scaleplug.keys import Keys
from scaleplug.registry import Registration, Source
from scaleplug.roster import Roster
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.settings import FunctionSettings
from scaleplug.store import Store

KEYRING = Keyring("a secret of the tests that is long enough")


def registration(name: str, **more: Any) -> Registration:
    """Return one of the app ``shop``."""
    values = {"serialized": False, "settings": FunctionSettings(), **more}
    return Registration(f"shop.{name}", "shop", Source("file", "/shop.py"), **values)


def everything(store: Store) -> Any:
    """Return all that the registry holds."""
    client, keys = store.client, store.keys
    hashes = {
        name: client.hgetall(getattr(keys, name)) for name in ("functions", "code", "versions", "overrides", "apps")
    }
    return hashes, client.smembers(keys.retiring)


@pytest.fixture
def store(redis_url: str) -> Any:
    with contextlib.closing(connect(redis_url)) as client:
        yield Store(client, Keys("memory"))


def test_the_registry_is_written_again_as_it_was(store: Store) -> None:
    deployed = registration("f", version="3", deployed=True)
    pickled = registration("g", version="abc", serialized=True)
    variant = registration("f~1", version="3", base="f", options={"timeout": 5.0})
    sealed = {r.function: r.seal(KEYRING) for r in (deployed, pickled, variant)}
    store.deploy("shop", b"record", sealed, {r.function: r.version for r in (deployed, pickled, variant)}, ())
    store.put_code("shop.g", "abc", b"code")
    store.override("shop.f", None, b"override")
    roster = Roster(store, KEYRING)
    assert not roster.memory.restore()
    roster.read()
    before = everything(store)
    assert not roster.memory.restore()
    store.client.flushall()
    assert roster.memory.restore()
    assert everything(store) == before
    assert not roster.memory.restore()
    assert store.wait_ring(0.1)
    assert store.take_dirty() == {"*"}


def test_what_others_have_registered_meanwhile_and_what_has_gone_stays_so(store: Store) -> None:
    old, new, left = registration("f", version="1"), registration("f", version="2"), registration("h", version="1")
    store.put_functions({r.function: r.seal(KEYRING) for r in (old, left)}, {"shop.f": "1", "shop.h": "1"})
    roster = Roster(store, KEYRING)
    roster.memory.restore()
    roster.read()
    store.client.hdel(store.keys.functions, "shop.h")
    roster.read({"shop.h"})
    store.client.flushall()
    store.put_functions({"shop.f": new.seal(KEYRING)}, {"shop.f": "2"})
    assert roster.memory.restore()
    assert {n: Registration.unseal(KEYRING, n, s).version for n, s in store.functions().items()} == {"shop.f": "2"}
    assert store.version("shop.f") == "2"


def test_a_redis_that_keeps_its_data_is_left_alone(store: Store) -> None:
    roster = Roster(store, KEYRING)
    store.put_functions({"shop.f": registration("f").seal(KEYRING)})
    roster.memory.restore()
    roster.read()
    store.client.hdel(store.keys.functions, "shop.f")
    assert not roster.memory.restore()
    assert not store.functions()
