"""An App: a named set of functions, bound to one Celery app."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from celery import Celery

from scaleplug.abc import Caller
from scaleplug.call import Method
from scaleplug.client import RedisCaller
from scaleplug.cls import Cls
from scaleplug.deployment import Deployment, deploy, put_code, seal_code
from scaleplug.deployment import find as find_deployment
from scaleplug.entrypoint import LocalEntrypoint
from scaleplug.errors import ConfigurationError, ExecutionError, InvalidError, NotFoundError, SerializationError
from scaleplug.function import Function, check_retries, check_signature, make_task
from scaleplug.keys import Keys
from scaleplug.pools import Owner
from scaleplug.registry import Registration, Source, lookup
from scaleplug.schedules import Schedule, check_schedule
from scaleplug.serializer import NAME, use_keyring
from scaleplug.server import celery_url
from scaleplug.settings import Config, FunctionSettings, Retries, check_name, process_config, renamed
from scaleplug.store import Store, require_url

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class FunctionDecorator(Protocol):
    """What ``@app.function()`` is: it makes a Function of a callable; an async one's result is what it awaits."""

    @overload
    def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
    @overload
    def __call__(self, raw: Callable[P, R], /) -> Function[P, R]: ...


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
        self.classes: dict[str, Cls[Any]] = {}
        self.entrypoints: dict[str, LocalEntrypoint] = {}
        self._source: Source | None = None
        self._bound = ""
        self._make_known()
        if self.redis_url is not None:
            self._bind()
        self.deploy: Method[[], Deployment] = Method(self._deploy, self._deploy_aio)
        _living.add(self)
        if _twin is not None:
            _run_eagerly(self.celery)

    def _make_known(self) -> None:
        _apps[self.name] = self

    def __repr__(self) -> str:
        return f"<App {self.name} of {len(self.functions)} functions and {len(self.classes)} classes>"

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
        retries: int | Retries | None = None,
        single_use_containers: bool = False,
        name: str | None = None,
        serialized: bool = False,
        schedule: Schedule | None = None,
        concurrency_limit: int | None = None,
        keep_warm: int | None = None,
        container_idle_timeout: float | None = None,
    ) -> FunctionDecorator:
        """Make a Function of a callable; times in seconds.

        ``min_containers`` are kept while idle, ``buffer_containers`` are added while inputs are under way, never more
        than ``max_containers`` in all; one that is idle leaves after ``scaledown_window`` (2 to 3600). ``timeout``
        limits one input's run, ``startup_timeout`` a container's start. A failed or overdue input runs again up to
        ``retries`` times, a second apart or as :class:`Retries` says. With ``single_use_containers=True`` a container
        leaves after one input. ``serialized=True`` pickles the callable instead of importing it by name: for nested
        functions and notebooks. ``schedule`` is a Cron or a Period; the function must be callable without arguments
        then. ``None`` leaves a setting at its default. ``concurrency_limit``, ``keep_warm`` and
        ``container_idle_timeout`` are older names of ``max_containers``, ``min_containers`` and ``scaledown_window``.
        Raises InvalidError.
        """
        if raw is not None:
            if not callable(raw):
                raise InvalidError(f"@app.function() takes arguments by name, as in max_containers=5, not {raw!r}")
            where = getattr(raw, "__name__", repr(raw))
            raise InvalidError(f"@app.function needs parentheses: write @app.function() above {where!r}")
        if concurrency_limit is not None:
            max_containers = renamed("concurrency_limit", concurrency_limit, "max_containers", max_containers)
        if keep_warm is not None:
            min_containers = renamed("keep_warm", keep_warm, "min_containers", min_containers)
        if container_idle_timeout is not None:
            scaledown_window = renamed(
                "container_idle_timeout", container_idle_timeout, "scaledown_window", scaledown_window
            )
        if not isinstance(serialized, bool):
            raise InvalidError(f"serialized must be True or False, not {serialized!r}")
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
            "startup_timeout": startup_timeout,
            "retries": retries,
            "single_use_containers": single_use_containers,
        }
        settings = FunctionSettings.from_dict({"timeout": timeout} | {k: v for k, v in given.items() if v is not None})
        check_schedule(schedule)
        return cast("FunctionDecorator", lambda function: self._add(function, name, settings, serialized, schedule))

    def _add(
        self, raw: Any, name: str | None, settings: FunctionSettings, serialized: bool, schedule: Schedule | None
    ) -> Function[Any, Any]:
        if isinstance(raw, Function):
            raise InvalidError(f"{raw.full_name} is a Function already: put @app.function() on it once")
        if inspect.isclass(raw) or not callable(raw):
            raise TypeError(f"@app.function() goes on a function, not on {raw!r}")
        if not inspect.isfunction(raw) or raw.__name__ == "<lambda>":
            raise InvalidError(f"@app.function() goes on a function made with def, which {raw!r} is not")
        given = check_name("the function's name", name if name is not None else raw.__name__)
        if schedule is not None:
            _check_callable_alone(f"{self.name}.{given}", raw)
        check_retries(f"{self.name}.{given}", raw, settings)
        if not serialized and "." in raw.__qualname__:
            raise InvalidError(
                f"{raw.__qualname__} is not at the top level of its module, so a container can't import it: "
                "move it there, or use @app.function(serialized=True)"
            )
        self._check_free(given, raw)
        function = Function(self, raw, given, settings, serialized=serialized, schedule=schedule)
        self.functions[given] = function
        return function

    def _check_free(self, name: str, raw: Any) -> None:
        known = self.named(name)
        if known is not None and not _same_place(known.raw, raw):
            kind = "function" if isinstance(known, Function) else "class"
            raise InvalidError(
                f"the app {self.name!r} has a {kind} {name!r} already ({known.__module__}): use name= for one of them"
            )

    def cls(  # noqa: PLR0913  # the options of the public decorator
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
        retries: int | Retries | None = None,
        single_use_containers: bool = False,
        serialized: bool = False,
        concurrency_limit: int | None = None,
    ) -> Callable[[type[T]], Cls[T]]:
        """Make a Cls of a class: every set of its parameters has containers of its own, which its methods share.

        The settings are those of ``function``. ``min_containers`` holds for the object with the parameters' defaults;
        keep another one warm with ``obj.update_autoscaler(min_containers=1)``. Raises InvalidError.
        """
        if raw is not None:
            where = getattr(raw, "__name__", repr(raw))
            raise InvalidError(f"@app.cls needs parentheses: write @app.cls() above {where!r}")
        if concurrency_limit is not None:
            max_containers = renamed("concurrency_limit", concurrency_limit, "max_containers", max_containers)
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
            "startup_timeout": startup_timeout,
            "retries": retries,
            "single_use_containers": single_use_containers,
        }
        settings = FunctionSettings.from_dict({"timeout": timeout} | {k: v for k, v in given.items() if v is not None})
        return lambda user_class: self._add_class(user_class, settings, serialized)

    def _add_class(self, raw: Any, settings: FunctionSettings, serialized: bool) -> Cls[Any]:
        if not inspect.isclass(raw):
            raise TypeError(f"@app.cls() goes on a class, not on {raw!r}")
        name = check_name("the class's name", raw.__name__)
        if not serialized and "." in raw.__qualname__:
            raise InvalidError(
                f"{raw.__qualname__} is not at the top level of its module, so a container can't import it: "
                "move it there, or use @app.cls(serialized=True)"
            )
        self._check_free(name, raw)
        made = self.classes[name] = Cls(self, raw, name, settings, serialized=serialized)
        return made

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
        made = hasattr(self.celery._local, "backend")  # noqa: SLF001  # a twin's eager tasks have asked for one
        rebound, self._bound = bool(self._bound) or made, url
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

    def ready_for_calls(self, owner: Owner, *, again: bool = False) -> Caller:
        """Return the caller, after making sure that the registry knows a function; ``again``, since it had not."""
        caller = self.caller_of(owner)
        self.make_known(caller, owner, again=again)
        return caller

    def caller_of(self, owner: Owner) -> Caller:
        """Return what carries a function's calls; it makes the function known when it sends. Never blocks."""
        if _twin is None and self.celery.conf.task_always_eager:
            raise ConfigurationError(
                f"task_always_eager is on, so {owner.base_name} can only be called as a Celery task: "
                "run the code inside scaleplug.testing.local(), or turn it off"
            )
        return self.caller()

    def make_known(self, caller: Caller, owner: Owner, *, again: bool = False) -> None:
        """Make sure that the registry knows a function; may block."""
        if isinstance(caller, RedisCaller):
            known = caller.store.registered
            if again or known.get(owner.full_name) is not owner:
                self._register_unknown(caller, owner)
                known[owner.full_name] = owner

    def _register_unknown(self, caller: RedisCaller, owner: Owner) -> None:
        """Register a pool that the registry doesn't know as it is here.

        What was deployed stays as it is; of what nobody deployed, the last one to come knows best.
        """
        store, keyring = caller.store, caller.keyring
        rows = store.registry({owner.base_name, owner.full_name})
        base = self._registered_base(caller, owner, rows.get(owner.base_name))
        wanted, known = owner.variant(base), rows.get(owner.full_name)
        with contextlib.suppress(SerializationError):
            if known and not known[2] and Registration.unseal(keyring, owner.full_name, known[0]) == wanted:
                return
        if wanted is not base:
            store.put_functions({owner.full_name: wanted.seal(keyring)}, {owner.full_name: wanted.version})

    def _registered_base(
        self, caller: RedisCaller, owner: Owner, row: tuple[bytes, bytes | None, bool] | None
    ) -> Registration:
        """Return what an owner's function or class is registered as, after registering it where it isn't."""
        store, keyring, mine = caller.store, caller.keyring, owner.registration()
        known: Registration | None = None
        deployment = find_deployment(store, keyring, self.name)
        if deployment is not None and deployment.stopped:
            raise NotFoundError(f"the app {self.name!r} was stopped: 'scaleplug deploy' brings it back")
        with contextlib.suppress(SerializationError):  # of another secret, or of a version to come
            known = Registration.unseal(keyring, owner.base_name, row[0]) if row and not row[2] else None
        if mine is None or (known is not None and known.deployed):
            return known or lookup(store, keyring, self.name, owner.base_name.removeprefix(f"{self.name}."))
        if mine.serialized:
            version, sealed = seal_code(keyring, owner)
            mine = replace(mine, version=version)
            if known != mine:
                put_code(store, owner.base_name, version, sealed)
        if known != mine:
            store.put_functions({owner.base_name: mine.seal(keyring)}, {owner.base_name: mine.version})
        return mine

    def look_up(self, name: str) -> Registration:
        """Return the registration of a function or class; raises NotFoundError."""
        caller = self.caller()
        if not isinstance(caller, RedisCaller):
            raise ExecutionError("this app runs in a test twin, which has no registry")
        return lookup(caller.store, caller.keyring, self.name, name)

    # -- deployments -----------------------------------------------------------------------------------------------

    def _deploy(self) -> Deployment:
        """Register the app's functions and classes as they are now, for a controller that runs already.

        Containers of the version before make way when one of the new version is ready; settings changed by
        ``update_autoscaler`` are the decorators' again; functions that are gone finish their inputs and go.
        """
        caller = self.caller()
        if not isinstance(caller, RedisCaller):
            raise ExecutionError("an app can't be deployed in a test twin")
        if not self.functions and not self.classes:
            raise InvalidError(f"the app {self.name!r} has nothing to deploy: no @app.function() and no @app.cls()")
        return deploy(caller.store, caller.keyring, self.name, self.owners())

    async def _deploy_aio(self) -> Deployment:
        return await asyncio.to_thread(self._deploy)

    def source(self) -> Source:
        """Return where a container imports this app from."""
        if self._source is None:
            self._source = _find_source(self)
        return self._source

    def set_source(self, source: Source) -> None:
        """Say where a container imports this app from."""
        self._source = source

    def source_of(self, *, serialized: bool) -> Source:
        """Return where a container imports one of the functions from."""
        return Source("none") if serialized else self.source()

    def named(self, name: str) -> Function[Any, Any] | Cls[Any] | None:
        """Return the function or class of that name."""
        return self.functions.get(name) or self.classes.get(name)

    def adopt(self, registration: Registration, raw: Any) -> Function[Any, Any] | Cls[Any]:
        """Take a function or class that came pickled, for a container that serves it."""
        name = registration.name
        if registration.is_class:
            made = self.classes[name] = Cls(self, raw, name, registration.settings, serialized=True)
            return made
        known = self.functions.pop(name, None)
        if known is not None:
            self.celery.tasks.pop(known.title, None)
        found = self.functions[name] = Function(self, raw, name, registration.settings, serialized=True)
        return found

    def make_task(self, name: str, raw: Callable[..., Any] | None, *, bound: bool = False) -> Any:
        """Return the Celery task of a function, or of a method (``bound``)."""
        self.celery.tasks.pop(name, None)  # Celery would keep the old one of a module that is loaded again
        return make_task(self.celery, name, raw, bound=bound)

    def owners(self) -> list[Owner]:
        """Return its functions and classes."""
        return [*self.functions.values(), *self.classes.values()]

    def register(self) -> None:
        """Write what isn't deployed into the registry, so that a controller starts containers for it."""
        for owner in self.owners():
            self.ready_for_calls(owner)


