"""Where a map reads its inputs: one iterable per argument, each plain or asynchronous, or one of whole inputs."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from scaleplug.errors import InvalidError

Row = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one input."""


class Inputs:
    """The inputs of a map, not read yet; the shortest iterable ends them.

    ``spread`` makes an input's arguments of what the iterables give together.
    """

    def __init__(
        self,
        name: str,
        iterables: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        spread: Callable[[tuple[Any, ...]], tuple[Any, ...]] = tuple,
    ) -> None:
        for position, iterable in enumerate(iterables):
            _check(f"input {position + 1} of {name}()" if len(iterables) > 1 else f"the input of {name}()", iterable)
        self.name, self.iterables, self.kwargs, self.spread = name, iterables, kwargs, spread

    @property
    def asynchronous(self) -> bool:
        """Whether an event loop reads them other than a plain loop does."""
        return any(isinstance(iterable, AsyncIterable) for iterable in self.iterables)

    @property
    def plain(self) -> bool:
        """Whether a plain loop can read them."""
        return all(isinstance(iterable, Iterable) for iterable in self.iterables)

    def __iter__(self) -> Iterator[Row]:
        return ((self.spread(row), self.kwargs) for row in zip(*self.iterables, strict=False))

    async def __aiter__(self) -> AsyncIterator[Row]:
        sources: list[tuple[bool, Any]] = [
            (True, aiter(i)) if isinstance(i, AsyncIterable) else (False, iter(i)) for i in self.iterables
        ]
        while True:
            row = []
            for asynchronous, source in sources:
                try:
                    row.append(await anext(source) if asynchronous else next(source))
                except (StopIteration, StopAsyncIteration):
                    return
            yield self.spread(tuple(row)), self.kwargs


def _check(what: str, value: Any) -> None:
    if not isinstance(value, (Iterable, AsyncIterable)):
        raise InvalidError(
            f"{what} must be iterable, not {type(value).__name__} ({value!r}): pass a list, range or generator"
        )
