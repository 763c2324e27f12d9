"""Classes whose methods run in containers: one pool for each set of parameters, hooks for its start and its end."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from scaleplug.abc import Caller
from scaleplug.autoscaling import Autoscaled
from scaleplug.concurrency import batching, check_apart, check_batched, concurrency
from scaleplug.errors import ExecutionError, InvalidError, did_you_mean
from scaleplug.function import Function, pool_options, run_coroutine
from scaleplug.marks import MISSING, Hook, MethodMark, Parameter, parameters_of, resolve
from scaleplug.pools import digest, kind_of, pack, unpack, variant, with_options
from scaleplug.registry import Registration
from scaleplug.serializer import MASKED, shows_arguments
from scaleplug.settings import FunctionSettings, Retries, check_name

if TYPE_CHECKING:
    from scaleplug.app import App

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
RESERVED = {"autoscaler", "update_autoscaler", "get_current_stats"}


class Cls(Generic[T]):
    """What ``@app.cls()`` makes of a class: call it with parameters for an object whose methods run in containers."""

    def __init__(
        self, app: App, raw: type[T] | None, name: str, settings: FunctionSettings, *, serialized: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.app, self.raw, self.name, self.settings, self.serialized = app, raw, name, settings, serialized
        self.options = dict(options or {})
        self.full_name = f"{app.name}.{name}"
        self.__doc__ = raw.__doc__ if raw is not None else None
        self.__name__, self.__qualname__ = name, name
        self.__module__ = raw.__module__ if raw is not None else __name__
        self.methods: dict[str, MethodMark[Any, Any]] = {}
        self.hooks: list[Hook] = []
        self.parameters: tuple[Parameter, ...] | None = None
        self.tasks: dict[str, Any] = {}
        if raw is not None:
            self._read(raw)

    def __repr__(self) -> str:
        return f"<Cls {self.full_name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        find = import_module("scaleplug.app").find_class
        return find, (self.app.name, self.name, self.options)

    @staticmethod
    def from_name(app_name: str, name: str) -> Cls[Any]:
        """Return a class of an app that is registered; nothing is asked before its first use."""
        app = import_module("scaleplug.app").deployed_app(check_name("app_name", app_name))
        return Cls(app, None, check_name("name", name), FunctionSettings())

    def _read(self, raw: type[T]) -> None:
        if raw.__init__ is not object.__init__:
            raise InvalidError(
                f"{raw.__name__} has an __init__: declare its arguments with scaleplug.parameter(), "
                "and prepare the object in a method under @scaleplug.enter()"
            )
        self.parameters = tuple(parameters_of(raw))
        hooks: dict[str, Hook] = {}
        for base in reversed(raw.__mro__):  # the hooks of base classes come first
            for name, value in vars(base).items():
                if isinstance(value, MethodMark):
                    self.methods[name] = value
                    hooks.pop(name, None)
                else:
                    hooks.pop(name, None)  # one that takes the place of a base class's comes in its own place
                    self.methods.pop(name, None)
                    if isinstance(value, Hook):
                        hooks[name] = value
        self.hooks = list(hooks.values())
        for taken in RESERVED & {*vars(raw), *self.methods}:
            raise InvalidError(f"{raw.__name__}.{taken} would hide what its objects have of scaleplug: rename it")
        if not self.methods:
            raise InvalidError(
                f"{raw.__name__} has no method under @scaleplug.method(), so nothing of it can be called"
            )
        for name in self.methods:
            self.task(name)

    def task(self, name: str) -> Any:
        """Return the Celery task of a method; by itself it is that of the object with the parameters' defaults."""
        if name not in self.tasks:
            mark = self.methods.get(name)
            raw = None if mark is None else mark.raw
            task = self.tasks[name] = self.app.make_task(f"{self.full_name}.{name}", raw, bound=raw is not None)
            task.function = ObjectPool(self, {}).method(name)
            task.run = task.function.task.run
        return self.tasks[name]

    # -- registration ----------------------------------------------------------------------------------------------

    @property
    def base_name(self) -> str:
        """Full name of the class."""
        return self.full_name

    @property
    def callables(self) -> Mapping[str, str] | None:
        """The kinds of its methods."""
        return {name: kind_of(mark.raw) for name, mark in self.methods.items()}

    def learn(self, registered: Mapping[str, str]) -> None:
        """Take what methods are registered: its objects do."""

    def registration(self) -> Registration | None:
        """Return what it is registered as; ``None`` where its code isn't in this process."""
        if self.raw is None or self.parameters is None:
            return None
        return Registration(
            self.full_name, self.app.name, self.app.source_of(serialized=self.serialized), self.serialized,
            self.settings, schema=pack({p.name: p for p in self.parameters}, self.full_name),
            callables={name: kind_of(mark.raw) for name, mark in self.methods.items()},
            template=any(p.default is MISSING for p in self.parameters),
        )  # fmt: skip

    def variant(self, base: Registration) -> Registration:
        """Return the class's own registration: it is no variant."""
        return base

    def code(self) -> Any:
        """Return the class."""
        return self.raw

    @property
    def made_of(self) -> tuple[Any, ...]:
        """What it is made of here."""
        return self.raw, self.settings, self.serialized

    # -- objects ---------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **parameters: Any) -> Obj[T]:
        """Return the object with these parameters; its containers are started when it is used."""
        if args:
            names = ", ".join(p.name for p in self.parameters or ())
            named = f"by name ({names})" if names else "by name (NAME=VALUE)"
            raise InvalidError(f"{self.full_name} takes its parameters {named}, not {args!r}")
        if self.parameters is not None:
            resolve(self.full_name, self.parameters, parameters)  # what doesn't fit is told here
        return Obj(ObjectPool(self, parameters))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.__dict__.get("methods", {}):
            raise AttributeError(f"{self.full_name}.{name} needs an object: {self.name}().{name}.remote(...)")
        if name in RESERVED:
            raise AttributeError(f"{self.full_name} has a pool for each object: write {self.name}(...).{name}")
        if not name.startswith("_") and self.__dict__.get("raw") is None:
            raise AttributeError(
                f"{self!r} has no attribute {name!r}: methods are an object's, {self.name}(...).{name}"
            )
        raise AttributeError(f"{self!r} has no attribute {name!r}")

    def with_options(
        self,
        *,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        timeout: float | None = None,
        startup_timeout: float | None = None,
        retries: int | Retries | None = None,
    ) -> Cls[T]:
        """Return the class with other settings and containers of its own; ``None`` leaves a setting as it is."""
        return self._with(
            pool_options(max_containers, buffer_containers, scaledown_window, timeout, startup_timeout, retries)
        )

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Cls[T]:
        """Return the class with other input concurrency and containers of its own."""
        options = concurrency(max_inputs, target_inputs)
        check_apart(with_options(self.settings, self.options), options)
        return self._with(options)

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Cls[T]:
        """Return the class with other batching and containers of its own."""
        options = batching(max_batch_size, wait_ms)
        check_apart(with_options(self.settings, self.options), options)
        for mark in self.methods.values():
            check_batched(mark.raw)
        if len(self.methods) > 1:
            raise InvalidError(f"{self.full_name} has several methods: a batched one must be alone in its class")
        return self._with(options)

    def _with(self, options: dict[str, Any]) -> Cls[T]:
        with_options(self.settings, self.options | options)  # what doesn't fit is told here
        made: Cls[T] = object.__new__(type(self))
        made.__dict__.update(self.__dict__, options=self.options | options)
        return made


