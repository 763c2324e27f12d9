"""Local entrypoints: the function that ``scaleplug run`` starts, with options made from its typed arguments."""

from __future__ import annotations

import ast
import asyncio
import datetime
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import click

from scaleplug.errors import InvalidError


class _DateTime(click.ParamType):  # type: ignore[type-arg]
    name = "datetime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        try:
            return value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not an ISO date such as 2026-01-31 or 2026-01-31T12:00", param, ctx)


_TYPES: dict[Any, Any] = {str: click.STRING, int: click.INT, float: click.FLOAT, datetime.datetime: _DateTime()}


class _Literal(click.ParamType):  # type: ignore[type-arg]
    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        try:
            return ast.literal_eval(value) if isinstance(value, str) else value
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two of what is nested too deeply
            return value


class LocalEntrypoint:
    """A function that runs in the caller's process."""

    def __init__(self, raw: Callable[..., Any], name: str) -> None:
        self.raw, self.name = raw, name
        self.__doc__, self.__name__ = raw.__doc__, name
        self.options = _options(raw, f"the local entrypoint {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, in an event loop if it is async."""
        result = self.raw(*args, **kwargs)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    def command(self) -> click.Command:
        """Return the click command whose options are the arguments."""
        return click.Command(self.name, callback=self, params=list(self.options), help=inspect.getdoc(self.raw))


def literal_options(raw: Callable[..., Any], name: str) -> list[click.Option]:
    """Return the options for calling any function; where its types don't tell, ``3`` is a number and ``x`` a string."""
    return _options(raw, f"the function {name!r}", other=_Literal())


def _options(raw: Callable[..., Any], what: str, other: click.ParamType[Any] | None = None) -> list[click.Option]:
    try:
        hints = typing.get_type_hints(raw)
    except NameError as exc:  # of a module that is imported for type checkers only
        if other is None:
            raise InvalidError(f"the types of {what}'s arguments can't be read ({exc}): import them for real") from None
        hints = {}
    options = []
    for parameter in inspect.signature(raw).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidError(f"{what} can't take {parameter} from a command line: use arguments with names and types")
        options.append(_option(what, parameter, hints.get(parameter.name, str if other is None else Any), other))
    return options


def _option(what: str, parameter: inspect.Parameter, hint: Any, other: click.ParamType[Any] | None) -> click.Option:
    hint = _not_none(hint)
    required = parameter.default is parameter.empty
    default = {} if required else {"default": parameter.default}  # to click, a default of None is one too
    flag = "--" + parameter.name.replace("_", "-")
    if hint is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], required=required, show_default=not required, **default)
    kind = _TYPES.get(hint, other)
    if kind is None:
        raise InvalidError(
            f"the argument {parameter.name!r} of {what} has the type {hint!r}, which can't be an option: "
            "use str, int, float, bool or datetime"
        )
    shown = default.get("default") is not None
    return click.Option([flag, parameter.name], type=kind, required=required, show_default=shown, **default)


def _not_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [h for h in typing.get_args(hint) if h is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint
