"""Containers with many inputs under attack, slots that change, real clients, green threads, figures."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaleplug import concurrent, current_input_id
from scaleplug.errors import ContainerCrashError, ContainerStartError, FunctionTimeoutError, InputCancelledError
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

PSS_LIMIT = 100.0


def touch(folder: str, name: object) -> None:
    Path(folder, str(name)).touch()


def has(folder: str, name: str) -> bool:
    return Path(folder, name).exists()


def block(folder: str, x: int) -> tuple[int, int]:
    touch(folder, f"{os.getpid()}-{x}")
    while not has(folder, "go"):
        time.sleep(0.01)
    return x, os.getpid()


async def wait(folder: str, x: int) -> tuple[int, int]:
    touch(folder, f"{os.getpid()}-{x}")
    while not has(folder, "go"):  # noqa: ASYNC110  # it is another process that says so
        await asyncio.sleep(0.05)
    return x, os.getpid()


def resist(folder: str, x: int) -> int:
    touch(folder, f"{os.getpid()}-{x}")
    time.sleep(30 if x == 0 else 0.9)
    return x


def poison(folder: str, x: int) -> int:
    touch(folder, f"{os.getpid()}-{x}")
    if x == 0:
        while len(begun(Path(folder))) <= 2 and begun(Path(folder))[os.getpid()] < 5:
            time.sleep(0.01)
        os._exit(3)
    time.sleep(1.0)
    return x


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def same(x: Any) -> Any:
    return x


async def same_async(x: Any) -> Any:
    return x


def begun(folder: Path) -> dict[int, int]:
    """Return how many inputs have begun in each process."""
    found: dict[int, int] = {}
    for path in folder.glob("*-*"):
        pid = int(path.name.split("-")[0])
        found[pid] = found.get(pid, 0) + 1
    return found


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


async def stall(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # the mistake


async def sleep(seconds: float) -> str | None:
    await asyncio.sleep(seconds)
    return current_input_id()


async def fetch(url: str) -> str:
    import httpx

    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        return (await client.get(url)).text


async def count(url: str, key: str) -> int:
    import redis.asyncio

    async with redis.asyncio.from_url(url) as client:
        return await client.incr(key)


def fetch_sync(url: str) -> tuple[str, int]:
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode(), os.getpid()


def make(raw: Any, inputs: int = 100, pool: str | None = None, target: int | None = None, **settings: Any) -> Any:
    settings = {"max_containers": 1, **settings}
    marked = concurrent(max_inputs=inputs, target_inputs=target, pool=pool)(raw)
    return jobs.app.function(serialized=True, **settings)(marked)


blocks, waits = make(block), make(wait)
resists, poisons = make(resist, 10, timeout=1), make(poison, 10)
naps = make(nap, 10, max_containers=2, min_containers=2)
stalls, sleeps = make(stall, 10), make(sleep, 1_000)
fetches, counts = make(fetch, 50), make(count, 50)
bursts = make(block, 6, target=2, max_containers=3, name="bursts")
at_most = make(block, 4, target=2, name="at_most")
green = make(fetch_sync, 50, "eventlet", name="green")
green_blocks = make(block, 20, "eventlet", name="green_blocks")
green_naps = make(nap, 20, "eventlet", name="green_naps", timeout=1)
alone = jobs.app.function(serialized=True, max_containers=1, name="alone")(same)
sames, async_sames = make(same, 5, name="sames"), make(same_async, 5)
green_sames = make(same, 5, "eventlet", name="green_sames")
every_pool = pytest.mark.parametrize(
    "function", [alone, sames, async_sames, green_sames], ids=["solo", "threads", "loop", "green"]
)


def only(folder: Path, inputs: int) -> int:
    """Wait until one container runs so many inputs; return its process."""
    wait_until(lambda: inputs in begun(folder).values(), 20, f"{inputs} inputs run in one container")
    return next(pid for pid, n in begun(folder).items() if n == inputs)


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [blocks, waits], ids=["threads", "loop"])
def test_a_killed_container_gives_back_a_hundred_inputs(
    surroundings: Surroundings, tmp_path: Path, function: Any
) -> None:
    calls = [function.spawn(str(tmp_path), x) for x in range(100)]
    pid = only(tmp_path, 100)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: begun(tmp_path).get(pid) == 100 and len(begun(tmp_path)) == 2, 20, "another container")
    touch(str(tmp_path), "go")
    results = [call.get(timeout=20) for call in calls]
    assert [x for x, _ in results] == list(range(100))
    assert pid not in {where for _, where in results}


def test_an_input_that_resists_its_timeout_is_replaced_and_its_neighbours_run_again(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    guilty = resists.spawn(str(tmp_path), 0)
    pid = only(tmp_path, 1)
    time.sleep(0.9)  # so that the others are younger: they are in the middle when it goes
    others = [resists.spawn(str(tmp_path), x) for x in range(1, 6)]
    assert [call.get(timeout=20) for call in others] == [1, 2, 3, 4, 5]
    with pytest.raises(FunctionTimeoutError):
        guilty.get(timeout=5)
    assert begun(tmp_path)[pid] == 6
    assert sum(begun(tmp_path).values()) == 11, "the others ran twice, the guilty one once"


def test_an_input_that_takes_its_container_down_fails_alone(surroundings: Surroundings, tmp_path: Path) -> None:
    results = list(poisons.starmap([(str(tmp_path), x) for x in range(6)], return_exceptions=True))
    assert isinstance(results.pop(0), ContainerCrashError)
    assert results == [1, 2, 3, 4, 5]


@every_pool
def test_arguments_that_take_containers_down_fail_alone(surroundings: Surroundings, function: Any) -> None:
    others = [function.spawn(x) for x in range(3)]
    with pytest.raises(ContainerCrashError, match="down 3 times"):
        function.spawn(Deadly()).get(timeout=20)
    assert [call.get(timeout=20) for call in others] == [0, 1, 2]


@every_pool
def test_those_of_celerys_own_calls_do_too(surroundings: Surroundings, function: Any) -> None:
    with pytest.raises(ContainerCrashError, match="down 3 times"):
        function.delay(Deadly()).get(timeout=20)
    assert function.delay(1).get(timeout=20) == 1


@pytest.mark.parametrize("function", [blocks, waits, green_blocks], ids=["threads", "loop", "green"])
def test_a_container_that_must_leave_finishes_what_it_runs(
    surroundings: Surroundings, tmp_path: Path, function: Any
) -> None:
    calls = [function.spawn(str(tmp_path), x) for x in range(20)]
    pid = only(tmp_path, 20)
    os.kill(pid, signal.SIGTERM)
    late = function.spawn(str(tmp_path), 20)
    touch(str(tmp_path), "go")
    assert {call.get(timeout=20)[1] for call in calls} == {pid}
    assert late.get(timeout=20)[0] == 20


@pytest.mark.parametrize("function", [blocks, waits, green_blocks], ids=["threads", "loop", "green"])
def test_lost_connections_lose_nothing(surroundings: Surroundings, tmp_path: Path, function: Any) -> None:
    client = surroundings.store.client
    calls = [function.spawn(str(tmp_path), x) for x in range(20)]
    only(tmp_path, 20)
    touch(str(tmp_path), "go")
    for _ in range(20):
        names = set(surroundings.containers(function))
        for connection in client.client_list():
            if connection["name"] in names:
                client.client_kill_filter(_id=int(connection["id"]))
    assert sorted(call.get(timeout=20)[0] for call in calls) == list(range(20))
    keys = surroundings.store.keys
    wait_until(lambda: not client.keys(keys.prefix + "claims:*"), 10, "no claim is left behind")
    assert not client.zcard(surroundings.key("running", function))


def test_a_map_that_is_left_cancels_everything_at_once(surroundings: Surroundings) -> None:
    began = time.monotonic()
    for _ in sleeps.map([0.0] + [60.0] * 200, order_outputs=False):
        wait_until(lambda: surroundings.store.census([sleeps.full_name])[sleeps.full_name].running == 200, 10)
        break
    wait_until(lambda: not surroundings.store.client.zcard(surroundings.key("running", sleeps)), 4, "all have ended")
    assert time.monotonic() - began < 20


# -- slots ---------------------------------------------------------------------------------------------------------


def slots(surroundings: Surroundings, function: Any) -> set[str]:
    return {record.get("slots", "") for record in surroundings.containers(function).values()}


def test_at_most_containers_burst_and_then_fall_back(surroundings: Surroundings, tmp_path: Path) -> None:
    calls = [at_most.spawn(str(tmp_path), x) for x in range(10)]
    only(tmp_path, 4)  # its max_inputs: there can be no other container
    assert slots(surroundings, at_most) == {"4"}
    touch(str(tmp_path), "go")
    assert [call.get(timeout=20)[0] for call in calls] == list(range(10))
    wait_until(lambda: slots(surroundings, at_most) == {"2"}, 5, "it falls back to its target")


def test_a_container_bursts_only_until_the_new_ones_are_ready(surroundings: Surroundings, tmp_path: Path) -> None:
    at_once = str(tmp_path)
    calls = [bursts.spawn(at_once, x) for x in range(6)]
    wait_until(lambda: sum(begun(tmp_path).values()) == 6, 20, "all run")
    wait_until(lambda: len(surroundings.containers(bursts)) == 3, 10, "three containers of two")
    wait_until(lambda: slots(surroundings, bursts) <= {"2", ""}, 5, "they are back at their target")
    touch(at_once, "go")
    assert [call.get(timeout=20)[0] for call in calls] == list(range(6))


def test_short_inputs_don_t_wait_in_a_full_container(surroundings: Surroundings) -> None:
    wait_until(lambda: len(surroundings.containers(naps)) == 2, 20)
    long = [naps.spawn(6.0) for _ in range(10)]
    wait_until(lambda: surroundings.store.census([naps.full_name])[naps.full_name].running == 10, 10)
    began = time.monotonic()
    list(naps.map([0.05] * 100))
    assert time.monotonic() - began < 3.0
    for call in long:
        call.get(timeout=20)


# -- the loop ------------------------------------------------------------------------------------------------------


def test_a_blocking_call_in_an_async_function_is_told_once(surroundings: Surroundings) -> None:
    for _ in range(2):
        stalls.remote(1.8)
    lines = wait_until(lambda: _lines(surroundings, stalls), 5, "a line about it")
    assert sum("has blocked its event loop" in line for line in lines) == 1
    wait_until(lambda: any("time.sleep(seconds)" in line for line in _lines(surroundings, stalls)), 5, "the stack")


def _lines(surroundings: Surroundings, function: Any) -> list[str]:
    return [v["l"] for _, v in surroundings.store.read_logs(count=10_000) if v["f"] == function.full_name]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
def test_a_thousand_async_inputs_take_little_more_than_one_and_no_threads(surroundings: Surroundings) -> None:
    sleeps.remote(0.0)
    (record,) = surroundings.containers(sleeps).values()
    process = psutil.Process(int(record["pid"]))
    calls = sleeps.map([3.0] * 1_000)
    results: list[Any] = []
    reader = threading.Thread(target=lambda: results.extend(calls))
    reader.start()
    wait_until(lambda: surroundings.store.census([sleeps.full_name])[sleeps.full_name].running == 1_000, 20)
    assert process.num_threads() < 20
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    assert pss / 1024 < PSS_LIMIT
    reader.join(30)
    assert len(set(results)) == 1_000  # each has seen its own id


# -- real clients --------------------------------------------------------------------------------------------------


class _Slow(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(1.0)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 200
    daemon_threads = True


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Give the address of a server that answers after a second."""
    with _Server(("127.0.0.1", 0), _Slow) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def test_real_clients_work_in_async_functions(surroundings: Surroundings, server: str) -> None:
    pytest.importorskip("httpx")
    fetches.remote(f"{server}/warm")
    began = time.monotonic()
    assert list(fetches.map([f"{server}/{x}" for x in range(50)])) == [f"/{x}" for x in range(50)]
    assert time.monotonic() - began < 3.0
    url = surroundings.run.config.redis_url
    assert sorted(counts.map([url] * 50, itertools.repeat("counted"))) == list(range(1, 51))


