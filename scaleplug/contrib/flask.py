"""For Flask: an App whose inputs run in the Flask app's context, with ``init_app`` and ``flask scaleplug``."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import click
from celery import Celery
from flask import Flask

from scaleplug.app import App
from scaleplug.around import Around
from scaleplug.cli.main import main
from scaleplug.contrib.flask_project import find_app, make_app
from scaleplug.definitions import Definition, import_folder, name_of_caller
from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.registry import Source
from scaleplug.settings import Config, use_defaults

EXTENSION = "scaleplug"


class ScalePlug(App):
    """An App for a Flask app, as a Flask extension: ``ScalePlug(app)``, or ``ScalePlug()`` and ``init_app(app)``.

    Each input of its functions runs inside ``app.app_context()``. A container makes the Flask app as ``flask --app``
    does, from the module that made it here; ``factory`` names another way: ``"module:create_app('production')"``, or a
    callable. Settings are those of ``app.config`` that begin with ``SCALEPLUG_``, where the environment has none.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        name: str | None = None,
        factory: str | Callable[[], Flask] | None = None,
        celery: Celery | None = None,
        redis_url: str | None = None,
    ) -> None:
        if app is not None and not isinstance(app, Flask):
            raise InvalidError(f"ScalePlug takes a Flask app first, not {app!r}: use name= for its name")
        if name is None:
            name = name_of_caller(sys._getframe(1).f_globals)
        super().__init__(name, celery=celery, redis_url=redis_url)
        self.factory = factory
        self._flask_app: Flask | None = None
        self.arounds.append(Around(plain=self._context))
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Belong to a Flask app: its settings, its command line, ``app.extensions["scaleplug"]``."""
        known = app.extensions.setdefault(EXTENSION, self)
        if known is not self:
            raise InvalidError(
                f"the Flask app {app.name!r} has the ScalePlug {known.name!r} already: import that one, and put all "
                "functions on it"
            )
        self._flask_app = app
        use_defaults(self._settings(app))
        if EXTENSION not in app.cli.commands:
            app.cli.add_command(self._command())

    @staticmethod
    def _settings(app: Flask) -> dict[str, str]:
        known = {knob.variable for knob in Config.knobs().values()}
        given = {name: value for name, value in app.config.items() if name in known and value is not None}
        return {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in given.items()}

    # -- the context of inputs -------------------------------------------------------------------------------------

    @property
    def flask_app(self) -> Flask:
        """The Flask app; one that was not made yet in this process is made. Raises ConfigurationError."""
        if self._flask_app is None:
            self._flask_app = self._make_app()
        return self._flask_app

    def _make_app(self) -> Flask:
        if callable(self.factory):
            return self.factory()
        if self.factory is not None:
            return make_app(self.factory)
        made: list[Any] = [*self.functions.values(), *self.classes.values()]
        modules = {each.raw.__module__ for each in made}
        for module in modules:
            try:
                return find_app(sys.modules[module])
            except ConfigurationError:
                continue
        raise ConfigurationError(
            f"no Flask app is known to ScalePlug {self.name!r}: call init_app(app), or tell how one is made, as in "
            f"ScalePlug(factory='yoursite:create_app')"
        )

    def _context(self) -> AbstractContextManager[Any]:
        return self.flask_app.app_context()

    def prepare(self) -> None:
        """Make the Flask app before containers are forked."""
        _ = self.flask_app

    # -- where containers find it ----------------------------------------------------------------------------------

    def project_source(self, definitions: Sequence[Definition]) -> Source | None:
        """Return the module that makes the Flask app; ``None`` where only the functions' own can be imported."""
        where = self.factory if isinstance(self.factory, str) else None
        if where is None:
            if self._flask_app is None or callable(self.factory):
                return None
            where = self._flask_app.import_name
        module = where.partition(":")[0]
        if module == "__main__" or not _is_module(module):
            return None
        made = {each.raw.__module__ for each in definitions if each.raw is not None and not each.serialized}
        if "__main__" in made:
            return None
        file = getattr(sys.modules.get(module), "__file__", None)
        return Source("flask", ",".join([where, *sorted(made - {module})]), import_folder(module, file))

    def _command(self) -> click.Command:
        def run(arguments: tuple[str, ...]) -> None:
            app, source = self.flask_app, self.project_source([])
            values = self._settings(app)
            if self.redis_url is not None:
                values["SCALEPLUG_REDIS_URL"] = self.redis_url
            for variable, value in values.items():
                os.environ.setdefault(variable, value)
            os.environ.pop("FLASK_RUN_FROM_CLI", None)  # an entrypoint that serves the app means it
            if source is not None:  # what a controller starts imports the app by its name
                paths = [source.folder, *filter(None, [os.environ.get("PYTHONPATH")])]
                os.environ["PYTHONPATH"] = os.pathsep.join(paths)
            main(arguments, title="flask scaleplug", programs=() if source is None else (f"flask:{source.where}",))

        return click.Command(
            EXTENSION,
            callback=run,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
            add_help_option=False,
            help="Runs scaleplug: flask scaleplug --help",
        )


def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
