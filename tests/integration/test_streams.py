"""Streams under attack: containers and callers that die, broken connections, forged parts, a consumer that stops."""

from __future__ import annotations

import itertools
import operator
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaleplug.client import RedisCaller
from scaleplug.errors import ContainerCrashError, ExecutionError, InputRefusedError
from scaleplug.streams import WINDOW_BYTES, receive
from tests.helpers import wait_until, write_whole
from tests.integration import jobs
from tests.integration.conftest import Surroundings


def endless(folder: str, size: int = 0, pause: float = 0.0) -> Iterator[Any]:
    """Yield the container's process id, then numbers without end."""
    place = Path(folder)
    try:
        yield os.getpid()
        for x in itertools.count():
            write_whole(place / "made", str(x))
            yield bytes(size) if size else x
            time.sleep(pause)
    finally:
        place.joinpath("closed").touch()


def dies_first(folder: str, n: int) -> Iterator[int]:
    """Die before the first item, once."""
    place = Path(folder, "died")
    if not place.exists():
        place.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield from range(n)


def steady(n: int, pause: float) -> Iterator[int]:
    """Yield numbers, and rest after each."""
    for x in range(n):
        yield x
        time.sleep(pause)


make = jobs.app.function(serialized=True, max_containers=2)
streams = {raw.__name__: make(raw) for raw in (endless, dies_first, steady)}


def left(surroundings: Surroundings, function: Any) -> list[str]:
    """Return the keys that a stream may not leave behind."""
    client, keys = surroundings.store.client, surroundings.store.keys
    kinds = ["credit:*", "granted:*", "claims:*", "transit:*"]
    kinds += [f"{kind}:{function.full_name}" for kind in ("running", "attempts", "verdicts", "crashes")]
    return [key.decode() for kind in kinds for key in client.keys(keys.prefix + kind)]


def test_a_stream_whose_container_is_killed_tells_how_far_it_was(surroundings: Surroundings, tmp_path: Path) -> None:
    items = streams["endless"].remote_gen(str(tmp_path), 0, 0.01)
    pid = next(items)
    assert list(itertools.islice(items, 5)) == list(range(5))
    os.kill(pid, signal.SIGKILL)
    rest = itertools.count(5)
    with pytest.raises(ContainerCrashError, match=r"died \(killed by SIGKILL\) when \d+ items") as caught:
        all(map(operator.eq, items, rest))
    assert f"when {1 + next(rest)} items" in str(caught.value)  # the process id was one too
    wait_until(lambda: not left(surroundings, streams["endless"]), 5, "it leaves nothing behind")


def test_a_stream_that_had_not_begun_runs_again(surroundings: Surroundings, tmp_path: Path) -> None:
    assert list(streams["dies_first"].remote_gen(str(tmp_path), 3_000)) == list(range(3_000))
    wait_until(lambda: not left(surroundings, streams["dies_first"]), 5, "it leaves nothing behind")


def test_a_broken_connection_neither_loses_nor_repeats_an_item(surroundings: Surroundings) -> None:
    client, seen = surroundings.store.client, []
    for item in streams["steady"].remote_gen(1_500, 0.001):
        seen.append(item)
        if item % 300 == 0:
            names = set(surroundings.containers(streams["steady"]))
            for connection in client.client_list():
                if connection["name"] in names:
                    client.client_kill_filter(_id=int(connection["id"]))
    assert seen == list(range(1_500))
    wait_until(lambda: not left(surroundings, streams["steady"]), 5, "it leaves nothing behind")


FORGERIES: dict[str, Callable[[dict[bytes, bytes]], dict[bytes, bytes]]] = {
    "rubbish": lambda entry: {**entry, b"n": b"2", b"p": b"rubbish"},
    "another part's number": lambda entry: {**entry, b"n": b"2"},
    "an end": lambda entry: {k: v for k, v in entry.items() if k not in (b"n", b"a")},
    "a reason": lambda entry: {b"c": entry[b"c"], b"i": entry[b"i"], b"e": b"refused: by me"},
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_part_is_refused(surroundings: Surroundings, tmp_path: Path, forge: Any) -> None:
    client = surroundings.store.client
    inbox = surroundings.store.keys.of("inbox", surroundings.caller.inbox.name)
    items = streams["endless"].remote_gen(str(tmp_path), 0, 1.0)
    next(items)
    assert next(items) == 0  # the next one is long in coming
    client.xadd(inbox, forge(client.xrevrange(inbox, count=1)[0][1]))
    with pytest.raises((ExecutionError, InputRefusedError)):
        list(items)
    wait_until((tmp_path / "closed").exists, 5, "the generator is closed")


def test_a_stopped_consumer_keeps_little_in_redis(surroundings: Surroundings, tmp_path: Path) -> None:
    client = surroundings.store.client
    before = client.info("memory")["used_memory"]
    items = streams["endless"].remote_gen(str(tmp_path), 20_000)
    next(items)
    wait_until((tmp_path / "made").exists, 5, "it makes more")
    deadline, made = time.monotonic() + 15, ""
    while made != (made := (tmp_path / "made").read_text()) or not made:
        assert time.monotonic() < deadline
        time.sleep(0.3)  # what stands still can only be seen by looking twice
    assert int(made) < 2 * WINDOW_BYTES / 20_000
    assert client.info("memory")["used_memory"] - before < 3 * WINDOW_BYTES
    assert sum(map(len, itertools.islice(items, 2_000))) == 40_000_000  # and it goes on
    assert client.info("memory")["used_memory"] - before < 3 * WINDOW_BYTES
    items.close()
    wait_until((tmp_path / "closed").exists, 5, "the generator is closed")
    wait_until(lambda: not left(surroundings, streams["endless"]), 5, "it leaves nothing behind")


def test_a_container_is_free_again_soon_after_its_caller_is_gone(
    start_run: Callable[..., Surroundings], tmp_path: Path
) -> None:
    surroundings = start_run(caller_ttl=5)
    function = streams["endless"]
    caller = RedisCaller(surroundings.caller.config)  # one of its own, which ends without a word
    items = receive(function, lambda: caller, (str(tmp_path),), {})
    next(items)
    caller.inbox.closed = True
    wait_until((tmp_path / "closed").exists, 5 + 5, "the generator is closed")
    wait_until(lambda: not surroundings.store.client.zcard(surroundings.key("running", function)), 5, "it is free")
