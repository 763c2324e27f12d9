"""A Django project as containers see it: set up by its settings, its functions found where apps keep them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import django
from django.apps import apps
from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from scaleplug.definitions import Definition, import_folder
from scaleplug.errors import ConfigurationError
from scaleplug.here import known_apps
from scaleplug.registry import Source

MODULES = ("tasks", "autoscaled")
"""Where each Django app's functions are looked for."""


def discover() -> None:
    """Import the modules of all Django apps in which functions may be defined."""
    autodiscover_modules(*MODULES)


def target() -> str:
    """Return what the command line calls this project: ``django:SETTINGS``."""
    return f"django:{_settings_module()}"


def folder() -> str:
    """Return the folder from which the project is imported."""
    name = _settings_module()
    return import_folder(name, getattr(sys.modules.get(name), "__file__", None))


def _settings_module() -> str:
    return str(getattr(settings, "SETTINGS_MODULE", None) or os.environ.get("DJANGO_SETTINGS_MODULE", ""))


def source_of(definitions: Sequence[Definition]) -> Source | None:
    """Return the project as the place of these functions; other modules than the usual ones are named beside it."""
    modules = {made.raw.__module__ for made in definitions if made.raw is not None and not made.serialized}
    if not modules or "__main__" in modules or not _settings_module():
        return None
    usual = {f"{config.name}.{module}" for config in apps.get_app_configs() for module in MODULES}
    return Source("django", ",".join([_settings_module(), *sorted(modules - usual)]), folder())


def load_project(where: str) -> ModuleType:
    """Set up the project of ``SETTINGS[,MODULE...]``; return a module that has its Apps."""
    name, *modules = where.split(",")
    if not settings.configured:
        os.environ["DJANGO_SETTINGS_MODULE"] = name
    django.setup()
    if not apps.is_installed("scaleplug.contrib.django"):
        raise ConfigurationError(f"{name} doesn't have 'scaleplug.contrib.django' in INSTALLED_APPS: put it there")
    for module in modules:
        importlib.import_module(module)
    found = ModuleType(where)
    vars(found).update({app.name: app for app in known_apps()})
    return found