# -- green threads -------------------------------------------------------------------------------------------------


def test_green_threads_wait_on_sockets_together(surroundings: Surroundings, server: str) -> None:
    green.remote(f"{server}/warm")
    began = time.monotonic()
    results = list(green.map([f"{server}/{x}" for x in range(50)]))
    assert time.monotonic() - began < 2.5
    assert [text for text, _ in results] == [f"/{x}" for x in range(50)]
    assert len({pid for _, pid in results}) == 1
    assert psutil.Process(results[0][1]).num_threads() < 5


def test_a_green_input_is_cancelled_and_times_out_alone(surroundings: Surroundings) -> None:
    results = list(green_naps.map([0.2, 30.0, 0.2], return_exceptions=True))
    assert isinstance(results[1], FunctionTimeoutError)
    assert results[0] == results[2]
    call = green_naps.spawn(30.0)
    wait_until(lambda: surroundings.store.census([green_naps.full_name])[green_naps.full_name].running, 10)
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=5)
    assert green_naps.remote(0.1) == results[0]  # the same container


def test_without_eventlet_the_error_tells_the_way_out(
    start_run: Callable[..., Surroundings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.joinpath("eventlet.py").write_text("raise ImportError('No module named eventlet')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    start_run()
    with pytest.raises(ContainerStartError, match=r"(?s)could not be imported.*pip install 'scaleplug\[eventlet\]'"):
        green_naps.remote(0.1)


# -- surroundings of their own: last, since later calls go there -------------------------------------------------------


def test_the_next_controller_puts_the_slots_right(start_run: Callable[..., Surroundings], tmp_path: Path) -> None:
    surroundings = start_run()
    calls = [at_most.spawn(str(tmp_path), x) for x in range(8)]
    only(tmp_path, 4)
    controller = surroundings.run._controller
    assert controller is not None
    controller.kill()
    touch(str(tmp_path), "go")
    assert [call.get(timeout=20)[0] for call in calls] == list(range(8))
    wait_until(lambda: slots(surroundings, at_most) == {"2"}, 10, "the new controller has told it")
