"""``@concurrent`` and ``@batched``: how inputs share a container; they stand below ``@app.function()``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from scaleplug.errors import InvalidError
from scaleplug.settings import POOLS, FunctionSettings, check_count

F = TypeVar("F", bound=Callable[..., Any])
CONCURRENT, BATCHED = "@scaleplug.concurrent(...)", "@scaleplug.batched(...)"
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

    def __getattr__(self, name: str) -> Any:
        kind = "cls" if inspect.isclass(self.raw) else "function"
        raise AttributeError(
            f"{self.raw.__name__} has no attribute {name!r}: it is under {self.by} alone, put @app.{kind}() above it"
        )


class Decorator(Protocol):
    """A decorator that leaves the type of what is below it as it is."""

    def __call__(self, raw: F, /) -> F:
        """Return what stands for ``raw`` until the decorator above takes it."""


def concurrent(*, max_inputs: int, target_inputs: int | None = None, pool: str | None = None) -> Decorator:
    """Let one container run up to ``max_inputs`` inputs at once; the autoscaler plans with ``target_inputs``.

    It stands below ``@app.function()`` or ``@app.cls()``. Sync functions run in threads, async ones as tasks of one
    event loop; ``pool="eventlet"`` runs sync ones in green threads. Raises InvalidError.
    """
    options = concurrency(max_inputs, target_inputs)
    if pool is not None:
        if pool not in POOLS:
            raise InvalidError(f"pool must be {' or '.join(map(repr, POOLS))}, not {pool!r}")
        options["pool"] = pool

    def decorate(raw: Any) -> Any:
        mark = _mark(CONCURRENT, raw, options)
        check_pool(mark.raw, pool)
        return mark

    return cast("Decorator", decorate)


def check_pool(raw: Any, pool: str | None) -> None:
    """Refuse a pool for what doesn't run in it: async functions are tasks of one event loop."""
    if pool is None:
        return
    methods = [each.raw for each in vars(raw).values() if _is_method(each)] if inspect.isclass(raw) else [raw]
    asyncs = [each for each in methods if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)]
    if asyncs and (pool == "eventlet" or len(asyncs) == len(methods)):
        raise InvalidError(
            f"pool={pool!r} is for sync functions, and {asyncs[0].__name__} is async: it runs as a task of the "
            "container's event loop; leave pool= away"
        )


def batched(*, max_batch_size: int, wait_ms: int) -> Decorator:
    """Let a function run for a list of inputs: callers send single ones, it gets a list for every argument.

    A batch is run when it holds ``max_batch_size`` inputs, or ``wait_ms`` milliseconds after its first one. The
    function returns a list of as many results, in the same order. It stands below ``@app.function()``, in a class above
    ``@method()``, which must be the only one there.
    """
    options = batching(max_batch_size, wait_ms)

    def decorate(raw: Any) -> Any:
        if _is_method(raw):
            check_batched(raw.raw)
            raw.batching = options
            return raw
        mark = _mark(BATCHED, raw, options)
        check_batched(mark.raw)
        return mark

    return cast("Decorator", decorate)


def together(raw: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a class: those of its mark, or of its only method that is batched; raises InvalidError."""
    methods = [each for each in vars(raw).values() if _is_method(each)] if inspect.isclass(raw) else []
    batched_ones = [each for each in methods if each.batching]
    if batched_ones and len(methods) > 1:
        names = ", ".join(each.__name__ for each in methods)
        raise InvalidError(f"{raw.__name__} has several methods ({names}): a batched one must be alone in its class")
    if batched_ones and options:
        raise InvalidError(f"{raw.__name__} is under {CONCURRENT}, and its method is batched: keep one")
    return dict(batched_ones[0].batching) if batched_ones else options


def check_batched(raw: Any) -> None:
    """Refuse what can't get a list for every argument."""
    if raw is None:
        return  # its code is elsewhere
    if inspect.isclass(raw) or inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(f"@scaleplug.batched(...) goes on a function that returns a list, which {raw!r} is not")
    parameters = inspect.signature(raw).parameters
    if not parameters:
        raise InvalidError(f"the batched function {raw.__name__} needs an argument: it gets a list for each")
    for each in parameters.values():
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise InvalidError(f"the batched function {raw.__name__} can't take {each}: give its arguments names")
        if each.default is not each.empty:
            raise InvalidError(
                f"the argument {each.name!r} of the batched function {raw.__name__} has a default, "
                "which would be no list: take it away"
            )


def concurrency(max_inputs: int, target_inputs: int | None) -> dict[str, Any]:
    """Return the settings of input concurrency; raises InvalidError."""
    check_count("max_inputs", max_inputs, 1)
    if target_inputs is not None:
        check_count("target_inputs", target_inputs, 1)
        if target_inputs > max_inputs:
            raise InvalidError(f"target_inputs ({target_inputs}) must not be more than max_inputs ({max_inputs})")
    return {"max_inputs": max_inputs, "target_inputs": max_inputs if target_inputs is None else target_inputs}


def check_apart(settings: FunctionSettings, options: Mapping[str, Any]) -> None:
    """Refuse to batch what is concurrent, and the other way round."""
    wanted = options.get("max_batch_size") is not None
    if (wanted and settings.concurrent) or (not wanted and settings.max_batch_size is not None):
        raise InvalidError("a function is either concurrent or batched: a container runs one batch at a time")


def batching(max_batch_size: int, wait_ms: int) -> dict[str, Any]:
    """Return the settings of batching; raises InvalidError."""
    if not 1 <= check_count("max_batch_size", max_batch_size, 1) <= MOST_IN_BATCH:
        raise InvalidError(f"max_batch_size must be between 1 and {MOST_IN_BATCH:,}, not {max_batch_size}")
    if not 0 <= check_count("wait_ms", wait_ms, 0) <= LONGEST_WAIT:
        raise InvalidError(f"wait_ms must be between 0 and {LONGEST_WAIT:,}, not {wait_ms}")
    size = {"max_inputs": max_batch_size, "target_inputs": max_batch_size}  # a container's inputs are one batch
    return {"max_batch_size": max_batch_size, "wait_ms": wait_ms, **size}


def _mark(by: str, raw: Any, options: dict[str, Any]) -> Marked:
    if isinstance(raw, Marked):
        name = raw.raw.__name__
        if raw.by == by:
            raise InvalidError(f"{name} is under {by} twice: keep one")
        raise InvalidError(
            f"{name} is under {BATCHED} and {CONCURRENT}: a container runs one batch at a time, keep one"
        )
    if inspect.isfunction(raw) and _in_class(raw):
        if by == BATCHED:
            raise InvalidError(f"put {by} above @scaleplug.method() of {raw.__qualname__!r}, not below it")
        raise InvalidError(f"{by} goes on the class, not on its method {raw.__qualname__!r}: they share containers")
    if _is_method(raw):
        raise InvalidError(f"{by} goes on the class, not on its method {raw.__name__!r}: they share containers")
    if inspect.isclass(raw) or inspect.isfunction(raw):
        return Marked(raw, dict(options), by)
    name = getattr(raw, "__name__", repr(raw))
    raise InvalidError(f"{by} must stand below @app.function() or @app.cls(), directly above the code of {name}")


def _is_method(raw: Any) -> bool:
    return hasattr(raw, "batching")  # a MethodMark, which this module is below


def _in_class(raw: Any) -> bool:
    return "." in str(raw.__qualname__).rpartition("<locals>.")[2]


def unmark(raw: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function or class below the marks, and the options they give."""
    return (raw.raw, raw.options) if isinstance(raw, Marked) else (raw, {})
