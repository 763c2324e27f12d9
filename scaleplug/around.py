"""What is open around each input: a web framework's context, or the end of what the input has opened."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Makes the contexts of one input, which runs inside: ``plain`` of any, ``awaited`` of async ones beside it.

    The hooks of an object (``enter``, ``exit``) run inside of ``hook``, and of ``awaited``.
    """

    plain: Callable[[], AbstractContextManager[Any]] = nullcontext
    awaited: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    hook: Callable[[], AbstractContextManager[Any]] = nullcontext


def surrounded(body: Callable[..., Any], arounds: Sequence[Around]) -> Callable[..., Any]:
    """Return a callable of the same kind (plain, async, generator) that runs ``body`` inside of all contexts."""
    if not arounds:
        return body
    if inspect.isasyncgenfunction(body):

        async def items_async(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with _all_async(arounds), aclosing(body(*args, **kwargs)) as given:
                async for item in given:
                    yield item

        return functools.wraps(body)(items_async)
    if inspect.iscoroutinefunction(body):

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            async with _all_async(arounds):
                return await body(*args, **kwargs)

        return functools.wraps(body)(run_async)
    if inspect.isgeneratorfunction(body):

        def items(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _all(arounds):
                yield from body(*args, **kwargs)

        return functools.wraps(body)(items)

    def run(*args: Any, **kwargs: Any) -> Any:
        with _all(arounds):
            return body(*args, **kwargs)

    return functools.wraps(body)(run)


@contextmanager
def _all(arounds: Sequence[Around]) -> Iterator[None]:
    with ExitStack() as stack:
        for around in arounds:
            stack.enter_context(around.plain())
        yield


@asynccontextmanager
async def _all_async(arounds: Sequence[Around]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for around in arounds:
            stack.enter_context(around.plain())
            if around.awaited is not None:
                await stack.enter_async_context(around.awaited())
        yield
