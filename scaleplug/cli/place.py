"""Where to look: the Redis that commands for people ask, named by options, the environment, or a run of this user."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from scaleplug.cli.names import find_function
from scaleplug.embedded import Instance, find_instances
from scaleplug.errors import ConfigurationError, NotFoundError, ServerError, did_you_mean, listed
from scaleplug.keys import Keys
from scaleplug.registry import registrations
from scaleplug.serializer import Keyring
from scaleplug.server import connect, mask_url, read_facts
from scaleplug.settings import Config
from scaleplug.store import Store

F = TypeVar("F", bound=Callable[..., Any])
WIDE = 200
"""Columns where the output is no terminal: nothing is cut off there."""


def make_console() -> Console:
    """Return what tables are printed on: as wide as the terminal, and wide where there is none."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


@dataclass(frozen=True, slots=True)
class Place:
    """One namespace of one Redis."""

    title: str
    url: str
    secret: str | None
    namespace: str
    store: Store
    private: bool
    """Whether it is the Redis of a run, and ends with it."""

    @contextmanager
    def asking(self) -> Iterator[Place]:
        """Turn a lost connection into one sentence; whoever watches a run has seen it to its end."""
        try:
            yield self
        except (RedisError, OSError) as exc:
            if isinstance(exc, BrokenPipeError):
                raise  # that is our standard output
            if self.private:
                click.echo(f"scaleplug: {self.title} has ended", err=True)
                sys.exit(0)
            raise ServerError(f"{self.title} does not answer any more ({type(exc).__name__})") from None

    def show(
        self, rows: Sequence[Any], *, as_json: bool, empty: str, table: Callable[[Any], Table], notes: Iterable[str]
    ) -> bool:
        """Print what was found (dataclasses), as JSON or as a table with ``notes``; return whether that was a table."""
        if as_json:
            click.echo(json.dumps([asdict(row) for row in rows], indent=2))
            return False
        console = make_console()
        console.print(self.title)
        console.print(table(rows) if rows else empty)
        for note in notes:
            console.print(note, style="yellow", soft_wrap=True)
        return bool(rows)

    def function(self, wanted: str) -> str:
        """Return the full name that ``wanted`` stands for; raises NotFoundError with near misses."""
        sealed = self.store.functions()
        if wanted in sealed:
            return wanted
        known = registrations(sealed, Keyring(self.secret)) if self.secret else {}
        shown = {known[name].shown if name in known else name: name for name in sealed}
        return shown[find_function(wanted, shown)]

    def leader(self) -> str | None:
        """Return who acts as the controller, ``None`` when nobody does."""
        held, who = self.store.client.mget(self.store.keys.lease, self.store.keys.leader)
        return None if held is None else (who or b"somebody").decode(errors="replace")


def place_options(command: F) -> F:
    """Add the options that say where to look."""
    run = click.option("--run", "run", metavar="TITLE|PID", help="A scaleplug run of yours: its file, or its process.")
    url = click.option("--redis-url", metavar="URL", help="The Redis; else SCALEPLUG_REDIS_URL, else your newest run.")
    return url(run(command))


def find_place(redis_url: str | None, run: str | None) -> Place:
    """Return where to look; raises ConfigurationError, NotFoundError or ServerError with the way out."""
    config = Config.from_environ(os.environ, redis_url=redis_url)
    if run is None and config.redis_url is not None:
        title = f"Redis at {mask_url(config.redis_url)}, namespace {config.namespace}"
        return _reach(title, config.redis_url, config.secret, config.namespace, private=False)
    for instance in (instances := _choose(find_instances(os.environ), run)):
        try:
            title = f"scaleplug run {_told(instance)}"
            place = _reach(title, instance.url, instance.secret, instance.namespace, private=True)
        except ServerError:
            continue  # it is about to end
        if others := [_told(other) for other in instances if other is not instance]:
            click.echo(
                f"scaleplug: showing {_told(instance)}, the newest run; --run chooses {listed(others, 'or')}", err=True
            )
        return place
    raise ServerError(
        f"the Redis of scaleplug run {listed([_told(i) for i in instances])} does not answer: it may be ending"
    )


def _choose(instances: list[Instance], run: str | None) -> list[Instance]:
    if not instances:
        raise ConfigurationError(
            "there is nothing to look at: no 'scaleplug run' of yours is under way, and SCALEPLUG_REDIS_URL is unset: "
            "start one, or name the Redis with --redis-url"
        )
    if run is not None:
        found = [i for i in instances if run in (str(i.pid), i.title, Path(i.title).name)]
        if not found:
            titles = [i.title for i in instances]
            raise NotFoundError(f"no run {run!r} is under way{did_you_mean(run, titles) or f': {listed(titles)} are'}")
        instances = found
    return instances


def _told(instance: Instance) -> str:
    return f"{instance.title} (process {instance.pid})"


def _reach(title: str, url: str, secret: str | None, namespace: str, *, private: bool) -> Place:
    client = connect(url, name=f"scaleplug-cli-{os.getpid()}", connect_timeout=2.0, retry=False)
    try:
        client.ping()
    except (RedisError, OSError):
        read_facts(client)  # it tells what is wrong in one sentence
        raise
    return Place(title, url, secret, namespace, Store(client, Keys(namespace)), private)
