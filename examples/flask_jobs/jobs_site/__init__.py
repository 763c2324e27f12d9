"""A job queue: zooms into the Mandelbrot set, one input each."""

from flask import Flask, abort, request

from jobs_site import store, views
from jobs_site.tasks import plug


def create_app() -> Flask:
    """Make the Flask app, in web processes and in containers alike."""
    app = Flask(__name__, instance_relative_config=True)
    app.config.from_prefixed_env("JOBS")  # JOBS_DATA: another folder than instance/ for the database and the pictures
    app.before_request(refuse_other_sites)
    store.init_app(app)
    plug.init_app(app)
    app.register_blueprint(views.pages)
    return app


def refuse_other_sites() -> None:
    """Let nobody's page but our own send forms."""
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        abort(403)
