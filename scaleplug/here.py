"""What there is of scaleplug in this process: its Apps, what carries their calls, and a test's twin of that."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from scaleplug.abc import Caller
from scaleplug.around import Around
from scaleplug.client import RedisCaller
from scaleplug.registry import Source
from scaleplug.serializer import use_keyring
from scaleplug.settings import Config
from scaleplug.store import require_url

if TYPE_CHECKING:
    from scaleplug.app import App
    from scaleplug.cls import BoundMethod
    from scaleplug.definitions import Definition
    from scaleplug.function import Function

lock = threading.RLock()
_apps: weakref.WeakValueDictionary[str, App] = weakref.WeakValueDictionary()
_living: weakref.WeakSet[App] = weakref.WeakSet()
_callers: dict[tuple[int, Config], Caller] = {}
_twin: Caller | None = None
_eager: weakref.WeakKeyDictionary[Celery, bool] = weakref.WeakKeyDictionary()
"""Celery apps that a twin has made eager, and whether they had been so before."""
_importing = False
_stand = object()
_served = ""
_find_project: Callable[[Sequence[Definition]], Source | None] | None = None
_arounds: list[Around] = []


# -- its Apps ------------------------------------------------------------------------------------------------------


def add_app(app: App, *, by_name: bool) -> None:
    """Take note of an App; ``by_name`` unless its code is elsewhere."""
    if by_name:
        _apps[app.name] = app
    _living.add(app)
    if _twin is not None:
        _run_eagerly(app.celery)


def forget_app(app: App) -> None:
    """Let an App be found by nobody."""
    if _apps.get(app.name) is app:
        del _apps[app.name]


def find_app(name: str) -> App | None:
    """Return this process's App of that name."""
    return _apps.get(name)


def known_apps() -> list[App]:
    """Return this process's Apps whose code is here."""
    return list(_apps.values())


def namesakes() -> list[tuple[App, App]]:
    """Return Apps of this process that have the name of another one: containers would find only the last of them."""
    ours = {app for app in _living if app.functions or app.classes}
    return [(app, found) for app in ours if (found := _apps.get(app.name)) is not None and found is not app]


def known_functions() -> list[Function[Any, Any]]:
    """Return the Functions of all this process's apps."""
    return [function for app in known_apps() for function in app.functions.values()]


def known_methods() -> list[BoundMethod[Any, Any]]:
    """Return the methods of all this process's classes, of the objects with the parameters' defaults."""
    classes = [cls for app in known_apps() for cls in app.classes.values()]
    return [cls.task(name).function for cls in classes for name in cls.methods]


# -- what carries their calls --------------------------------------------------------------------------------------


def caller_for(config: Config) -> Caller:
    """Return what carries this process's calls through the Redis of this configuration."""
    key = (os.getpid(), config)
    with lock:
        caller = _callers.get(key)
        if caller is None:
            require_url(config.redis_url)
            for stale in [k for k in _callers if k[0] != os.getpid()]:
                del _callers[stale]  # this process was forked: it needs connections and an inbox of its own
            made = RedisCaller(config)
            made.store.inside, made.store.register_again = _served, partial(_register_again, made)
            use_keyring(made.keyring)
            caller = _callers[key] = made
        return caller


def _register_again(caller: RedisCaller, function: str) -> None:
    owner: Any = caller.store.registered.get(function) or caller.inbox.forgotten.get(function)
    if owner is not None:
        owner.app.ready_for_calls(owner, again=True)


def stand() -> object:
    """Return what is the same object as long as what :func:`caller_for` and :func:`twin` give may be kept."""
    return _stand


def _change_stand() -> None:
    global _stand  # noqa: PLW0603  # as what carries the calls of all Apps changes
    _stand = object()


os.register_at_fork(after_in_child=_change_stand)


def forget_callers(redis_url: str | None, *, lost: str = "") -> None:
    """Let go of connections to a Redis that is about to end, or is ``lost``: then the calls that wait fail."""
    with lock:
        for key in [k for k in _callers if k[1].redis_url == redis_url]:
            caller = _callers.pop(key)
            if isinstance(caller, RedisCaller):
                caller.close_all()
                if lost:
                    caller.inbox.fail_all(lost)
        _change_stand()


# -- what this process is ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Refuse calls inside: a file that is imported for its containers must not call them."""
    global _importing  # noqa: PLW0603  # a zygote imports once, before it does anything else
    _importing = True
    try:
        yield
    finally:
        _importing = False


def is_importing() -> bool:
    """Return whether this process imports a file for its containers."""
    return _importing


def serve(app: str) -> None:
    """Say that this process is a container of an app: what it runs may call the app until it has gone."""
    global _served  # noqa: PLW0603  # a container serves one app, from its start to its end
    _served = app


def served() -> str:
    """Return the app of which this process is a container; empty where it is none."""
    return _served


# -- the web project it is part of -----------------------------------------------------------------------------------


def use_project(find: Callable[[Sequence[Definition]], Source | None], *around: Around) -> None:
    """Say where containers find what this process's project defines, and what is open around every input."""
    global _find_project  # noqa: PLW0603  # a process is part of one project
    _find_project = find
    _arounds[:] = around


def project_of(definitions: Sequence[Definition]) -> Source | None:
    """Return the project that defines functions and classes, if this process is part of one."""
    return None if _find_project is None else _find_project(definitions)


def arounds() -> Sequence[Around]:
    """Return what is open around every input, whatever its App."""
    return _arounds


# -- a test's twin -------------------------------------------------------------------------------------------------


def twin() -> Caller | None:
    """Return what carries calls in place of Redis, if anything does."""
    return _twin


def use_twin(wanted: Caller | None) -> Caller | None:
    """Let this process's calls go to ``wanted`` (``scaleplug.testing``), or to Redis again; return the one before."""
    global _twin  # as the calls of all Apps go there
    before, _twin = _twin, wanted
    _change_stand()
    if wanted is not None:
        for app in list(_living):
            _run_eagerly(app.celery)
    else:
        for celery in list(_eager):
            celery.conf.task_always_eager = _eager.pop(celery)
    return before


def runs_eagerly(celery: Celery) -> bool:
    """Return Celery's ``task_always_eager``: every call asks, and Celery's own way of looking it up takes 2.5 us."""
    conf: Any = celery.conf
    if not conf.prefix:
        for each in conf.maps:
            # An object or a module, whose names may be written in several ways; or the old name.
            if type(each) is not dict or "CELERY_ALWAYS_EAGER" in each:
                break
            if "task_always_eager" in each:
                return bool(each["task_always_eager"])
    return bool(conf.task_always_eager)


def _run_eagerly(celery: Celery) -> None:
    """Let Celery's own calls run in this process, as long as there is a twin."""
    _eager.setdefault(celery, bool(celery.conf.task_always_eager))
    celery.conf.task_always_eager = True
