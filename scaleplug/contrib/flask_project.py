"""A Flask project as containers see it: the Flask app is made first, then what it doesn't import itself."""

from __future__ import annotations

import importlib
from types import ModuleType

from flask import Flask
from flask.cli import NoAppException, find_app_by_string, find_best_app

from scaleplug.errors import ConfigurationError
from scaleplug.here import known_apps


def load_project(where: str) -> ModuleType:
    """Make the Flask app of ``MODULE[:FACTORY][,MODULE...]``; return a module that has its Apps."""
    first, *modules = where.split(",")
    make_app(first)
    for module in modules:
        importlib.import_module(module)
    found = ModuleType(where)
    vars(found).update({app.name: app for app in known_apps()})
    return found


def make_app(where: str) -> Flask:
    """Return the Flask app of ``MODULE[:FACTORY]``, found as ``flask --app`` finds it; raises ConfigurationError."""
    name, _, factory = where.partition(":")
    return find_app(importlib.import_module(name), factory)


def find_app(module: ModuleType, factory: str = "") -> Flask:
    """Return a module's Flask app: its ``app``, what its ``create_app()`` makes, or what ``factory`` says."""
    try:
        return find_app_by_string(module, factory) if factory else find_best_app(module)
    except NoAppException as exc:
        said = " ".join(str(exc.message).split())
        raise ConfigurationError(
            f"no Flask app could be made from {module.__name__}: {said} "
            "For containers, ScalePlug(factory='yoursite.web:make_site') tells where it is made"
        ) from None


def makes_app(module: ModuleType | None) -> bool:
    """Return whether a module has a Flask app, or what makes one; nothing is called."""
    values = vars(module) if module is not None else {}
    made = any(isinstance(value, Flask) for value in list(values.values()))
    return made or any(callable(values.get(name)) for name in ("create_app", "make_app"))
