"""The jobs that were asked for, in SQLite: web processes and containers share it."""

import sqlite3
from pathlib import Path

from flask import Flask, current_app, g

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, place TEXT, frames INTEGER, drawn INTEGER DEFAULT 0, call TEXT DEFAULT '',
    made_at TEXT DEFAULT CURRENT_TIMESTAMP
)
"""


def init_app(app: Flask) -> None:
    """Make the database, and close each context's connection at its end."""
    app.teardown_appcontext(close)
    with app.app_context():
        folder().mkdir(parents=True, exist_ok=True)
        database().execute("PRAGMA journal_mode=WAL")
        database().execute(SCHEMA)


def folder() -> Path:
    """Return where the database and the pictures are."""
    return Path(current_app.config.get("DATA") or current_app.instance_path)


def database() -> sqlite3.Connection:
    """Return the connection of the context that is open: a request's, or an input's."""
    if "database" not in g:
        g.database = sqlite3.connect(folder() / "jobs.sqlite3", timeout=20, isolation_level=None)
        g.database.row_factory = sqlite3.Row
    return g.database


def close(_: BaseException | None) -> None:
    """Close the connection of the context that ends."""
    if "database" in g:
        g.pop("database").close()


def add(place: str, frames: int) -> int:
    """Note a new job and return its number."""
    made = database().execute("INSERT INTO jobs (place, frames) VALUES (?, ?)", (place, frames))
    return made.lastrowid or 0


def note_call(number: int, call: str) -> None:
    """Note the call that does a job."""
    database().execute("UPDATE jobs SET call = ? WHERE number = ?", (call, number))


def note_frame(number: int, drawn: int) -> None:
    """Note how far a job is."""
    database().execute("UPDATE jobs SET drawn = ? WHERE number = ?", (drawn, number))


def job(number: int) -> sqlite3.Row | None:
    """Return a job."""
    return database().execute("SELECT * FROM jobs WHERE number = ?", (number,)).fetchone()


def jobs() -> list[sqlite3.Row]:
    """Return the last jobs, the newest first."""
    return database().execute("SELECT * FROM jobs ORDER BY number DESC LIMIT 20").fetchall()
