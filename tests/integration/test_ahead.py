"""Inputs that begin while their claim is on its way: what the container is told, and what becomes of lost claims."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

import scaleplug
from scaleplug.here import forget_app
from scaleplug.keys import Keys
from scaleplug.messages import MessageFactory
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.store import Ended, Store
from scaleplug.worker.intake import Intake
from scaleplug.worker.reading import read_message, reply_of
from tests.commands import SECRET
from tests.helpers import wait_until
from tests.integration import jobs
from tests.integration.conftest import Surroundings

CONTAINER, CALL, CALLER = "ahead.f-1", "fc-one", "me"
USUAL: list[Callable[[Store, str], object]] = [
    lambda store, fn: store.client.hset(store.keys.of("attempts", fn), CALL, 0),
    lambda store, fn: store.client.hset(store.keys.of("crashes", fn), CALL, "why"),
    lambda store, fn: store.client.hset(store.keys.of("verdicts", fn), CALL, "timeout"),
    lambda store, fn: store.client.hset(store.keys.of("retries", fn), CALL, 1),
    lambda store, fn: store.client.set(store.keys.of("cancelled", CALL), "1"),
    lambda store, fn: store.client.hset(store.keys.of("call", CALL), "cancelled", "1"),
    lambda store, fn: store.client.delete(store.keys.of("caller", CALLER)),
    lambda store, fn: store.client.hincrby(store.keys.of("container", CONTAINER), "epoch", 1),
    lambda store, fn: store.client.script_flush(),
]


class Side:
    """A container's intake in this process, and the function whose inputs it takes."""

    def __init__(self, store: Store) -> None:
        app = scaleplug.App("ahead")
        forget_app(app)
        self.store, self.task = store, app.function(name="f")(_nothing).task
        self.fn, keyring = "ahead.f", Keyring(SECRET)
        store.put_functions({self.fn: b""}, {self.fn: ""})
        self.factory = MessageFactory(self.task, keyring, CALLER, self.fn)
        self.intake = Intake(
            store, keyring, container=CONTAINER, function=self.fn, tasks=[self.task.name], slots=1, timeout=60.0,
            give_up=5.0,
        )  # fmt: skip
        self.intake.ahead.on = True
        store.client.set(store.keys.of("caller", CALLER), "1")
        self.intake.connect()
        store.know_scripts(["look", "begun", "turn"])
        store.now()

    def submit(self) -> None:
        """Put an input on the queue."""
        messages = self.factory.make(CALL, [(0, (), {})], many=False, keep=0)
        assert self.store.submit(self.fn, messages, most_pending=10).accepted == 1

    def take(self) -> bool | None:
        """Take it; return whether it may begin at once, ``None`` if there is none."""
        return self.intake.take_and(self._claim, 5.0)

    def _claim(self, raw: bytes) -> bool:
        message = read_message(raw, self.fn, [self.task.name], self.intake.keyring)
        claimed = self.intake.ahead.claim(message)
        if claimed is not None:
            self.intake.hold(message, reply_of(message), claimed)
        return claimed is not None

    def hand_back(self) -> list[bool]:
        """Hand back what it holds; return whether that was its own still."""
        rows = [Ended(c.id, 0.1, 0, c.reply, b"outcome") for c in self.intake.claims.values()]
        return list(self.intake.turn(1, rows).owned)

    @property
    def claims(self) -> list[str]:
        """What Redis says that it holds."""
        key = self.store.keys.of("claims", f"{CONTAINER}:{self.intake.epoch}")
        return [name.decode() for name in self.store.client.hkeys(key)]

    @property
    def taken(self) -> int:
        """How many messages it has taken and not claimed."""
        return int(self.store.client.llen(self.store.keys.transit(CONTAINER, self.intake.epoch)))

    @property
    def outcomes(self) -> int:
        """How many outcomes its caller has been sent."""
        return int(self.store.client.xlen(self.store.keys.of("inbox", CALLER)))

    def lose_claim(self) -> None:
        """Let Redis be sent something that it doesn't know in place of the next claim."""
        unknown = self.intake.pack("EVALSHA", "0" * 40, 0)
        self.intake.send = lambda _: Intake.send(self.intake, unknown)  # type: ignore[method-assign]


def _nothing() -> None:
    """Do nothing."""


