"""An App: a named set of functions, bound to one Celery app."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from celery import Celery

from scaleplug.abc import Caller
from scaleplug.client import RedisCaller
from scaleplug.entrypoint import LocalEntrypoint
from scaleplug.errors import ConfigurationError, ExecutionError, InvalidError, NotFoundError, SerializationError
from scaleplug.function import Function, check_signature
from scaleplug.keys import Keys
from scaleplug.registry import Registration, Source
from scaleplug.serializer import CODE, NAME, Keyring, pickle, use_keyring
from scaleplug.server import celery_url
from scaleplug.settings import Config, FunctionSettings, check_name, process_config, renamed
from scaleplug.store import Store, require_url

P = ParamSpec("P")
R = TypeVar("R")

_apps: weakref.WeakValueDictionary[str, App] = weakref.WeakValueDictionary()
_living: weakref.WeakSet[App] = weakref.WeakSet()
_lock = threading.RLock()
_callers: dict[tuple[int, Config], Caller] = {}


class App:
    """A named set of functions.

    ``App("name")`` makes a Celery app of its own; ``App("name", celery=celery_app)`` adds functions to an existing
    one and changes nothing for its other tasks. ``redis_url`` stands above ``SCALEPLUG_REDIS_URL``. Without a name
    the file's name is taken.
    """

    def __init__(self, name: str | None = None, *, celery: Celery | None = None, redis_url: str | None = None) -> None:
        if name is None:
            name = _name_of_caller(sys._getframe(1).f_globals)
        self.name = check_name("the App's name", name)
        if celery is not None and not isinstance(celery, Celery):
            raise InvalidError(f"celery must be a celery.Celery app, not {celery!r}")
        self._redis_url = redis_url
        self.plugged = celery is not None
        self.celery: Celery = celery if celery is not None else _own_celery(self.name)
        self.functions: dict[str, Function[Any, Any]] = {}
        self.entrypoints: dict[str, LocalEntrypoint] = {}
        self._source: Source | None = None
        self._bound = ""
        _apps[self.name] = self
        if self.redis_url is not None:
            self._bind()
        _living.add(self)
        if _twin is not None:
            _run_eagerly(self.celery)

    def __repr__(self) -> str:
        return f"<App {self.name} of {len(self.functions)} functions>"

    # -- decorators ------------------------------------------------------------------------------------------------

    def function(  # noqa: PLR0913  # the options of the public decorator
        self,
        raw: None = None,
        /,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        timeout: float = 300.0,
        startup_timeout: float | None = None,
        name: str | None = None,
        serialized: bool = False,
        concurrency_limit: int | None = None,
    ) -> Callable[[Callable[P, R]], Function[P, R]]:
        """Make a Function of a callable; times in seconds.

        ``min_containers`` are kept while idle, ``buffer_containers`` are added while inputs are under way, never more
        than ``max_containers`` in all; one that is idle leaves after ``scaledown_window`` (2 to 3600). ``timeout``
        limits one input's run, ``startup_timeout`` a container's start. ``serialized=True`` pickles the callable
        instead of importing it by name: for nested functions and notebooks. ``None`` leaves a setting at its default.
        ``concurrency_limit`` is the older name of ``max_containers``. Raises InvalidError.
        """
        if raw is not None:
            if not callable(raw):
                raise InvalidError(f"@app.function() takes arguments by name, as in max_containers=5, not {raw!r}")
            where = getattr(raw, "__name__", repr(raw))
            raise InvalidError(f"@app.function needs parentheses: write @app.function() above {where!r}")
        if concurrency_limit is not None:
            max_containers = renamed("concurrency_limit", concurrency_limit, "max_containers", max_containers)
        if not isinstance(serialized, bool):
            raise InvalidError(f"serialized must be True or False, not {serialized!r}")
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
            "startup_timeout": startup_timeout,
        }
        settings = FunctionSettings.from_dict({"timeout": timeout} | {k: v for k, v in given.items() if v is not None})
        return lambda function: self._add(function, name, settings, serialized)

    def _add(self, raw: Any, name: str | None, settings: FunctionSettings, serialized: bool) -> Function[Any, Any]:
        if isinstance(raw, Function):
            raise InvalidError(f"{raw.full_name} is a Function already: put @app.function() on it once")
        if inspect.isclass(raw) or not callable(raw):
            raise TypeError(f"@app.function() goes on a function, not on {raw!r}")
        if not inspect.isfunction(raw) or raw.__name__ == "<lambda>":
            raise InvalidError(f"@app.function() goes on a function made with def, which {raw!r} is not")
        given = check_name("the function's name", name if name is not None else raw.__name__)
        check_signature(f"{self.name}.{given}", raw)
        if not serialized and "." in raw.__qualname__:
            raise InvalidError(
                f"{raw.__qualname__} is not at the top level of its module, so a container can't import it: "
                "move it there, or use @app.function(serialized=True)"
            )
        known = self.functions.get(given)
        if known is not None and not _same_place(known.raw, raw):
            raise InvalidError(
                f"the app {self.name!r} has a function {given!r} already ({known.raw.__module__}): "
                "use name= for one of them"
            )
        if known is not None:
            self.celery.tasks.pop(known.full_name, None)  # Celery would keep the old one
        function = self.functions[given] = Function(self, raw, given, settings, serialized=serialized)
        return function

    def local_entrypoint(self, raw: Any = None, /, *, name: str | None = None) -> Any:
        """Mark the function that ``scaleplug run`` starts; its typed arguments become command-line options."""
        if raw is not None:
            raise InvalidError("@app.local_entrypoint needs parentheses: write @app.local_entrypoint()")

        def decorate(function: Callable[..., Any]) -> LocalEntrypoint:
            if not inspect.isfunction(function):
                raise InvalidError(
                    f"@app.local_entrypoint() goes on a function made with def, which {function!r} is not"
                )
            given = check_name("the local entrypoint's name", name if name is not None else function.__name__)
            check_signature(f"the local entrypoint {given!r}", function)
            if given in self.entrypoints:
                raise InvalidError(f"the app {self.name!r} has a local entrypoint {given!r} already: names must differ")
            entrypoint = self.entrypoints[given] = LocalEntrypoint(function, given)
            return entrypoint

        return decorate

    # -- Redis -----------------------------------------------------------------------------------------------------

    @property
    def own_redis_url(self) -> str | None:
        """The ``redis_url`` the App was made with."""
        return self._redis_url

    @property
    def redis_url(self) -> str | None:
        """The URL of the Redis in use, if one is configured."""
        if self._redis_url is not None:
            return self._redis_url
        return process_config().redis_url or (_redis_broker(self.celery) if self.plugged else None)

    @property
    def config(self) -> Config:
        """The process's configuration with this app's Redis."""
        config = process_config()
        url = self.redis_url
        return config if url == config.redis_url else _with_url(config, url)

    @property
    def keys(self) -> Keys:
        """The key names in use."""
        return Keys(process_config().namespace)

    @property
    def store(self) -> Store:
        """The shared state."""
        caller = self.caller()
        if not isinstance(caller, RedisCaller):
            raise ExecutionError("this app runs in a test twin, which has no Redis")
        return caller.store

    def _bind(self) -> None:
        """Give the Celery app made here the Redis in use; one that was plugged into keeps its own."""
        url = celery_url(require_url(self.redis_url))
        if self.plugged or url == self._bound:
            return
        rebound, self._bound = bool(self._bound), url
        self.celery.conf.update(broker_url=url, result_backend=url)
        if rebound:  # another run in the same process, as in tests: what Celery made for the old one must go
            self.celery._after_fork()  # noqa: SLF001  # Celery has no public way
            self.celery._backend_cache = None  # noqa: SLF001
            self.celery._local = threading.local()  # noqa: SLF001

    def caller(self) -> Caller:
        """Return what carries this process's calls."""
        if _twin is not None:
            return _twin
        if _importing:
            raise ExecutionError(
                f"a function of {self.name!r} was called while a container imports the file that defines it: "
                "move the call into a function, an entrypoint, or under: if __name__ == '__main__'"
            )
        config = self.config
        key = (os.getpid(), config)
        with _lock:
            caller = _callers.get(key)
            if caller is None:
                require_url(config.redis_url)
                for stale in [k for k in _callers if k[0] != os.getpid()]:
                    del _callers[stale]  # this process was forked: it needs connections and an inbox of its own
                made = RedisCaller(config)
                use_keyring(made.keyring)
                caller = _callers[key] = made
            self._bind()
            return caller

    def ready_for_calls(self, function: Function[Any, Any]) -> Caller:
        """Return the caller, after making sure that a controller knows the function."""
        caller = self.caller_of(function)
        self.make_known(caller, function)
        return caller

    def caller_of(self, function: Function[Any, Any]) -> Caller:
        """Return what carries a function's calls; it makes the function known when it sends. Never blocks."""
        if _twin is None and self.celery.conf.task_always_eager:
            raise ConfigurationError(
                f"task_always_eager is on, so {function.full_name} can only be called as a Celery task: "
                "run the code inside scaleplug.testing.local(), or turn it off"
            )
        return self.caller()

    def make_known(self, caller: Caller, function: Function[Any, Any]) -> None:
        """Make sure that a controller knows the function."""
        if isinstance(caller, RedisCaller):
            known = caller.store.registered
            if known.get(function.full_name) is not function:
                self._register_unknown(caller, function)
                known[function.full_name] = function

    def _register_unknown(self, caller: RedisCaller, function: Function[Any, Any]) -> None:
        """Register a function that the registry doesn't know as it is here: the last one to come knows best."""
        sealed = None if function.serialized else caller.store.function(function.full_name)
        with contextlib.suppress(SerializationError):  # of another secret, or of a version to come
            if sealed and self._registration(function) == Registration.unseal(
                caller.keyring, function.full_name, sealed
            ):
                return
        self.register(caller.store, caller.keyring, only=[function])

    def source(self) -> Source:
        """Return where a container imports this app from."""
        if self._source is None:
            self._source = _find_source(self)
        return self._source

    def set_source(self, source: Source) -> None:
        """Say where a container imports this app from."""
        self._source = source

    def _registration(self, function: Function[Any, Any]) -> Registration:
        source = Source("none") if function.serialized else self.source()
        return Registration(function.full_name, self.name, source, function.serialized, function.settings)

    def register(self, store: Store, keyring: Keyring, *, only: list[Function[Any, Any]] | None = None) -> None:
        """Write the functions into the registry, so that a controller starts containers for them."""
        sealed = {}
        for function in only if only is not None else list(self.functions.values()):
            name = function.full_name
            if function.serialized:
                store.put_code(name, keyring.seal(CODE, name, pickle(function.raw, f"the code of {name}")))
            sealed[name] = self._registration(function).seal(keyring)
            store.registered[name] = function
        if sealed:
            store.put_functions(sealed)


