"""The scripts in ``lua/``, and how they are run."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from importlib import resources
from typing import Any, Final

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from scaleplug.keys import Keys
from scaleplug.links import Glance

_NAME: Final = re.compile(r"(?:local function|local) (\w+)|(\w+) = function")


@functools.cache
def _prelude() -> tuple[tuple[str, str], ...]:
    """Return the statements of the prelude, each with the name that it gives; '' where it gives none."""
    parts: list[tuple[str, str]] = []
    lines, inside = list[str](), False
    for line in (resources.files("scaleplug") / "lua" / "prelude.lua").read_text().splitlines():
        lines.append(line)
        found = _NAME.match(line)
        if found and "function" in line and not line.endswith(" end"):
            inside = True
        elif line == "end":
            inside = False
        if not inside and line and not line.startswith("--"):
            named = next((n for n in map(_NAME.match, lines) if n), None)
            parts.append((named[1] or named[2] if named else "", "\n".join(lines)))
            lines = []
    return tuple(parts)


def _needed(text: str) -> str:
    """Return those parts of the prelude that a script needs: a server makes its functions anew for every run."""
    known: dict[str, list[str]] = {}
    for name, part in _prelude():
        known.setdefault(name, []).append(part)
    needed, left = {""}, [text, *known[""]]
    while left:
        names = known.keys() & set(re.findall(r"\w+", left.pop())) - needed
        needed |= names
        left += [part for name in names for part in known[name]]
    return "\n".join(part for name, part in _prelude() if name in needed)


def _script_text(name: str, flags: bool) -> str:
    text = (resources.files("scaleplug") / "lua" / f"{name}.lua").read_text()
    head, _, rest = text.partition("\n")
    if not head.startswith("#!"):
        head, rest = "#!lua", text
    prelude = _needed(rest)
    # Redis 6.2 knows no flags; the line would be a syntax error there.
    return f"{head}\n{prelude}\n{rest}" if flags else f"{prelude}\n{rest}"


def as_text(value: Any) -> str:
    """Return what Redis answers as text."""
    # Anybody may have written it: what is no text must not stop who reads the rest.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class Scripts:
    """Runs the scripts of one namespace; safe to use from several threads."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client: Any = client  # redis-py's types mix its sync and async results
        self.keys = keys
        self.registered: dict[str, object] = {}
        """The functions that this process knows to be in the registry, by the owner of each pool."""
        self.inside = ""
        """The app of which this process is a container."""
        self.register_again: Callable[[str], object] = lambda _function: None
        """Called with a function that is in the registry no longer, or retires; raises NotFoundError."""
        self.insist: Callable[[Callable[[], Any]], Any] = lambda action: action()
        """Runs what adds inputs; a caller's tries again while Redis is away."""
        self._ahead: float | None = None
        """Redis's clock less this machine's monotonic one."""
        self._scripts: dict[str, Any] = {}
        self._glance = Glance()
        self._flags: bool | None = None

    # -- time ----------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return Redis's Unix time, by which all processes go: hosts' clocks may differ, and jump.

        Redis is asked once, and again after :meth:`forget_clock`; what it says with other answers is taken too.
        """
        if self._ahead is None:
            seconds, micros = self.client.time()
            self._note_time(seconds + micros / 1e6)
        assert self._ahead is not None
        return time.monotonic() + self._ahead

    def known_now(self) -> float:
        """Return Redis's time without asking it; 0 while it isn't known."""
        return 0.0 if self._ahead is None else time.monotonic() + self._ahead

    def learn_clock(self) -> None:
        """Ask Redis for its time unless it is known."""
        if self._ahead is None:
            self.now()

    def by_own_clock(self, moment: str) -> str:
        """Return a moment of Redis's clock (ISO 8601) by this machine's, for what compares it with that."""
        try:
            ahead = timedelta(seconds=time.time() - self.now())
            return (datetime.fromisoformat(moment) + ahead).isoformat()
        except (TypeError, ValueError):
            return moment  # Celery tells

    def forget_clock(self) -> None:
        """Ask Redis for its time again when it is next needed: it may be another Redis."""
        self._ahead = None

    def _note_time(self, now: float) -> None:
        self._ahead = now - time.monotonic()

    # -- scripts -------------------------------------------------------------------------------------------------------

    def _run(self, name: str, *args: Any, drafts: Sequence[str] = (), soon: bool = False) -> Any:
        script, keys = self._script(name), self._keys(drafts)
        try:
            return self._run_direct(script.sha, keys, args, soon=soon)
        except (NoScriptError, RedisConnectionError, RedisTimeoutError):
            return script(keys=keys, args=args)  # it tries again, as it is to be done

    def _run_direct(self, sha: str, keys: Sequence[str], args: Sequence[Any], *, soon: bool) -> Any:
        """Run a script that Redis knows: redis-py's own way costs more than Redis's part of it."""
        pool = self.client.connection_pool
        link = pool.take()
        try:
            link.send_command("EVALSHA", sha, len(keys), *keys, *args)
            if soon:
                self._glance.at(link)
            answer = link.read_response(disable_decoding=True)
        except redis.exceptions.ResponseError:
            pool.keep(link)
            raise
        except BaseException:
            pool.drop(link)  # what it still answers is for nobody else
            raise
        pool.keep(link)
        return answer

    def _keys(self, drafts: Sequence[str] = ()) -> list[str]:
        return [self.keys.prefix, *(d and self.keys.of("draft", d) for d in drafts)]

    def _script(self, name: str) -> Any:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.client.register_script(_script_text(name, self._knows_flags()))
        return script

    def _run_many(self, name: str, rows: Sequence[tuple[Sequence[Any], str]]) -> list[Any]:
        """Run a script for each row of arguments and draft, '' for none, in one trip."""
        sha, results = self._script(name).sha, list[Any]()
        for _ in range(2):
            pipe = self.client.pipeline(transaction=False)
            for row, draft in rows:
                keys = self._keys([draft] if draft else ())
                pipe.evalsha(sha, len(keys), *keys, *row)
            results = pipe.execute(raise_on_error=False)
            if not any(isinstance(result, redis.exceptions.NoScriptError) for result in results):
                break
            self.client.script_load(self._script(name).script)  # none of them has run, or all from here on
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def _knows_flags(self) -> bool:
        if self._flags is None:
            self._flags = int(str(self.client.info("server")["redis_version"]).split(".")[0]) >= 7
        return self._flags

    def know_scripts(self, names: Sequence[str]) -> None:
        """Let Redis learn scripts before they are run; it may refuse that, and learns them later."""
        with contextlib.suppress(redis.exceptions.ResponseError):
            for name in names:
                self.client.script_load(self._script(name).script)

    def scripts(self) -> dict[str, str]:
        """Return the name of each script that is prepared, by its digest."""
        return {script.sha: name for name, script in self._scripts.items()}

    def prepare_scripts(self) -> None:
        """Read every script now, so that a process forked from this one need not."""
        for path in (resources.files("scaleplug") / "lua").iterdir():
            name, _, ending = path.name.rpartition(".")
            if ending == "lua" and name != "prelude":
                text = _script_text(name, self._knows_flags())
                self._scripts[name] = self.client.register_script(text)
        self.client.connection_pool.disconnect()
