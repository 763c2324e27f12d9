"""Calls that are sent when the database transaction around them commits, and never if it is rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar
from uuid import uuid4

from scaleplug.abc import Caller
from scaleplug.call import FunctionCall
from scaleplug.errors import ConfigurationError
from scaleplug.inputs import Inputs
from scaleplug.mapping import length
from scaleplug.spawnmap import SpawnMap

P = ParamSpec("P")
R = TypeVar("R")

_on_commit: Callable[[Callable[[], object]], object] | None = None


def use_on_commit(hook: Callable[[Callable[[], object]], object] | None) -> None:
    """Say what runs a callable when the transaction that is open commits, or at once where none is."""
    global _on_commit  # noqa: PLW0603  # a process is part of one project
    _on_commit = hook


def when_committed(send: Callable[[], object]) -> None:
    """Run ``send`` when the transaction commits; raises ConfigurationError where there are no transactions."""
    if _on_commit is None:
        raise ConfigurationError(
            "nobody knows here when a transaction commits: put 'scaleplug.contrib.django' into INSTALLED_APPS"
        )
    _on_commit(send)


def new_call() -> str:
    """Return the id of a call to be."""
    return f"fc-{uuid4().hex}"


class OnCommit(Generic[P, R]):
    """What a Function has for views that change the database; for Django, with ``scaleplug.contrib.django``."""

    full_name: str
    task: Any

    def _caller(self) -> Caller:
        raise NotImplementedError

    def _inputs_to_spawn(self, input_iterators: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        raise NotImplementedError

    def spawn_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Spawn when the transaction commits; the call's id is known now, so that it can be saved with the rest.

        Until then nothing is known of the call: ``get`` would raise OutputExpiredError.
        """
        function: Any = self
        function.needs_one_result(".spawn_on_commit()")
        if self.task.typing:
            self.task.__header__(*args, **kwargs)  # the TypeError of a plain call belongs here, not behind the commit
        call: FunctionCall[R] = FunctionCall(new_call(), self._caller, self.full_name, 1)
        when_committed(lambda: self._caller().send(function, call.object_id, [(0, args, kwargs)], kind="spawn"))
        return call

    def map_on_commit(self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}) -> FunctionCall[R]:
        """Do what ``spawn_map`` does when the transaction commits; the inputs are read now."""
        function: Any = self
        columns = zip(*zip(*input_iterators, strict=False), strict=True)  # the shortest wins, and one may have no end
        read = tuple(list(column) for column in columns) or tuple([] for _ in input_iterators)
        inputs = self._inputs_to_spawn(read, kwargs)
        call: FunctionCall[R] = FunctionCall(new_call(), self._caller, self.full_name, length(inputs.iterables))
        when_committed(lambda: SpawnMap(function, self._caller(), call.object_id, inputs).run())
        return call

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call ``delay`` when the transaction commits, as Celery's tasks do in Django."""
        function: Any = self
        when_committed(partial(function.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **options: Any) -> None:
        """Call ``apply_async`` when the transaction commits, as Celery's tasks do in Django."""
        function: Any = self
        when_committed(partial(function.apply_async, *args, **options))
