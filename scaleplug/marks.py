"""What is written inside a class for ``@app.cls()``: parameters, methods, hooks for a container's start and end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, get_type_hints, overload

from scaleplug.errors import InvalidError, did_you_mean

if TYPE_CHECKING:
    from scaleplug.cls import BoundMethod

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

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        if self.default is MISSING:
            raise AttributeError(f"{owner.__name__}.{self.name} has no value yet: 'enter' is to set it")
        return self.default


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

    batching: Mapping[str, Any] = {}
    """The settings that ``@batched`` gives its class."""

    @overload
    def __get__(self, instance: None, owner: type) -> MethodMark[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundMethod[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        pool = instance.__dict__.get("_scaleplug_pool")
        if pool is None:  # made by hand, in a unit test say
            return self.raw.__get__(instance, owner)
        return pool.method(self.__name__)


def method(
    misplaced: None = None,
    /,
    *,
    is_generator: bool | None = None,  # noqa: ARG001  # what it is can be seen
) -> Callable[[Callable[Concatenate[Any, P], R]], MethodMark[P, R]]:
    """Let a method of a class run in its containers."""
    _check_parentheses("method", misplaced)

    def decorate(raw: Callable[Concatenate[Any, P], R]) -> MethodMark[P, R]:
        _check_plain("@scaleplug.method()", raw)
        return MethodMark(raw)

    return decorate


def enter(
    misplaced: None = None,
    /,
    *,
    snap: bool = False,  # noqa: ARG001  # there are no snapshots
) -> Callable[[Callable[[Any], Any]], Any]:
    """Run a method once when a container starts, before its first input; it may be async."""
    _check_parentheses("enter", misplaced)
    return lambda raw: _hook("enter", raw)


def exit(misplaced: None = None, /) -> Callable[[Callable[[Any], Any]], Any]:  # noqa: A001  # the field's word
    """Run a method when a container leaves in good order; it may be async."""
    _check_parentheses("exit", misplaced)
    return lambda raw: _hook("exit", raw)


def _hook(kind: str, raw: Any) -> Hook:
    _check_plain(f"@scaleplug.{kind}()", raw)
    if len(inspect.signature(raw).parameters) != 1:
        raise InvalidError(
            f"@scaleplug.{kind}() goes on a method without arguments but self, which {raw.__name__} is not"
        )
    return Hook(raw, kind)


def _check_parentheses(decorator: str, misplaced: object) -> None:
    if misplaced is not None:
        where = getattr(misplaced, "__name__", repr(misplaced))
        raise InvalidError(
            f"@scaleplug.{decorator} needs parentheses: write @scaleplug.{decorator}() above {where!r}, "
            "and give it arguments by name"
        )


def _check_plain(decorator: str, raw: Any) -> None:
    if isinstance(raw, _Marked):
        raise InvalidError(f"{decorator} can't be combined with another mark on {raw.__name__!r}: use two methods")
    if not inspect.isfunction(raw):
        raise InvalidError(f"{decorator} goes on a method made with def, which {raw!r} is not")


# -- what they come to ---------------------------------------------------------------------------------------------


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


def parameters_of(raw: type) -> Iterator[Parameter]:
    """Return what a class declares, that of base classes first; raises InvalidError."""
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


def kind_of(raw: Callable[..., Any]) -> str:
    """Return ``generator`` or ``function``."""
    return "generator" if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw) else "function"
