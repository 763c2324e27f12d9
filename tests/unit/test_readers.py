"""Who reads what comes back: the thread that waits for it, or the one in the background."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.readers import STUCK_SECONDS, Readers, Turn
from tests.helpers import wait_until

LONG, SHORT = 30.0, 0.1
READER = "reader"


class Post(Readers):
    """Brings what is put into ``stream``: names of calls, or what goes wrong when one reads them."""

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.stream: queue.SimpleQueue[str | Callable[[], object]] = queue.SimpleQueue()
        self.boxes: dict[str, queue.SimpleQueue[str]] = {}
        self.readings: list[str] = []
        self.losses = 0
        self._start_reader(READER)

    def _read(self, turn: Turn, seconds: float) -> None:
        self.readings.append(threading.current_thread().name)
        turn.since = time.monotonic()
        brought: str | Callable[[], object] = ""
        with contextlib.suppress(queue.Empty):
            brought = self.stream.get(timeout=max(seconds, 0.001))
        self._heard = time.monotonic()
        if callable(brought):
            brought()
        elif brought and self._turn is turn:
            self._away = False
            self._serve(brought)
            self.boxes[brought].put(threading.current_thread().name)
            self._served(brought)

    def lost_connection(self) -> None:
        self.losses += 1

    def open(self, call: str, *, led: bool) -> None:
        self.boxes[call] = queue.SimpleQueue()
        self._check_wire()
        with self._lock:
            self._count(call, led=led)
        self._ring()

    def close(self, call: str) -> None:
        with self._lock:
            self._discount(call)
        self._ring()

    def waiting(self, call: str) -> str:
        """Wait for a call's outcome as its thread does; return the name of the thread that has read it."""
        self.open(call, led=True)
        try:
            self.lead(call, self.boxes[call].empty)
            return self.boxes[call].get(timeout=10)
        finally:
            self.close(call)

    @property
    def reader(self) -> str:
        """The name of the thread that reads."""
        turn = self._turn
        return next((each.name for each in threading.enumerate() if turn and each.ident == turn.thread), "")


@pytest.fixture
def post(request: pytest.FixtureRequest) -> Iterator[Post]:
    """Give one whose readings wait for long, unless the test says otherwise."""
    made = Post(getattr(request, "param", LONG))
    yield made
    made.end()
    made.stream.put("")


@pytest.fixture
def waits(post: Post) -> Iterator[Callable[[str], queue.SimpleQueue[str]]]:
    """Give what lets a thread named after a call wait for it."""
    threads: list[threading.Thread] = []

    def wait(call: str) -> queue.SimpleQueue[str]:
        found: queue.SimpleQueue[str] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: found.put(post.waiting(call)), name=call, daemon=True)
        threads.append(thread)
        thread.start()
        return found

    yield wait
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_thread_that_waits_reads_itself_and_no_other_is_woken(post: Post) -> None:
    own = threading.current_thread().name
    for number in range(20):
        post.stream.put(f"call {number}")
        assert post.waiting(f"call {number}") == own
    assert READER not in post.readings


def test_one_thread_reads_for_all_and_the_one_in_the_background_takes_over(
    post: Post, waits: Callable[[str], queue.SimpleQueue[str]]
) -> None:
    first = waits("first")
    wait_until(lambda: post.reader == "first", 5, "the first thread reads")
    second, third = waits("second"), waits("third")
    wait_until(lambda: post._unled == 2, 5, "the others leave it to that")
    post.stream.put("second")
    assert second.get(timeout=5) == "first"
    post.stream.put("first")
    assert first.get(timeout=5) == "first"
    wait_until(lambda: post.reader == READER, 5, "the thread in the background takes over")
    post.stream.put("third")
    assert third.get(timeout=5) == READER
    wait_until(lambda: not post.reader, 5, "it rests again")
    post.stream.put("fourth")
    assert post.waiting("fourth") == threading.current_thread().name


