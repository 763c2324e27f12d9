"""The example sites, started as their READMEs say and used over HTTP, with real containers."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import views
from tests.browser import Browser
from tests.commands import ROOT
from tests.helpers import wait_until
from tests.web import csrf_token, site

EXAMPLES = ROOT / "examples"
SCALEPLUG = [sys.executable, "-m", "scaleplug.cli.main"]
THUMBNAILS, JOBS = EXAMPLES / "django_thumbnails", EXAMPLES / "flask_jobs"


@pytest.mark.parametrize("folder", [THUMBNAILS, JOBS], ids=lambda folder: folder.name)
def test_a_readme_tells_how_to_start_it(folder: Path):
    text = (folder / "README.md").read_text()
    assert f"scaleplug run {'django' if folder is THUMBNAILS else 'flask'}:" in text
    assert f"cd examples/{folder.name}" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser."""
    with contextlib.closing(Browser()) as made:
        yield made


# -- Django --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Start the gallery."""
    data = tmp_path_factory.mktemp("gallery")
    command = [sys.executable, "manage.py", "scaleplug", "run", "-q", "django:gallery_site.settings"]
    with site(command, THUMBNAILS, data / "log", GALLERY_DATA=str(data)) as visitor:
        yield visitor


def jpeg(width: int, height: int, red: int) -> bytes:
    """Return a picture that is no plain colour."""
    image = pytest.importorskip("PIL.Image").linear_gradient("L").resize((width, height))
    made = io.BytesIO()
    image.convert("RGB").point([min(255, value + red) for value in range(256)] * 3).save(made, "JPEG")
    return made.getvalue()


def upload(visitor: httpx.Client, *files: tuple[str, bytes]) -> httpx.Response:
    token = csrf_token(visitor.get("/").text)
    pictures = [("pictures", (name, content, "image/jpeg")) for name, content in files]
    return visitor.post("/", data={"csrfmiddlewaretoken": token}, files=pictures)


def test_pictures_become_thumbnails(gallery: httpx.Client):
    page = upload(gallery, *((f"picture {n}.jpg", jpeg(900 + n, 700, n * 20)) for n in range(8)))
    assert page.status_code == 200
    assert re.search(r"/uploads/\d+/$", str(page.url))
    assert "8 pictures" in page.text
    assert re.search(r"900 . 700", page.text)

    def done() -> dict[str, Any]:
        now: dict[str, Any] = gallery.get(f"{page.url}progress").json()
        return now if now["ended"] == 8 else {}

    pictures = wait_until(done, 60)["pictures"]
    assert [picture["error"] for picture in pictures] == [""] * 8
    image = pytest.importorskip("PIL.Image")
    for picture in pictures:
        thumbnail = image.open(io.BytesIO(gallery.get(picture["thumbnail"]).content))
        assert max(thumbnail.size) == 480
    assert gallery.get("/").text.count("<img") >= 6


def test_what_is_no_picture_is_refused(gallery: httpx.Client):
    page = upload(gallery, ("picture.jpg", b"this is text"))
    assert "not an image or a corrupted image" in page.text


def test_an_upload_of_nothing_is_refused(gallery: httpx.Client):
    page = upload(gallery)
    assert "This field is required" in page.text
    assert page.url.path == "/"


def test_its_pages_need_nobody_else(gallery: httpx.Client):
    page = gallery.get("/").text
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert link.startswith(("/", "data:")), link
        if link.startswith("/static/"):
            assert gallery.get(link).status_code == 200


@pytest.mark.browser
def test_a_browser_shows_the_thumbnails(gallery: httpx.Client, browser: Browser):
    page = upload(gallery, *((f"{n}.jpg", jpeg(600, 500, n * 50)) for n in range(3)))
    browser.open(str(page.url))
    browser.wait("document.body.innerText.includes('All 3 are done.')", 60)
    assert browser.wait("[...document.images].filter(image => image.naturalWidth > 0).length === 3")
    assert browser.errors == []