# -- its objects ---------------------------------------------------------------------------------------------------


class ObjectPool(Autoscaled, Generic[T]):
    """The containers of one set of parameters: what stands behind an :class:`Obj`, whose names are its class's."""

    def __init__(self, cls: Cls[T], parameters: dict[str, Any]) -> None:
        super().__init__()
        self.cls, self.given = cls, parameters
        self._lock = threading.RLock()
        self._instance: Any = None
        self._functions: dict[str, BoundMethod[Any, Any]] = {}
        self._callables: Mapping[str, str] | None = None
        """The methods of a class whose code isn't here, once they are known."""
        self._settled: tuple[str, str, str] | None = None
        """Full name, packed parameters and label, once the parameters are known to be complete."""

    def __repr__(self) -> str:
        return f"<{self.cls.full_name}{told(self.given)}>"

    def known_caller(self) -> Caller:
        """Return what carries its calls, after making sure that the registry knows it."""
        return self.app.ready_for_calls(self)

    @property
    def app(self) -> App:
        """The app of its class."""
        return self.cls.app

    @property
    def pool_settings(self) -> FunctionSettings:
        """Return the settings of its containers."""
        return with_options(self.cls.settings, self.options) if self.options else self.cls.settings

    @property
    def made_of(self) -> tuple[Any, ...]:
        """What it is made of here."""
        return self.cls.raw, self.cls.settings, self.cls.serialized

    def pool(self) -> dict[str, Any]:
        """Return what names its pool to others; empty for that of the class itself."""
        cls = self.cls
        if self.full_name == cls.full_name:
            return {}
        return {"options": cls.options, "parameters": self.given}

    def in_pool(self, pool: Mapping[str, Any]) -> ObjectPool[T]:
        """Return the object of its class that :meth:`pool` names."""
        base = self.cls
        cls = base._with(dict(pool["options"])) if pool.get("options") else base  # noqa: SLF001  # as its methods do
        return ObjectPool(cls, dict(pool.get("parameters") or {}))

    @property
    def options(self) -> dict[str, Any]:
        """What ``with_options`` and its kind changed of the class's settings."""
        return self.cls.options

    @property
    def serialized(self) -> bool:
        """Whether the class travels pickled."""
        return self.cls.serialized

    @property
    def full_name(self) -> str:  # type: ignore[override]  # settled late
        """Name of the pool's queue and registration."""
        return self._settle()[0]

    @property
    def shown(self) -> str:
        """The name of the pool as people read it."""
        return self._settle()[2] or self.full_name

    @property
    def base_name(self) -> str:
        """Full name of the class."""
        return self.cls.full_name

    def _settle(self, base: Registration | None = None) -> tuple[str, str, str]:
        if self._settled is None:
            cls, known = self.cls, self.cls.parameters
            if known is None:
                base = base or cls.app.look_up(cls.name)
                if not base.is_class:
                    raise ExecutionError(f"{cls.full_name} is a function: use Function.from_name for it")
                known, self._callables = tuple(unpack(base.schema).values()), base.callables
            values = resolve(cls.full_name, known, self.given)
            # Who names a value means it, also when a deployment changes the default to another one.
            default = not self.given
            shown = told({p.name: values[p.name] for p in known if p.name in self.given}, cls.options)
            if default and not cls.options:
                self._settled = (cls.full_name, "", "")
            else:
                name = f"{cls.full_name}~{digest([sorted((k, repr(v)) for k, v in values.items()), cls.options])}"
                packed = "" if default else pack(values, cls.full_name)
                self._settled = (name, packed, f"{cls.full_name}{shown}")
        return self._settled

    @property
    def callables(self) -> Mapping[str, str] | None:
        """The kinds of the methods of a class whose code isn't here, once they are known."""
        return self._callables

    def learn(self, registered: Mapping[str, str]) -> None:
        """Take what methods are registered, where the class's code isn't in this process."""
        if self.cls.raw is None:
            self._callables = registered

    def registration(self) -> Registration | None:
        """Return what the class is registered as."""
        return self.cls.registration()

    def variant(self, base: Registration) -> Registration:
        """Return what this parameter set is registered as."""
        name, packed, label = self._settle(base)
        self.learn(base.callables)
        return base if name == base.function else variant(base, name, self.cls.options, packed, label)

    def code(self) -> Any:
        """Return the class."""
        return self.cls.raw

    def here(self) -> ObjectPool[T]:
        """Return it with its code, which this process must have; raises NotFoundError."""
        if self.cls.raw is not None:
            return self
        made = self.app.find_here(self.cls.name)
        if not isinstance(made, Cls):
            raise ExecutionError(f"{self.cls.full_name} is a function: use Function.from_name for it")
        return ObjectPool(made._with(self.options) if self.options else made, self.given)  # noqa: SLF001  # its kind

    # -- methods and attributes ------------------------------------------------------------------------------------

    def method(self, name: str) -> BoundMethod[Any, Any]:
        """Return the Function of a method."""
        with self._lock:
            found = self._functions.get(name)
            if found is None:
                found = self._functions[name] = BoundMethod(self, self.cls, name)
            return found

    def attribute(self, name: str) -> Any:
        """Return a method as a Function, or an attribute of the object made here; raises AttributeError."""
        cls = self.cls
        if name in cls.methods:
            return self.method(name)
        if cls.raw is None:
            self._settle()
            if name not in (self._callables or {}):
                near = did_you_mean(name, self._callables or ())
                raise AttributeError(f"{cls.full_name} has no method {name!r}{near}")
            return self.method(name)
        if not hasattr(cls.raw, name) and name not in self.given and self._instance is None and not cls.hooks:
            raise AttributeError(
                f"{cls.full_name} has no method or attribute {name!r}{did_you_mean(name, cls.methods)}"
            )
        return getattr(self.local_instance(), name)

    def local_instance(self) -> T:
        """Return an object of the class made in this process; its ``enter`` hooks have run."""
        with self._lock:
            if self._instance is None:
                instance = self.make_instance()
                try:
                    for hook in self.cls.hooks:
                        if hook.kind == "enter":
                            value = hook.raw(instance)
                            if inspect.iscoroutine(value):
                                run_coroutine(value)
                except BaseException:
                    self._instance = None
                    raise
            made: T = self._instance
            return made

    def make_instance(self, raw: type[T] | None = None) -> T:
        """Return the object of this process, bare: its parameters are set, its hooks have not run."""
        cls, raw = self.cls, raw or self.cls.raw
        if raw is None:
            raise ExecutionError(
                f"the code of {cls.full_name} isn't in this process, so it can't run here: use .remote"
            )
        instance: Any = object.__new__(raw)
        for name, value in resolve(cls.full_name, cls.parameters or (), self.given).items():
            setattr(instance, name, value)
        instance.__dict__["_scaleplug_pool"] = self
        self._instance = instance
        return instance  # type: ignore[no-any-return]


