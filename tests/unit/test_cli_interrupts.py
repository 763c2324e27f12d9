"""The first signal cancels, a second one ends everything at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from scaleplug.cli import interrupts as module
from scaleplug.cli.interrupts import Interrupts
from tests.helpers import wait_until


class Heard:
    """Counts what the signals have led to."""

    def __init__(self) -> None:
        self.first = self.second = 0
        self.interrupts = Interrupts(self._on_first, self._on_second)

    def _on_first(self) -> None:
        self.first += 1

    def _on_second(self) -> None:
        self.second += 1

    def send(self, sig: signal.Signals) -> None:
        """Signal this process, and wait until the signal has been heard."""
        before = self.interrupts._last_at
        os.kill(os.getpid(), sig)
        wait_until(lambda: self.interrupts._last_at != before)

    def _send_and_wait(self, sig: signal.Signals) -> None:
        self.send(sig)
        threading.Event().wait(5)

    def interrupt(self, sig: signal.Signals) -> None:
        """Send a signal that raises."""
        with pytest.raises(KeyboardInterrupt):
            self._send_and_wait(sig)
        wait_until(lambda: self.first + self.second)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    monkeypatch.setattr(module, "SAME_WITHIN", 0.0)
    heard = Heard()
    with heard.interrupts:
        yield heard


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 129)])
def test_a_first_signal_raises(heard: Heard, sig: signal.Signals, code: int):
    heard.interrupt(sig)
    assert (heard.first, heard.second, heard.interrupts.exit_code) == (1, 0, code)


def test_a_second_signal_hurries_also_where_the_first_was_swallowed(heard: Heard):
    heard.interrupt(signal.SIGINT)
    heard.interrupt(signal.SIGINT)
    wait_until(lambda: heard.second == 1)


def test_at_the_end_nothing_raises_any_more(heard: Heard):
    heard.interrupt(signal.SIGINT)
    heard.interrupts.ending(interrupted=True)
    assert heard.second == 0
    heard.send(signal.SIGTERM)
    wait_until(lambda: heard.second == 1)


def test_at_an_end_that_nobody_asked_for_a_first_signal_hurries(heard: Heard):
    heard.interrupts.ending(interrupted=False)
    heard.send(signal.SIGINT)
    wait_until(lambda: heard.second == 1)
    assert heard.first == 0


def test_long_after_the_first_it_is_a_first_again(heard: Heard, monkeypatch: pytest.MonkeyPatch):
    heard.interrupt(signal.SIGINT)
    monkeypatch.setattr(module, "FORGOTTEN_AFTER", 0.0)
    heard.interrupt(signal.SIGINT)
    wait_until(lambda: heard.first == 2)
    assert heard.second == 0


def test_one_signal_that_arrives_twice_is_one(heard: Heard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAME_WITHIN", 60.0)
    heard.interrupt(signal.SIGTERM)
    heard.interrupt(signal.SIGTERM)
    assert (heard.first, heard.second) == (1, 0)
    heard.interrupt(signal.SIGINT)  # of another kind, it is a second one
    wait_until(lambda: heard.second == 1)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_coroutine_is_cancelled(heard: Heard, sig: signal.Signals):
    cancelled = False

    async def job() -> None:
        nonlocal cancelled
        try:
            os.kill(os.getpid(), sig)
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled = True
            raise

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(job())
    assert cancelled
    wait_until(lambda: heard.first == 1)


def test_it_leaves_the_handlers_as_they_were():
    before = [signal.getsignal(sig) for sig in module.SIGNALS]
    with Interrupts(lambda: None, lambda: None) as interrupts:
        interrupts.ending(interrupted=False)
    assert [signal.getsignal(sig) for sig in module.SIGNALS] == before
