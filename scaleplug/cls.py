"""Classes whose methods run in containers: one pool for each set of parameters, hooks for its start and its end."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, get_type_hints, overload

from scaleplug.abc import Caller
from scaleplug.autoscaling import Autoscaled
from scaleplug.errors import ExecutionError, InvalidError, did_you_mean
from scaleplug.function import Function, batching_options, concurrency_options, pool_options, run_coroutine
from scaleplug.pools import digest, kind_of, pack, unpack, variant
from scaleplug.registry import Registration
from scaleplug.settings import FunctionSettings, Retries, check_name

if TYPE_CHECKING:
    from scaleplug.app import App

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
PARAMETER_TYPES = (int, str, bytes, bool)


class _Missing:
    def __repr__(self) -> str:
        return "<none>"

    def __reduce__(self) -> str:
        return "MISSING"  # there is one


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One constructor argument of a class."""

    name: str
    type: type
    default: Any = MISSING


class _ParameterMark:
    """What ``parameter()`` leaves in the class body until the class is decorated."""

    def __init__(self, default: Any, init: bool) -> None:
        self.default, self.init = default, init


def parameter(*, default: Any = MISSING, init: bool = True) -> Any:
    """Declare a constructor argument of a class, as in ``size: str = scaleplug.parameter(default="small")``.

    Its type is its annotation: int, str, bytes or bool. ``init=False`` declares an attribute that ``enter`` sets.
    """
    return _ParameterMark(default, init)


class _Marked:
    """A function of a class body that has a meaning to scaleplug."""

    def __init__(self, raw: Callable[..., Any]) -> None:
        self.raw = raw
        self.__doc__, self.__name__ = raw.__doc__, getattr(raw, "__name__", "method")


class Hook(_Marked):
    """A method that runs when a container starts or leaves."""

    def __init__(self, raw: Callable[..., Any], kind: str) -> None:
        super().__init__(raw)
        self.kind = kind

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        return self.raw if instance is None else self.raw.__get__(instance, owner)


