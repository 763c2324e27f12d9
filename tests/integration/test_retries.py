"""Retries outlive what happens meanwhile, and cancelled inputs end whatever they do; errors tell what is wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleplug import serializer
from scaleplug.errors import (
    ContainerCrashError,
    ExecutionError,
    InputCancelledError,
    InputRefusedError,
    RemoteError,
    SerializationError,
)
from scaleplug.serializer import INPUT, REGISTRY, Keyring
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings
from tests.integration.test_controllers import alive

GRACE = 0.5
SOON = 20


@pytest.fixture(scope="module")
def surroundings(start_run: Callable[..., Surroundings]) -> Surroundings:
    """Give surroundings in which cancelled inputs have little time."""
    return start_run(cancel_grace=GRACE)


def left(surroundings: Surroundings, function: Any) -> list[str]:
    """Return the keys that hold something about inputs of a function."""
    kinds = ("queue", "delayed", "running", "attempts", "verdicts", "crashes", "retries", "cancelling")
    client, keys = surroundings.store.client, surroundings.store.keys
    found = [key for kind in kinds for key in [surroundings.key(kind, function)] if client.exists(key)]
    held = f":{function.full_name}-*"
    return [*found, *client.keys(keys.prefix + "transit" + held), *client.keys(keys.prefix + "claims" + held)]


def attempts(folder: Path) -> int:
    """Return how often an input has begun."""
    return len(list(folder.glob("attempt-*")))


# -- retries -------------------------------------------------------------------------------------------------------


def test_crashes_and_retries_have_counts_of_their_own(surroundings: Surroundings, tmp_path: Path) -> None:
    orders = ["kill", "kill", "fail", "kill", "fail", "kill", "kill", "fail", ""]
    assert jobs.follow.remote(str(tmp_path), orders) == 8
    wait_until(lambda: not left(surroundings, jobs.follow), 5, "nothing is left behind")


def test_crashes_are_not_retried(surroundings: Surroundings, tmp_path: Path) -> None:
    with pytest.raises(ContainerCrashError, match="down 3 times") as caught:
        jobs.follow.remote(str(tmp_path), ["fail"] + ["kill"] * 9)
    assert attempts(tmp_path) == 4
    assert not hasattr(caught.value, "__notes__")
    wait_until(lambda: not left(surroundings, jobs.follow), 5, "nothing is left behind")


def test_a_retry_needs_no_container_while_it_waits(surroundings: Surroundings, tmp_path: Path) -> None:
    started = time.monotonic()
    call = jobs.fail_once.spawn(str(tmp_path))
    wait_until(lambda: surroundings.store.client.zcard(surroundings.key("delayed", jobs.fail_once)), 10, "it waits")
    assert surroundings.store.census([jobs.fail_once.full_name])[jobs.fail_once.full_name].delayed == 1
    pid = int((tmp_path / "failed").read_text())
    os.kill(pid, signal.SIGKILL)
    assert call.get(timeout=SOON) != pid
    assert 1.9 < time.monotonic() - started < 5
    assert not left(surroundings, jobs.fail_once)


def test_celery_sees_the_retries(surroundings: Surroundings, tmp_path: Path) -> None:
    result = jobs.fail_once.delay(str(tmp_path))
    wait_until(lambda: result.state == "RETRY", 10, "it waits for its retry")
    assert isinstance(result.result, ValueError)
    assert result.get(timeout=SOON)
    assert result.state == "SUCCESS"


# -- cancelling what resists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["the GIL is held", "everything is caught"])
def test_the_container_of_an_input_that_resists_is_replaced(
    surroundings: Surroundings, tmp_path: Path, how: str
) -> None:
    call = jobs.cancel_me.spawn(str(tmp_path), how)
    wait_until((tmp_path / "begun").exists, 10, "it begins")
    pid = int((tmp_path / "begun").read_text())
    behind = jobs.cancel_me.spawn(str(tmp_path), "the next")
    cancelled = time.monotonic()
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=SOON)
    wait_until(lambda: not alive(pid), 10, "its container ends")
    assert GRACE <= time.monotonic() - cancelled < GRACE + 2
    assert behind.get(timeout=SOON) == "the next"
    assert (tmp_path / "caught").exists() == (how == "everything is caught")
    wait_until(lambda: not left(surroundings, jobs.cancel_me), 5, "nothing is left behind")
    assert surroundings.store.counters(jobs.cancel_me.full_name).get("failed", 0) == 0


# -- single use ----------------------------------------------------------------------------------------------------


def test_containers_of_a_single_use_leave_in_good_order(
    surroundings: Surroundings, capfd: pytest.CaptureFixture[str]
) -> None:
    results = list(jobs.once.map(range(12)))
    assert [x for x, _ in results] == list(range(12))
    assert len({pid for _, pid in results}) == 12
    assert jobs.once.remote(3)[1] not in {pid for _, pid in results}
    wait_until(lambda: not surroundings.containers(jobs.once), 10, "all have left")
    assert not left(surroundings, jobs.once)
    assert "did not start" not in capfd.readouterr().err


# -- errors --------------------------------------------------------------------------------------------------------


def test_an_exception_that_only_the_container_can_import_is_told_in_words(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    with pytest.raises(RemoteError, match=r"only_here\.OnlyHereError: nobody else knows it") as caught:
        jobs.raise_from.remote(str(tmp_path))
    assert "in raise_from" in caught.value.__notes__[0]


def test_another_python_is_told_to_the_caller(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ".".join(map(str, serializer._PYTHON))
    with monkeypatch.context() as patch:
        patch.setattr(serializer, "_PYTHON", (3, 99))
        text = rf"pickled by Python 3\.99, and this is Python {here}: run callers"
        with pytest.raises(InputRefusedError, match=text):
            jobs.add.remote(1, 2)
    call = jobs.add.spawn(1, 2)
    assert call.get(timeout=SOON) == 3
    with monkeypatch.context() as patch:
        patch.setattr(serializer, "_PYTHON", (3, 99))
        with pytest.raises(ExecutionError, match=rf"pickled by Python {here}, and this is Python 3\.99: run callers"):
            call.get(timeout=SOON)


def test_another_version_of_the_format_is_told_to_the_caller(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.add.remote(1, 2) == 3
    monkeypatch.setattr(serializer, "_MAGIC", b"sp9")
    with pytest.raises(InputRefusedError, match=r"the format 9 of another version of scaleplug, .* knows the format 1"):
        jobs.add.remote(1, 2)


def test_a_registration_is_read_by_any_python(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Keyring("x" * 32)
    registered, sent = keyring.seal(REGISTRY, "f", b"{}"), keyring.seal(INPUT, "f", b"pickled")
    monkeypatch.setattr(serializer, "_PYTHON", (3, 99))
    assert keyring.unseal(REGISTRY, "f", registered) == b"{}"  # else no container would tell the caller
    with pytest.raises(SerializationError, match="this is Python"):
        keyring.unseal(INPUT, "f", sent)


def test_what_is_no_payload_at_all_is_told_so() -> None:
    keyring = Keyring("x" * 32)
    sealed = keyring.seal(INPUT, "context", b"payload")
    for wrong in (b"", b"junk" * 30, b"s" + sealed, b"spx" + sealed[3:]):
        with pytest.raises(SerializationError, match="not a signed scaleplug payload"):
            keyring.unseal(INPUT, "context", wrong)
