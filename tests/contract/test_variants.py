"""A function and its variants: the same over the twin and over Redis, a controller and containers."""

from __future__ import annotations

from tests.contract import functions as f
from tests.contract.sides import Side


def test_a_function_and_its_variants_run_side_by_side(side: Side) -> None:
    variants = [f.square.with_options(max_containers=2), f.square, f.square.with_options(scaledown_window=30)]
    assert [each.spawn(3).get(timeout=20) for each in (*variants, *variants)] == [9] * 6