def forget_callers(redis_url: str | None, *, lost: str = "") -> None:
    """Let go of connections to a Redis that is about to end, or is ``lost``: then the calls that wait fail."""
    with _lock:
        for key in [k for k in _callers if k[1].redis_url == redis_url]:
            caller = _callers.pop(key)
            if isinstance(caller, RedisCaller):
                caller.close_all()
                if lost:
                    caller.inbox.fail_all(lost)


_importing = False


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Refuse calls inside: a file that is imported for its containers must not call them."""
    global _importing  # noqa: PLW0603  # a zygote imports once, before it does anything else
    _importing = True
    try:
        yield
    finally:
        _importing = False


_twin: Caller | None = None
_eager: weakref.WeakKeyDictionary[Celery, bool] = weakref.WeakKeyDictionary()
"""Celery apps that a twin has made eager, and whether they had been so before."""


def use_twin(twin: Caller | None) -> Caller | None:
    """Let this process's calls go to ``twin`` (``scaleplug.testing``), or to Redis again; return the one before."""
    global _twin
    before, _twin = _twin, twin
    if twin is not None:
        for app in list(_living):
            _run_eagerly(app.celery)
    else:
        for celery in list(_eager):
            celery.conf.task_always_eager = _eager.pop(celery)
    return before


def _run_eagerly(celery: Celery) -> None:
    """Let Celery's own calls run in this process, as long as there is a twin."""
    _eager.setdefault(celery, bool(celery.conf.task_always_eager))
    celery.conf.task_always_eager = True


