"""For Flask: an App whose inputs run in the Flask app's context, with ``init_app`` and ``flask scaleplug``."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import click
from celery import Celery
from flask import Flask, current_app, has_app_context

from scaleplug.app import App
from scaleplug.around import Around
from scaleplug.cli.main import main
from scaleplug.contrib.flask_project import find_app, make_app, makes_app
from scaleplug.definitions import Definition, import_folder, name_of_caller
from scaleplug.errors import ConfigurationError, InvalidError, did_you_mean
from scaleplug.registry import Source
from scaleplug.server import celery_url
from scaleplug.settings import Config, use_defaults

EXTENSION = "scaleplug"
PREFIX = "SCALEPLUG_"
OTHERS = ("", "__main__", "scaleplug", "flask", "click", "werkzeug")
"""What may be under way while a Flask app is made, and makes none that a container could make."""


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
        if factory is not None and not isinstance(factory, str) and not callable(factory):
            raise InvalidError(
                f"factory must be 'MODULE:FACTORY' or a callable that makes a Flask app, not {factory!r}"
            )
        if name is None:
            name = name_of_caller(sys._getframe(1).f_globals)
        super().__init__(name, celery=celery, redis_url=redis_url)
        self.factory = factory
        self._flask_app: Flask | None = None
        self._made_by: tuple[str, ...] = ()
        self.arounds.append(Around(plain=self._context, hook=self._context))
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Belong to a Flask app: its settings, its command line, ``app.extensions["scaleplug"]``."""
        if not isinstance(app, Flask):
            raise InvalidError(f"init_app takes a Flask app, not {app!r}")
        given = self._settings(app)
        known = app.extensions.setdefault(EXTENSION, self)
        if known is not self:
            raise InvalidError(
                f"the Flask app {app.name!r} has the ScalePlug {known.name!r} already: import that one, and put all "
                "functions on it"
            )
        self._flask_app, self._made_by = app, _modules_of(sys._getframe(1))
        use_defaults(given)
        if EXTENSION not in app.cli.commands:
            app.cli.add_command(self._command())

    @staticmethod
    def _settings(app: Flask) -> dict[str, str]:
        known = [knob.variable for knob in Config.knobs().values()]
        given = {}
        for name, value in app.config.items():
            if not name.startswith(PREFIX) or value is None:
                continue
            if name not in known:
                raise InvalidError(f"app.config[{name!r}] is no setting of scaleplug{did_you_mean(name, known)}")
            given[name] = str(int(value)) if isinstance(value, bool) else str(value)
            Config.from_environ({name: given[name]})  # or the error that names it
            if name.endswith("REDIS_URL"):
                celery_url(given[name])
        return given

    # -- the context of inputs -------------------------------------------------------------------------------------

    @property
    def flask_app(self) -> Flask:
        """The Flask app; one that was not made yet in this process is made. Raises ConfigurationError."""
        if self._flask_app is None:
            self._flask_app = self._make_app()
        return self._flask_app

    def _make_app(self) -> Flask:
        if callable(self.factory):
            made_app = self.factory()
            if not isinstance(made_app, Flask):
                raise ConfigurationError(
                    f"the factory of ScalePlug {self.name!r} must return a Flask app, not {made_app!r}"
                )
            return made_app
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
        if has_app_context() and current_app.extensions.get(EXTENSION) is self:
            return current_app.app_context()  # one of several, whose code calls a function in its own thread
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
            where = self._where_made(self._flask_app)
        module = where.partition(":")[0]
        if module == "__main__" or not _is_module(module):
            return None
        made = {each.raw.__module__ for each in definitions if each.raw is not None and not each.serialized}
        if "__main__" in made:
            return None
        file = getattr(sys.modules.get(module), "__file__", None)
        return Source("flask", ",".join([where, *sorted(made - {module})]), import_folder(module, file))

    def _where_made(self, app: Flask) -> str:
        """Return the module that made an app: a factory may name it by the package that it is part of."""
        found = (name for name in (app.import_name, *self._made_by) if makes_app(sys.modules.get(name)))
        return next(found, app.import_name)

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


def _modules_of(frame: FrameType | None) -> tuple[str, ...]:
    """Return the modules whose code is under way, the innermost first."""
    names = []
    while frame is not None:
        names.append(str(frame.f_globals.get("__name__", "")))
        frame = frame.f_back
    return tuple(dict.fromkeys(name for name in names if name.partition(".")[0] not in OTHERS))


def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
