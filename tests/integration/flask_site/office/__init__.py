"""A Flask app made by a factory."""

from __future__ import annotations

import os

from flask import Flask

from office.tasks import plug


def create_app() -> Flask:
    """Make it, in web processes and in containers."""
    app = Flask(__name__)
    app.config.update(OFFICE="the office", MADE_IN=os.getpid())
    app.config.from_prefixed_env("OFFICE")
    for name in ("REDIS_URL", "SECRET", "NAMESPACE"):
        if name in app.config:
            app.config[f"SCALEPLUG_{name}"] = app.config[name]
    plug.init_app(app)
    return app
