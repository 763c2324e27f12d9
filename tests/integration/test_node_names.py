"""Workers' names in Flower: places, which the next container has again. test_events.py looks at the events."""

from __future__ import annotations

from tests.integration import jobs
from tests.integration.conftest import Surroundings


def test_containers_that_come_and_go_share_places(surroundings: Surroundings):
    pids = {jobs.once.remote(n)[1] for n in range(8)}  # each in a container of its own
    prefix = surroundings.store.keys.of("container", f"{jobs.once.full_name}-")
    records = surroundings.store.client.scan_iter(match=prefix + "*", count=1_000)
    slots = [int(key.decode().removeprefix(prefix).partition("-")[0]) for key in records]
    assert len(slots) >= len(pids) > 4
    assert set(slots) <= {1, 2, 3, 4}
