"""Batches of a local run: which inputs go together, and what comes of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scaleplug.testing.inputs import CrashError, LocalInput, loads
from scaleplug.worker.batches import by_name, check_results, lists

Outcomes = list[tuple[LocalInput, bytes | None]]


def due_at(queue: deque[LocalInput]) -> float:
    """Return the monotonic time from which on what is at the front of a queue may begin."""
    settings = queue[0].function.pool_settings
    if settings.max_batch_size is None or len(queue) >= settings.max_batch_size or queue[0].attempts:
        return 0.0
    return queue[0].made_at + settings.wait_ms / 1000


def take(queue: deque[LocalInput]) -> list[LocalInput]:
    """Take the inputs that are run together: one, but for a batched function; one is alone after a crash."""
    size = queue[0].function.pool_settings.max_batch_size or 1
    taken = [queue.popleft()]
    while len(taken) < size and queue and not (taken[0].attempts or queue[0].attempts):
        taken.append(queue.popleft())
    if taken[0].function.pool_settings.max_batch_size is not None:
        for item in taken:
            item.batch = taken
    return taken


def in_use(running: Iterable[LocalInput]) -> int:
    """Return how many containers so many inputs take: a batch takes one."""
    return len({id(item.batch or item) for item in running})


def alone(code: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a batch of one."""
    return lists([by_name(code, args, kwargs)])


def run(
    batch: list[LocalInput],
    code: Callable[..., Any],
    call: Callable[[dict[str, Any]], Any],
    seal: Callable[[LocalInput, Any], bytes],
    fail: Callable[[LocalInput, BaseException, bool], bytes],
) -> Outcomes:
    """Run a batch with ``call``; return the outcome of each input, ``None`` where its container died."""
    members, calls, outcomes = list[LocalInput](), list[dict[str, Any]](), Outcomes()
    for item in batch:
        try:
            args, kwargs = loads(item.function.full_name, item.payload)
            calls.append(by_name(code, args, kwargs))
            members.append(item)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it goes to the caller
            outcomes.append((item, fail(item, exc, False)))
    if not members:
        return outcomes
    try:
        values = check_results(members[0].function.full_name, call(lists(calls)), len(members))
    except CrashError:
        return [*outcomes, *((item, None) for item in members)]
    except BaseException as exc:  # noqa: BLE001  # as above
        return [*outcomes, *((item, fail(item, exc, True)) for item in members)]
    return [*outcomes, *((item, seal(item, value)) for item, value in zip(members, values, strict=True))]
