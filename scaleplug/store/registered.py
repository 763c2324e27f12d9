"""The registry's part of the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from scaleplug.store.scripts import Scripts, as_text


class Registered(Scripts):
    """What is registered: functions, code, deployments."""

    def put_functions(self, sealed: Mapping[str, bytes], versions: Mapping[str, str] = {}) -> None:
        """Register functions with the versions of their code; a running controller sees them at once."""
        pipe = self.client.pipeline(transaction=True)
        self._put(pipe, sealed, versions)
        pipe.execute()

    def _put(self, pipe: Any, sealed: Mapping[str, bytes], versions: Mapping[str, str]) -> None:
        pipe.hset(self.keys.functions, mapping=dict(sealed))
        pipe.hset(self.keys.versions, mapping={name: versions.get(name, "") for name in sealed})
        pipe.srem(self.keys.retiring, *sealed)
        self._ring_for(pipe, sealed)

    def _ring_for(self, pipe: Any, functions: Collection[str]) -> None:
        names = [f"={name}" for name in functions] if len(functions) <= 100 else ["*"]
        pipe.sadd(self.keys.prefix + "dirty", *names)
        pipe.lpush(self.keys.bell, "1")

    def deploy(
        self, app: str, record: bytes, sealed: Mapping[str, bytes], versions: Mapping[str, str], gone: Iterable[str],
        overrides: Mapping[str, bytes] = {},
    ) -> None:  # fmt: skip
        """Put a deployment in force in one step: its functions, these overrides only; those that are gone retire."""
        retired = list(gone)
        pipe = self.client.pipeline(transaction=True)
        pipe.hset(self.keys.apps, app, record)
        if retired or sealed:
            pipe.hdel(self.keys.overrides, *retired, *sealed)
            pipe.delete(*(self.keys.of("trouble", name) for name in (*retired, *sealed)))
        if overrides:
            pipe.hset(self.keys.overrides, mapping=dict(overrides))
        if retired:
            pipe.sadd(self.keys.retiring, *retired)
        if sealed:
            self._put(pipe, sealed, versions)
        self._ring_for(pipe, [*retired, *sealed] or [app])
        pipe.execute()

    def apps(self) -> dict[str, bytes]:
        """Return every app's sealed record of its deployment."""
        return {as_text(name): bytes(record) for name, record in self.client.hgetall(self.keys.apps).items()}

    def app(self, name: str) -> bytes | None:
        """Return one app's sealed record of its deployment."""
        found = self.client.hget(self.keys.apps, name)
        return bytes(found) if found is not None else None

    def put_app(self, name: str, record: bytes) -> None:
        """Change an app's record."""
        self.client.hset(self.keys.apps, name, record)

    def retiring(self) -> set[str]:
        """Return the functions that take no new inputs and go when the last one has ended."""
        return {as_text(name) for name in self.client.smembers(self.keys.retiring)}

    def retire(self, token: str, functions: Sequence[str]) -> bool:
        """Remove retiring functions from the registry; False while something of any of them is left."""
        gone = bool(self._run("retire", token, *functions))
        if gone:
            for function in functions:
                self.drop_code(function, keep=())
        return gone

    def let_be(self, token: str, function: str) -> bool:
        """Let a function that nobody uses retire; False when something of it is left."""
        return bool(self._run("let_be", token, function))

    def registry(self, functions: Collection[str] | None = None) -> dict[str, tuple[bytes, bytes | None, bool]]:
        """Return (sealed registration, sealed override, retiring) of registered functions; of all for ``None``."""
        if functions is not None and not functions:
            return {}
        rows = self._run("registry", *(functions or ()))
        return {as_text(n): (bytes(sealed), bytes(over) or None, bool(r)) for n, sealed, over, r in rows}

    def functions(self) -> dict[str, bytes]:
        """Return every function's sealed registration."""
        return {as_text(name): bytes(sealed) for name, sealed in self.client.hgetall(self.keys.functions).items()}

    def function(self, name: str) -> bytes | None:
        """Return one function's sealed registration."""
        found = self.client.hget(self.keys.functions, name)
        return bytes(found) if found is not None else None

    def function_and_override(self, name: str) -> tuple[bytes | None, bytes | None]:
        """Return one function's sealed registration, and the sealed settings laid over it."""
        pipe = self.client.pipeline(transaction=False)
        pipe.hget(self.keys.functions, name)
        pipe.hget(self.keys.overrides, name)
        registered, override = pipe.execute()
        return registered, override

    def overrides(self) -> dict[str, bytes]:
        """Return every function's sealed override."""
        return {as_text(name): bytes(sealed) for name, sealed in self.client.hgetall(self.keys.overrides).items()}

    def override(self, function: str, before: bytes | None, after: bytes | None) -> bool:
        """Replace a function's override; False when it is no longer the one that was read."""
        return bool(self._run("override", function, before or b"", after or b""))

    def put_code(self, function: str, version: str, sealed: bytes) -> None:
        """Register pickled code."""
        self.client.hset(self.keys.code, f"{function}@{version}", sealed)

    def code(self, function: str, version: str) -> bytes | None:
        """Return sealed pickled code."""
        found = self.client.hget(self.keys.code, f"{function}@{version}")
        return bytes(found) if found is not None else None

    def drop_code(self, function: str, *, keep: Collection[str]) -> None:
        """Forget a function's pickled code but for some versions."""
        fields = [as_text(f) for f in self.client.hkeys(self.keys.code)]
        old = [f for f in fields if f.startswith(f"{function}@") and f.removeprefix(f"{function}@") not in keep]
        if old:
            self.client.hdel(self.keys.code, *old)

    def version(self, function: str) -> str:
        """Return the version of the code that is registered; empty where there is none."""
        return as_text(self.client.hget(self.keys.versions, function) or "")
