"""What an input costs in commands and bytes: numbers that don't depend on the machine, so that none grows unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract import pack_functions as p
from tests.contract import sides
from tests.contract.test_packs import warm
from tests.helpers import wait_until

TRIPS = ("evalsha", "blmove", "eval", "xread", "xtrim", "xack")
"""What a caller or a container sends for an input."""
COUNT = 500


class Meter:
    """Counts what the server has been sent."""

    def __init__(self, side: sides.Real) -> None:
        self.client = side.app.store.client

    def read(self) -> tuple[dict[str, int], int]:
        """Return the calls of each command, and the bytes that came in and went out."""
        stats, traffic = self.client.info("commandstats"), self.client.info("stats")
        counts = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
        return counts, traffic["total_net_input_bytes"] + traffic["total_net_output_bytes"]

    def per_input(self, action: Callable[[], object], inputs: int) -> tuple[float, float, float]:
        """Return the trips, the commands inside scripts too, and the bytes of each input."""
        before, bytes_before = self.read()
        action()
        after, bytes_after = self.read()
        grown = {name: count - before.get(name, 0) for name, count in after.items()}
        trips = sum(grown.get(name, 0) for name in TRIPS)
        return trips / inputs, sum(grown.values()) / inputs, (bytes_after - bytes_before) / inputs


@pytest.fixture
def meter(real_run: Any) -> Any:
    with sides.real(real_run, p.app) as side:
        yield side, Meter(side)


def best(measure: Callable[[], tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the least of some measurements: the controller's own commands come in between."""
    return min(measure() for _ in range(5))


def test_a_call(meter: tuple[sides.Real, Meter]) -> None:
    side, counter = meter
    warm(side, p.echo, 0)

    def call() -> None:
        for x in range(50):
            assert p.echo.remote(x) == x

    trips, commands, size = best(lambda: counter.per_input(call, 50))
    assert trips <= 6.5  # submit; take and look, claim, finish; read: two of them nobody waits for
    assert commands <= 56
    assert size <= 5_500


def test_a_map_of_single_inputs(meter: tuple[sides.Real, Meter], monkeypatch: pytest.MonkeyPatch) -> None:
    side, counter = meter
    warm(side, p.echo, 0)
    monkeypatch.setattr("scaleplug.mapping.Map._pace", lambda _self: None)
    trips, commands, size = best(lambda: counter.per_input(lambda: list(p.echo.map(range(COUNT))), COUNT))
    assert trips <= 0.2
    assert commands <= 8
    assert size <= 4_500


def test_a_map_of_packed_inputs(meter: tuple[sides.Real, Meter]) -> None:
    side, counter = meter
    warm(side, p.echo, 0)
    wait_until(lambda: counter.per_input(lambda: list(p.echo.map(range(COUNT))), COUNT)[0] < 0.2)
    trips, commands, size = best(lambda: counter.per_input(lambda: list(p.echo.map(range(COUNT))), COUNT))
    assert trips <= 0.1
    assert commands <= 1.5
    assert size <= 600
