"""Put the tab into Flower: handlers, a link in the navigation, and a check that this Flower has what both stand on."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import flower.app
import flower.urls
import flower.views
import tornado.template
from tornado.web import StaticFileHandler, url

from scaleplug.contrib.flower.handlers import ChangesHandler, FunctionHandler, PageHandler, TrendsHandler

logger = logging.getLogger("scaleplug")

FOLDER = Path(__file__).parent
PAGES = FOLDER / "templates"
_BROKER = re.compile(r"<li\b(?:(?!</?li\b).)*reverse_url\('broker'\)(?:(?!</?li\b).)*</li>", re.DOTALL)
"""The navigation's entry after which the tab's is put, which is made from it."""


class Loader(tornado.template.Loader):
    """Flower's templates, with the tab in the navigation, and the tab's own page."""

    def load(self, name: str, parent_path: str | None = None) -> tornado.template.Template:
        """Return a template by its name."""
        with self.lock:
            if name not in self.templates and (PAGES / name).is_file():
                self._put(name, (PAGES / name).read_text())
            elif name not in self.templates and name == "navbar.html":
                self._put(name, with_link(Path(self.root, name).read_text()))
            return super().load(name, parent_path)

    def _put(self, name: str, text: str) -> None:
        self.templates[name] = tornado.template.Template(text, name=name, loader=self)


def with_link(navigation: str) -> str:
    """Return Flower's navigation with an entry for the tab, made like the one of the broker."""
    found = _BROKER.search(navigation)
    if found is None:
        return navigation
    made = found.group().replace("'broker'", "'autoscaler'").replace("Broker", "Autoscaler")
    return navigation[: found.end()] + "\n        " + made + navigation[found.end() :]


PARTS: tuple[tuple[str, Callable[[], object]], ...] = (
    ("flower.app makes its Application of the list default_handlers, which is flower.urls.handlers",
     lambda: flower.app.default_handlers is flower.urls.handlers
     and "default_handlers" in inspect.getsource(flower.app.Flower.__init__)),
    ("flower.app.rewrite_handler keeps a url()'s handler, arguments and name",
     lambda: "handler.kwargs, handler.name" in inspect.getsource(flower.app.rewrite_handler)),
    ("flower.urls.settings has the folder of the templates, and no loader of its own",
     lambda: "template_path" in flower.urls.settings
     and isinstance(flower.urls.settings.get("template_loader"), Loader | None)),
    ("flower.command gives these settings to the Application",
     lambda: "**settings" in inspect.getsource(inspect.getmodule(_command()))),  # type: ignore[arg-type]
    ("flower.views.BaseHandler has get_current_user and render, and options with auth and basic_auth",
     lambda: {"get_current_user", "render"} <= vars(flower.views.BaseHandler).keys()
     and {"auth", "basic_auth", "url_prefix"} <= flower.app.default_options.as_dict().keys()),
    ("Flower's navigation has an entry of the broker",
     lambda: "reverse_url('autoscaler')" in with_link(_template("navbar.html"))),
    ("Flower's base.html has the blocks title, navbar, container and extra_scripts",
     lambda: {"navbar", "container", "extra_scripts"} <= set(re.findall(r"{% block (\w+)", _template("base.html")))),
)  # fmt: skip
"""What of Flower's insides the tab stands on."""


def _command() -> Any:
    import flower.command  # noqa: PLC0415  # it must not be loaded before Celery's commands are

    return flower.command.extract_settings


def _template(name: str) -> str:
    return Path(flower.urls.settings["template_path"], name).read_text()


def misfit(parts: tuple[tuple[str, Callable[[], object]], ...] = PARTS) -> str | None:
    """Return what this Flower lacks of that, ``None`` if it fits."""
    for sentence, holds in parts:
        try:
            if not holds():
                return sentence
        except Exception as exc:  # noqa: BLE001  # whatever looking at another version raises
            return f"{sentence} ({type(exc).__name__}: {exc})"
    return None


def install() -> bool:
    """Put the tab into the Flower of this process; False, with a warning, where this version doesn't fit."""
    lacks = misfit()
    if lacks is not None:
        logger.warning(
            "Flower %s gets no Autoscaler tab, for it isn't true of it that %s: install Flower 2.0.1 to 2.2, "
            "or a newer scaleplug", metadata.version("flower"), lacks,
        )  # fmt: skip
        return False
    settings: dict[str, Any] = flower.urls.settings
    handlers: list[Any] = flower.urls.handlers
    if not isinstance(settings.get("template_loader"), Loader):
        settings["template_loader"] = Loader(settings["template_path"])
        place = _before_the_last(handlers)
        handlers[place:place] = urls()
    return True


def _before_the_last(handlers: list[Any]) -> int:
    """Return where the handler begins that takes every path."""
    patterns = [h.regex.pattern if isinstance(h, url) else h[0] for h in handlers]
    return next((n for n, pattern in enumerate(patterns) if pattern.startswith(".*")), len(handlers))


def urls() -> list[Any]:
    """Return the tab's handlers."""
    static: dict[str, Any] = {"path": str(FOLDER / "static")}
    return [
        url(r"/autoscaler", PageHandler, name="autoscaler"),
        url(r"/autoscaler/changes", ChangesHandler),
        url(r"/autoscaler/trends", TrendsHandler),
        url(r"/autoscaler/function/(.+)", FunctionHandler),
        url(r"/autoscaler/static/(.*)", StaticFileHandler, static, name="autoscaler-static"),
    ]
