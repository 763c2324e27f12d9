"""Calls that are sent when the database transaction around them commits, and never if it is rolled back."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from secrets import token_hex
from typing import Any, Generic, ParamSpec, TypeVar

from scaleplug.abc import Caller
from scaleplug.call import FunctionCall
from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.inputs import Inputs, Row
from scaleplug.mapping import length
from scaleplug.serializer import pickle_call
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
    return f"fc-{token_hex(16)}"


class OnCommit(Generic[P, R]):
    """What a Function has for views that change the database; for Django, with ``scaleplug.contrib.django``."""

    full_name: str
    task: Any

    def _caller(self) -> Caller:
        raise NotImplementedError

    def _inputs_to_spawn(self, input_iterators: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        raise NotImplementedError

    def _checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Row:
        """Return arguments as they are now; what is wrong with them is told here, not behind the commit."""
        if self.task.typing:
            self.task.__header__(*args, **kwargs)  # the TypeError of a plain call
        now: Row = pickle.loads(pickle_call(self.full_name, args, kwargs))
        return now

    def spawn_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Spawn when the transaction commits; the call's id is known now, so that it can be saved with the rest.

        Until then nothing is known of the call: ``get`` would raise OutputExpiredError.
        """
        function: Any = self
        function.needs_one_result(".spawn_on_commit()")
        call: FunctionCall[R] = FunctionCall(new_call(), self._caller, self.full_name, 1)
        given = (0, *self._checked(args, kwargs))
        when_committed(lambda: self._caller().send(function, call.object_id, [given], kind="spawn"))
        return call

    def map_on_commit(self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}) -> FunctionCall[R]:
        """Do what ``spawn_map`` does when the transaction commits; the inputs are read now."""
        function: Any = self
        given = self._inputs_to_spawn(input_iterators, kwargs)  # which knows what can't be read
        if not given.plain:
            raise InvalidError(
                f"{self.full_name}.map_on_commit() has inputs that only an event loop can read: give it a list"
            )
        rows = [self._checked(*row) for row in given]  # the shortest ends them, and one may have no end
        columns = tuple(zip(*(args for args, _ in rows), strict=True)) or tuple(() for _ in input_iterators)
        inputs = self._inputs_to_spawn(columns, rows[0][1] if rows else {})
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