@pytest.mark.parametrize("post", [SHORT], indirect=True)
def test_what_nobody_leads_is_read_in_the_background_which_goes_on_until_a_thread_reads_for_itself(post: Post) -> None:
    post.open("map", led=False)
    post.stream.put("map")
    assert post.boxes["map"].get(timeout=5) == READER
    post.close("map")
    before = len(post.readings)
    wait_until(lambda: len(post.readings) > before + 1, 5, "it goes on")
    threading.Timer(SHORT / 10, post.stream.put, ["a call"]).start()
    post.waiting("a call")
    wait_until(lambda: not post._needed and post._resting, 5, "it rests")


def test_it_leaves_the_turn_to_a_thread_whose_outcome_it_has_brought(post: Post) -> None:
    post.open("map", led=False)
    wait_until(lambda: post.reader == READER, 5, "the thread in the background reads")
    post.close("map")
    threading.Timer(SHORT / 10, post.stream.put, ["a call"]).start()
    assert post.waiting("a call") == READER
    wait_until(lambda: not post.reader, 5, "it rests")
    post.stream.put("another")
    assert post.waiting("another") == threading.current_thread().name


@pytest.mark.parametrize("post", [SHORT], indirect=True)
def test_a_thread_that_nobody_needs_reads_now_and_then(post: Post) -> None:
    began = time.monotonic()
    wait_until(lambda: len(post.readings) >= 3, 5, "it reads")
    assert len(post.readings) <= (time.monotonic() - began) / SHORT + 1


def test_an_interrupted_thread_leaves_its_turn_to_others(
    post: Post, waits: Callable[[str], queue.SimpleQueue[str]]
) -> None:
    begun = threading.Event()

    def interrupt() -> None:
        begun.set()
        wait_until(lambda: post._unled == 1, 5, "somebody leaves it to this thread")
        raise KeyboardInterrupt

    post.stream.put(interrupt)
    others: list[queue.SimpleQueue[str]] = []
    helper = threading.Thread(target=lambda: begun.wait(5) and others.append(waits("other")))
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        post.waiting("interrupted")
    helper.join()
    post.stream.put("other")
    assert others[0].get(timeout=5) == READER
    post.stream.put("next")
    assert post.waiting("next") in (READER, threading.current_thread().name)


@pytest.mark.parametrize("raised", [RedisConnectionError("gone"), RedisTimeoutError("gone")])
def test_a_lost_connection_is_for_the_thread_in_the_background(
    post: Post, raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def lose() -> None:
        raise raised

    for _ in range(3):
        post.stream.put(lose)
    post.stream.put("call")
    assert post.waiting("call") == READER
    assert post.losses == 3
    assert caplog.text.count("results can't be read from Redis, trying again") == 1
    own = threading.current_thread().name
    assert [each for each, _ in itertools.groupby(post.readings)] == [own, READER]


def test_what_a_handler_raises_reaches_the_thread_it_interrupts(post: Post) -> None:
    def too_late() -> None:
        raise TimeoutError("too late")

    post.stream.put(too_late)
    with pytest.raises(TimeoutError, match="too late"):
        post.waiting("call")
    assert post.losses == 0
    post.stream.put("next")
    assert post.waiting("next") == threading.current_thread().name


def test_a_call_of_a_signal_s_handler_takes_the_turn_of_its_own_thread(post: Post) -> None:
    found: list[str] = []

    def handle() -> None:
        post.stream.put("inner")
        found.append(post.waiting("inner"))
        post.stream.put("outer")

    post.stream.put(handle)
    own = threading.current_thread().name
    assert post.waiting("outer") == own
    assert found == [own]


@pytest.mark.parametrize("post", [SHORT], indirect=True)
def test_a_thread_that_is_held_up_loses_its_turn(post: Post, waits: Callable[[str], queue.SimpleQueue[str]]) -> None:
    held = threading.Event()
    post.stream.put(lambda: held.wait(10))
    first = waits("first")
    wait_until(lambda: post.reader == "first", 5, "the first thread reads")
    second = waits("second")
    wait_until(lambda: post._unled == 1, 5, "the second leaves it to that")
    assert post._turn is not None
    post._turn.since -= STUCK_SECONDS
    post.stream.put("second")
    assert second.get(timeout=5) == READER
    held.set()
    post.stream.put("first")
    assert first.get(timeout=5) in (READER, "first")
