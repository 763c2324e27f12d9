"""The policy in a simulated world: containers started, waits and churn of the workloads it is made for."""

from __future__ import annotations

import random

import pytest

from scaleplug.settings import FunctionSettings
from tests.unit.simulator import Simulator


def simulate(start_time: float, *, spread: float = 0.0, crowd: float = 0.0, **options) -> Simulator:
    """Return a simulation whose starts take longer by ``crowd`` for each other one, and lognormally by ``spread``."""
    settings = FunctionSettings(**{k: options.pop(k) for k in list(options) if k in FunctionSettings.__slots__})
    dice = random.Random(7)

    def start(_number: int, starting: int) -> float:
        return start_time * (1 + crowd * starting) * dice.lognormvariate(0, spread)

    return Simulator(settings, start, **options)


@pytest.mark.parametrize("start_time", [0.05, 0.1, 0.2, 0.3])
def test_a_hundred_long_inputs_get_a_hundred_containers_within_two_starts(start_time):
    world = simulate(start_time, max_containers=100)
    world.publish(0, [1.0] * 100)
    world.run(10)
    assert world.started == 100
    assert world.started_by(start_time + max(start_time, 0.1) + 0.03) == 100
    assert world.makespan <= 1 + 2 * start_time + max(start_time, 0.1) + 0.03


@pytest.mark.parametrize("start_time", [0.05, 0.3])
def test_once_learned_they_get_them_at_once(start_time):
    world = simulate(start_time, max_containers=100, service_time=1.0, learned_start=start_time)
    world.publish(0, [1.0] * 100)
    world.run(10)
    assert world.started_by(0) == 100
    assert world.makespan <= 1 + start_time + 0.01


