"""What a controller keeps for charts: bounded, and only what has changed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from scaleplug.keys import Keys
from scaleplug.server import connect
from scaleplug.store import EDGES, SERIES, Store
from scaleplug.store.scripts import _needed
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings


def test_a_functions_rise_and_fall_is_kept(surroundings: Surroundings):
    store, name = surroundings.store, jobs.pid_after.full_name
    calls = [jobs.pid_after.spawn(1.5) for _ in range(2)]
    busy = SERIES.index("busy") + 1

    def points() -> list[list[float]]:
        return store.histories([name])[name]

    wait_until(lambda: any(point[busy] for point in points()), 20)
    desired = [point[SERIES.index("desired") + 1] for point in points()]
    assert max(desired) >= 1
    for call in calls:
        call.get(timeout=20)
    wait_until(lambda: points()[-1][SERIES.index("running") + 1] == 0, 20)
    found = points()
    assert [point[0] for point in found] == sorted(point[0] for point in found)
    assert all(one[1:] != other[1:] for one, other in pairwise(found))
    now, overview = store.overview([name])
    assert abs(now - store.now()) < 5
    assert overview[name].starts >= 1
    assert overview[name].census.finished >= 2
    times = store.times([name])[name]
    assert sum(times["wait"].counts) == 2
    assert sum(times["run"].counts) == 2
    assert times["run"].seconds >= 3
    assert len(times["start"].counts) == len(EDGES) + 1
    assert sum(times["start"].counts) >= 1
    assert store.client.ttl(store.keys.of("history", name)) > 0


@pytest.fixture
def store(redis_url: str) -> Store:
    return Store(connect(redis_url), Keys("default"))


def test_it_is_bounded_and_needs_the_lease(store: Store):
    assert not store.note("nobody", {"shop.f": 1})
    store.take_lease("me", 60)
    for desired in (1, 1, 2, 3, 4):
        assert store.note("me", {"shop.f": desired}, most=3)
    points = store.histories(["shop.f"])["shop.f"]
    assert [point[-1] for point in points] == [2, 3, 4]
    assert store.histories(["shop.f"], last=1)["shop.f"] == points[-1:]
    assert store.overview(["shop.f"])[1]["shop.f"].desired == 4


def test_what_somebody_else_has_written_is_left_out(store: Store):
    store.client.lpush(store.keys.of("history", "shop.f"), "x", "1 2", "1 2 3 4 5 6 7 8", "nan", "1 nan 3 4 5 6 7 inf")
    assert store.histories(["shop.f"])["shop.f"] == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert store.overview(["shop.f"])[1]["shop.f"].desired == 0


def test_the_edges_are_the_scripts(store: Store):
    text = store._script("turn").script
    assert "{" + ", ".join(f"{edge:g}" for edge in EDGES) + "}" in text


def test_an_input_that_says_nonsense_of_when_it_was_sent_is_not_counted(surroundings: Surroundings):
    store = surroundings.store
    counted = "local ok = 0; for _, m in ipairs(ARGV) do if wait_of(m) then ok = ok + 1 end end; return ok"
    now = store.now()
    messages = [
        f'{{"a": {{"sent": {now - 2:.3f}}}}}',
        '{"a": {"sent": 12.5}}',
        '{"a": {"sent": x}}',
        '{"sent": 1}',
        '{"a": {"sent": 1.0}} ',
        "",
    ]
    assert store.client.eval(_needed(counted) + "\n" + counted, 1, store.keys.prefix, *messages) == 1
