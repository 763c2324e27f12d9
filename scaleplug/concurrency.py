"""``@concurrent`` and ``@batched``: how inputs share a container; they stand below ``@app.function()``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from scaleplug.errors import InvalidError
from scaleplug.settings import POOLS, check_count

F = TypeVar("F", bound=Callable[..., Any])
MOST_IN_BATCH, LONGEST_WAIT = 1_000, 600_000


@dataclass(slots=True)
class Marked:
    """A function or class with options for its settings, until ``@app.function()`` or ``@app.cls()`` takes them."""

    raw: Any
    options: dict[str, Any] = field(default_factory=dict)
    by: str = ""

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuse: the decorator above is missing."""
        kind = "cls" if inspect.isclass(self.raw) else "function"
        raise InvalidError(f"{self.raw.__name__} is under {self.by} alone: put @app.{kind}() above it")


class Decorator(Protocol):
    """A decorator that leaves the type of what is below it as it is."""

    def __call__(self, raw: F, /) -> F:
        """Return what stands for ``raw`` until the decorator above takes it."""


def concurrent(*, max_inputs: int, target_inputs: int | None = None, pool: str | None = None) -> Decorator:
    """Let one container run up to ``max_inputs`` inputs at once; the autoscaler plans with ``target_inputs``.

    It stands below ``@app.function()`` or ``@app.cls()``. Sync functions run in threads, async ones as tasks of one
    event loop; ``pool="eventlet"`` runs sync ones in green threads. Raises InvalidError.
    """
    check_count("max_inputs", max_inputs, 1)
    if target_inputs is not None:
        check_count("target_inputs", target_inputs, 1)
        if target_inputs > max_inputs:
            raise InvalidError(f"target_inputs ({target_inputs}) must not be more than max_inputs ({max_inputs})")
    if pool is not None and pool not in POOLS:
        raise InvalidError(f"pool must be {' or '.join(map(repr, POOLS))}, not {pool!r}")
    options = {"max_inputs": max_inputs, "target_inputs": target_inputs or max_inputs, "pool": pool}
    return cast("Decorator", lambda raw: _mark("@scaleplug.concurrent(...)", raw, options))


def batched(*, max_batch_size: int, wait_ms: int) -> Decorator:
    """Let a function run for a list of inputs: callers send single ones, it gets a list for every argument.

    A batch is run when it holds ``max_batch_size`` inputs, or ``wait_ms`` milliseconds after its first one. The
    function returns a list of as many results, in the same order. It stands below ``@app.function()``.
    """
    if not 1 <= check_count("max_batch_size", max_batch_size, 1) <= MOST_IN_BATCH:
        raise InvalidError(f"max_batch_size must be between 1 and {MOST_IN_BATCH:,}, not {max_batch_size}")
    if not 0 <= check_count("wait_ms", wait_ms, 0) <= LONGEST_WAIT:
        raise InvalidError(f"wait_ms must be between 0 and {LONGEST_WAIT:,}, not {wait_ms}")
    options = {"max_batch_size": max_batch_size, "wait_ms": wait_ms}

    def decorate(raw: Any) -> Any:
        mark = _mark("@scaleplug.batched(...)", raw, options)
        check_batched(mark.raw)
        return mark

    return cast("Decorator", decorate)


def check_batched(raw: Any) -> None:
    """Refuse what can't get a list for every argument."""
    if inspect.isclass(raw) or inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(f"@scaleplug.batched(...) goes on a function that returns a list, which {raw!r} is not")
    for each in inspect.signature(raw).parameters.values():
        if each.default is not each.empty:
            raise InvalidError(
                f"the argument {each.name!r} of the batched function {raw.__name__} has a default, "
                "which would be no list: take it away"
            )


def _mark(by: str, raw: Any, options: dict[str, Any]) -> Marked:
    if isinstance(raw, Marked):
        if raw.options.keys() & options.keys():
            raise InvalidError(f"{raw.raw.__name__} is under {by} twice: keep one")
        return Marked(raw.raw, raw.options | options, raw.by)
    if inspect.isfunction(raw) and "max_inputs" in options and _in_class(raw):
        raise InvalidError(f"{by} goes on the class, not on its method {raw.__qualname__!r}: they share containers")
    if inspect.isclass(raw) or inspect.isfunction(raw):
        return Marked(raw, dict(options), by)
    name = getattr(raw, "__name__", repr(raw))
    raise InvalidError(f"{by} must stand below @app.function() or @app.cls(), directly above the code of {name}")


def _in_class(raw: Any) -> bool:
    return "." in str(raw.__qualname__).rpartition("<locals>.")[2]


def unmark(raw: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function or class below the marks, and the options they give."""
    return (raw.raw, raw.options) if isinstance(raw, Marked) else (raw, {})
