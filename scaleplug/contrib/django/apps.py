"""The Django app: when it is ready, its project's functions are known and its settings are in force."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks as django_checks
from django.db import transaction

from scaleplug.commit import use_on_commit
from scaleplug.contrib.django import checks, conf, project
from scaleplug.contrib.django.database import AROUND
from scaleplug.here import use_project
from scaleplug.settings import use_defaults


class ScalePlugConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """``scaleplug.contrib.django`` in INSTALLED_APPS."""

    name = "scaleplug.contrib.django"
    label = "scaleplug"
    verbose_name = "scaleplug"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Take the project's settings, and import the modules in which its apps define functions."""
        use_defaults(conf.environ())
        use_on_commit(transaction.on_commit)
        use_project(project.source_of, AROUND)
        django_checks.register(checks.check_project)
        project.discover()
