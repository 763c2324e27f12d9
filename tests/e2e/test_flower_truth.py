"""Stock Flower beside functions that run: what it shows of workers and tasks is what there is."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from scaleplug.client import RedisCaller
from scaleplug.embedded import EmbeddedRedis
from scaleplug.errors import InputCancelledError
from scaleplug.runtime import Run
from scaleplug.server import celery_url
from scaleplug.settings import Config
from scaleplug.store import Store
from tests.commands import SECRET
from tests.flowers import USER, Flower
from tests.helpers import wait_until


@dataclass
class Watched:
    """A Flower, and the truth."""

    flower: Flower
    store: Store

    def tasks(self, function: Any) -> dict[str, dict[str, Any]]:
        found = self.flower.json(f"/api/tasks?limit=100000&taskname={function.full_name}")
        return dict(found)

    def states(self, function: Any, *calls: Any) -> Counter[str]:
        found, wanted = self.tasks(function), [call.object_id for call in calls]
        return Counter(task["state"] for uuid, task in found.items() if not wanted or uuid in wanted)

    def online(self, function: Any) -> dict[str, int | None]:
        """Return the workers that are online, with how many tasks each runs."""
        rows = self.flower.json("/workers?json=1")["data"]
        prefix = function.full_name + "-"
        return {row["hostname"]: row["active"] for row in rows if row["status"] and row["hostname"].startswith(prefix)}

    def census(self, function: Any) -> Any:
        return self.store.census([function.full_name])[function.full_name]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with EmbeddedRedis(tcp=True) as server:
        os.environ["FLOWERS_BROKER"] = celery_url(server.url)
        run = Run(Config(redis_url=server.url, secret=SECRET, cancel_grace=0.5), title="tests")
        flower: Flower | None = None
        try:
            run.start()
            from tests.e2e import flower_functions as f

            caller = f.app.caller()
            assert isinstance(caller, RedisCaller)
            f.app.register()
            command = ["-m", "scaleplug.cli.main", "flower", "--port", "0", "--app", "tests.e2e.flower_functions"]
            flower = Flower(
                command, tmp_path_factory.mktemp("flower"), SCALEPLUG_REDIS_URL=server.url, SCALEPLUG_SECRET=SECRET,
                SCALEPLUG_NAMESPACE=caller.store.keys.namespace, FLOWER_BASIC_AUTH=USER,
            )  # fmt: skip
            wait_until(caller.store.client.pubsub_numpat, 20, "Flower listens")
            yield Watched(flower, caller.store)
        finally:
            if flower is not None:
                flower.end()
            run.stop()
            del os.environ["FLOWERS_BROKER"]


def test_workers_are_online_while_they_are_there_and_tell_what_they_run(watched: Watched, tmp_path: Any):
    from tests.e2e import flower_functions as f

    gate = tmp_path / "gate"
    calls = [f.held.spawn(str(gate), number) for number in range(3)]
    wait_until(lambda: watched.census(f.held).running == 2, 20)
    wait_until(lambda: sorted(map(str, watched.online(f.held).values())) == ["1", "1"], 20, "both run one")
    wait_until(lambda: watched.states(f.held, *calls) == {"STARTED": 2}, 10)
    assert watched.census(f.held).pending == 1
    gate.touch()
    assert [call.get(timeout=20) for call in calls] == [0, 1, 2]
    wait_until(lambda: watched.states(f.held, *calls) == {"SUCCESS": 3}, 20)
    shown = watched.tasks(f.held)[calls[2].object_id]
    assert (shown["result"], shown["worker"].partition("@")[0][:-1]) == ("2", f"{f.held.full_name}-")
    assert shown["args"].startswith("('")
    assert shown["args"].endswith("2)")
    wait_until(lambda: watched.census(f.held).containers == 0, 20)
    wait_until(lambda: not watched.online(f.held), 10, "none is shown that has gone")


def test_one_that_is_killed_is_not_shown_as_online(watched: Watched):
    """It says nothing itself any more, and its last sign of life would count for 20 s."""
    from tests.e2e import flower_functions as f

    pid = f.lasting.remote()
    (name,) = watched.store.client.smembers(watched.store.keys.of("containers", f.lasting.full_name))
    wait_until(lambda: watched.online(f.lasting), 10)
    wait_until(lambda: watched.store.client.exists(watched.store.keys.of("will", name.decode())), 10)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not watched.online(f.lasting), 10)
    wait_until(lambda: watched.census(f.lasting).containers == 0, 10)
    assert not list(watched.store.client.scan_iter(watched.store.keys.of("will", name.decode())))


def test_what_is_cancelled_while_it_runs_is_shown_as_that(watched: Watched, tmp_path: Any):
    from tests.e2e import flower_functions as f

    for function, arguments in ((f.held, (str(tmp_path / "never"), 7)), (f.resists, (60.0,)), (f.several, (60.0,))):
        call = function.spawn(*arguments)
        wait_until(partial(_is, watched, function, call, "STARTED"), 20)
        call.cancel()
        with pytest.raises(InputCancelledError):
            call.get(timeout=20)
        wait_until(partial(_is, watched, function, call, "REVOKED"), 20)
    wait_until(lambda: not any(watched.census(one).running for one in (f.held, f.resists, f.several)), 20)
    assert watched.states(f.resists).keys() == {"REVOKED"}


def _is(watched: Watched, function: Any, call: Any, state: str) -> bool:
    return watched.states(function, call) == {state: 1}


def test_a_function_that_was_prepared_before_another_takes_its_own_inputs(watched: Watched):
    """What goes Celery's way needs its consumer: another function's would put it back for ever."""
    from tests.e2e import flower_functions as f

    for _ in range(2):
        call = f.several.spawn(0.01)
        assert call.get(timeout=20) == 0.01
        wait_until(partial(_is, watched, f.several, call, "SUCCESS"), 10)
        assert watched.tasks(f.several)[call.object_id]["result"] == "0.01"
        wait_until(lambda: watched.census(f.several).containers == 0, 20)  # so that the next one has been a spare


def test_a_map_of_short_inputs_leaves_nothing_that_seems_to_run(watched: Watched):
    from tests.e2e import flower_functions as f

    assert list(f.short.map(range(500))) == list(range(500))  # from here on they are known to be short
    assert list(f.short.map(range(3_000))) == list(range(3_000))

    def ran() -> int:
        tasks = watched.tasks(f.short)
        packs = [int(t["result"].split()[0]) for key, t in tasks.items() if "+" in key and t["result"]]
        return sum(packs) + sum(1 for key, t in tasks.items() if "+" not in key and t["state"] == "SUCCESS")

    wait_until(lambda: ran() == 3_500, 20, "each input is in one task")
    assert watched.states(f.short).keys() == {"SUCCESS"}
    assert any("+" in key for key in watched.tasks(f.short)), "some went in packs"
    census = watched.census(f.short)
    assert (census.finished, census.failed, census.pending, census.running) == (3_500, 0, 0, 0)
