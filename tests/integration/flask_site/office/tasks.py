"""Functions of every kind that look at the Flask app."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from celery import current_task
from flask import current_app, g

import scaleplug
from scaleplug.contrib.flask import ScalePlug

plug = ScalePlug()


def look() -> list[object]:
    """Return the app's name, and how often this context was used: once, for each input has its own."""
    g.used = g.get("used", 0) + 1
    return [current_app.config["OFFICE"], g.used]


@plug.function(max_containers=1)
def solo(_: int = 0) -> list[object]:
    return [*look(), current_task.request.properties["delivery_tag"]]


@plug.function(max_containers=1)
def made_in() -> bool:
    """Tell whether the Flask app was made before this container was forked."""
    return current_app.config["MADE_IN"] != os.getpid()


@plug.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4)
def threads(_: int = 0) -> list[object]:
    return look()


@plug.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4)
async def loop(_: int = 0) -> list[object]:
    return look()


@plug.function(max_containers=1)
async def alone(_: int = 0) -> list[object]:
    return look()


@plug.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4, pool="eventlet")
def green(_: int = 0) -> list[object]:
    return look()


@plug.function(max_containers=1)
@scaleplug.batched(max_batch_size=3, wait_ms=50)
def batch(numbers: list[int]) -> list[list[object]]:
    found = look()
    return [found for _ in numbers]


@plug.function(max_containers=1)
def items(count: int) -> Iterator[list[object]]:
    for _ in range(count):
        yield look()


@plug.function(max_containers=1)
async def async_items(count: int) -> AsyncIterator[list[object]]:
    for _ in range(count):
        yield look()


@plug.function(max_containers=1)
def fails() -> None:
    look()
    raise ValueError("no use")


@plug.cls(max_containers=1)
class Desk:
    @scaleplug.enter()
    def sit_down(self) -> None:
        self.found = look()

    @scaleplug.enter()
    async def look_around(self) -> None:
        self.found += look()

    @scaleplug.exit()
    def stand_up(self) -> None:
        Path(os.environ["OFFICE_LEFT"]).write_text(json.dumps(look()))

    @scaleplug.method()
    def when_entered(self) -> list[object]:
        return self.found

    @scaleplug.method()
    def look(self) -> list[object]:
        return look()


@plug.local_entrypoint()
def report(out: str) -> None:
    """Call everything, and write down what came of it."""
    told: dict[str, object] = {}
    for function in (solo, threads, loop, alone, green, batch):
        told[function.name] = [function.remote(number) for number in range(3)]
    told["delay"] = solo.delay().get(timeout=30)
    told["method"] = [Desk().look.remote() for _ in range(3)]
    told["entered"] = Desk().when_entered.remote()
    told["items"] = list(items.remote_gen(2))
    told["async items"] = list(async_items.remote_gen(2))
    for _ in range(20):  # until they are known to be short
        told["packed"] = found = list(solo.map(range(400)))
        if len({tag for _, _, tag in found}) < len(found):
            break
    try:
        fails.remote()
    except ValueError as error:
        frames, at = [], error.__traceback__
        while at is not None:
            frames.append(Path(at.tb_frame.f_code.co_filename).name)
            at = at.tb_next
        told["fails"] = [str(error), frames[-2:]]
    told["made before"] = made_in.remote()
    told["source"] = [plug.source().kind, plug.source().where]
    Path(out).write_text(json.dumps(told))
