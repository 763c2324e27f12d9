"""An App: a named set of functions, bound to one Celery app."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from celery import Celery

from scaleplug import here
from scaleplug.abc import Caller
from scaleplug.around import Around, surrounded
from scaleplug.call import Method
from scaleplug.client import RedisCaller
from scaleplug.cls import Cls
from scaleplug.concurrency import together, unmark
from scaleplug.definitions import (
    Definition,
    check_callable_alone,
    check_importable,
    name_of_caller,
    same_place,
    source_of,
)
from scaleplug.deployment import Deployment, deploy, make_known, revive
from scaleplug.entrypoint import LocalEntrypoint
from scaleplug.errors import ExecutionError, InvalidError, did_you_mean
from scaleplug.function import Function, check_retries, check_signature
from scaleplug.keys import Keys
from scaleplug.pools import Owner, with_options
from scaleplug.registry import Registration, Source, lookup, not_found
from scaleplug.resources import as_given
from scaleplug.schedules import Cron, Daily, Rule, Schedule, check_changes, check_profile, check_schedule
from scaleplug.serializer import NAME, Keyring, use_keyring
from scaleplug.server import celery_url, redis_of_broker
from scaleplug.settings import (
    Config,
    FunctionSettings,
    Retries,
    as_retries,
    check_flag,
    check_name,
    override,
    process_config,
    renamed,
)
from scaleplug.store import Store, require_url
from scaleplug.task import make_task
from scaleplug.timekeeping import beat_settings, keep_time

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class FunctionDecorator(Protocol):
    """What ``@app.function()`` is: it makes a Function of a callable; an async one's result is what it awaits."""

    @overload
    def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
    @overload
    def __call__(self, raw: Callable[P, R], /) -> Function[P, R]: ...


