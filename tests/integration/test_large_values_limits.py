"""Large values where a run has settings of its own, or its Redis is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import PayloadTooLargeError, ResourceExhausted
from tests.contract.sides import limits
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings
from tests.integration.test_large_values import DATA, MB, gone, kept, starts


def test_what_turns_out_large_when_it_is_pickled_is_pickled_once(start_run: Callable[..., Surroundings]) -> None:
    start_run()

    class Counted:
        pickled = 0

        def __reduce__(self) -> tuple[Any, ...]:
            Counted.pickled += 1
            return bytes, (b"x" * 300_000,)

    value: Any = Counted()
    assert jobs.echo.remote(value) == jobs.echo.spawn(value).get(timeout=20) == b"x" * 300_000
    assert Counted.pickled == 2


def test_a_kept_result_expires_with_its_call(start_run: Callable[..., Surroundings]) -> None:
    surroundings = start_run(result_ttl=3)
    call = jobs.echo.spawn(DATA)
    assert call.get(timeout=20) == DATA
    assert call.get() == DATA
    (name,) = kept(surroundings)
    assert name.startswith(f"outcome:{call.object_id}:0:")
    assert 0 < surroundings.store.client.ttl(surroundings.store.keys.prefix + name) <= 3
    gone(surroundings)


def test_a_result_above_the_limit_is_raised_and_counts_as_a_failure(start_run: Callable[..., Surroundings]) -> None:
    surroundings = start_run(max_payload=MB)
    with (
        limits(max_payload=100 * MB),
        pytest.raises(PayloadTooLargeError, match=r"what jobs\.echo returned takes 10,000"),
    ):
        jobs.echo.remote(DATA)
    assert surroundings.store.counters(jobs.echo.full_name)["failed"] == 1
    assert jobs.echo.remote(1) == 1
    gone(surroundings)


def test_a_full_redis_refuses_large_arguments_and_keeps_a_result_waiting(
    start_run: Callable[..., Surroundings], tmp_path: Path
) -> None:
    surroundings = start_run()
    client = surroundings.store.client
    assert jobs.echo.remote(DATA) == DATA
    call = jobs.echo.spawn(DATA, str(tmp_path))
    wait_until(lambda: starts(tmp_path, "echo"), 10, "it runs")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 4 * MB)
    try:
        text = r"Redis is out of memory: an argument of jobs\.echo, 9\.\d+ MiB, can't be kept"
        with pytest.raises(ResourceExhausted, match=text):
            jobs.echo.remote(DATA)
        assert len(kept(surroundings)) == 1
        (tmp_path / "go").touch()
        container = next(iter(surroundings.containers(jobs.echo).values()))
        wait_until(lambda: _waits_for_memory(surroundings), 10, f"{container} waits")
    finally:
        client.config_set("maxmemory", 0)
    assert call.get(timeout=20) == DATA
    assert [name.partition(":")[0] for name in kept(surroundings)] == ["outcome"]


def _waits_for_memory(surroundings: Surroundings) -> bool:
    return any("takes no writes" in entry["l"] for _, entry in surroundings.store.read_logs())
