"""What a view that calls ``spawn`` adds to its request, in Django and in Flask: ``python -m benchmarks.views``.

A server process of each framework, one connection that is kept, the same view with and without the call in turn.
"""

# ruff: noqa: PLC0415  # each framework is imported in its own process
from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Summary, wait_until
from scaleplug import App
from scaleplug.runtime import Run
from scaleplug.settings import Config

MOST = 3.0
"""Milliseconds that are allowed, p50."""
REQUESTS = 400

app = App("views")


@app.function(max_containers=1)
def work(number: int) -> int:
    return number


def django() -> Callable[..., Any]:
    import django as framework
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    def plain(_: Any) -> HttpResponse:
        return HttpResponse("plain")

    def spawns(_: Any) -> HttpResponse:
        return HttpResponse(work.spawn_on_commit(1).object_id)

    urls = type("urls", (), {"urlpatterns": [path("plain", plain), path("spawns", spawns)]})
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=urls,
        SECRET_KEY="of a benchmark",
        INSTALLED_APPS=["scaleplug.contrib.django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    framework.setup()
    return get_wsgi_application()


def flask() -> Callable[..., Any]:
    from flask import Flask

    web = Flask("views")
    web.add_url_rule("/plain", "plain", lambda: "plain")
    web.add_url_rule("/spawns", "spawns", lambda: work.spawn(1).object_id)
    return web


def serve(name: str) -> None:
    """Serve one framework's views on a port of its own, which is printed."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    WSGIRequestHandler.log = lambda *_, **__: None  # type: ignore[method-assign]
    server = make_server("127.0.0.1", 0, {"django": django, "flask": flask}[name](), threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


@contextlib.contextmanager
def served(name: str, environ: dict[str, str]) -> Iterator[http.client.HTTPConnection]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.views", name], env=os.environ | environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        with process.stdout as said:
            connection = http.client.HTTPConnection("127.0.0.1", int(said.readline()), timeout=30)
        with contextlib.closing(connection):
            yield connection
    finally:
        process.kill()
        process.wait()


def ask(connection: http.client.HTTPConnection, path: str) -> float:
    """Return the milliseconds of a request."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read()
    took = 1000 * (time.perf_counter() - began)
    assert answer.status == 200, text
    return took


def measure(requests: int = REQUESTS) -> dict[str, tuple[Summary, Summary]]:
    """Return the times of each framework's requests, without the call and with it."""
    run, found = Run(Config.from_environ({}), title="benchmarks"), {}
    config = run.start()
    try:
        work.remote(0)
        for name in ("django", "flask"):
            with served(name, config.to_environ()) as connection:
                for path in ("/plain", "/spawns") * 10:
                    ask(connection, path)
                pairs = [(ask(connection, "/plain"), ask(connection, "/spawns")) for _ in range(requests)]
                plain, spawns = (Summary.of(list(times), "ms") for times in zip(*pairs, strict=True))
                found[name] = plain, spawns
                wait_until(lambda: not work.get_current_stats().backlog, "all that was spawned has run")
    finally:
        run.stop()
    return found


def main() -> None:
    missed = False
    for name, (plain, spawns) in measure().items():
        added = spawns.p50 - plain.p50
        missed |= added > MOST
        print(
            f"{name}: {plain.p50:.2f} ms without spawn, {spawns.p50:.2f} ms with it (p95 {spawns.p95:.2f}): "
            f"{added:.2f} ms more, at most {MOST:g} are allowed: {'NO' if added > MOST else 'yes'}"
        )
    sys.exit(missed)


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) > 1 else main()
