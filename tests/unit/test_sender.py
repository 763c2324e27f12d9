"""The thread that does for event loops what would block them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from scaleplug import sender
from scaleplug.blobs import looks_large
from scaleplug.sender import Parcel, Sender
from tests.helpers import wait_until


class Named:
    full_name = "app.f"

    def make_known(self, caller: Any) -> None:
        raise AssertionError("nobody asked")


class Post:
    """Writes down what is delivered together; holds the sender until it may go on."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def deliver(self, parcels: Sequence[Parcel]) -> None:
        self.steps.append([parcel.call for parcel in parcels])
        if self.error is not None:
            raise self.error
        for parcel in parcels:
            parcel.answer.give(1)

    def hold(self) -> None:
        assert self.go.wait(10)
        self.steps.append("held")

    def parcel(self, call: str, function: Any = None, kind: Any = "remote", message: str = "m") -> Parcel:
        return Parcel(self.deliver, function or F, kind, call, message)


F, G = Named(), Named()


def test_what_comes_together_travels_together_by_function_and_kind() -> None:
    post, thread = Post(), Sender()

    async def main() -> None:
        held = thread.soon(post.hold)
        sent = [thread.send(post.parcel(f"f{x}")) for x in range(3)]
        sent += [thread.send(post.parcel("g", G)), thread.send(post.parcel("s", F, "spawn"))]
        sent.append(thread.send(post.parcel("f3")))
        post.go.set()
        assert await asyncio.gather(*sent) == [1] * 6
        await held

    asyncio.run(main())
    assert post.steps[0] == "held"
    assert [call for step in post.steps[1:] for call in step if call.startswith("f")] == ["f0", "f1", "f2", "f3"]
    assert len(post.steps) <= 4


def test_a_job_waits_for_what_was_sent_before() -> None:
    post, thread = Post(), Sender()

    async def main() -> None:
        thread.soon(post.hold)
        first = thread.send(post.parcel("a"))
        job = thread.soon(lambda: post.steps.append("job"))
        second = thread.send(post.parcel("b"))
        post.go.set()
        await asyncio.gather(first, job, second)

    asyncio.run(main())
    assert post.steps == ["held", ["a"], "job", ["b"]]


def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    post, thread = Post(), Sender()

    async def main() -> None:
        thread.soon(post.hold)
        thread.send(post.parcel("a")).cancel()
        second = thread.send(post.parcel("b"))
        post.go.set()
        await second

    asyncio.run(main())
    assert post.steps == ["held", ["b"]]


def test_a_step_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "BYTES", 10)
    post, thread = Post(), Sender()

    async def main() -> None:
        thread.soon(post.hold)
        sent = [thread.send(post.parcel(str(x), message="m" * size)) for x, size in enumerate((4, 4, 4, 20, 4))]
        post.go.set()
        await asyncio.gather(*sent)

    asyncio.run(main())
    assert post.steps[1:] == [["0", "1"], ["2"], ["3"], ["4"]]


def test_errors_belong_to_those_who_wait_and_end_nothing() -> None:
    post, thread = Post(), Sender()

    async def main() -> None:
        post.error = ConnectionError("no way")
        with pytest.raises(ConnectionError, match="no way"):
            await thread.send(post.parcel("a"))
        post.error = None
        with pytest.raises(SystemExit):
            await thread.soon(lambda: exec("raise SystemExit"))
        assert await thread.send(post.parcel("b")) == 1

    asyncio.run(main())


def test_the_thread_ends_with_its_sender() -> None:
    def threads() -> list[threading.Thread]:
        return [
            thread for thread in threading.enumerate() if thread.name == "scaleplug-sender" and thread not in before
        ]

    before = threading.enumerate()
    thread = Sender()
    assert threads() == []

    async def main(thread: Sender) -> None:
        await thread.soon(lambda: None)

    asyncio.run(main(thread))
    assert len(threads()) == 1
    del thread
    gc.collect()
    wait_until(lambda: not threads())


class Odd:
    def __len__(self) -> int:
        raise AssertionError("this may ask a database")


@pytest.mark.parametrize(
    ("args", "large"),
    [((1, "a"), False), ((b"x" * 100_000,), True), ((memoryview(b"x" * 100_000),), True), ((Odd(),), False)],
)
def test_what_looks_large(args: tuple[Any, ...], large: bool) -> None:
    assert looks_large([(0, args, {})]) is large
    assert looks_large([(0, (), {"a": args[0]})]) is large
