"""The policy as tables, one per term of the rule, and as stories told on a clock of whole ticks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scaleplug.policy import (
    EARLY_SECONDS,
    LEAST_START_TIME,
    RAMP_BACKLOG,
    Containers,
    Decision,
    Idle,
    Load,
    Starting,
    Want,
    decide,
    learn,
    share,
    yield_for,
)
from scaleplug.settings import FunctionSettings

NOW = 1_700_000_000.0
NONE = Containers()


def a_load(
    pending: int = 0,
    running: int = 0,
    *,
    oldest: float | None = None,
    service: float | None = None,
    start: float | None = 0.2,
) -> Load:
    return Load(pending=pending, running=running, oldest_running=oldest, service_time=service, start_time=start)


def some(
    *, starting: int = 0, age: float = 0.0, idle: int = 0, idle_for: float = 0.0, busy: int = 0, draining: int = 0
):
    return Containers(
        starting=tuple(Starting(container=f"s{n}", requested_at=NOW - age) for n in range(starting)),
        idle=tuple(Idle(container=f"i{n}", idle_since=NOW - idle_for) for n in range(idle)),
        busy=busy,
        draining=draining,
    )


def ask(load: Load | None, containers: Containers | None = NONE, now: float = NOW, **settings) -> Decision:
    return decide(FunctionSettings(**settings), load, containers, now)


# --- what the inputs need ---


@pytest.mark.parametrize(
    ("pending", "running", "target", "need"),
    [(1, 0, 1, 1), (100, 0, 1, 100), (60, 40, 1, 100), (100, 0, 8, 13), (96, 0, 8, 12), (5, 4, 8, 2), (0, 0, 1, 0)],
)
def test_long_inputs_get_a_slot_each(pending, running, target, need):
    decision = ask(a_load(pending, running, service=1.0), target_inputs=target, max_inputs=target)
    assert decision.desired == decision.start == need


@pytest.mark.parametrize(
    ("pending", "service", "start", "containers", "need"),
    [
        (1, 0.001, 0.2, some(), 1),
        (1_000, 0.001, 0.2, some(), 1),
        (2_000, 0.001, 0.2, some(), 2),
        (20_000, 0.001, 0.2, some(), 20),
        (3_000, 0.001, 0.2, some(busy=1), 3),  # 2,800 left
        (3_000, 0.001, 0.2, some(busy=5), 2),  # 2,000 left, but five are busy: none leaves, none is added
        (2_000, 0.001, 0.2, some(starting=1, age=0.0), 2),  # helps only after the start time, like one not begun
        (2_000, 0.001, 1.5, some(starting=1, age=1.4), 1),  # 600 left: it will have worked 1.4 s by then
        (2_000, 0.001, 0.2, some(starting=1, age=-9), 2),  # another clock is ahead
        (3, 0.19, 0.2, some(), 1),  # 0.57 s of work
        (100, 0.07, 0.2, some(), 7),  # 7.000000000000001
        (7, 2.0, 3.0, some(), 7),  # short only next to the start: never more than a slot each
        (5_000, 0.0, 0.2, some(), 1),  # no time at all
    ],
)
def test_short_inputs_get_what_drains_them_in_the_latency_target(pending, service, start, containers, need):
    decision = ask(a_load(pending, service=service, start=start), containers)
    assert f"need {need}:" in decision.reason
    assert decision.start == max(0, need - containers.capacity)


def test_more_slots_drain_more():
    assert ask(a_load(20_000, service=0.001), target_inputs=10, max_inputs=10).start == 2


@pytest.mark.parametrize(
    ("load", "containers", "start"),
    [
        (a_load(5), some(), 1),
        (a_load(2_000), some(), 1),
        (a_load(2_000), some(starting=1), 0),
        (a_load(2_000), some(idle=1), 1),  # ready, nothing taken yet
        (a_load(1_999, 1, oldest=0.01), some(busy=1), 1),
        (a_load(1_998, 1, oldest=0.01), some(busy=1, starting=1), 0),
        (a_load(1_996, 4, oldest=0.01), some(busy=4), 4),
        (a_load(1_996, 4, oldest=0.01), some(busy=4, starting=3), 1),
        (a_load(RAMP_BACKLOG, 1, oldest=0.01), some(busy=1), 0),  # the first sample is soon there
        (a_load(RAMP_BACKLOG + 1, 1, oldest=0.01), some(busy=1), 1),
        (a_load(99, 1, oldest=0.2), some(busy=1), 99),  # ran for a start time: long
        (a_load(99, 1, oldest=0.19), some(busy=1), 0),
        (a_load(99, 1, oldest=1.0, start=20.0), some(busy=1), 78),  # at least 1 s: 79 left after 20 s
        (a_load(99, 1, oldest=0.9, start=20.0), some(busy=1), 0),
    ],
)
def test_unknown_service_time_ramps(load, containers, start):
    assert ask(load, containers).start == start


@pytest.mark.parametrize(
    ("load", "containers", "start"),
    [
        (a_load(1, 1, oldest=0.19, service=0.001), some(busy=1), 0),
        (a_load(1, 1, oldest=0.20, service=0.001), some(busy=1), 1),
        (a_load(1, 1, oldest=0.50, service=0.1), some(busy=1), 0),  # 10 x 0.1 s isn't reached
        (a_load(1, 1, oldest=1.00, service=0.1), some(busy=1), 1),
        (a_load(0, 1, oldest=60.0, service=0.001), some(busy=1), 0),  # nobody waits
        (a_load(1, 4, oldest=60.0, service=0.001), some(busy=4, idle=1), 0),  # the idle one takes it
        (a_load(50, 4, oldest=60.0, service=0.001), some(busy=4, idle=1), 3),  # as many again as are busy
        (a_load(50, 4, oldest=60.0, service=0.001), some(busy=4, idle=1, starting=3), 0),
        (a_load(9_000, 2, oldest=60.0, service=0.001), some(busy=2), 9),  # if they are short: 9 s of work
    ],
)
def test_pending_inputs_dont_wait_behind_long_ones_of_a_short_function(load, containers, start):
    assert ask(load, containers).start == start


def test_free_slots_of_a_container_with_a_long_input_count():
    load = a_load(5, 1, oldest=60.0, service=0.001)
    assert ask(load, some(busy=1), target_inputs=8, max_inputs=8).start == 0
    assert ask(replace(load, pending=8), some(busy=1), target_inputs=8, max_inputs=8).start == 1


def test_inputs_that_run_beyond_the_target_count():
    load = a_load(0, 4, service=1.0)
    assert ask(load, some(busy=2, draining=1), max_inputs=2).desired == 4


def test_an_unknown_or_tiny_start_time_counts_as_the_least():
    for start in (None, 0.0, 0.01):
        assert f"start {LEAST_START_TIME:g} s" in ask(a_load(9, service=LEAST_START_TIME, start=start)).reason


@pytest.mark.parametrize("broken", [math.nan, math.inf, -1.0])
def test_a_broken_learned_time_counts_as_unknown(broken):
    assert ask(a_load(9, service=broken, start=broken)) == ask(a_load(9, service=None, start=None))


# --- buffer and bounds ---


@pytest.mark.parametrize(
    ("settings", "load", "containers", "desired", "start"),
    [
        ({}, a_load(), some(), 0, 0),
        ({"min_containers": 2}, a_load(), some(), 2, 2),
        ({"min_containers": 2}, a_load(5, service=1.0), some(), 5, 5),
        ({"buffer_containers": 3}, a_load(), some(), 0, 0),
        ({"buffer_containers": 3}, a_load(5, service=1.0), some(), 8, 8),
        ({"buffer_containers": 3}, a_load(1), some(), 4, 4),
        ({"buffer_containers": 3, "min_containers": 2}, a_load(1, service=1.0), some(idle=2), 4, 2),
        ({"max_containers": 4}, a_load(50, service=1.0), some(), 4, 4),
        ({"max_containers": 4, "buffer_containers": 3}, a_load(3, service=1.0), some(), 4, 4),
        ({"max_containers": 4}, a_load(50, service=1.0), some(draining=3), 4, 1),
        ({"max_containers": 4}, a_load(50, service=1.0), some(draining=6), 4, 0),
        ({"max_containers": 4}, a_load(50, service=1.0), some(busy=1, starting=2), 4, 1),
        ({"max_containers": 4}, a_load(50, 9, service=1.0), some(busy=9), 4, 0),
        ({}, a_load(0, 3, service=1.0), some(draining=3), 1, 1),  # what drains is no capacity, and needs none
        ({}, a_load(2, 3, service=1.0), some(draining=3), 2, 2),
        ({"buffer_containers": 2}, a_load(500, 3, service=0.001), some(busy=3), 3, 0),  # busy for a millisecond each
    ],
)
def test_buffer_and_bounds(settings, load, containers, desired, start):
    decision = ask(load, containers, **settings)
    assert (decision.desired, decision.start) == (desired, start)


@pytest.mark.parametrize(
    ("load", "containers", "desired"),
    [
        (None, some(idle=3, idle_for=900), 3),
        (a_load(50), None, 2),
        (None, None, 2),
        (a_load(-1), some(idle=3, idle_for=900), 3),
        (a_load(0, -1), some(idle=3, idle_for=900), 3),
        (a_load(50), some(busy=-1), -1),
    ],
)
def test_an_unknown_or_impossible_reading_holds_everything_still(load, containers, desired):
    decision = ask(load, containers, min_containers=2)
    assert decision.reason.startswith("hold: ")
    assert replace(decision, reason="") == Decision(
        start=0, stop=(), give_up=(), desired=desired, reason="", next_check=None
    )


# --- who leaves, and when ---


def idle_since(*ages: float) -> tuple[Idle, ...]:
    return tuple(Idle(container=f"i{n}", idle_since=NOW - age) for n, age in enumerate(ages))


@pytest.mark.parametrize(
    ("settings", "load", "containers", "stop", "next_check"),
    [
        ({}, a_load(), Containers(idle=idle_since(59)), (), 1),
        ({}, a_load(), Containers(idle=idle_since(60)), ("i0",), None),
        ({}, a_load(), Containers(idle=idle_since(10, 61, 62, 20)), ("i2", "i1"), 40),
        ({"min_containers": 1}, a_load(), Containers(idle=idle_since(61, 62)), ("i1",), None),
        ({"min_containers": 2}, a_load(), Containers(idle=idle_since(61, 62)), (), None),
        ({}, a_load(0, 1), Containers(idle=idle_since(61, 62), busy=1), ("i1", "i0"), None),
        (
            {"buffer_containers": 1},
            a_load(0, 1, service=1.0),
            Containers(idle=idle_since(61, 62), busy=1),
            ("i1",),
            None,
        ),
        ({}, a_load(1, 1, service=1.0), Containers(idle=idle_since(61, 62), busy=1), ("i1",), None),
        ({}, a_load(2, 1, service=1.0), Containers(idle=idle_since(61, 62), busy=1), (), None),
        ({}, a_load(2, service=0.001), Containers(idle=idle_since(61, 62, 63)), ("i2",), None),  # about to take two
        ({"min_containers": 1}, a_load(), replace(some(starting=3), idle=idle_since(61)), (), 300),
        (
            {"scaledown_window": 2},
            a_load(),
            Containers(idle=idle_since(*[3] * 9)),
            tuple(f"i{n}" for n in range(9)),
            None,
        ),
    ],
)
def test_the_longest_idle_leaves_after_the_window(settings, load, containers, stop, next_check):
    decision = ask(load, containers, **settings)
    assert decision.stop == stop
    assert decision.next_check == (None if next_check is None else NOW + next_check)


@pytest.mark.parametrize(
    ("surplus", "start", "leaves_after"),
    [
        (4, 0.2, 60),  # four to spare: no substantial surplus
        (8, 0.2, 30),
        (40, 0.2, 6),
        (100, 0.2, EARLY_SECONDS),
        (100, 4.0, 8),  # two start times
        (100, 90.0, 60),  # never longer than the window
    ],
)
def test_a_substantial_surplus_leaves_early(surplus, start, leaves_after):
    now = NOW + leaves_after
    containers = some(idle=surplus)
    before = ask(a_load(start=start), containers, now - 1)
    assert (before.stop, before.next_check) == ((), now)
    assert "i0" in ask(a_load(start=start), containers, now).stop


def test_what_is_substantial_grows_with_what_is_desired():
    busy = a_load(0, 20, service=1.0)
    assert ask(busy, some(busy=20, idle=10)).next_check == NOW + 60
    assert ask(busy, some(busy=20, idle=20)).next_check == NOW + 30


def test_a_surplus_shrinks_to_a_spare_few_that_stay_for_the_window():
    containers = some(idle=100)
    left = {}
    for tick in range(61):
        stop = ask(a_load(), containers, NOW + tick).stop
        containers = replace(containers, idle=tuple(c for c in containers.idle if c.container not in stop))
        left[tick] = len(containers.idle)
    assert [left[t] for t in (4, 5, 10, 20, 30, 59, 60)] == [100, 47, 23, 11, 7, 4, 0]


def test_above_a_lowered_maximum_the_idle_leave_at_once_and_the_busy_when_they_turn_idle():
    load = a_load(50, 4, service=1.0)
    containers = replace(some(busy=4), idle=idle_since(0, 3))
    decision = ask(load, containers, max_containers=3)
    assert (decision.start, decision.stop, decision.desired) == (0, ("i1", "i0"), 3)
    assert ask(load, some(busy=4), max_containers=3).stop == ()
    assert ask(load, replace(some(busy=3), idle=idle_since(0)), max_containers=3).stop == ("i0",)


def test_until_a_restarted_controller_has_seen_a_window_only_what_is_above_the_maximum_leaves():
    settings = FunctionSettings(max_containers=3)
    containers = Containers(idle=idle_since(500, 400, 300, 200))
    held = decide(settings, a_load(), containers, NOW, hold_until=NOW + 30)
    assert held.stop == ("i0",)
    assert held.next_check == NOW + 30
    after = decide(settings, a_load(), Containers(idle=containers.idle[1:]), NOW + 30, hold_until=NOW + 30)
    assert after.stop == ("i1", "i2", "i3")


# --- starts that never get ready ---


def test_a_start_past_the_limit_is_given_up_and_replaced():
    containers = replace(some(starting=1, age=5), busy=1)
    decision = ask(a_load(1, 1, service=1.0), containers, startup_timeout=5)
    assert (decision.give_up, decision.start) == (("s0",), 1)
    early = ask(a_load(1, 1, service=1.0), containers, NOW - 1, startup_timeout=5)
    assert (early.give_up, early.start, early.next_check) == ((), 0, NOW)


def test_it_is_replaced_only_once_it_is_gone_if_there_is_no_room():
    late = some(starting=1, age=5)
    assert ask(a_load(1, service=1.0), late, startup_timeout=5, max_containers=1).start == 0
    assert ask(a_load(1, service=1.0), some(), startup_timeout=5, max_containers=1).start == 1


# --- when to decide again ---


@pytest.mark.parametrize(
    ("load", "containers", "next_check"),
    [
        (a_load(), some(), None),
        (a_load(50, service=1.0), some(starting=50, age=1), 299),
        (a_load(50), some(starting=1), 0.201),
        (a_load(50, 1, oldest=0.05), some(busy=1), 0.151),
        (a_load(50, 1, oldest=0.5, start=20.0), some(busy=1), 0.501),
        (a_load(50, 1, oldest=3.0, start=20.0), some(busy=1), 17.001),
        (a_load(0, 1, oldest=0.05), some(busy=1), None),
        (a_load(1, 1, oldest=0.05, service=0.001), some(busy=1), 0.151),
        (a_load(0, 1, oldest=0.05, service=0.001), some(busy=1), None),
        (a_load(1, 1, oldest=60.0, service=0.001), some(busy=1, starting=1), 300),
    ],
)
def test_next_check(load, containers, next_check):
    decision = ask(load, containers)
    assert decision.next_check == (None if next_check is None else pytest.approx(NOW + next_check, abs=1e-6))


def test_the_reason_is_one_line_with_every_term():
    decision = ask(
        a_load(2_000, 3, oldest=0.1, service=0.001),
        replace(some(starting=1, idle=2, busy=3), draining=4),
        min_containers=1,
        max_containers=9,
        buffer_containers=2,
    )
    assert decision.reason == (
        "need 1: 1000 left after 0.2 s x 0.001 s / (1 x 1 s); buffer 2, min 1, max 9 -> desired 6; "
        "pending 2000, running 3, target_inputs 1; starting 1, idle 2, busy 3, draining 4 -> start 0, stop 0, give up 0"
    )


# --- stories ---


def test_story_a_hundred_long_inputs_from_zero():
    """Nothing known: one container, and the rest as soon as its input has run for a start time."""
    settings = {"max_containers": 100}
    assert ask(a_load(100, start=None), some(), **settings).start == 1
    assert ask(a_load(100, start=None), some(starting=1, age=0.2), **settings).start == 0
    assert ask(a_load(99, 1, oldest=0.0), some(busy=1), **settings).start == 0
    assert ask(a_load(99, 1, oldest=0.2), some(busy=1), **settings).start == 99
    assert ask(a_load(99, 1, oldest=0.3), some(busy=1, starting=99, age=0.1), **settings).start == 0
    assert ask(a_load(0, 100, oldest=0.5), some(busy=100), **settings).desired == 100


def test_story_two_thousand_short_inputs_from_zero():
    """Nothing known: one container, a second when it is ready; then the first sample says that two will do."""
    settings = {"max_containers": 200}
    assert ask(a_load(2_000), some(), **settings).start == 1
    assert ask(a_load(1_999, 1, oldest=0.0), some(busy=1), **settings).start == 1
    assert ask(a_load(1_990, 1, oldest=0.001, service=0.001), some(busy=1, starting=1), **settings).start == 0
    assert ask(a_load(1_500, 2, oldest=0.001, service=0.001), some(busy=2), **settings).start == 0


def test_story_a_deploy_made_a_short_function_long():
    """The service time is stale: the containers double per start time until every input runs."""
    busy, totals = 1, []
    while busy < 40:
        decision = ask(a_load(40 - busy, busy, oldest=0.5, service=0.001), some(busy=busy))
        busy += decision.start
        totals.append(busy)
    assert totals == [2, 4, 8, 16, 32, 40]


# --- the host ---


@pytest.mark.parametrize(
    ("wants", "capacity", "granted"),
    [
        ({}, 5, {}),
        ({"a": Want(have=0, start=3)}, 5, {"a": 3}),
        ({"a": Want(have=0, start=9)}, 5, {"a": 5}),
        ({"a": Want(have=0, start=9), "b": Want(have=0, start=9)}, 5, {"a": 3, "b": 2}),
        ({"a": Want(have=4, start=9), "b": Want(have=0, start=9)}, 4, {"a": 0, "b": 4}),
        ({"a": Want(have=4, start=9), "b": Want(have=0, start=9)}, 5, {"a": 1, "b": 4}),
        ({"a": Want(have=4, start=9), "b": Want(have=0, start=9)}, 6, {"a": 1, "b": 5}),
        ({"a": Want(have=4, start=9), "b": Want(have=0, start=1)}, 6, {"a": 5, "b": 1}),
        ({"a": Want(have=1, start=1), "b": Want(have=0, start=0)}, 6, {"a": 1, "b": 0}),
        ({"a": Want(have=0, start=9)}, 0, {"a": 0}),
        ({"a": Want(have=0, start=9)}, -3, {"a": 0}),
    ],
)
def test_share(wants, capacity, granted):
    assert share(wants, capacity) == granted


def held(*idle_for: float, busy: int = 0, draining: int = 0, name: str = "") -> Containers:
    idle = tuple(Idle(container=f"{name}{n}", idle_since=NOW - age) for n, age in enumerate(idle_for))
    return Containers(idle=idle, busy=busy, draining=draining)


@pytest.mark.parametrize(
    ("hungry", "containers", "stop", "drain"),
    [
        (["c"], {}, (), {}),
        ([], {"a": held(9, 8, name="a")}, (), {}),
        (["c"], {"a": held(9, 8, name="a")}, ("a0",), {}),
        (["c", "d"], {"a": held(9, 5, 7, name="a"), "b": held(8, 6, 4, name="b")}, ("a0", "b0"), {}),
        (["c"], {"a": held(1, name="a", busy=5), "b": held(9, name="b")}, ("a0",), {}),  # b has its share
        (["c"], {"a": held(9, name="a"), "b": held(7, 8, name="b")}, ("b1",), {}),
        (["c"], {"a": held(busy=4), "b": held(busy=3)}, (), {"a": 1}),
        (["c", "d", "e"], {"a": held(busy=6), "b": held(busy=5)}, (), {"a": 2, "b": 1}),
        (["c", "d"], {"a": held(busy=4), "b": held(3, busy=3, name="b")}, ("b0",), {"a": 1}),
        (["c"], {"a": held(busy=4, draining=1)}, (), {}),  # room is on its way
        (["c"], {"a": held(busy=4), "c": held(busy=1)}, (), {}),  # c isn't without
        (["c"], {"a": held(busy=1), "b": held(busy=1)}, (), {"a": 1}),  # more functions than room: they take turns
        (["c"], {"a": some(starting=4)}, (), {}),
    ],
)
def test_yield_for(hungry, containers, stop, drain):
    room = yield_for(hungry, containers)
    assert (room.stop, room.drain) == (stop, drain)


# --- learning ---


@pytest.mark.parametrize(
    ("old", "sample", "new"),
    [(None, 2.0, 2.0), (1.0, 2.0, 1.3), (2.0, 0.0, 1.4), (0.001, 60.0, 0.0037), (0.0, 60.0, 0.0003), (None, -1.0, 0.0)],
)
def test_learn(old, sample, new):
    assert learn(old, sample) == pytest.approx(new)


def test_one_long_input_among_short_ones_doesnt_make_them_look_long():
    assert learn(0.001, 60.0) < LEAST_START_TIME


def test_a_lasting_change_is_learned():
    learned = 0.001
    for _ in range(12):
        learned = learn(learned, 60.0)
    assert learned > 30