class App:
    """A named set of functions.

    ``App("name")`` makes a Celery app of its own; ``App("name", celery=celery_app)`` adds functions to an existing
    one and changes nothing for its other tasks. ``redis_url`` stands above ``SCALEPLUG_REDIS_URL``. Without a name
    the file's name is taken.
    """

    _is_here = True

    def __init__(self, name: str | None = None, *, celery: Celery | None = None, redis_url: str | None = None) -> None:
        if name is None:
            name = name_of_caller(sys._getframe(1).f_globals)
        self.name = check_name("the App's name", name)
        if celery is not None and not isinstance(celery, Celery):
            raise InvalidError(f"celery must be a celery.Celery app, not {celery!r}")
        if not isinstance(redis_url, str | None):
            raise InvalidError(f"redis_url must be a URL such as redis://localhost:6379/0, not {redis_url!r}")
        self._redis_url = redis_url
        self.plugged = celery is not None
        self.celery: Celery = celery if celery is not None else _own_celery(self.name)
        self.functions: dict[str, Function[Any, Any]] = {}
        self.classes: dict[str, Cls[Any]] = {}
        self.entrypoints: dict[str, LocalEntrypoint] = {}
        self.arounds: list[Around] = []
        """What is open around each of its inputs."""
        self._source: Source | None = None
        self._bound = ""
        self._found: tuple[Config, object, Caller] | None = None
        """What carries its calls, as long as this configuration and what there is in this process hold."""
        if self.redis_url is not None:
            self._bind()
        self.deploy: Method[[], Deployment] = Method(self._deploy, self._deploy_aio)
        here.add_app(self, by_name=self._is_here)

    def __repr__(self) -> str:
        return f"<App {self.name} of {len(self.functions)} functions and {len(self.classes)} classes>"

    if not TYPE_CHECKING:  # a type checker would take any name for one that is here

        def __getattr__(self, name: str) -> Any:
            """Be what ``celery -A`` names: a module's ``app`` is what it looks for first."""
            celery = self.__dict__.get("celery")
            if name.startswith("_") or not hasattr(celery, name):
                raise AttributeError(f"the App has no {name!r}{did_you_mean(name, dir(type(self)))}")
            return getattr(celery, name)

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
        memory: int | None = None,
        image: str | None = None,
        cpu: float | None = None,
        gpu: int | str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] | None = None,
        volumes: Mapping[str, str] | None = None,
        network: str | None = None,
        name: str | None = None,
        serialized: bool = False,
        schedule: Schedule | None = None,
        autoscaler_profile: Daily | None = None,
        concurrency_limit: int | None = None,
        keep_warm: int | None = None,
        container_idle_timeout: float | None = None,
    ) -> FunctionDecorator:
        """Make a Function of a callable; times in seconds.

        ``min_containers`` are kept while idle, ``buffer_containers`` are added while inputs are under way, never more
        than ``max_containers`` in all; one that is idle leaves after ``scaledown_window`` (2 to 3600). ``timeout``
        limits one input's run, ``startup_timeout`` a container's start. A failed or overdue input runs again up to
        ``retries`` times, a second apart or as :class:`Retries` says. With ``single_use_containers=True`` a container
        leaves after one input; one that uses more than ``memory`` MiB is killed. Where containers are
        Docker's they run ``image`` with ``cpu`` cores, ``gpu`` devices, the variables ``env``, the files ``secrets`` as
        variables, ``volumes`` by path and ``network``; the process backend only has those of its host.
        ``serialized=True`` pickles the callable instead of importing it by name: for nested functions and notebooks.
        ``schedule`` is a Cron or a Period; the function must be callable without arguments then.
        ``autoscaler_profile`` is a Daily: other settings for parts of the day. ``None`` leaves a setting at its
        default.
        ``concurrency_limit``, ``keep_warm`` and ``container_idle_timeout`` are older names of ``max_containers``,
        ``min_containers`` and ``scaledown_window``.
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
        check_flag("serialized", serialized)
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
            "startup_timeout": startup_timeout,
            "retries": as_retries(retries),
            "single_use_containers": single_use_containers,
            "memory": memory,
            "resources": as_given(
                image=image, cpu=cpu, gpu=gpu, env=env, secrets=secrets, volumes=volumes, network=network
            ),
        }
        settings = FunctionSettings.from_dict({"timeout": timeout} | {k: v for k, v in given.items() if v is not None})
        check_schedule(schedule)
        profile = check_profile(autoscaler_profile)
        rules = profile.rules(settings) if profile is not None else ()
        return cast("FunctionDecorator", lambda raw: self._add(raw, name, settings, serialized, schedule, rules))

    def _add(
        self, raw: Any, name: str | None, settings: FunctionSettings, serialized: bool, schedule: Schedule | None,
        rules: tuple[Rule, ...],
    ) -> Function[Any, Any]:  # fmt: skip
        raw, options = unmark(raw)
        if options:
            settings = with_options(settings, options)
        if isinstance(raw, Function):
            raise InvalidError(f"{raw.full_name} is a Function already: put @app.function() on it once")
        if inspect.isclass(raw) or not callable(raw):
            raise TypeError(f"@app.function() goes on a function, not on {raw!r}")
        if not inspect.isfunction(raw) or raw.__name__ == "<lambda>":
            raise InvalidError(f"@app.function() goes on a function made with def, which {raw!r} is not")
        given = check_name("the function's name", name if name is not None else raw.__name__)
        if schedule is not None:
            check_callable_alone(f"{self.name}.{given}", raw)
        check_retries(f"{self.name}.{given}", raw, settings)
        if not serialized:
            check_importable(raw, "@app.function")
        self._check_free(given, raw)
        function = Function(self, raw, given, settings, serialized=serialized, schedule=schedule, rules=rules)
        self.functions[given] = function
        return function

    def _check_free(self, name: str, raw: Any) -> None:
        known = self.named(name)
        if known is not None and not same_place(known.raw, raw):
            kind = "function" if isinstance(known, Function) else "class"
            raise InvalidError(
                f"the app {self.name!r} has a {kind} {name!r} already ({known.__module__}): use name= for one of them"
            )

    def schedule_autoscaler(
        self,
        function: Function[Any, Any],
        cron: str | Cron,
        *,
        timezone: str | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> None:
        """Change settings of a function's autoscaler at the times of a cron expression, as ``update_autoscaler`` does.

        They hold until the next such time of the function, or the next change by hand. A deployment starts with what
        the last of these times said. Raises InvalidError.
        """
        given_function: object = function
        if not isinstance(given_function, Function) or self.functions.get(function.name) is not function:
            raise InvalidError(f"schedule_autoscaler is for a Function of the app {self.name!r}, not for {function!r}")
        if isinstance(cron, Cron) and timezone is not None:
            raise InvalidError(f"timezone={timezone!r} was given beside a Cron: give it to the Cron")
        when = cron if isinstance(cron, Cron) else Cron(cron, timezone if timezone is not None else "UTC")
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        check_changes("schedule_autoscaler", changes)
        override(function.settings, changes)
        function.rules = (*function.rules, Rule(when, changes))

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
        memory: int | None = None,
        image: str | None = None,
        cpu: float | None = None,
        gpu: int | str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] | None = None,
        volumes: Mapping[str, str] | None = None,
        network: str | None = None,
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
            "retries": as_retries(retries),
            "single_use_containers": single_use_containers,
            "memory": memory,
            "resources": as_given(
                image=image, cpu=cpu, gpu=gpu, env=env, secrets=secrets, volumes=volumes, network=network
            ),
        }
        settings = FunctionSettings.from_dict({"timeout": timeout} | {k: v for k, v in given.items() if v is not None})
        check_flag("serialized", serialized)
        return lambda user_class: self._add_class(user_class, settings, serialized)

    def _add_class(self, raw: Any, settings: FunctionSettings, serialized: bool) -> Cls[Any]:
        raw, options = unmark(raw)
        options = together(raw, options)
        if options:
            settings = with_options(settings, options)
        if not inspect.isclass(raw):
            raise TypeError(f"@app.cls() goes on a class, not on {raw!r}")
        name = check_name("the class's name", raw.__name__)
        if not serialized:
            check_importable(raw, "@app.cls")
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
        return process_config().redis_url or (redis_of_broker(self.celery.conf.broker_url) if self.plugged else None)

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
        self.celery.conf.update(broker_url=url, result_backend=url, **beat_settings(url, self.keys.beat))
        if rebound:  # another run in the same process, as in tests: what Celery made for the old one must go
            self.celery._after_fork()  # noqa: SLF001  # Celery has no public way
            self.celery._backend_cache = None  # noqa: SLF001
            self.celery._local = threading.local()  # noqa: SLF001
            use_keyring(Keyring(self.config.secret))  # it may have been here before: its results are signed with this

    def caller(self) -> Caller:
        """Return what carries this process's calls."""
        if here.twin() is None and here.is_importing():
            raise ExecutionError(
                f"a function of {self.name!r} was called while a container imports the file that defines it: "
                "move the call into a function, an entrypoint, or under: if __name__ == '__main__'"
            )
        if here.twin() is None and here.runs_eagerly(self.celery):
            eager: Caller = import_module("scaleplug.testing.eager").caller()  # it stands above this module
            return eager
        return self._shared_caller()

    def _shared_caller(self) -> Caller:
        """Return what registers functions too: that of Redis, also where calls run eagerly in this process."""
        config, stand, found = process_config(), here.stand(), self._found  # other threads may change the last one
        if found is not None and found[0] is config and found[1] is stand:
            return found[2]
        caller = here.twin() or here.caller_for(self.config)
        if isinstance(caller, RedisCaller):
            with here.lock:
                self._bind()
        if self._redis_url is not None or config.redis_url is not None:
            self._found = config, stand, caller
        return caller

    def ready_for_calls(self, owner: Owner, *, again: bool = False) -> Caller:
        """Return the caller, after making sure that the registry knows a function; ``again``, since it had not."""
        caller = self.caller()
        self.make_known(caller, owner, again=again)
        return caller

    def make_known(self, caller: Caller, owner: Owner, *, again: bool = False) -> None:
        """Make sure that the registry knows a function; may block."""
        known = caller.met.get(owner.full_name)
        if again or known is None or known.made_of != owner.made_of:
            if isinstance(caller, RedisCaller):
                caller.check_server()
                make_known(caller.store, caller.keyring, self.name, owner, inside=here.served() == self.name)
            caller.met[owner.full_name] = owner
        elif known is not owner and known.callables is not None:
            owner.learn(known.callables)

    def look_up(self, name: str) -> Registration:
        """Return the registration of a function or class; raises NotFoundError."""
        caller = self.caller()
        if isinstance(caller, RedisCaller):
            return lookup(caller.store, caller.keyring, self.name, name)
        registration = self.find_here(name).registration()
        assert registration is not None
        return registration

    def find_here(self, name: str) -> Function[Any, Any] | Cls[Any]:
        """Return the function or class that this process's App of the same name has; raises NotFoundError."""
        app = here.find_app(self.name)
        made = None if app is None else app.named(name)
        if made is None:
            ours = [*app.functions, *app.classes] if app is not None else []
            raise not_found(self.name, name, ours, [a.name for a in here.known_apps()])
        return made

    # -- deployments -----------------------------------------------------------------------------------------------

    def _deploy(self) -> Deployment:
        """Register the app's functions and classes as they are now, for a controller that runs already.

        Containers of the version before make way when one of the new version is ready; settings changed by
        ``update_autoscaler`` are the decorators' again; functions that are gone finish their inputs and go.
        """
        caller = self._shared_caller()
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
            definitions: list[Definition] = [*self.functions.values(), *self.classes.values()]
            self._source = self.project_source(definitions) or source_of(definitions)
        return self._source

    def project_source(self, definitions: Sequence[Definition]) -> Source | None:
        """Return the web project that a container sets up to import the app, if it belongs to one."""
        return here.project_of(definitions)

    def surround(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a container runs for an input of ``body``: the same, inside of what the project opens."""
        return surrounded(body, [*here.arounds(), *self.arounds])

    def surround_hook(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a container runs for a hook of an object: the same, inside of what the project opens."""
        return surrounded(hook, [replace(each, plain=each.hook) for each in (*here.arounds(), *self.arounds)])

    def prepare(self) -> None:
        """Make what containers share; called before they are forked, when the code has been imported."""

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
        """Write what isn't deployed into the registry, so that a controller starts containers for it.

        An app that was stopped is there again; one that is deployed stays as it was deployed.
        """
        caller = self._shared_caller()
        if isinstance(caller, RedisCaller) and not revive(caller.store, caller.keyring, self.name):
            return
        for owner in self.owners():
            self.make_known(caller, owner)
        if isinstance(caller, RedisCaller):
            keep_time(caller, self.name, self.owners())


class DeployedApp(App):
    """An app whose code isn't in this process: it is known by its name."""

    _is_here = False


def deployed_app(name: str) -> App:
    """Return the app of that name as others have registered it."""
    with here.lock:
        app = _deployed.get(name)
        if app is None:
            app = _deployed[name] = DeployedApp(name)
        return app


_deployed: dict[str, App] = {}


def find_function(app: str, name: str, options: Mapping[str, Any] = {}) -> Function[Any, Any]:
    """Return a Function of this process's apps, or of one that others have registered."""
    found = here.find_app(app)
    function = found.functions.get(name) if found is not None else None
    function = function or Function.from_name(app, name)
    return function._with(dict(options)) if options else function  # noqa: SLF001  # it is being unpickled


def find_class(app: str, name: str, options: Mapping[str, Any]) -> Cls[Any]:
    """Return a Cls of this process's apps, or of one that others have registered."""
    found = here.find_app(app)
    cls = (found.classes.get(name) if found is not None else None) or Cls.from_name(app, name)
    return cls._with(dict(options)) if options else cls  # it is being unpickled


def any_caller() -> Caller:
    """Return the caller of a process that has a call's id, but perhaps not its App."""
    apps = here.known_apps()
    for app in sorted(apps, key=lambda app: not (app.redis_url or app.celery.conf.task_always_eager)):
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


def _with_url(config: Config, url: str | None) -> Config:
    values = {name: getattr(config, name) for name in Config.knobs()}
    return Config(**{**values, "redis_url": url})
