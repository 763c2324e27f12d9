"""What happens by itself, on both sides."""

from __future__ import annotations

from tests.contract import timed_functions
from tests.contract.sides import Side
from tests.helpers import wait_until


def test_a_scheduled_function_is_called_and_a_rule_of_the_autoscaler_holds(side: Side) -> None:
    before = side.ran(timed_functions.each_second)
    side.keep_time(timed_functions.app, 61)
    wait_until(lambda: side.ran(timed_functions.each_second) >= before + 2, 30, "two calls")
    assert timed_functions.ruled.autoscaler.settings().max_containers == 2
    assert timed_functions.ruled.remote() == "done"
