"""What holds for every decision, whatever the numbers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scaleplug.policy import Containers, Decision, Idle, Load, Starting, Want, decide, share, yield_for
from scaleplug.settings import FunctionSettings

NOW = 1_700_000_000.0

each = settings(deadline=None, derandomize=True, max_examples=100)


@st.composite
def function_settings(draw: st.DrawFn) -> FunctionSettings:
    low = draw(st.integers(0, 5))
    target = draw(st.integers(1, 10))
    return FunctionSettings(
        min_containers=low,
        max_containers=draw(st.none() | st.integers(max(low, 1), 40)),
        buffer_containers=draw(st.integers(0, 4)),
        scaledown_window=draw(st.sampled_from([2.0, 4.0, 60.0, 300.0])),
        startup_timeout=draw(st.none() | st.sampled_from([1.0, 30.0])),
        target_inputs=target,
        max_inputs=target + draw(st.integers(0, 5)),
    )


seconds = st.none() | st.floats(0, 100) | st.sampled_from([0.001, 0.05, 0.1, 1.0])
loads = st.builds(
    Load,
    pending=st.integers(0, 20) | st.integers(0, 30_000),
    running=st.integers(0, 60),
    oldest_running=seconds,
    service_time=seconds,
    start_time=seconds,
)


@st.composite
def function_containers(draw: st.DrawFn, prefix: str = "") -> Containers:
    waits = draw(st.lists(st.floats(-1, 400), max_size=12))
    ages = draw(st.lists(st.floats(-1, 400) | st.integers(0, 70), max_size=30))
    return Containers(
        starting=tuple(Starting(container=f"{prefix}s{n}", requested_at=NOW - age) for n, age in enumerate(waits)),
        idle=tuple(Idle(container=f"{prefix}i{n}", idle_since=NOW - age) for n, age in enumerate(ages)),
        busy=draw(st.integers(0, 40)),
        draining=draw(st.integers(0, 5)),
    )


holds = st.sampled_from([0.0, NOW, NOW + 20])


def of_one_moment(load: Load, containers: Containers, function: FunctionSettings) -> Load:
    """Return the load with as many running inputs as the containers can have, if both were read at once."""
    most = (containers.busy + containers.draining) * function.max_inputs
    return replace(load, running=min(max(load.running, containers.busy), most))


def applied(containers: Containers, decision: Decision, now: float = NOW) -> Containers:
    """Return the containers right after the decision was carried out; what was given up isn't gone yet."""
    new = tuple(Starting(container=f"new{n}", requested_at=now) for n in range(decision.start))
    return replace(
        containers,
        starting=containers.starting + new,
        idle=tuple(c for c in containers.idle if c.container not in decision.stop),
        draining=containers.draining + len(decision.stop),
    )


@each
@given(function_settings(), loads, function_containers(), holds)
def test_bounds(function, load, containers, hold_until):
    decision = decide(function, load, containers, NOW, hold_until=hold_until)
    assert decision.start >= 0
    assert decision.desired >= function.min_containers
    assert decision.desired >= (1 if load.pending + load.running else 0)
    if function.max_containers is not None:
        assert decision.desired <= function.max_containers
        existing = containers.capacity + containers.draining
        assert existing + decision.start <= max(existing, function.max_containers)
    assert containers.capacity - len(decision.give_up) + decision.start <= max(containers.capacity, decision.desired)
    assert isinstance(decision.desired, int)
    assert "\n" not in decision.reason


@each
@given(function_settings(), loads, function_containers(), holds)
def test_only_idle_containers_stop_and_only_starting_ones_are_given_up(function, load, containers, hold_until):
    decision = decide(function, load, containers, NOW, hold_until=hold_until)
    assert set(decision.stop) <= {c.container for c in containers.idle}
    assert len(set(decision.stop)) == len(decision.stop)
    assert set(decision.give_up) == {
        c.container for c in containers.starting if c.requested_at + function.start_limit <= NOW
    }
    ages = {c.container: c.idle_since for c in containers.idle}
    stays = [since for name, since in ages.items() if name not in decision.stop]
    assert all(ages[name] <= since for name in decision.stop for since in stays)


@each
@given(function_settings(), loads, function_containers(), holds)
def test_what_stops_is_more_than_what_is_desired(function, load, containers, hold_until):
    decision = decide(function, load, containers, NOW, hold_until=hold_until)
    assert not (decision.start and decision.stop)
    above = 0 if function.max_containers is None else max(0, containers.capacity - function.max_containers)
    if len(decision.stop) > above:
        assert hold_until <= NOW
        assert containers.ready - len(decision.stop) >= decision.desired


