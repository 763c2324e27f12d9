"""Waking event loops, and telling those who block them."""

from __future__ import annotations

import asyncio
import gc
import linecache
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaleplug import AsyncUsageWarning
from scaleplug.call import Method
from scaleplug.loops import Answer, Wakeups, done_now, wakeups, warn_if_blocking
from tests.helpers import wait_until


async def _nothing(*args: Any) -> None:
    pass


class Thing:
    """Has a blocking method."""

    def __init__(self) -> None:
        self.remote = Method(self._remote, _nothing)

    def _remote(self, *args: Any) -> Any:
        return self

    def items(self, *args: Any) -> Iterator[Any]:
        warn_if_blocking("items", 3, iterated=True)
        yield from args

    def __getitem__(self, index: int) -> Thing:
        return self

    def __add__(self, other: Any) -> Thing:
        return self

    __radd__ = __add__
    value = 1


def warned(text: str, tmp_path: Path, name: str = "app.py") -> list[str]:
    """Run ``async def main`` of this text with ``f``; return what is warned of."""
    file = tmp_path / name
    file.write_text(text)
    linecache.checkcache()
    names: dict[str, Any] = {"f": Thing(), "things": [Thing()], "__name__": "app"}
    exec(compile(text, str(file), "exec"), names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(names["main"]())
    assert all(w.category is AsyncUsageWarning and w.filename == str(file) for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("line", "rewritten"),
    [
        ("x = f.remote(1)", "x = await f.remote.aio(1)"),
        ("f.remote()", "await f.remote.aio()"),
        ("return f.remote(1, [2])", "return await f.remote.aio(1, [2])"),
        ("x = f.remote(1).value", "x = (await f.remote.aio(1)).value"),
        ("x = f.remote(1)[0]", "x = (await f.remote.aio(1))[0]"),
        ("x = things[0].remote(1) + 1", "x = await things[0].remote.aio(1) + 1"),
        ("x = 'ä', f.remote('remote(')", "x = 'ä', await f.remote.aio('remote(')"),
        ("x = [f.remote(y) for y in (1,)]", "x = [await f.remote.aio(y) for y in (1,)]"),
        ("if f.remote(1): pass", "if await f.remote.aio(1): pass"),
        ("x = f.remote(\n        1,\n    )", "x = await f.remote.aio(1, )"),
        ("g = f.remote; g(1)", "await ....remote.aio(...)"),
    ],
)
def test_the_line_is_shown_as_it_should_be(line: str, rewritten: str, tmp_path: Path) -> None:
    (text,) = warned(f"async def main():\n    {line}\n", tmp_path)
    assert text == f"app.py:2 blocks the event loop: write  {rewritten}"


@pytest.mark.parametrize(
    ("line", "rewritten"),
    [
        ("for x in f.items(1): pass", "async for x in f.items.aio(1): pass"),
        ("y = [x for x in f.items(1)]", "y = [x async for x in f.items.aio(1)]"),
        ("list(f.items(1))", "async for item in ....items.aio(...)"),
        ("g = f.items(1); next(g)", "async for item in ....items.aio(...)"),
    ],
)
def test_a_loop_over_what_blocks_is_shown_as_it_should_be(line: str, rewritten: str, tmp_path: Path) -> None:
    (text,) = warned(f"async def main():\n    {line}\n", tmp_path)
    assert text == f"app.py:2 blocks the event loop: write  {rewritten}"


def test_each_call_of_a_line_is_shown(tmp_path: Path) -> None:
    texts = warned("async def main():\n    f.remote(1).remote(2)\n", tmp_path)
    assert [text.partition("write  ")[2] for text in texts] == [
        "(await f.remote.aio(1)).remote(2)",
        "await f.remote(1).remote.aio(2)",
    ]


def test_without_the_source_it_is_told_all_the_same(tmp_path: Path) -> None:
    text = "async def main():\n    f.remote(1)\n"
    names: dict[str, Any] = {"f": Thing(), "__name__": "app"}
    exec(compile(text, "<string>", "exec"), names)
    with pytest.warns(AsyncUsageWarning, match=r"<string>:2 blocks the event loop: write  await \.\.\.\.remote\.aio\("):
        asyncio.run(names["main"]())


def test_a_plain_function_in_a_loop_is_told_to_become_async(tmp_path: Path) -> None:
    (text,) = warned("def helper():\n    f.remote(1)\nasync def main():\n    helper()\n", tmp_path)
    assert text == "app.py:2 blocks the event loop: call it from an async function, and write  await f.remote.aio(1)"


def test_a_callback_of_a_loop_blocks_it_too(tmp_path: Path) -> None:
    text = "async def main():\n    get_running_loop().call_soon(f.remote)\n    await sleep(0)\n"
    file = tmp_path / "app.py"
    file.write_text(text)
    names: dict[str, Any] = {**vars(asyncio), "f": Thing(), "__name__": "__main__"}
    exec(compile(text, str(file), "exec"), names)
    with pytest.warns(AsyncUsageWarning):
        asyncio.run(names["main"]())


def test_a_line_is_told_once(tmp_path: Path) -> None:
    text = "async def main():\n    for x in range(3):\n        f.remote(x)\n"
    names: dict[str, Any] = {"f": Thing(), "__name__": "app"}
    exec(compile(text, "app.py", "exec"), names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # what Python does when nothing is said
        asyncio.run(names["main"]())
    assert len(caught) == 1


def test_where_no_loop_runs_in_the_thread_nothing_is_told() -> None:
    f = Thing()
    assert f.remote(1) is f

    async def main() -> None:
        assert await asyncio.to_thread(f.remote, 1) is f

    asyncio.run(main())


def test_the_plain_code_of_a_notebooks_cell_may_block() -> None:
    """The kernel's loop runs around it, as here."""
    cell = compile("def helper(): return f.remote(1)\nx = f.remote(1), helper()", "<cell>", "exec")

    async def kernel() -> None:
        exec(cell, {"f": Thing(), "__name__": "__main__"})

    asyncio.run(kernel())


# -- waking --------------------------------------------------------------------------------------------------------


class StubLoop:
    """Counts how often it is woken."""

    closed = False

    def __init__(self) -> None:
        self.todo: list[Callable[[], object]] = []

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.todo.append(callback)


def test_callbacks_that_come_together_wake_once_and_keep_their_order() -> None:
    loop, ran = StubLoop(), []
    waking = Wakeups(loop)  # type: ignore[arg-type]
    for x in range(5):
        waking.call(ran.append, x)
    (only,) = loop.todo
    only()
    assert ran == list(range(5))
    waking.call(ran.append, 5)
    assert len(loop.todo) == 2


def test_what_comes_meanwhile_wakes_again() -> None:
    loop, ran = StubLoop(), []
    waking = Wakeups(loop)  # type: ignore[arg-type]
    waking.call(lambda: waking.call(ran.append, 1))
    loop.todo[0]()
    assert not ran
    loop.todo[1]()
    assert ran == [1]


def test_a_loop_that_has_ended_is_not_woken() -> None:
    loop, ran = StubLoop(), []
    waking = Wakeups(loop)  # type: ignore[arg-type]
    loop.closed = True
    waking.call(ran.append, 1)
    loop.closed = False
    waking.call(ran.append, 2)
    loop.todo[0]()
    assert ran == [2]


def test_an_answer_reaches_its_loop_from_another_thread() -> None:
    async def main() -> None:
        good, bad, late = Answer[int](), Answer[int](), Answer[int]()
        late.future.cancel()
        for answer in (good, late):
            threading.Thread(target=answer.give, args=(1,)).start()
        threading.Thread(target=bad.fail, args=(LookupError("no"),)).start()
        assert await good.future == 1
        with pytest.raises(LookupError, match="no"):
            await bad.future
        assert wakeups() is wakeups()

    asyncio.run(main())


def test_a_loop_is_not_kept() -> None:
    loops = []

    async def main() -> None:
        wakeups()
        loops.append(weakref.ref(asyncio.get_running_loop()))

    asyncio.run(main())
    gc.collect()
    wait_until(lambda: loops[0]() is None)


def test_what_is_done_now_ends_as_the_job_does() -> None:
    async def main() -> None:
        assert await done_now(lambda: 3) == 3
        with pytest.raises(LookupError):
            await done_now(lambda: {}[1])

    asyncio.run(main())
