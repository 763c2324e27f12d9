"""What a caller does while Redis is away or full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError, OutOfMemoryError, ReadOnlyError, ResponseError

from scaleplug.errors import ResourceExhausted, ServerError
from scaleplug.health import SignOfLife
from scaleplug.patience import FullError, Patience
from scaleplug.server import alone, connect
from scaleplug.silence import distrust, silent_since
from scaleplug.worker.watchdog import LOOK_SECONDS, LOOKS, Watchdog

CLIENT = redis.Redis.from_url("redis://:hush@127.0.0.1:1/0")


class Answers:
    """Gives one answer after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def met(seconds: float) -> Patience:
    """Return the patience of a process that Redis has answered before."""
    patience = Patience(CLIENT, seconds)
    patience.insist(lambda: None)
    return patience


def test_who_finds_all_connections_in_use_waits_for_one_also_the_first_time() -> None:
    answers = Answers(MaxConnectionsError("Too many connections"), MaxConnectionsError("Too many connections"), 5)
    assert Patience(CLIENT, 60).insist(answers) == 5
    assert answers.asked == 3


def test_the_first_time_nobody_waits() -> None:
    answers = Answers(RedisConnectionError("refused"))
    with pytest.raises(ServerError, match=r"redis://:\*\*\*@127\.0\.0\.1:1/0 can't be reached \(refused\): start it"):
        Patience(CLIENT, 60).insist(answers)
    assert answers.asked == 1


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("reset"),
        redis.exceptions.TimeoutError("no answer"),
        redis.exceptions.BusyLoadingError("LOADING"),
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    ],
)
def test_what_passes_is_waited_for(error: Exception) -> None:
    answers = Answers(error, error, "done")
    assert met(10).insist(answers) == "done"
    assert answers.asked == 3


def test_patience_has_an_end() -> None:
    with pytest.raises(ServerError, match="can't be reached"):
        met(0.12).insist(Answers(RedisConnectionError("reset")))
    with pytest.raises(ServerError):
        met(60).insist(Answers(RedisConnectionError("reset")), 0.0)


@pytest.mark.parametrize("error", [ResponseError("WRONGTYPE"), OSError("no such file"), ValueError("mine")])
def test_what_does_not_pass_is_raised(error: Exception) -> None:
    answers = Answers(error)
    with pytest.raises(type(error)):
        met(60).insist(answers)
    assert answers.asked == 1


def test_a_full_redis_is_told_with_the_way_out() -> None:
    with pytest.raises(ResourceExhausted, match=r"out of memory.*raise maxmemory"):
        met(60).insist(Answers(OutOfMemoryError("OOM command not allowed")))


def test_a_map_waits_for_a_full_redis_but_not_for_ever() -> None:
    patience = met(60)
    full = patience.full()
    patience.wait_until_free(full)
    patience.wait_until_free(None)  # something was accepted
    patience.wait_until_free(full)
    patience.seconds = -1.0
    with pytest.raises(FullError):
        patience.wait_until_free(full)


def test_connections_are_distrusted_together() -> None:
    client = connect("redis://127.0.0.1:1/0")
    assert not silent_since(client, 0.0)
    distrust(client)
    assert silent_since(client, 0.0)
    assert not silent_since(client, float("inf"))
    assert not silent_since(alone(client), 0.0)


class FakeIntake:
    """An intake that a test moves."""

    dog: Watchdog

    def __init__(self) -> None:
        self.hungry, self.taken, self.queue, self.pending, self.woken = True, 0, "queue", 1, 0
        self.store = self
        self.client: Any = connect("redis://127.0.0.1:1/0")
        self.client.llen = lambda _: self.pending

    def wake(self) -> None:
        """Count."""
        self.woken += 1


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give an intake, the exit codes so far, and a function that looks so many times."""
    intake, ended, clock = FakeIntake(), list[int](), [1_000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    dog = intake.dog = Watchdog(intake, ended.append)  # type: ignore[arg-type]  # a fake

    def often(times: int) -> None:
        for _ in range(times):
            clock[0] += LOOK_SECONDS
            dog.look()

    return intake, ended, often


def test_one_that_takes_nothing_connects_again_and_then_ends(look: Any) -> None:
    intake, ended, often = look
    often(LOOKS)
    assert not intake.woken
    often(1)
    assert intake.woken == 1
    assert silent_since(intake.client, 0.0)
    assert not ended
    often(LOOKS)
    assert len(ended) == 1


def test_one_that_takes_has_nothing_or_is_busy_is_left_alone(look: Any) -> None:
    intake, ended, often = look
    for _ in range(20):
        intake.taken += 1
        often(1)
    intake.pending = 0
    often(20)
    intake.pending, intake.hungry = 1, False
    often(20)
    assert not ended
    assert not intake.woken


def test_a_sign_of_life_is_given_while_there_is_progress_and_where_an_image_wants_it(look: Any, tmp_path: Path) -> None:
    intake, _, often = look
    SignOfLife(tmp_path / "nothing here" / "alive").renew()
    assert not list(tmp_path.iterdir())
    intake.dog.sign = SignOfLife(tmp_path / "alive")
    often(LOOKS)
    assert (tmp_path / "alive").exists()
    (tmp_path / "alive").unlink()
    often(LOOKS)  # inputs wait, and it takes none
    assert not (tmp_path / "alive").exists()
    intake.taken += 1
    often(2)  # it is not told more often than it is looked at
    assert (tmp_path / "alive").exists()