class Obj(Generic[T]):
    """An object of a class with one set of parameters: its methods share one pool of containers.

    ``obj.method.remote(...)`` and the other ways to call are those of a Function; ``obj.method.local(...)`` and plain
    attributes are of an object made here, which has run ``enter``.
    """

    def __init__(self, pool: ObjectPool[T]) -> None:
        self._pool = pool
        self.autoscaler = pool.autoscaler
        self.update_autoscaler = pool.update_autoscaler
        self.get_current_stats = pool.get_current_stats

    def __repr__(self) -> str:
        return repr(self._pool)

    def __reduce__(self) -> tuple[Any, ...]:
        return _obj, (self._pool.cls, self._pool.given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__["_pool"].attribute(name)


def _obj(cls: Cls[Any], parameters: dict[str, Any]) -> Obj[Any]:
    return Obj(ObjectPool(cls, parameters))


def _method(cls: Cls[Any], parameters: dict[str, Any], name: str) -> BoundMethod[Any, Any]:
    return ObjectPool(cls, parameters).method(name)


def told(values: Mapping[str, Any], options: Mapping[str, Any] = {}) -> str:
    """Return parameters, and options, as people write them: ``(size='small')``."""
    shown = shows_arguments()
    said = [f"{k}={v!r}" if shown else f"{k}={MASKED}" for k, v in values.items() if k not in options]
    return f"({', '.join([*said, *(f'{k}={v!r}' for k, v in options.items())])})"


class BoundMethod(Function[P, R]):
    """A method of an object: a Function that shares the object's containers."""

    def __init__(self, obj: ObjectPool[Any], cls: Cls[Any], name: str) -> None:
        mark = cls.methods.get(name)
        self.obj = obj
        super().__init__(
            cls.app, None if mark is None else mark.raw, f"{cls.name}.{name}", cls.settings,
            serialized=cls.serialized, task=cls.task(name), owner=obj,
        )  # fmt: skip
        self.method_name = name

    @property
    def is_generator(self) -> bool | None:
        """Whether calling it gives a generator; ``None`` while that isn't known of a class of another process."""
        known = self.obj.callables
        return super().is_generator if known is None else known.get(self.method_name) == "generator"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, on the object of this process."""
        return self.local(*args, **kwargs)

    @property
    def local(self) -> Callable[P, R]:
        """The method of an object made in this process."""
        instance = self.obj.local_instance()
        if self.raw is None:
            raise ExecutionError(f"the code of {self.full_name} isn't in this process: use .remote")
        return self.raw.__get__(instance, type(instance))  # type: ignore[no-any-return]

    @property
    def shown(self) -> str:
        """The name of its pool as people read it."""
        return self.obj.shown

    @property
    def input_name(self) -> str:
        """Whose inputs these are."""
        return f"{self.full_name}.{self.method_name}"

    def here(self) -> BoundMethod[P, R]:
        """Return it with its code, which this process must have; raises NotFoundError."""
        return self if self.raw is not None else self.obj.here().method(self.method_name)

    @property
    def pool_settings(self) -> FunctionSettings:
        """Return the settings of the object's containers."""
        return self.obj.pool_settings

    def pool(self) -> dict[str, Any]:
        """Return what names the object's pool."""
        return self.obj.pool()

    def in_pool(self, pool: Mapping[str, Any]) -> BoundMethod[P, R]:
        """Return the same method of the object that a signature names."""
        return self.obj.in_pool(pool).method(self.method_name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _method, (self.obj.cls, self.obj.given, self.method_name)
