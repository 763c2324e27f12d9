"""Threads that wait in ``remote()`` and read the inbox themselves, while others wait too and things go wrong."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.chaos import functions, redis_faults
from tests.commands import environment, python, told
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import SOURCE, Surroundings

CALLER = """
import sys
from scaleplug.registry import Source
from tests.integration import jobs
jobs.app.set_source(Source(*sys.argv[1:4]))
jobs.square.remote(1)
print(flush=True)
jobs.pid_after.remote(3.0)
print(jobs.square.remote(5), flush=True)
"""

GREEN = """
import eventlet
eventlet.monkey_patch()
import sys
from scaleplug.registry import Source
from tests.integration import jobs
jobs.app.set_source(Source(*sys.argv[1:4]))
calls = [eventlet.spawn(lambda: [jobs.square.remote(x) for x in range(20)]) for _ in range(4)]
assert [call.wait() for call in calls] == [[x * x for x in range(20)]] * 4
print(sum(jobs.square.map(range(4))), flush=True)
"""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def leader(caller: Any) -> int | None:
    """Return the thread that reads now."""
    turn = caller.inbox._turn
    return None if turn is None else turn.thread


def leads(caller: Any, thread: int) -> Callable[[], bool]:
    return lambda: leader(caller) == thread


def rest(caller: Any) -> None:
    """Let the thread in the background rest, so that the next one reads for itself."""
    jobs.square.remote(1)
    wait_until(lambda: leader(caller) is None, 20, "nobody reads")


def test_threads_a_map_and_an_event_loop_at_once(surroundings: Surroundings, pool: ThreadPoolExecutor) -> None:
    del surroundings

    async def many() -> list[int]:
        return list(await asyncio.gather(*(jobs.square.remote.aio(x) for x in range(100))))

    def one_by_one() -> list[int]:
        return [jobs.square.remote(x) for x in range(100)]

    def mapped() -> list[int]:
        return [x for _ in range(5) for x in jobs.square.map(range(20))]

    loops = [pool.submit(asyncio.run, many()) for _ in range(2)]
    threads = [pool.submit(one_by_one) for _ in range(4)]
    maps = [pool.submit(mapped) for _ in range(2)]
    squares = [x * x for x in range(100)]
    assert one_by_one() == squares
    assert [each.result(60) for each in (*loops, *threads)] == [squares] * 6
    assert [each.result(60) for each in maps] == [squares[:20] * 5] * 2


class OwnError(Exception):
    pass


@pytest.fixture
def interrupting(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """Give what SIGUSR2 raises in the main thread."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise request.param("interrupted")

    before = signal.signal(signal.SIGUSR2, interrupt)
    yield request.param
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize("interrupting", [KeyboardInterrupt, TimeoutError, ConnectionError, OwnError], indirect=True)
def test_an_interrupted_call_is_cancelled_and_others_get_theirs(
    surroundings: Surroundings, pool: ThreadPoolExecutor, interrupting: type[BaseException], tmp_path: Path
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    caller, others = surroundings.caller, list[Any]()
    rest(caller)

    def interrupt() -> None:
        wait_until(leads(caller, main), 20, "the main thread reads")
        others.append(pool.submit(jobs.pid_after.remote, 1.0))
        wait_until(lambda: caller.inbox._unled, 20, "another one leaves it to that")
        wait_until((tmp_path / "interrupted").exists, 20, "its input runs")
        signal.pthread_kill(main, signal.SIGUSR2)

    interrupted = pool.submit(interrupt)
    with pytest.raises(interrupting, match="interrupted"):
        jobs.note.remote(str(tmp_path), "interrupted", 60.0)
    interrupted.result(20)
    assert isinstance(others[0].result(20), int)
    assert jobs.square.remote(3) == 9
    store = surroundings.store
    wait_until(lambda: not store.client.zcard(surroundings.key("running", jobs.note)), 20, "it is cancelled")


def test_a_call_in_a_signal_s_handler(surroundings: Surroundings) -> None:
    main = threading.main_thread().ident
    assert main is not None
    found: list[int] = []
    rest(surroundings.caller)
    before = signal.signal(signal.SIGUSR2, lambda *_: found.append(jobs.square.remote(7)))

    def interrupt() -> None:
        wait_until(leads(surroundings.caller, main), 20, "the main thread reads")
        signal.pthread_kill(main, signal.SIGUSR2)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert isinstance(jobs.pid_after.remote(1.0), int)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    assert found == [49]


def test_a_connection_that_is_killed_while_a_thread_reads(
    surroundings: Surroundings, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caller, client = surroundings.caller, surroundings.store.client
    rest(caller)
    waiting = pool.submit(jobs.pid_after.remote, 1.0)
    turn = wait_until(lambda: caller.inbox._turn, 20, "a thread reads")
    assert turn.thread != caller.inbox._reader.ident
    name = client.client_getname()
    reads = [each for each in client.client_list() if each["name"] == name and each["cmd"].startswith("xread")]
    client.client_kill_filter(_id=reads[0]["id"])
    wait_until(lambda: leader(caller) == caller.inbox._reader.ident, 20, "the thread in the background takes over")
    assert isinstance(waiting.result(20), int)
    assert caplog.text.count("results can't be read from Redis") == 1
    rest(caller)
    assert jobs.square.remote(2) == 4


@pytest.mark.skipif(find_spec("eventlet") is None, reason="eventlet is not installed")
def test_green_threads_take_turns(surroundings: Surroundings, tmp_path: Path) -> None:
    where = (SOURCE.kind, SOURCE.where, SOURCE.folder)
    done = python("-W", "ignore", "-c", GREEN, *where, cwd=tmp_path, **surroundings.run.config.to_environ())
    assert done.stdout == "14\n", told(done)


def test_a_caller_that_was_stopped_and_one_whose_only_call_takes_long(
    start_run: Callable[..., Surroundings], pool: ThreadPoolExecutor
) -> None:
    surroundings = start_run(caller_ttl=5.0)
    inbox, client = surroundings.caller.inbox, surroundings.store.client
    where = (SOURCE.kind, SOURCE.where, SOURCE.folder)
    stopped = subprocess.Popen(
        [sys.executable, "-c", CALLER, *where], env=environment(**surroundings.run.config.to_environ()),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert stopped.stdout is not None
        stopped.stdout.readline()
        long = pool.submit(jobs.pid_after.remote, 7.0)
        stopped.send_signal(signal.SIGSTOP)
        began, key = time.monotonic(), surroundings.store.keys.of("caller", inbox.name)
        wait_until(lambda: client.exists(key), 5, "the caller has said that it lives")
        while time.monotonic() < began + 6.0:
            assert client.exists(key), "the one that waits says that it lives"
            time.sleep(0.1)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.communicate(timeout=30)[0] == "25\n"
        assert isinstance(long.result(30), int)
    finally:
        stopped.kill()
        stopped.wait()


def test_a_redis_that_is_restarted_while_a_thread_reads_and_while_none_does(pool: ThreadPoolExecutor) -> None:
    with redis_faults.surroundings() as (server, site, folder, _):
        caller: Any = functions.app.caller()
        waiting = pool.submit(functions.solo.remote, str(folder), 1, 1.0)
        wait_until((folder / "notes").exists, 20, "its input runs")
        wait_until(lambda: leader(caller) not in (None, caller.inbox._reader.ident), 20, "its thread reads")
        server.kill()
        server.start()
        assert waiting.result(30) == 1
        functions.solo.remote(str(folder), 2, 0.0)
        wait_until(lambda: leader(caller) is None, 20, "nobody reads")
        server.kill()
        server.wipe()
        server.start()
        assert functions.solo.remote(str(folder), 3, 0.0) == 3, "it was called of the Redis that is there now"
        assert caller.inbox._suspects is None
        site.lead()