@each
@given(function_settings(), loads, function_containers(), holds)
def test_nothing_leaves_sooner_than_it_may(function, load, containers, hold_until):
    assume(function.max_containers is None)
    decision = decide(function, load, containers, NOW, hold_until=hold_until)
    idle_for = {c.container: NOW - c.idle_since for c in containers.idle}
    least = min(function.scaledown_window, 5.0)
    assert all(idle_for[name] >= least - 1e-6 for name in decision.stop)


@each
@given(function_settings(), loads | st.none(), function_containers() | st.none())
def test_unknown_holds(function, load, containers):
    assume(load is None or containers is None)
    decision = decide(function, load, containers, NOW)
    assert (decision.start, decision.stop, decision.give_up) == (0, (), ())


@each
@given(function_settings(), loads, function_containers(), holds)
def test_idempotent(function, load, containers, hold_until):
    load = of_one_moment(load, containers, function)
    decision = decide(function, load, containers, NOW, hold_until=hold_until)
    assert decide(function, load, containers, NOW, hold_until=hold_until) == decision
    again = decide(function, load, applied(containers, decision), NOW, hold_until=hold_until)
    assert (again.start, again.stop, again.give_up) == (0, (), decision.give_up)


@each
@given(function_settings(), loads, function_containers(), st.integers(0, 5_000))
def test_monotone_in_pending(function, load, containers, more):
    decision = decide(function, load, containers, NOW)
    busier = decide(function, replace(load, pending=load.pending + more), containers, NOW)
    assert busier.desired >= decision.desired
    assert busier.start >= decision.start
    assert set(busier.stop) <= set(decision.stop)


@each
@given(function_settings(), loads, function_containers(), holds, st.floats(0, 1))
def test_nothing_falls_due_before_the_next_check(function, load, containers, hold_until, share_of_wait):
    load = of_one_moment(load, containers, function)
    first = decide(function, load, containers, NOW, hold_until=hold_until)
    if first.next_check is not None:
        assert first.next_check > NOW
    containers = applied(containers, first)
    # only containers: what is known of the inputs stays as it is
    settled = decide(function, load, containers, NOW, hold_until=hold_until)
    wait = 1_000.0 if settled.next_check is None else settled.next_check - NOW
    later = decide(function, load, containers, NOW + wait * share_of_wait * 0.999, hold_until=hold_until)
    assert later.stop == ()
    assert later.give_up == first.give_up


wants = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2), st.builds(Want, have=st.integers(0, 30), start=st.integers(0, 30))
)


@each
@given(wants, st.integers(-2, 200))
def test_share_is_used_up_and_fair(asked, capacity):
    granted = share(asked, capacity)
    assert sum(granted.values()) == max(0, min(capacity, sum(want.start for want in asked.values())))
    for name, want in asked.items():
        assert 0 <= granted[name] <= want.start
        if granted[name] == want.start:
            continue
        for other, theirs in asked.items():  # who got some has no more than one above who would have liked more
            assert not granted[other] or theirs.have + granted[other] <= want.have + granted[name] + 1


@each
@given(wants, st.integers(0, 200))
def test_share_doesnt_depend_on_order(asked, capacity):
    assert share(dict(reversed(asked.items())), capacity) == share(asked, capacity)


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Containers]:
    names = draw(st.sets(st.sampled_from("abcdef")))
    return {name: draw(function_containers(prefix=name)) for name in sorted(names)}


@each
@given(hosts(), st.sets(st.sampled_from("abcdefgh")))
def test_room_is_made_for_those_without_by_those_above_their_share(host, hungry):
    room = yield_for(hungry, host)
    without = [name for name in hungry if name not in host or not host[name].capacity]
    given_up = len(room.stop) + sum(room.drain.values())
    assert given_up <= max(0, len(without) - sum(c.draining for c in host.values()))
    total = sum(c.capacity for c in host.values())
    fair = total / max(1, len(without) + sum(c.capacity > 0 for c in host.values()))
    for name, containers in host.items():
        stopped = sum(c.container in room.stop for c in containers.idle)
        drained = room.drain.get(name, 0)
        assert drained <= containers.busy
        if stopped + drained:
            assert containers.capacity > fair
            assert containers.capacity - stopped - drained > fair - 1
