"""Database connections end with the input that has opened them.

For plain functions Celery's own Django fix-up sees to that, in whatever thread they run. Async ones use the database in
threads that Django chooses, so each gets a thread of its own, whose connections are closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.core.cache import close_caches
from django.db import connections

from scaleplug.around import Around
from scaleplug.here import twin


def close() -> None:
    """Close what this thread has opened."""
    connections.close_all()
    close_caches()


@contextlib.contextmanager
def in_twin() -> Iterator[None]:
    """Close the connections of a test twin's thread: there is no Celery around its inputs."""
    try:
        yield
    finally:
        if twin() is not None and not any(c.in_atomic_block for c in connections.all(initialized_only=True)):
            close()


@contextlib.contextmanager
def in_hook() -> Iterator[None]:
    """Close the connections of an object's hook: its thread may be one in which no input runs."""
    try:
        yield
    finally:
        if not any(c.in_atomic_block for c in connections.all(initialized_only=True)):
            close()


@contextlib.asynccontextmanager
async def own_thread() -> AsyncIterator[None]:
    """Let an async function use the database in a thread of its own, and close its connections at the end."""
    async with ThreadSensitiveContext() as context:
        try:
            yield
        finally:
            if context in SyncToAsync.context_to_thread_executor:  # else it has used none
                await sync_to_async(close)()


AROUND = Around(plain=in_twin, awaited=own_thread, hook=in_hook)