class MethodMark(_Marked, Generic[P, R]):
    """What ``@method()`` makes: on an object, a Function whose inputs its containers run."""

    @overload
    def __get__(self, instance: None, owner: type) -> MethodMark[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundMethod[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        obj = instance.__dict__.get("_scaleplug_obj")
        if obj is None:  # made by hand, in a unit test say
            return self.raw.__get__(instance, owner)
        return obj.method(self.__name__)


def method(*, is_generator: bool | None = None) -> Callable[[Callable[Concatenate[Any, P], R]], MethodMark[P, R]]:  # noqa: ARG001  # what it is can be seen
    """Let a method of a class run in its containers."""

    def decorate(raw: Callable[Concatenate[Any, P], R]) -> MethodMark[P, R]:
        _check_plain("@scaleplug.method()", raw)
        return MethodMark(raw)

    return decorate


def enter(*, snap: bool = False) -> Callable[[Callable[[Any], Any]], Any]:  # noqa: ARG001  # there are no snapshots
    """Run a method once when a container starts, before its first input; it may be async."""
    return lambda raw: _hook("enter", raw)


def exit() -> Callable[[Callable[[Any], Any]], Any]:  # noqa: A001  # the field's word
    """Run a method when a container leaves in good order; it may be async."""
    return lambda raw: _hook("exit", raw)


def _hook(kind: str, raw: Any) -> Hook:
    _check_plain(f"@scaleplug.{kind}()", raw)
    if len(inspect.signature(raw).parameters) != 1:
        raise InvalidError(
            f"@scaleplug.{kind}() goes on a method without arguments but self, which {raw.__name__} is not"
        )
    return Hook(raw, kind)


def _check_plain(decorator: str, raw: Any) -> None:
    if isinstance(raw, _Marked):
        raise InvalidError(f"{decorator} can't be combined with another mark on {raw.__name__!r}: use two methods")
    if not inspect.isfunction(raw):
        raise InvalidError(f"{decorator} goes on a method made with def, which {raw!r} is not")


# -- the class -----------------------------------------------------------------------------------------------------


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
        self.parameters = tuple(_parameters(raw))
        hooks: dict[str, Hook] = {}
        for base in reversed(raw.__mro__):  # the hooks of base classes come first
            for name, value in vars(base).items():
                if isinstance(value, MethodMark):
                    self.methods[name] = value
                elif isinstance(value, Hook):
                    hooks.pop(name, None)
                    hooks[name] = value
        self.hooks = list(hooks.values())
        if not self.methods:
            raise InvalidError(
                f"{raw.__name__} has no method under @scaleplug.method(), so nothing of it can be called"
            )
        for name, mark in self.methods.items():
            self.tasks[name] = self.app.make_task(f"{self.full_name}.{name}", mark.raw, bound=True)

    # -- registration ----------------------------------------------------------------------------------------------

    @property
    def base_name(self) -> str:
        """Full name of the class."""
        return self.full_name

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

    # -- objects ---------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **parameters: Any) -> Obj[T]:
        """Return the object with these parameters; its containers are started when it is used."""
        if args:
            names = ", ".join(p.name for p in self.parameters or ())
            raise InvalidError(f"{self.full_name} takes its parameters by name ({names}), not {args!r}")
        if self.parameters is not None:
            parameters = resolve(self.full_name, self.parameters, parameters)
        return Obj(self, parameters)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.__dict__.get("methods", {}):
            raise AttributeError(f"{self.full_name}.{name} needs an object: {self.name}().{name}.remote(...)")
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
        return self._with(concurrency_options(max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Cls[T]:
        """Return the class with other batching and containers of its own."""
        return self._with(batching_options(max_batch_size, wait_ms))

    def _with(self, options: dict[str, Any]) -> Cls[T]:
        made: Cls[T] = object.__new__(type(self))
        made.__dict__.update(self.__dict__, options=self.options | options)
        return made


def resolve(name: str, parameters: tuple[Parameter, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter; raises InvalidError, and TypeError for a value of another type."""
    known = {p.name: p for p in parameters}
    for unknown in given.keys() - known.keys():
        raise InvalidError(f"{name} has no parameter {unknown!r}{did_you_mean(unknown, known)}")
    values = {}
    for each in parameters:
        value = given.get(each.name, each.default)
        if value is MISSING:
            raise InvalidError(f"{name} needs its parameter {each.name!r}: {name.rpartition('.')[2]}({each.name}=...)")
        if type(value) is not each.type:
            raise TypeError(
                f"the parameter {each.name!r} of {name} must be {each.type.__name__}, "
                f"not {type(value).__name__} ({value!r})"
            )
        values[each.name] = value
    return values


def _parameters(raw: type) -> Iterator[Parameter]:
    try:
        hints = get_type_hints(raw)
    except NameError as exc:
        raise InvalidError(f"the annotations of {raw.__name__} can't be read ({exc}): import their types") from None
    for base in reversed(raw.__mro__):
        for name, mark in vars(base).items():
            if not isinstance(mark, _ParameterMark) or not mark.init:
                continue
            kind = hints.get(name)
            if kind not in PARAMETER_TYPES:
                said = "has no annotation" if kind is None else f"is annotated with {kind!r}"
                raise InvalidError(f"the parameter {name!r} of {raw.__name__} {said}: use int, str, bytes or bool")
            if mark.default is not MISSING and type(mark.default) is not kind:
                raise InvalidError(f"the default of {name!r} must be {kind.__name__}, not {mark.default!r}")
            yield Parameter(name, kind, mark.default)


# -- its objects ---------------------------------------------------------------------------------------------------


class Obj(Autoscaled, Generic[T]):
    """An object of a class with one set of parameters: the methods share one pool of containers.

    ``obj.method.remote(...)`` and the other ways to call are those of a Function; ``obj.method.local(...)`` and plain
    attributes are of an object made here, which has run ``enter``.
    """

    def __init__(self, cls: Cls[T], parameters: dict[str, Any]) -> None:
        super().__init__()
        self._cls, self._given = cls, parameters
        self._lock = threading.RLock()
        self._instance: Any = None
        self._functions: dict[str, BoundMethod[Any, Any]] = {}
        self._settled: tuple[str, str, str] | None = None
        """Full name, packed parameters and label, once the parameters are known to be complete."""

    def __repr__(self) -> str:
        return f"<{self._cls.full_name}{told(self._given)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _obj, (self._cls, self._given)

    def _caller(self) -> Caller:
        return self._cls.app.ready_for_calls(self)

    @property
    def serialized(self) -> bool:
        """Whether the class travels pickled."""
        return self._cls.serialized

    @property
    def full_name(self) -> str:  # type: ignore[override]  # settled late
        """Name of the pool's queue and registration."""
        return self._settle()[0]

    @property
    def base_name(self) -> str:
        """Full name of the class."""
        return self._cls.full_name

    def _settle(self, base: Registration | None = None) -> tuple[str, str, str]:
        if self._settled is None:
            cls, known = self._cls, self._cls.parameters
            if known is None:
                base = base or cls.app.look_up(cls.name)
                if not base.is_class:
                    raise ExecutionError(f"{cls.full_name} is a function: use Function.from_name for it")
                known = tuple(unpack(base.schema).values())
            values = resolve(cls.full_name, known, self._given)
            default = all(values[p.name] == p.default for p in known)
            shown = told({p.name: values[p.name] for p in known if values[p.name] != p.default} | cls.options)
            if default and not cls.options:
                self._settled = (cls.full_name, "", "")
            else:
                name = f"{cls.full_name}~{digest([sorted((k, repr(v)) for k, v in values.items()), cls.options])}"
                packed = "" if default else pack(values, cls.full_name)
                self._settled = (name, packed, f"{cls.full_name}{shown}")
        return self._settled

    def registration(self) -> Registration | None:
        """Return what the class is registered as."""
        return self._cls.registration()

    def variant(self, base: Registration) -> Registration:
        """Return what this parameter set is registered as."""
        name, packed, label = self._settle(base)
        return base if name == base.function else variant(base, name, self._cls.options, packed, label)

    def code(self) -> Any:
        """Return the class."""
        return self._cls.raw

    # -- methods and attributes ------------------------------------------------------------------------------------

    def method(self, name: str) -> BoundMethod[Any, Any]:
        """Return the Function of a method."""
        with self._lock:
            found = self._functions.get(name)
            if found is None:
                found = self._functions[name] = BoundMethod(self, self._cls, name)
            return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        cls = self.__dict__["_cls"]
        if name in cls.methods or cls.raw is None:
            return self.method(name)
        if not hasattr(cls.raw, name) and name not in self._given and self._instance is None:
            near = did_you_mean(name, cls.methods)
            if not cls.hooks:
                raise AttributeError(f"{cls.full_name} has no method or attribute {name!r}{near}")
        return getattr(self.local_instance(), name)

    def local_instance(self) -> T:
        """Return an object of the class made in this process; its ``enter`` hooks have run."""
        with self._lock:
            if self._instance is None:
                self._instance = make_instance(self._cls, self._given, self)
                for hook in self._cls.hooks:
                    if hook.kind == "enter":
                        value = hook.raw(self._instance)
                        if inspect.iscoroutine(value):
                            run_coroutine(value)
            made: T = self._instance
            return made


def _obj(cls: Cls[Any], parameters: dict[str, Any]) -> Obj[Any]:
    return Obj(cls, parameters)


def told(values: Mapping[str, Any]) -> str:
    """Return parameters as people write them: ``(size='small')``."""
    return f"({', '.join(f'{k}={v!r}' for k, v in values.items())})"


def make_instance(cls: Cls[T], parameters: Mapping[str, Any], obj: Obj[T] | None) -> T:
    """Return a bare object of the class with its parameters set; its hooks have not run."""
    if cls.raw is None:
        raise ExecutionError(f"the code of {cls.full_name} isn't in this process, so it can't run here: use .remote")
    instance: Any = object.__new__(cls.raw)
    values = resolve(cls.full_name, cls.parameters or (), parameters)
    for name, value in values.items():
        setattr(instance, name, value)
    instance.__dict__["_scaleplug_obj"] = obj
    return instance  # type: ignore[no-any-return]


class BoundMethod(Function[P, R]):
    """A method of an object: a Function that shares the object's containers."""

    def __init__(self, obj: Obj[Any], cls: Cls[Any], name: str) -> None:
        mark = cls.methods.get(name)
        self.obj = obj
        task = cls.tasks.get(name) or cls.app.make_task(f"{cls.full_name}.{name}", None)
        super().__init__(
            cls.app, None if mark is None else mark.raw, f"{cls.name}.{name}", cls.settings,
            serialized=cls.serialized, task=task, owner=obj,
        )  # fmt: skip
        self.method_name = name

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

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.obj, self.method_name)
