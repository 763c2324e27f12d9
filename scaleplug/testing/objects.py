"""The objects of classes in a local run: one for each pool, as a container has one."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from scaleplug.cls import BoundMethod, Cls, ObjectPool
from scaleplug.errors import ContainerStartError
from scaleplug.function import run_coroutine

logger = logging.getLogger("scaleplug")


class Objects:
    """Makes an object at its pool's first input; its ``enter`` hooks run then, its ``exit`` hooks at the end."""

    def __init__(self, load: Callable[[Cls[Any]], type]) -> None:
        self._load = load
        self._made: dict[str, tuple[Cls[Any], type, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def bind(self, method: BoundMethod[Any, Any]) -> Callable[..., Any]:
        """Return the code of a method, on the object of its pool; raises ContainerStartError."""
        pool, cls = method.full_name, method.obj.cls
        with self._lock:
            lock = self._locks.setdefault(pool, threading.Lock())
        with lock:
            known = self._made.get(pool)
            if known is None or known[0].raw is not cls.raw:
                known = self._made[pool] = (cls, self._load(cls), self._make(method.obj))
        _, raw, instance = known
        code = inspect.getattr_static(raw, method.method_name)
        bound: Callable[..., Any] = code.raw.__get__(instance, type(instance))
        return bound

    def _make(self, obj: ObjectPool[Any]) -> Any:
        raw, pool = self._load(obj.cls), obj.shown
        instance = ObjectPool(obj.cls, obj.given).make_instance(raw)
        try:
            for hook in obj.cls.hooks:
                if hook.kind == "enter":
                    _run(obj.cls, inspect.getattr_static(raw, hook.__name__).raw, instance)
        except Exception as exc:
            raise ContainerStartError(f"no container of {pool} could be started: {type(exc).__name__}: {exc}") from exc
        return instance

    def end(self) -> None:
        """Run the ``exit`` hooks of all objects."""
        with self._lock:
            made, self._made = list(self._made.items()), {}
        for pool, (cls, raw, instance) in made:
            for hook in cls.hooks:
                if hook.kind == "exit":
                    try:
                        _run(cls, inspect.getattr_static(raw, hook.__name__).raw, instance)
                    except Exception:
                        logger.exception("%s of %s failed", hook.__name__, pool)


def _run(cls: Cls[Any], hook: Callable[[Any], Any], instance: Any) -> None:
    value = cls.app.surround_hook(hook)(instance)
    if inspect.iscoroutine(value):
        run_coroutine(value)
