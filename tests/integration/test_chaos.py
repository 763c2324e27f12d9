"""The short forms of the scenarios that do harm; `make chaos` runs the long ones, with their figures."""

from __future__ import annotations

import pytest

from tests.chaos.scenarios import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost(name: str) -> None:
    report = SCENARIOS[name].short()
    assert report.whole, report.line()
    assert report.faults, report.line()
