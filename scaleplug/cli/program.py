"""The user's program: the file or module that the command line names, its Apps and what can be started in them."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from celery import Celery

from scaleplug.app import App
from scaleplug.cli.tracebacks import format_exception, last_place
from scaleplug.entrypoint import LocalEntrypoint, literal_options
from scaleplug.errors import Error, InvalidError, NotFoundError, did_you_mean, listed
from scaleplug.function import Function
from scaleplug.registry import PROJECTS, Source

Startable = LocalEntrypoint | Function[Any, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What FILE[::ENTRYPOINT] names."""

    where: str
    name: str
    source: Source

    @classmethod
    def parse(cls, text: str) -> Target:
        """Find the file or module; nothing of it is imported but the packages around a module."""
        where, mark, name = text.partition("::")
        if mark and not name:
            raise InvalidError(f"{text!r} names no entrypoint after '::': write one, or leave the '::' out")
        return cls(where, name, _find_source(where))


def _find_source(where: str) -> Source:
    kind, mark, project = where.partition(":")
    if mark and kind in PROJECTS:
        if not project:
            example = {"django": "mysite.settings", "flask": "mysite"}[kind]
            raise InvalidError(f"{where!r} names no project: write {kind}:{example}, say")
        return Source(kind, project, str(Path.cwd()))
    path = Path(where).expanduser()
    if path.is_file():
        if path.suffix != ".py":
            raise InvalidError(f"{where} is not a Python file: its name must end in .py")
        return Source("file", str(path.resolve()))
    if path.is_dir() and not (path / "__init__.py").exists():
        raise InvalidError(f"{where} is a folder: name a Python file in it")
    if os.sep in where or where.endswith(".py"):
        files = [str(p) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise NotFoundError(f"there is no file {where}{did_you_mean(where, files, 0.7)}")
    return _find_module(where)


def _find_module(name: str) -> Source:
    if not all(part.isidentifier() for part in name.split(".")):
        raise NotFoundError(f"there is no file {name!r}, and a module can't have that name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    except Exception as exc:  # noqa: BLE001  # users' packages may raise anything
        raise _not_imported(name, exc) from None
    if spec is None:
        files = [p.name for p in sorted(Path(here).glob("*.py"))]
        raise NotFoundError(f"there is no file and no module {name!r} here{did_you_mean(name, files, 0.7)}")
    inside = spec.origin is not None and Path(spec.origin).is_relative_to(here)
    return Source("module", name, here if inside else "")


@dataclass(frozen=True, slots=True)
class Program:
    """The user's code, imported."""

    title: str
    source: Source
    apps: tuple[App, ...]

    @classmethod
    def load(cls, target: Target) -> Program:
        """Import the user's code; raises InvalidError, after showing the traceback of a failed import."""
        module = _import(target)
        found = {id(value): value for value in vars(module).values() if isinstance(value, App)}
        if not found:
            raise InvalidError(_without_app(target.where, module))
        apps = tuple(found.values())
        if target.source.kind not in PROJECTS:  # a project's apps know best
            for app in apps:
                app.set_source(target.source)
        return cls(target.where, target.source, apps)

    @property
    def entrypoints(self) -> dict[str, LocalEntrypoint]:
        """The local entrypoints by their full names."""
        return {f"{app.name}.{name}": point for app in self.apps for name, point in app.entrypoints.items()}

    @property
    def functions(self) -> dict[str, Function[Any, Any]]:
        """The Functions by their full names."""
        return {f"{app.name}.{name}": function for app in self.apps for name, function in app.functions.items()}

    def choose(self, wanted: str) -> Startable:
        """Return what ``wanted`` names, the only entrypoint if that is empty; InvalidError tells the choice."""
        return self._find(wanted) if wanted else self._only_entrypoint()

    def _only_entrypoint(self) -> LocalEntrypoint:
        points = self.entrypoints
        if len(points) == 1:
            return next(iter(points.values()))
        if points:
            names = _shortened(points)
            raise InvalidError(
                f"{self.title} has {len(points)} local entrypoints, {listed(names)}: "
                f"choose one, as in: scaleplug run {self.title}::{names[0]}"
            )
        ways = "put @app.local_entrypoint() on the function that starts the job"
        if self.functions:
            names = _shortened(self.functions)
            ways += f", or run one function ({listed(names, 'or')}), as in: scaleplug run {self.title}::{names[0]}"
        raise InvalidError(f"{self.title} has no local entrypoint: {ways}")

    def _find(self, wanted: str) -> Startable:
        every: dict[str, Startable] = {**self.functions, **self.entrypoints}
        if wanted in every:
            return every[wanted]
        kinds: tuple[Mapping[str, Startable], ...] = (self.entrypoints, self.functions)
        for kind in kinds:  # an entrypoint stands above a function of its name
            found = [name for name in kind if name.endswith(f".{wanted}")]
            if len(found) > 1:
                raise InvalidError(f"{self.title}::{wanted} could be {listed(found, 'or')}: write the app's name too")
            if found:
                return kind[found[0]]
        raise InvalidError(
            f"{self.title} has no entrypoint and no function {wanted!r}{did_you_mean(wanted, _shortened(every))}"
        )

    def command(self, wanted: str) -> click.Command:
        """Return the click command that starts it, with its options; it returns the result of a function."""
        chosen = self.choose(wanted)
        if isinstance(chosen, LocalEntrypoint):
            return chosen.command()
        return click.Command(
            chosen.name,
            callback=_print_items(chosen) if chosen.is_generator else chosen.remote,
            params=list(literal_options(chosen.local, chosen.name)),
            help=chosen.__doc__,
        )

    def redis_url(self) -> str | None:
        """Return the Redis that the Apps themselves name; raises InvalidError when they name several."""
        urls = {app.own_redis_url for app in self.apps if app.own_redis_url is not None}
        if len(urls) > 1:
            raise InvalidError(f"the Apps of {self.title} name {len(urls)} different redis_url: one run has one Redis")
        return urls.pop() if urls else None

    def register(self) -> list[str]:
        """Write all functions into the registry; return their names."""
        for app in self.apps:
            app.register()
        return sorted([*self.functions, *(c.full_name for app in self.apps for c in app.classes.values())])

    def deploy(self) -> list[dict[str, Any]]:
        """Deploy all apps; return the deployments as plain values, each with the Redis it went to."""
        return [{**asdict(app.deploy()), "redis_url": app.redis_url} for app in self.apps]


def _print_items(function: Function[Any, Any]) -> Callable[..., None]:
    def run(**options: Any) -> None:
        for item in function.remote_gen(**options):
            click.echo(str(item))

    return run


def _shortened(names: Mapping[str, Any]) -> list[str]:
    short = [name.rpartition(".")[2] for name in names]
    return [part if short.count(part) == 1 else name for name, part in zip(names, short, strict=True)]


def _import(target: Target) -> ModuleType:
    try:
        module = target.source.load()
    except Error as exc:
        place = last_place(exc.__traceback__)
        raise InvalidError(f"{place or target.where}: {exc}") from None
    except SystemExit as exc:
        place = last_place(exc.__traceback__)
        raise InvalidError(
            f"{target.where} ended itself while it was imported ({place}: {exc.code}): "
            "put what is not a definition under if __name__ == '__main__'"
        ) from None
    except Exception as exc:  # noqa: BLE001  # and so may their programs
        raise _not_imported(target.where, exc) from None
    assert module is not None
    return module


def _not_imported(where: str, exc: Exception) -> InvalidError:
    """Show the traceback of a failed import, as far as it is the user's; return the error that ends it in one line."""
    inside = last_place(exc.__traceback__)
    sys.stderr.write(format_exception(exc) if inside else "".join(traceback.format_exception_only(exc)))
    why = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, SyntaxError):
        why = f"{exc.msg} ({Path(exc.filename or where).name}, line {exc.lineno})"
    elif "relative import" in str(exc):
        module = ".".join(Path(where).with_suffix("").parts)
        why += f". Name it as a module, from the folder above its package: scaleplug run {module}"
    elif isinstance(exc, ModuleNotFoundError) and exc.name:
        why = f"there is no module {exc.name!r} for {sys.executable}: install its package, or correct the name"
    return InvalidError(f"{where} can't be imported: {why}")


def _without_app(where: str, module: ModuleType) -> str:
    values = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    plugged = [name for name, value in values.items() if isinstance(value, Celery)]
    if plugged:
        return (
            f"{where} has a Celery app ({plugged[0]}) and no App: "
            f"add app = scaleplug.App({plugged[0]!r}, celery={plugged[0]})"
        )
    own = [name for name, value in values.items() if getattr(value, "__module__", None) == module.__name__]
    return (
        f"{where} has no App (it defines {listed(own)}): add app = scaleplug.App('name'), "
        "and @app.function() above what is to run in containers"
    )