# -- Flask ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Start the job queue."""
    data = tmp_path_factory.mktemp("jobs")
    command = [*SCALEPLUG, "run", "-q", "flask:jobs_site"]
    with site(command, JOBS, data / "log", JOBS_DATA=str(data)) as visitor:
        yield visitor


def status(visitor: httpx.Client, job: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = visitor.get(f"{job.url}/status").json()
    return found


def start(visitor: httpx.Client, frames: int) -> httpx.Response:
    job = visitor.post("/jobs", data={"place": "needle", "frames": frames})
    assert job.status_code == 200, job.text
    return job


def test_a_job_is_done(jobs: httpx.Client):
    job = start(jobs, 5)
    wait_until(lambda: status(jobs, job)["state"] == "done", 60)
    assert status(jobs, job)["drawn"] == 5
    picture = pytest.importorskip("PIL.Image").open(io.BytesIO(jobs.get(f"{job.url}/picture").content))
    assert (picture.format, picture.n_frames) == ("WEBP", 5)
    assert ">done<" in jobs.get("/").text


@pytest.mark.browser
def test_a_browser_shows_what_was_drawn(jobs: httpx.Client, browser: Browser):
    job = start(jobs, 3)
    browser.open(str(job.url))
    browser.wait("document.body.innerText.includes('done')", 60)
    assert browser.wait("document.querySelector('img[alt=\"The zoom\"]').naturalWidth > 0")
    assert browser.errors == []


def test_a_job_that_runs_is_cancelled(jobs: httpx.Client):
    job = start(jobs, 300)
    wait_until(lambda: status(jobs, job)["drawn"] > 1, 60)
    assert status(jobs, job)["state"] == "running"
    assert jobs.post(f"{job.url}/cancel").status_code == 200
    wait_until(lambda: status(jobs, job)["state"] == "cancelled", 20)
    assert status(jobs, job)["drawn"] < 300


def test_a_job_that_has_ended_stays_as_it_is(jobs: httpx.Client):
    job = start(jobs, 1)
    wait_until(lambda: status(jobs, job)["state"] == "done", 60)
    jobs.post(f"{job.url}/cancel")
    assert status(jobs, job)["state"] == "done"


def test_wrong_jobs_are_refused(jobs: httpx.Client):
    assert jobs.post("/jobs", data={"place": "nowhere", "frames": 3}).status_code == 400
    assert jobs.post("/jobs", data={"place": "needle", "frames": 9999}).status_code == 400
    assert jobs.get("/jobs/99999").status_code == 404
    other = {"Sec-Fetch-Site": "cross-site"}
    assert jobs.post("/jobs", data={"place": "needle", "frames": 3}, headers=other).status_code == 403


# -- FastAPI -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Start the API."""
    pytest.importorskip("fastapi")
    log = tmp_path_factory.mktemp("words") / "log"
    with site([*SCALEPLUG, "run", "-q", str(EXAMPLES / "fastapi_words.py")], log.parent, log) as visitor:
        yield visitor


def test_calls_are_awaited(words: httpx.Client):
    assert words.post("/count", json={"text": "one Two two"}).json() == {"two": 2, "one": 1}
    lines = words.post("/count-all", json={"texts": ["a a b", "c", "d d"]}).text
    assert lines == "a, b\nc\nd\n"


def test_a_job_is_spawned_and_looked_for(words: httpx.Client):
    job = words.post("/jobs", json={"text": "word " * 3}).json()["job"]

    def found() -> dict[str, Any]:
        now: dict[str, Any] = words.get(f"/jobs/{job}").json()
        return now if now["state"] == "done" else {}

    assert wait_until(found, 30) == {"state": "done", "words": {"word": 3}}
    assert words.delete(f"/jobs/{job}").status_code == 200
    assert words.get("/jobs/fc-unknown").status_code == 404


# -- what it costs -------------------------------------------------------------------------------------------------


def test_spawn_adds_little_to_a_view():
    for plain, spawns in views.measure(40).values():
        assert spawns.p50 - plain.p50 < 5 * views.MOST
