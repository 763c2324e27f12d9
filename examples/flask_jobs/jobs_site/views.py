"""The pages: all jobs, one job, and what a job's page asks for."""

import sqlite3

from flask import Blueprint, abort, jsonify, redirect, render_template, request, send_from_directory, url_for
from werkzeug.wrappers import Response

import scaleplug
from jobs_site import store
from jobs_site.tasks import PLACES, zoom
from scaleplug.errors import InputCancelledError

MOST_FRAMES = 300

pages = Blueprint("pages", __name__)


@pages.get("/")
def index() -> str:
    """Show the jobs and the form for a new one."""
    return render_template("jobs.html", jobs=[told(job) for job in store.jobs()], places=PLACES, most=MOST_FRAMES)


@pages.post("/jobs")
def create() -> Response:
    """Start a job: spawn returns at once, and the page of the job looks after it."""
    place, frames = request.form.get("place", ""), request.form.get("frames", 0, type=int)
    if place not in PLACES or not 1 <= frames <= MOST_FRAMES:
        abort(400, f"place must be one of {', '.join(PLACES)}, and frames a number from 1 to {MOST_FRAMES}")
    number = store.add(place, frames)
    store.note_call(number, zoom.spawn(number, place, frames).object_id)
    return redirect(url_for("pages.show", number=number), 303)


@pages.get("/jobs/<int:number>")
def show(number: int) -> str:
    """Show a job."""
    return render_template("job.html", job=told(found(number)))


@pages.get("/jobs/<int:number>/status")
def status(number: int) -> Response:
    """Tell how far a job is."""
    return jsonify(told(found(number)))


@pages.post("/jobs/<int:number>/cancel")
def cancel(number: int) -> Response:
    """Cancel a job, whether it waits or runs; one that has ended stays as it is."""
    scaleplug.FunctionCall.from_id(found(number)["call"]).cancel()
    return redirect(url_for("pages.show", number=number), 303)


@pages.get("/jobs/<int:number>/picture")
def picture(number: int) -> Response:
    """Send what a job has drawn."""
    return send_from_directory(store.folder(), f"{number}.webp")


def found(number: int) -> sqlite3.Row:
    """Return a job, or answer that there is none."""
    job = store.job(number)
    if job is None:
        abort(404)
    return job


def told(job: sqlite3.Row) -> dict[str, object]:
    """Return a job with its state: queued, running, done, cancelled or failed."""
    state, error = "running" if job["drawn"] else "queued", ""
    try:
        scaleplug.FunctionCall.from_id(job["call"]).get(timeout=0)
        state = "done"
    except TimeoutError:
        pass  # not yet
    except InputCancelledError:
        state = "cancelled"
    except Exception as exc:  # what the function has raised
        state, error = "failed", f"{type(exc).__name__}: {exc}"
    return {**dict(job), "state": state, "error": error}
