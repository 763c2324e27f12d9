"""Nothing is lost: containers that die, freeze or hang, connections that break, messages that lie."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from scaleplug.errors import ContainerCrashError, FunctionTimeoutError, InputRefusedError
from scaleplug.serializer import INPUT, Keyring, input_context
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings


def starts(folder: Path, name: str) -> list[tuple[int, float]]:
    """Return (pid, time) of every start that an input has written down."""
    path = folder / name
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    written = [line.split() for line in lines if line.endswith("\n")]
    return [(int(pid), float(at)) for what, pid, at in written if what == "start"]


def settled(surroundings: Surroundings, function: Any) -> bool:
    """Whether nothing of a function is pending, claimed or counted."""
    client, keys = surroundings.store.client, surroundings.store.keys
    left = [client.llen(keys.queue(function.full_name))]
    left += [client.zcard(surroundings.key("running", function)), client.hlen(surroundings.key("attempts", function))]
    left += [client.hlen(surroundings.key("verdicts", function)), client.hlen(surroundings.key("crashes", function))]
    return not any(left) and not client.keys(keys.prefix + "transit:*") and not client.keys(keys.prefix + "claims:*")


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
def test_an_input_that_takes_its_containers_down_fails_after_the_third(surroundings: Surroundings, how: str) -> None:
    with pytest.raises(ContainerCrashError, match=r"jobs\.crash down 3 times"):
        jobs.crash.remote(how)
    assert jobs.crash.remote("fine") == "fine"
    wait_until(lambda: settled(surroundings, jobs.crash), 5, "the crashed input leaves nothing behind")


@pytest.mark.parametrize(
    ("how", "kind"), [("sys.exit", SystemExit), ("KeyboardInterrupt", KeyboardInterrupt), ("MemoryError", MemoryError)]
)
def test_what_would_end_a_worker_reaches_the_caller_and_the_container_lives(
    surroundings: Surroundings, how: str, kind: type[BaseException]
) -> None:
    before = jobs.leave.remote("before").split()[1]
    with pytest.raises(kind):
        jobs.leave.remote(how)
    assert jobs.leave.remote("after").split()[1] == before


@pytest.mark.parametrize("how", ["sleep", "in C"])
def test_a_timeout_is_enforced_from_outside(surroundings: Surroundings, how: str) -> None:
    started = time.monotonic()
    results = list(jobs.stuck.map([how, "next", "last"], return_exceptions=True))
    assert isinstance(results[0], FunctionTimeoutError)
    assert "timeout of 1 s" in str(results[0])
    assert results[1:] == ["next", "last"]
    assert time.monotonic() - started < 5
    wait_until(lambda: settled(surroundings, jobs.stuck), 5, "the timed-out input leaves nothing behind")


def test_an_input_of_a_killed_container_runs_elsewhere_at_once(surroundings: Surroundings, tmp_path: Path) -> None:
    call = jobs.note.spawn(str(tmp_path), "held", 1.0)
    wait_until(lambda: len(starts(tmp_path, "held")) == 1, 5, "the input starts")
    os.kill(starts(tmp_path, "held")[0][0], signal.SIGKILL)
    killed = time.time()
    assert call.get(timeout=10) == "held"
    again = starts(tmp_path, "held")
    assert len(again) == 2
    assert again[1][1] - killed < 1.0


def test_nothing_is_lost_while_containers_are_killed_at_random(surroundings: Surroundings) -> None:
    stop, chance, kills = threading.Event(), random.Random(7), []

    def kill() -> None:
        while len(kills) < 10 and not stop.wait(0.1):
            pids = [int(r["pid"]) for r in surroundings.containers(jobs.square).values() if r.get("pid")]
            if pids:
                kills.append(chance.choice(pids))
                try:
                    os.kill(kills[-1], signal.SIGKILL)
                except ProcessLookupError:
                    kills.pop()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(100):  # one map may be done before the first kill
            assert list(jobs.square.map(range(3_000))) == [x * x for x in range(3_000)]
            if len(kills) >= 5:
                break
    finally:
        stop.set()
        killer.join()
    assert len(kills) >= 5
    wait_until(lambda: settled(surroundings, jobs.square), 5, "nothing is left behind")


def test_what_a_frozen_container_takes_comes_back_when_it_is_gone(surroundings: Surroundings) -> None:
    client, transits = surroundings.store.client, surroundings.store.keys.prefix + "transit:*"
    pid = jobs.single_pid.remote()
    name = next(n for n, r in surroundings.containers(jobs.single_pid).items() if r.get("pid") == str(pid))
    wait_until(
        lambda: any(c["name"] == name and c["cmd"] == "blmove" and "b" in c["flags"] for c in client.client_list()),
        5,
        "it waits",
    )
    os.kill(pid, signal.SIGSTOP)
    call = jobs.single_pid.spawn()
    wait_until(lambda: client.keys(transits), 5, "it was taken")
    os.kill(pid, signal.SIGKILL)
    assert call.get(timeout=10) != pid


def test_a_frozen_idle_container_is_replaced(surroundings: Surroundings) -> None:
    pids = set(jobs.pid_after.map([0.0] * 4))
    for pid in pids | {int(r["pid"]) for r in surroundings.containers(jobs.pid_after).values() if r.get("pid")}:
        os.kill(pid, signal.SIGSTOP)
    assert jobs.pid_after.spawn(0).get(timeout=15) not in pids


def test_a_broken_connection_loses_nothing_and_is_made_again(surroundings: Surroundings, tmp_path: Path) -> None:
    client = surroundings.store.client
    call = jobs.note.spawn(str(tmp_path), "cut", 1.0)
    wait_until(lambda: len(starts(tmp_path, "cut")) == 1, 5, "the input starts")
    names = set(surroundings.containers(jobs.note))
    for connection in client.client_list():
        if connection["name"] in names:
            client.client_kill_filter(_id=int(connection["id"]))
    assert call.get(timeout=10) == "cut"
    assert len(starts(tmp_path, "cut")) == 1  # it went on, and its end counted
    assert jobs.note.remote(str(tmp_path), "after", 0.0) == "after"


def test_a_zombies_result_is_dropped(surroundings: Surroundings, tmp_path: Path) -> None:
    """A container that is given up while it runs an input can neither finish it nor take another."""
    call = jobs.note.spawn(str(tmp_path), "zombie", 1.5)
    wait_until(lambda: len(starts(tmp_path, "zombie")) == 1, 5, "the input starts")
    pid = starts(tmp_path, "zombie")[0][0]
    name = next(n for n, r in surroundings.containers(jobs.note).items() if r.get("pid") == str(pid))
    os.kill(pid, signal.SIGSTOP)
    assert surroundings.store.gone(lease(surroundings), name, jobs.note.full_name, "given up by a test") == 1
    os.kill(pid, signal.SIGCONT)
    assert call.get(timeout=10) == "zombie"
    assert len(starts(tmp_path, "zombie")) == 2
    wait_until(lambda: not psutil.pid_exists(pid), 5, "the zombie leaves when it finds out")
    wait_until(lambda: settled(surroundings, jobs.note), 5, "nothing is left behind")


def lease(surroundings: Surroundings) -> str:
    """Return the acting controller's token."""
    return str(surroundings.store.client.get(surroundings.store.keys.lease).decode())