def find_app(name: str) -> App | None:
    """Return this process's App of that name."""
    return _apps.get(name)


def find_function(app: str, name: str) -> Function[Any, Any]:
    """Return a Function of this process's apps; raises NotFoundError."""
    found = _apps.get(app)
    if found is None or name not in found.functions:
        raise NotFoundError(
            f"this process has no function {name!r} in an app {app!r}: import the module that defines it"
        )
    return found.functions[name]


def known_functions() -> list[Function[Any, Any]]:
    """Return the Functions of all this process's apps."""
    return [function for app in list(_apps.values()) for function in app.functions.values()]


def any_caller() -> Caller:
    """Return the caller of a process that has a call's id, but perhaps not its App."""
    for app in list(_apps.values()):
        return app.caller()
    return App("scaleplug-calls").caller()


def _own_celery(name: str) -> Celery:
    celery = Celery(name, set_as_current=False)
    celery.conf.update(
        result_serializer=NAME,
        accept_content=[NAME, "json"],
        result_accept_content=[NAME, "json"],
        broker_connection_retry_on_startup=True,
        worker_prefetch_multiplier=1,
        broker_url="memory://",
    )
    return celery


def _name_of_caller(namespace: dict[str, Any]) -> str:
    name = str(namespace.get("__name__", "app"))
    if name == "__main__" and namespace.get("__file__"):
        name = Path(str(namespace["__file__"])).stem
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name.rpartition(".")[2])[:64] or "app"


def _redis_broker(celery: Celery) -> str | None:
    url = celery.conf.broker_url
    return url if isinstance(url, str) and url.startswith(("redis://", "rediss://", "redis+socket://")) else None


def _with_url(config: Config, url: str | None) -> Config:
    values = {name: getattr(config, name) for name in Config.knobs()}
    return Config(**{**values, "redis_url": url})


def _same_place(one: Any, other: Any) -> bool:
    """Whether a module was merely loaded twice (a reload, a notebook's cell run again)."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _find_source(app: App) -> Source:
    for function in app.functions.values():
        if function.serialized:
            continue
        module = sys.modules.get(function.raw.__module__)
        file = getattr(module, "__file__", None)
        if function.raw.__module__ == "__main__":
            if file is None:
                raise ConfigurationError(
                    f"{function.full_name} was defined interactively, so a container can't import it: "
                    "use @app.function(serialized=True)"
                )
            return Source("file", str(Path(file).resolve()))
        return Source("module", function.raw.__module__, _import_folder(function.raw.__module__, file))
    return Source("none")


def _import_folder(module: str, file: str | None) -> str:
    if file is None:
        return str(Path.cwd())
    path = Path(file).resolve()
    depth = module.count(".") + (2 if path.name == "__init__.py" else 1)
    return str(path.parents[depth - 1])
