"""Different versions of scaleplug meet in Redis: what one doesn't know is let be, what it can't read is told."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from scaleplug.deployment import Deployment
from scaleplug.errors import InputRefusedError, SerializationError
from scaleplug.registry import Registration
from scaleplug.serializer import REGISTRY, Keyring
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

KEYRING = Keyring("a secret of the tests that is long enough")
LATER = {"invented": {"later": [1, 2]}}


def changed(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let this process send messages as another version would."""
    store = surroundings.store
    submit, submit_one = store.submit, store.submit_one

    def changing(message: Any) -> str:
        return json.dumps(change(json.loads(message)))

    monkeypatch.setattr(store, "submit", lambda name, texts, **more: submit(name, list(map(changing, texts)), **more))
    monkeypatch.setattr(store, "submit_one", lambda name, text, **more: submit_one(name, changing(text), **more))


def test_a_message_with_more_in_it_runs(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    def more(message: dict[str, Any]) -> dict[str, Any]:
        message["headers"]["scaleplug"] |= LATER
        message["headers"] |= LATER
        message["properties"] |= LATER
        return message | LATER

    changed(surroundings, monkeypatch, more)
    assert jobs.square.remote(4) == 16
    assert list(jobs.square.map(range(20))) == [x * x for x in range(20)]


def test_a_message_of_an_older_version_runs(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    def less(message: dict[str, Any]) -> dict[str, Any]:
        for name in ("index", "keep", "version"):
            message["headers"]["scaleplug"].pop(name, None)
        return message

    changed(surroundings, monkeypatch, less)
    assert jobs.square.remote(5) == 25


def test_a_message_in_another_format_is_refused_and_the_caller_told(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = Keyring.seal
    monkeypatch.setattr(Keyring, "seal", lambda *args: b"sp2" + seal(*args)[3:])
    with pytest.raises(InputRefusedError, match=r"format 2 of another version.*install the same version everywhere"):
        jobs.square.remote(6)
    monkeypatch.undo()
    assert jobs.square.remote(6) == 36


def test_a_registration_with_more_in_it_is_served(surroundings: Surroundings) -> None:
    store, keyring, name = surroundings.store, surroundings.caller.keyring, jobs.add.full_name
    assert jobs.add.remote(1, 1) == 2
    values = json.loads(keyring.unseal(REGISTRY, name, store.function(name)))
    values |= LATER
    values["settings"] |= LATER
    values["source"] += ["more"]
    store.put_functions({name: keyring.seal(REGISTRY, name, json.dumps(values).encode())})
    assert jobs.add.remote(2, 2) == 4
    assert Registration.unseal(keyring, name, store.function(name)).settings.max_containers == 1


def test_one_that_makes_no_sense_stands_alone(surroundings: Surroundings) -> None:
    """The controller goes on with all others."""
    store, keyring = surroundings.store, surroundings.caller.keyring
    values = json.loads(keyring.unseal(REGISTRY, jobs.add.full_name, store.function(jobs.add.full_name)))
    bad = [values | {"settings": values["settings"] | {"pool": 5, "timeout": "long"}}, {"app": "x"}, [1]]
    try:
        for number, each in enumerate(bad):
            name = f"later.f{number}"
            store.put_functions({name: keyring.seal(REGISTRY, name, json.dumps(each).encode())})
        surroundings.store.ring("*")
        assert jobs.total.remote([1, 2]) == 3  # its first container
        wait_until(lambda: not store.client.exists(store.keys.prefix + "dirty"), 5, "the controller has read it")
    finally:
        store.client.hdel(store.keys.functions, *(f"later.f{number}" for number in range(len(bad))))


@pytest.mark.parametrize("values", [[1], {"app": "x"}, {"source": "file"}, "text"])
def test_what_is_genuine_and_makes_no_sense_is_told_as_of_another_version(values: Any) -> None:
    sealed = KEYRING.seal(REGISTRY, "x.f", json.dumps(values).encode())
    with pytest.raises(SerializationError, match=r"another version of scaleplug.*install the same version everywhere"):
        Registration.unseal(KEYRING, "x.f", sealed)


def test_deployments_of_other_versions() -> None:
    known = Deployment(app="x", version=3, at=0.0, source="x.py", functions=("f",))
    sealed = KEYRING.seal(REGISTRY, "x|app", json.dumps(asdict(known) | LATER).encode())
    assert Deployment.unseal(KEYRING, "x", sealed) == known
    with pytest.raises(SerializationError, match="another version of scaleplug"):
        Deployment.unseal(KEYRING, "x", KEYRING.seal(REGISTRY, "x|app", b'{"app": "x"}'))