class DeployedApp(App):
    """An app whose code isn't in this process: it is known by its name."""

    def __init__(self, name: str) -> None:
        self._known = False
        super().__init__(name)

    def _make_known(self) -> None:
        """Don't stand for the app of that name in this process."""


def deployed_app(name: str) -> App:
    """Return the app of that name as others have registered it."""
    with _lock:
        app = _deployed.get(name)
        if app is None:
            app = _deployed[name] = DeployedApp(name)
        return app


_deployed: dict[str, App] = {}


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


def find_function(app: str, name: str, options: Mapping[str, Any] = {}) -> Function[Any, Any]:
    """Return a Function of this process's apps, or of one that others have registered."""
    found = _apps.get(app)
    function = found.functions.get(name) if found is not None else None
    function = function or Function.from_name(app, name)
    return function._with(dict(options)) if options else function  # noqa: SLF001  # it is being unpickled


def find_class(app: str, name: str, options: Mapping[str, Any]) -> Cls[Any]:
    """Return a Cls of this process's apps, or of one that others have registered."""
    found = _apps.get(app)
    cls = (found.classes.get(name) if found is not None else None) or Cls.from_name(app, name)
    return cls._with(dict(options)) if options else cls  # it is being unpickled


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
    served: list[Function[Any, Any] | Cls[Any]] = [*app.functions.values(), *app.classes.values()]
    for made in served:
        if made.serialized or made.raw is None:
            continue
        module = sys.modules.get(made.raw.__module__)
        file = getattr(module, "__file__", None)
        if made.raw.__module__ == "__main__":
            if file is None:
                raise ConfigurationError(
                    f"{made.base_name} was defined interactively, so a container can't import it: "
                    "use serialized=True in its decorator"
                )
            return Source("file", str(Path(file).resolve()))
        return Source("module", made.raw.__module__, _import_folder(made.raw.__module__, file))
    return Source("none")


def _check_callable_alone(name: str, raw: Callable[..., Any]) -> None:
    required = [
        p.name
        for p in inspect.signature(raw).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise InvalidError(
            f"{name} has a schedule, so it must be callable without arguments: give {', '.join(required)} a default"
        )


def _import_folder(module: str, file: str | None) -> str:
    if file is None:
        return str(Path.cwd())
    path = Path(file).resolve()
    depth = module.count(".") + (2 if path.name == "__init__.py" else 1)
    return str(path.parents[depth - 1])