# -- messages that lie ---------------------------------------------------------------------------------------------


def forged(surroundings: Surroundings, body: bytes, **headers: Any) -> str:
    """Return a message like a real one, with a body and headers of somebody else's choice."""
    name = jobs.square.full_name
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary",
        "content-type": "application/x-scaleplug",
        "headers": {"lang": "py", "task": name, "id": "forged", "argsrepr": "", "kwargsrepr": "", **headers},
        "properties": {"correlation_id": "forged", "delivery_mode": 2, "delivery_info": {}, "body_encoding": "base64"},
    }
    return json.dumps(message)


class Bomb:
    """Does harm when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_nothing_unverified_is_unpickled_looped_or_lost(surroundings: Surroundings, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    pickled = cloudpickle.dumps(((Bomb(trap),), {}, {}))
    own, other = surroundings.caller.keyring, Keyring("another-secret-that-is-long-enough-to-be-one")
    right, wrong = (input_context("jobs.square", what, "jobs.square") for what in ("forged", "another input"))
    bad = [
        "not json",
        "[1, 2]",
        json.dumps({"body": "x"}),
        forged(surroundings, pickled),
        forged(surroundings, other.seal(INPUT, right, pickled)),
        forged(surroundings, own.seal(INPUT, wrong, pickled)),
        forged(surroundings, own.seal(INPUT, right, pickled)[:-1] + b"x"),
        forged(surroundings, own.seal(INPUT, right, pickled), task="jobs.add"),
        forged(surroundings, pickled).replace("application/x-scaleplug", "application/x-python-serialize"),
        forged(surroundings, own.seal(INPUT, right, pickled)).replace(
            '"body_encoding": "base64"', '"body_encoding": 5'
        ),
    ]
    before = surroundings.store.counters(jobs.square.full_name).get("refused", 0)
    pid = {r.get("pid") for r in surroundings.containers(jobs.square).values()}
    surroundings.store.submit(jobs.square.full_name, bad, most_pending=1_000)
    wait_until(
        lambda: surroundings.store.counters(jobs.square.full_name).get("refused", 0) == before + len(bad),
        10,
        "all set aside",
    )
    assert jobs.square.remote(3) == 9
    assert not trap.exists()
    reasons = [q["reason"] for q in surroundings.store.quarantined(jobs.square.full_name)]
    assert any("signature does not verify" in r for r in reasons)
    assert any("signed for" in r for r in reasons)
    assert any("not a Celery message" in r for r in reasons)
    assert pid <= {r.get("pid") for r in surroundings.containers(jobs.square).values()}, "the container lives"
    wait_until(lambda: settled(surroundings, jobs.square), 5, "nothing is left behind")


def test_a_caller_with_another_secret_is_told(surroundings: Surroundings) -> None:
    caller = surroundings.caller
    assert jobs.add.remote(1, 2) == 3
    factory = caller._factories[jobs.add.full_name, jobs.add.task.name]
    keyring, factory.keyring = factory.keyring, Keyring("another-secret-that-is-long-enough-to-be-one")
    try:
        with pytest.raises(InputRefusedError, match="SCALEPLUG_SECRET"):
            jobs.add.remote(1, 2)
    finally:
        factory.keyring = keyring


def test_plain_json_from_a_foreign_producer_runs(surroundings: Surroundings) -> None:
    message = json.loads(forged(surroundings, b""))
    message["headers"].update(task="jobs.add", id="foreign", ignore_result=False)
    message["body"] = base64.b64encode(json.dumps([[20, 3], {}, {}]).encode()).decode()
    message.update({"content-type": "application/json", "content-encoding": "utf-8"})
    finished = surroundings.store.counters(jobs.add.full_name).get("finished", 0)
    surroundings.store.client.lpush(jobs.add.queue, json.dumps(message))  # no doorbell: the tick finds it
    wait_until(
        lambda: surroundings.store.counters(jobs.add.full_name).get("finished", 0) == finished + 1, 10, "it runs"
    )
