"""Connections at hand, and looking for their answers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.connection import PythonRespSerializer
from redis.exceptions import MaxConnectionsError

from scaleplug import links as module
from scaleplug.links import Door, Glance, Links, Packer


class Link:
    """A connection as far as the pool looks at it."""

    def __init__(self, **_: Any) -> None:
        self.pid = 0
        self.connected = False

    def connect(self) -> None:
        self.connected = True

    def disconnect(self) -> None:
        self.connected = False

    def can_read(self) -> bool:
        return False

    def should_reconnect(self) -> bool:
        return False

    def re_auth(self) -> None:
        pass


@pytest.fixture
def pool() -> Links:
    made = Links(connection_class=Link)  # type: ignore[type-var]  # nothing is sent
    real = made.make_connection

    def make() -> Any:
        link = real()
        link.pid = made.pid
        return link

    made.make_connection = make  # type: ignore[method-assign]
    return made


def test_what_was_used_last_is_taken_next(pool: Links) -> None:
    first, second = pool.take(), pool.take()
    assert first is not second
    pool.keep(first)
    pool.keep(second)
    assert [pool.take(), pool.take()] == [second, first]


def test_where_there_may_be_no_more_those_at_hand_are_there_for_every_command(pool: Links) -> None:
    pool.max_connections = 2
    first, second = pool.take(), pool.take()
    pool.keep(first)
    assert pool.get_connection() is first
    with pytest.raises(MaxConnectionsError):
        pool.get_connection()
    pool.keep(second)
    assert pool.get_connection() is second


def test_what_is_in_use_is_left_alone_when_those_that_idle_are_closed(pool: Links) -> None:
    used, idle = pool.take(), pool.take()
    pool.keep(idle)
    pool.disconnect(inuse_connections=False)
    assert (used.connected, idle.connected) == (True, False)
    assert pool.take() is idle
    assert idle.connected


def test_a_dropped_one_is_closed_and_can_be_had_again(pool: Links) -> None:
    link = pool.take()
    pool.drop(link)
    assert not link.connected
    assert pool.take() is link
    assert link.connected


def test_a_forked_process_gets_others(pool: Links) -> None:
    inherited = pool.take()
    pool.keep(inherited)
    pool.pid = -1  # as it is for a child
    assert pool.take() is not inherited


class Wire:
    def __init__(self) -> None:
        self._sock, self.far = socket.socketpair()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    with made._sock, made.far:
        yield made


@pytest.fixture
def glance(monkeypatch: pytest.MonkeyPatch) -> Glance:
    monkeypatch.setattr(module, "_cores", lambda: 2)
    monkeypatch.setattr(module, "GLANCE", 0.0)
    return Glance()


def test_an_answer_that_never_comes_in_time_is_looked_for_less_and_less(
    glance: Glance, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    class Poll:
        def register(self, *_: Any) -> None:
            looked.append(0)

        def poll(self, _: int) -> list[Any]:
            looked[-1] += 1
            return []

    monkeypatch.setattr(module.select, "poll", Poll)
    for _ in range(100):
        glance.at(wire)
    assert len(looked) == 6  # four times in a row, and then after 16, 32 and 64 that were skipped
    assert all(looks < 1_000 for looks in looked)


def test_an_answer_in_time_is_looked_for_the_next_time_too(
    glance: Glance, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GLANCE", 5.0)
    wire.far.send(b"+OK\r\n")
    looked = []
    real = module.select.poll
    monkeypatch.setattr(module.select, "poll", lambda: looked.append(1) or real())
    for _ in range(5):
        glance.at(wire)
    assert len(looked) == 5


def test_with_one_core_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cores", lambda: 1)
    Glance().at(None)


def test_of_several_threads_one_looks(glance: Glance, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    class Poll:
        def register(self, *_: Any) -> None:
            looked.append(1)

        def poll(self, _: int) -> bool:
            glance.at(wire)  # as another thread does meanwhile
            return True

    monkeypatch.setattr(module.select, "poll", Poll)
    glance.at(wire)
    glance.at(wire)
    assert len(looked) == 2


INTERRUPTED = """
import signal
from scaleplug.links import Packer

def interrupt(*_):
    raise InterruptedError

signal.signal(signal.SIGALRM, interrupt)
packer, command, interrupted = Packer(), ["XREAD", *[123_456_789, 1.5] * 50], 0
while interrupted < 2_000:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.000_03)
        while True:
            packer.pack(*command)
    except InterruptedError:
        interrupted += 1
"""


def test_a_signal_whose_handler_raises_while_a_command_is_packed_does_not_end_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], timeout=60, check=False, capture_output=True)
    assert ended.returncode == 0, (signal.strsignal(-ended.returncode), ended.stderr)


def test_commands_are_packed_as_redis_py_does() -> None:
    link = redis.Connection(command_packer=Packer())
    args = ("EVALSHA", b"\x00\r\n", 0, -7, 2**70, 1.5, 1e-7, "\u00e4", memoryview(b"seen"))
    theirs = PythonRespSerializer(6_000, link.encoder.encode)
    others = ("CLIENT SETNAME", "a b"), (b"GET", "key"), (b"CLIENT LIST",), ("GET", bytearray(b"k"))
    for each in (args, args[:-1], *others):
        assert b"".join(link.pack_command(*each)) == b"".join(theirs.pack(*each))
    with pytest.raises(redis.DataError):
        link.pack_command("SET", "key", None)


def test_a_type_error_of_a_signal_s_handler_is_not_taken_for_a_value_that_can_t_be_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: object) -> bytes:
        raise TypeError("the handler's own")

    monkeypatch.setattr(module, "pack_command", interrupted)
    with pytest.raises(TypeError, match="the handler's own"):
        Packer().pack("SET", "key", b"value", 1)


def test_a_door_lets_so_many_in_and_the_others_after_them() -> None:
    door, lock, inside, most = Door(3), threading.Lock(), list[int](), list[int]()

    def enter(number: int) -> None:
        for _ in range(50):
            with door:
                with lock:
                    inside.append(number)
                    most.append(len(inside))
                time.sleep(0)
                with lock:
                    inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(8)))
    assert (inside, max(most), len(most)) == ([], 3, 400)
    assert not door._inside


def test_a_thread_that_was_interrupted_in_the_door_takes_no_place_of_others() -> None:
    door = Door(2)
    for _ in range(10):
        door.__enter__()  # and never left: what a signal's handler raised came in between
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: door.__enter__() is None).result(5)
    with door:  # both places are taken, one by this thread
        pass


def test_a_call_in_a_signal_s_handler_does_not_wait_for_its_own_thread() -> None:
    door = Door(1)
    with door, door:
        pass
    assert not door._inside
