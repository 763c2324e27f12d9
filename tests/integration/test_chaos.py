"""The short forms of the scenarios that do harm; `make chaos` runs the long ones, with their figures."""

from __future__ import annotations

import pytest

from tests.chaos.scenarios import LONG_ONLY, SCENARIOS


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LONG_ONLY])
def test_nothing_is_lost(name: str) -> None:
    report = SCENARIOS[name].short()
    assert report.whole, report.line()
    assert report.faults, report.line()