@pytest.mark.parametrize("start_time", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize(
    ("lag", "cold", "most"),
    [
        (0, 0, 2),
        (0.1, 0, 6),
        (0.02, 0.03, 4),  # the first input of a container takes longer
        (1_000, 0, 18),  # nothing is ever learned
    ],
)
def test_two_thousand_short_inputs_start_a_handful(start_time, lag, cold, most):
    world = simulate(start_time, crowd=0.25, max_containers=200, lag=lag, cold=cold)
    world.publish(0, [0.001] * 2_000)
    world.run(100)
    assert len(world.finished) == 2_000
    assert world.started <= most
    assert world.makespan < 1 + 2 * start_time + 0.3


@pytest.mark.parametrize("phase", [0, 7, 14])
def test_short_inputs_that_are_published_bit_by_bit_start_a_handful(phase):
    world = simulate(0.1, crowd=0.25, max_containers=200, lag=0.02, cold=0.06)
    for batch in range(20):
        world.publish(batch * 0.01 + phase * 0.001, [0.001] * 100)
    world.run(100)
    assert world.started <= 6


@pytest.mark.parametrize("start_time", [0.05, 0.3, 1.0])
def test_a_trickle_keeps_one_container(start_time):
    world = simulate(start_time)
    for n in range(1_200):
        world.publish(n * 0.1, [0.005])
    world.run(121)
    assert (world.started, world.alive) == (1, 1)
    assert world.wait(0.5) == 0
    assert world.run(179).alive == 1
    assert world.run(181).alive == 0


def test_a_trickle_with_gaps_shorter_than_the_window_doesnt_churn():
    world = simulate(0.3)
    for n in range(40):
        world.publish(n * 50, [0.005])
    world.run(2_000)
    assert world.started == 1


def test_a_few_containers_at_regular_intervals_dont_churn():
    world = simulate(0.3, service_time=1.0, learned_start=0.3)
    for n in range(60):
        world.publish(n * 10, [1.0] * 12)
    world.run(600)
    assert world.started == 12
    assert max(world.waits) <= 0.31


def test_a_steady_stream_of_short_inputs_settles():
    """1,500 inputs of 1 ms a second need 1.5 containers."""
    world = simulate(0.1, max_containers=200)
    for n in range(1_000):
        world.publish(n * 0.02, [0.001] * 30)
    world.run(20)
    assert world.started <= 6
    assert world.wait(0.99) <= 1.1


def test_bursts_every_two_minutes_are_served_at_once_and_cost_less_than_a_window_each():
    dice = random.Random(3)
    world = simulate(0.3, spread=0.3, max_containers=200, service_time=1.0, learned_start=0.3)
    sizes = [dice.randint(50, 350) for _ in range(10)]
    for n, size in enumerate(sizes):
        world.publish(n * 120, [1.0] * size)
    world.run(1_260)
    assert world.alive == 0
    assert world.wait(0.5) <= 0.6
    assert max(world.waits) <= 2
    assert world.started <= sum(min(size, 200) for size in sizes)
    naive = world.started * (1 + 60)
    assert world.container_seconds < naive / 4


def test_short_inputs_dont_wait_behind_long_ones():
    """One in a hundred inputs takes a minute, the others a millisecond."""
    dice = random.Random(5)
    world = simulate(0.1, max_containers=400)
    inputs = [60.0 if dice.random() < 0.01 else 0.001 for _ in range(4_000)]
    for n, seconds in enumerate(inputs):
        world.publish(n * 0.02, [seconds])
    world.run(80)
    long = inputs.count(60.0)
    assert world.wait(0.99) <= 0.05
    assert max(world.waits) <= 0.35
    assert world.started <= long + 5


def test_a_burst_with_long_inputs_in_it_gets_through():
    dice = random.Random(5)
    world = simulate(0.1, max_containers=400, service_time=0.001, learned_start=0.1)
    inputs = [60.0 if dice.random() < 0.01 else 0.001 for _ in range(2_000)]
    world.publish(0, inputs)
    world.run(30)
    assert len(world.finished) == 2_000 - inputs.count(60.0)
    assert max(world.waits) <= 1
    assert world.started <= 4 * inputs.count(60.0)


def test_slow_starts_dont_make_many():
    """Where a start takes longer than the work, hardly more are started than the latency target needs."""
    world = simulate(2.0, spread=0.5, max_containers=200, service_time=0.05, learned_start=2.0)
    world.publish(0, [0.05] * 1_000)
    world.run(200)
    assert world.started <= 50
    assert world.makespan <= 6


def test_a_start_that_never_gets_ready_is_given_up_and_replaced():
    never = {0, 3, 4}
    settings = FunctionSettings(max_containers=5, startup_timeout=4, scaledown_window=60)
    world = Simulator(settings, lambda number, _: None if number in never else 0.1)
    world.publish(0, [1.0] * 10)
    world.run(90)
    assert len(world.finished) == 10
    assert world.peak <= 5
    assert [name for _, decision in world.decisions for name in decision.give_up] == ["c00000", "c00003", "c00004"]
    assert world.alive == 0


def test_one_that_fails_while_others_work_holds_nothing_up():
    settings = FunctionSettings(max_containers=5, startup_timeout=30)
    world = Simulator(settings, lambda number, _: None if number == 2 else 0.1, service_time=1.0)
    world.publish(0, [1.0] * 10)
    world.run(200)
    assert world.makespan <= 3.2
    assert world.alive == 0


def test_a_buffer_stands_by_and_doesnt_creep():
    world = simulate(0.1, buffer_containers=2, max_containers=200, service_time=0.001, learned_start=0.1)
    world.publish(0, [0.001] * 3_000)
    world.run(5)
    assert world.started == 5
    world = simulate(0.1, buffer_containers=2, service_time=1.0, learned_start=0.1)
    for n in range(30):
        world.publish(n * 2, [1.0])
    world.run(61)
    assert world.started == 3
    assert sum(wait > 0 for wait in world.waits) == 1
    assert world.run(200).alive == 0


def test_inputs_share_containers_up_to_the_target():
    world = simulate(0.1, target_inputs=10, max_inputs=20, service_time=1.0, learned_start=0.1)
    world.publish(0, [1.0] * 100)
    world.run(10)
    assert world.started == 10
    assert world.makespan <= 1.11


def test_a_flood_of_rings_changes_nothing():
    """However often it is asked, the same is started."""
    started = []
    for gap in (0.0, 0.001, 0.02, 0.5):
        world = simulate(0.2, max_containers=100, gap=gap, service_time=0.5, learned_start=0.2)
        for n in range(100):
            world.publish(n * 0.0001, [0.5])
        world.run(10)
        started.append(world.started)
    assert started == [100, 100, 100, 100]


def test_a_restarted_controller_keeps_what_it_finds_for_a_window():
    world = simulate(0.1, hold_until=90.0, service_time=1.0, learned_start=0.1)
    world.publish(0, [1.0] * 30)
    assert world.run(89).alive == 30
    assert world.run(91).alive == 0
