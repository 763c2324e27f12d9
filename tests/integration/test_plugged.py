"""Functions plugged into an existing Celery app, whose other tasks must not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import ContainerStartError
from scaleplug.registry import Source
from tests.integration import jobs, plugged
from tests.integration.conftest import Surroundings


@pytest.fixture(scope="module", autouse=True)
def registered(surroundings: Surroundings) -> None:
    """Register the plugged app too."""
    plugged.app.set_source(Source("module", "tests.integration.plugged", str(Path(__file__).parents[2])))


def test_the_apps_own_task_class_is_kept(surroundings: Surroundings) -> None:
    assert plugged.context.remote(1) == (1, "open")
    assert list(plugged.context.map(range(3))) == [(x, "open") for x in range(3)]


def test_an_async_function_runs(surroundings: Surroundings) -> None:
    assert list(plugged.later.map(range(5))) == [0, 2, 4, 6, 8]


def test_the_apps_settings_and_other_tasks_are_as_they_were(surroundings: Surroundings) -> None:
    plugged.context.spawn(1)
    assert dict(plugged.celery.conf) == plugged.before
    task: Any = plugged.plain
    assert task.serializer == "json"
    assert task.apply((1,)).get() == 2
    task.delay(1)
    with plugged.celery.connection_for_read() as connection:
        message = connection.SimpleQueue("own").get(timeout=2)
    assert message.headers["task"] == "tests.integration.plugged.plain"
    assert message.content_type == "application/json"


class Unbuildable:
    """Can be pickled and not built again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_containers_that_cannot_start_fail_the_input_with_the_reason(surroundings: Surroundings) -> None:
    broken = Unbuildable()

    def uses_it() -> str:
        return repr(broken)

    function = jobs.app.function(name="unbuildable", serialized=True)(uses_it)
    with pytest.raises(ContainerStartError, match="invalid literal for int"):
        function.remote()
