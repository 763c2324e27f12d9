"""The tab's pages, in Flower's own process and behind Flower's own login."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tornado.web
from flower.views import BaseHandler
from redis.exceptions import RedisError, ResponseError

from scaleplug.contrib.flower.board import Board
from scaleplug.contrib.flower.config import find_config
from scaleplug.errors import Error, NotFoundError

T = TypeVar("T")

SMALL = 1_000
"""Bytes that aren't worth being compressed."""
STATIC = Path(__file__).with_name("static")
WHY_NOT = {
    "open": "Flower runs without a login, so anybody who reaches it could change settings. "
    "Start it with --basic_auth=user:password (or FLOWER_BASIC_AUTH in the environment), or with --auth.",
    "read_only": "Flower runs with --read_only.",
    "secret": "SCALEPLUG_SECRET is not set where Flower runs, so settings can neither be read nor signed.",
}
_lock = threading.Lock()
_boards: dict[int, Board] = {}


def board_of(application: Any) -> Board:
    """Return the board of a Flower; raises ConfigurationError."""
    with _lock:
        found = _boards.get(id(application))
        if found is None:
            found = _boards[id(application)] = Board(find_config(application.capp))
        return found


@cache
def digest(name: str) -> str:
    """Return a short name of a static file's content, so that browsers keep it until it changes."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]


class Handler(BaseHandler):  # type: ignore[misc]  # Flower has no types
    """What the handlers have in common."""

    async def ask(self, what: Callable[[Board], T]) -> T:
        """Return what the board says; it waits for Redis on another thread."""
        return await asyncio.get_running_loop().run_in_executor(None, lambda: what(board_of(self.application)))

    def why_not(self) -> str:
        """Return why settings can't be changed here, '' if they can."""
        options = self.application.options
        if getattr(options, "read_only", False):
            return "read_only"
        if not (options.basic_auth or options.auth):
            return "open"
        return "" if board_of(self.application).keyring is not None else "secret"


class JSONHandler(Handler):
    """Answers with JSON, errors too."""

    def send(self, value: Any) -> None:
        """Answer with a value."""
        text = json.dumps(value, separators=(",", ":")).encode()
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        if len(text) > SMALL and "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            text = gzip.compress(text, 1)
        self.finish(text)

    async def answer(self, what: Callable[[Board], Any]) -> None:
        """Answer with what the board says, or with why it can't."""
        try:
            self.send(await self.ask(what))
        except NotFoundError as exc:
            self.refuse(404, str(exc))
        except Error as exc:
            self.refuse(400, str(exc))
        except ResponseError as exc:
            self.refuse(403, f"Redis refuses it: {exc}")  # to a user who may only look, say
        except (RedisError, OSError) as exc:
            self.refuse(503, f"Redis does not answer ({type(exc).__name__})")

    def refuse(self, status: int, error: str) -> None:
        """Answer with an error."""
        self.set_status(status)
        self.send({"error": error})


class PageHandler(Handler):
    """The page itself: with what there is to see at first, so that nothing more has to be asked for."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Show the page."""
        data: dict[str, Any] = {}
        why_not, error = "", ""
        try:
            why_not = self.why_not()
            data = await self.ask(lambda board: board.changes(0))
        except Error as exc:
            error = str(exc)
        except (RedisError, OSError) as exc:
            error = f"Redis does not answer ({type(exc).__name__})"
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Cache-Control", "no-store")
        first = {"data": data, "error": error, "whyNot": WHY_NOT.get(why_not, ""), "token": self.xsrf_token.decode()}
        # "<" would let a name end the script element.
        self.render(
            "autoscaler.html",
            first=json.dumps(first, separators=(",", ":")).replace("<", "\\u003c"),
            asset=lambda name: f"{self.reverse_url('autoscaler-static', name)}?v={digest(name)}",
        )


class ChangesHandler(JSONHandler):
    """What has changed since the browser has asked last."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Answer with the rows that have changed."""
        since = self.get_query_argument("since", "0")
        number = int(since) if since.isdecimal() and len(since) < 16 else 0
        await self.answer(lambda board: board.changes(number))


class TrendsHandler(JSONHandler):
    """What the small charts of all functions show."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Answer with the last minutes of every function."""
        await self.answer(Board.trends)


class FunctionHandler(JSONHandler):
    """One function: shown, or its settings changed."""

    @tornado.web.authenticated
    async def get(self, name: str) -> None:
        """Answer with its settings, decisions and history."""
        points = self.get_query_argument("points", "1") == "1"
        await self.answer(lambda board: board.function(name, points=points))

    @tornado.web.authenticated
    async def post(self, name: str) -> None:
        """Change its settings: only with a login, and only with the token of a page of this Flower."""
        # Flower itself is content with less where nobody has to log in, or with basic auth.
        tornado.web.RequestHandler.check_xsrf_cookie(self)
        if self.request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise tornado.web.HTTPError(403, "Cross-site request forbidden")
        try:
            why_not = WHY_NOT.get(self.why_not(), "")
        except Error as exc:  # a secret that is too short, say
            why_not = str(exc)
        if why_not:
            self.refuse(403, why_not)
            return
        try:
            asked = json.loads(self.request.body)
            changes, reset = dict(asked.get("changes") or {}), asked.get("reset") is True
        except (ValueError, TypeError, AttributeError, RecursionError):
            self.refuse(400, "the request must be a JSON object with changes, or reset")
            return

        def change(board: Board) -> dict[str, Any]:
            board.change(name, changes, reset=reset)
            return board.function(name, points=False)

        await self.answer(change)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the error as JSON, but for what the browser has to see as it is."""
        if status_code == 401:
            super().write_error(status_code, **kwargs)
            return
        exc = kwargs.get("exc_info", (None, None))[1]
        said = exc.log_message if isinstance(exc, tornado.web.HTTPError) else None
        self.refuse(status_code, said or self._reason)