@pytest.fixture
def side(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    monkeypatch.setattr("scaleplug.serializer._keyring", Keyring(SECRET))
    with contextlib.closing(connect(redis_url)) as client:
        made = Side(Store(client, Keys("default")))
        yield made
        made.intake._link.disconnect()


def test_an_input_begins_before_its_claim_has_been_heard(side: Side) -> None:
    side.submit()
    assert side.take() is True
    side.intake.ahead.settle()
    assert (side.claims, side.taken) == ([CALL], 0)
    assert side.store.client.hget(side.store.keys.of("attempts", side.fn), CALL) == b"1"
    assert side.hand_back() == [True]
    assert (side.claims, side.outcomes) == ([], 1)


def test_an_input_waits_for_redis_once_before_it_begins(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    read, told = side.intake.read, list[bytes]()
    side.submit()
    monkeypatch.setattr(side.intake, "read", lambda: told.append(read()) or told[-1])
    monkeypatch.setattr(side.store.client.connection_pool, "take", None)
    assert side.take() is True
    assert len(told) == 2, "the message, and what was seen of it, which came with it"
    assert told[1].endswith(CALL.encode())
    assert side.hand_back() == [True]


def test_an_outcome_comes_right_behind_its_claim(side: Side) -> None:
    side.submit()
    assert side.take() is True
    assert side.hand_back() == [True]
    assert (side.claims, side.taken, side.outcomes) == ([], 0, 1)
    side.intake.claims.clear()
    side.submit()
    assert side.take() is True, "the answers have not been mixed up"


def test_a_link_that_has_been_quiet_for_long_is_not_asked_for_a_sign_of_life_in_between(side: Side) -> None:
    side.submit()
    assert side.take() is True
    side.intake._link.next_health_check = 0  # redis-py would send a PING, and take the next answer for its own
    assert side.hand_back() == [True]


def test_a_claim_that_was_not_heard_loses_no_outcome_and_runs_nothing_twice(side: Side) -> None:
    side.submit()
    side.lose_claim()
    assert side.take() is True
    assert (side.claims, side.taken) == ([], 1)
    assert side.hand_back() == [True]
    assert (side.claims, side.taken, side.outcomes) == ([], 0, 1)
    left = side.store.client.keys(side.store.keys.of("*", side.fn))
    assert not {key.decode().split(":")[2] for key in left} & {"attempts", "running", "queue", "crashes"}


def test_a_claim_that_was_not_heard_is_made_good_where_it_is_needed(side: Side) -> None:
    side.submit()
    side.lose_claim()
    assert side.take() is True
    side.intake.ahead.settle()
    assert (side.claims, side.taken) == ([CALL], 0)
    side.intake.ahead.settle()
    assert side.store.client.hget(side.store.keys.of("attempts", side.fn), CALL) == b"1"


def test_the_timeout_of_what_runs_for_long_counts_though_its_claim_was_lost(side: Side) -> None:
    side.submit()
    side.lose_claim()
    assert side.take() is True
    side.intake.ahead.make_sure()
    assert (side.claims, side.taken) == ([], 1), "it has only just begun"
    side.intake.by_id[CALL].taken -= 10
    side.intake.ahead.make_sure()
    assert (side.claims, side.taken) == ([CALL], 0)
    assert side.store.client.hget(side.store.keys.of("attempts", side.fn), CALL) == b"1"
    left = side.store.client.zscore(side.store.keys.of("running", side.fn), CALL) - side.store.now()
    assert 45 < left < 51, "a minute, less what it has run"
    assert side.hand_back() == [True]
    assert (side.claims, side.outcomes) == ([], 1)


def test_seeing_to_a_claim_that_was_heard_changes_nothing(side: Side) -> None:
    side.submit()
    assert side.take() is True
    wait_until(lambda: side.claims == [CALL], 5, "it is claimed")
    before = side.store.client.zscore(side.store.keys.of("running", side.fn), CALL)
    side.intake.by_id[CALL].taken -= 10
    side.intake.ahead.make_sure()
    assert side.store.client.zscore(side.store.keys.of("running", side.fn), CALL) == before
    assert side.store.client.hget(side.store.keys.of("attempts", side.fn), CALL) == b"1"
    assert side.hand_back() == [True]
    side.intake.ahead.make_sure()
    assert (side.claims, side.outcomes) == ([], 1)


def test_what_has_begun_stays_the_container_s_when_its_claim_is_lost_with_the_connection(side: Side) -> None:
    side.submit()
    side.lose_claim()
    assert side.take() is True
    side.intake.reconnect()
    assert side.intake.epoch == 2
    assert (side.claims, side.taken) == ([CALL], 0)
    assert side.store.client.hget(side.store.keys.of("attempts", side.fn), CALL) == b"1"
    assert side.store.client.zscore(side.store.keys.of("running", side.fn), CALL) > side.store.now() + 30
    assert side.hand_back() == [True]


@pytest.mark.parametrize("against", USUAL)
def test_what_something_speaks_against_is_claimed_as_ever(side: Side, against: Callable[[Store, str], object]) -> None:
    side.submit()
    against(side.store, side.fn)
    assert side.take() is False
    assert (side.claims, side.taken) == ([], 1)


def test_a_server_that_has_forgotten_the_scripts_learns_them_again(side: Side) -> None:
    side.store.client.script_flush()
    side.submit()
    assert side.take() is False
    assert side.intake.turn(1, ()).claimed
    side.store.client.delete(side.store.keys.of("claims", f"{CONTAINER}:1"), side.store.keys.of("attempts", side.fn))
    side.submit()
    assert side.take() is True


def test_what_is_taken_from_a_redis_that_was_emptied_goes_back_and_comes_again(side: Side) -> None:
    side.intake.reconnect()
    assert side.intake.epoch == 2
    side.store.client.flushall()
    side.store.put_functions({side.fn: b""}, {side.fn: ""})
    side.store.client.set(side.store.keys.of("caller", CALLER), "1")
    side.submit()
    assert side.take() is False
    assert side.taken == 1
    assert side.intake.turn(1, ()).stale
    assert (side.taken, side.store.client.llen(side.store.keys.queue(side.fn))) == (0, 1)
    side.intake.reconnect()
    assert side.take() is True
    assert side.hand_back() == [True]


def test_what_lay_there_while_the_container_was_frozen_is_claimed_as_ever(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.submit()
    now = side.store.now
    monkeypatch.setattr(side.store, "now", lambda: now() + 5)
    monkeypatch.setattr(side.store, "known_now", lambda: now() + 5)
    assert side.take() is False


def test_clocks_that_have_drifted_are_set_again(side: Side) -> None:
    side.store._note_time(side.store.now() - 5)
    side.submit()
    assert side.take() is True


def test_a_server_without_memory_mixes_up_no_answers(side: Side) -> None:
    client = side.store.client
    side.submit()
    try:
        client.config_set("maxmemory", 1)
        assert side.take() is False, "it was taken by a script, which may"
    finally:
        client.config_set("maxmemory", 0)
    assert side.intake.turn(1, ()).claimed
    client.delete(side.store.keys.of("claims", f"{CONTAINER}:1"), side.store.keys.of("attempts", side.fn))
    side.submit()
    assert side.take() is True


def test_an_input_that_has_begun_hears_that_it_is_cancelled_though_it_was_not_claimed(side: Side) -> None:
    side.submit()
    side.lose_claim()
    assert side.take() is True
    assert side.store.cancel(side.fn, CALL, tell=True, keep=0, caller=CALLER) == (0, 1)
    (order,) = side.store.client.lrange(side.store.keys.of("control", CONTAINER), 0, -1)
    assert order.decode() == f"cancel {CALL}"


# -- with a real container ---------------------------------------------------------------------------------------------


def test_what_a_frozen_idle_container_is_given_has_not_begun(surroundings: Surroundings) -> None:
    """Its timeout of a second is over long before anybody knows that the container is frozen."""
    client, keys, function = surroundings.store.client, surroundings.store.keys, jobs.brief_pid
    pid = function.remote()
    name = next(n for n, r in surroundings.containers(function).items() if r.get("pid") == str(pid))
    wait_until(lambda: any(c["name"] == name and "b" in c["flags"] and c["cmd"] == "blmove"
                           for c in client.client_list()), 10, "it waits")  # fmt: skip
    os.kill(pid, signal.SIGSTOP)
    call = function.spawn()
    wait_until(lambda: client.keys(keys.of("transit", f"{function.full_name}*")), 10, "it was taken")
    assert call.get(timeout=60) != pid
    assert not client.hlen(surroundings.key("verdicts", function))
    assert not client.hlen(surroundings.key("crashes", function))


def test_a_container_that_is_asked_to_leave_while_it_waits_loses_nothing(surroundings: Surroundings) -> None:
    for spawned_first in [True, False] * 3:
        pid = jobs.single_pid.remote()
        call = jobs.single_pid.spawn() if spawned_first else None
        os.kill(pid, signal.SIGTERM)
        assert (call or jobs.single_pid.spawn()).get(timeout=20)
        wait_until(partial(_is_gone, pid), 20, "it has left")
    client = surroundings.store.client
    assert not client.hlen(surroundings.key("crashes", jobs.single_pid))
    wait_until(lambda: not client.hlen(surroundings.key("attempts", jobs.single_pid)), 5, "nothing is left behind")


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_what_celery_s_own_calls_send_runs_beside_it(surroundings: Surroundings) -> None:
    for number in range(20):
        sent = jobs.square.delay(number)
        assert jobs.square.remote(number) == number**2
        assert sent.get(timeout=10) == number**2
