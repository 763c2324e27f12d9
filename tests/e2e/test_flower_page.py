"""The Autoscaler tab in a headless Chromium: 200 functions whose load comes and goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scaleplug.embedded import EmbeddedRedis
from scaleplug.keys import Keys
from scaleplug.registry import open_override
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.store import Store
from tests.browser import Browser, find_chromium
from tests.commands import SECRET
from tests.crowd import Crowd
from tests.flowers import USER, Flower

pytestmark = pytest.mark.browser

FUNCTIONS = 200
NAME = "shop.resize_images"
READY = f"document.querySelectorAll('.sp-row').length === {FUNCTIONS} && document.body.innerText.includes('live')"
DETAIL = "!!document.querySelector('#sp-decisions li') && document.querySelectorAll('.sp-chart canvas').length === 2"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    find_chromium()
    with EmbeddedRedis(tcp=True) as made:
        yield made


@pytest.fixture(scope="module")
def crowd(server: EmbeddedRedis) -> Crowd:
    made = Crowd(Store(connect(server.url), Keys("default")), Keyring(SECRET), FUNCTIONS)
    made.settle()
    made.backfill(300)
    made.step()
    return made


@pytest.fixture(scope="module")
def flower(server: EmbeddedRedis, crowd: Crowd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    environ = {"SCALEPLUG_REDIS_URL": server.url, "SCALEPLUG_SECRET": SECRET, "FLOWER_BASIC_AUTH": USER}
    command = ["-m", "scaleplug.cli.main", "flower", "--port", "0", "--enable_events=False"]
    made = Flower(command, tmp_path_factory.mktemp("flower"), **environ)
    yield made
    made.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    made.login(USER)
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser, flower: Flower) -> Iterator[Browser]:
    """Show the page anew; afterwards it must not have complained of anything."""
    browser.size(1280, 900)
    browser.theme("light")
    browser.open("about:blank")
    browser.open(flower.url + "/autoscaler")
    browser.wait(READY)
    del browser.errors[:]
    yield browser
    assert browser.errors == []


def row(name: str, part: str) -> str:
    return f"document.querySelector('.sp-row[data-name=\"{name}\"] {part}').textContent"


def find(page: Browser, text: str) -> None:
    page.run(f"""{{const field = document.getElementById('sp-search'); field.value = '{text}';
                   field.dispatchEvent(new Event('input'))}}""")


def test_what_changes_is_seen_without_loading_it_again(page: Browser, crowd: Crowd):
    quiet = next(name for n, name in enumerate(crowd.names) if not any(crowd.load_at(n, time.time()))
                 and not any(crowd.load_at(n, time.time() + 30)))  # fmt: skip
    assert page.run(row(quiet, ".pending")) == "0"
    find(page, quiet)  # what is not in view is not drawn
    crowd.store.client.lpush(crowd.store.keys.queue(quiet), *["x"] * 1_234)
    page.wait(f"{row(quiet, '.pending')} === '1,234'")
    page.wait(
        f"document.getElementById('sp-notes').textContent.includes('{quiet} (1,234 inputs)')"
    )  # nobody takes them
    crowd.store.client.delete(crowd.store.keys.queue(quiet))
    page.wait(f"{row(quiet, '.pending')} === '0'")
    page.wait(f"!document.getElementById('sp-notes').textContent.includes('{quiet}')")


def test_functions_are_found_and_sorted(page: Browser):
    find(page, "RESIZE")
    names = page.run("[...document.querySelectorAll('.sp-name b')].map(b => b.textContent)")
    assert len(names) == 10
    assert all("resize" in name for name in names)
    page.run("""{const sort = document.getElementById('sp-sort'); sort.value = 'name';
                 sort.dispatchEvent(new Event('input'))}""")
    names = page.run("[...document.querySelectorAll('.sp-name b')].map(b => b.textContent)")
    assert names == sorted(names)


def test_settings_are_changed_in_the_page(page: Browser, crowd: Crowd):
    page.run(f"document.querySelector('.sp-row[data-name=\"{NAME}\"]').click()")
    page.wait(DETAIL)
    field = "document.getElementById('sp-i-max_containers')"
    assert page.run(f"{field}.value") == "10"
    assert page.run("document.getElementById('sp-save').disabled")
    page.run(f"{field}.value = '-4'; {field}.dispatchEvent(new Event('input'))")
    page.run("document.getElementById('sp-save').click()")
    page.wait("document.getElementById('sp-said').textContent.includes('max_containers')")
    del page.errors[:]  # Chromium tells of the status 400
    page.run(f"{field}.value = '17'; {field}.dispatchEvent(new Event('input'))")
    page.run("document.getElementById('sp-save').click()")
    page.wait("document.getElementById('sp-said').textContent === 'Saved.'")
    page.wait("document.getElementById('sp-settings').textContent.includes('changed while running')")
    sealed = crowd.store.function_and_override(NAME)[1]
    assert open_override(crowd.keyring, NAME, sealed) == {"max_containers": 17}
    find(page, NAME)
    page.wait(f"{row(NAME, '.sp-tag')} === 'changed'")
    page.run("document.getElementById('sp-reset').click()")
    page.wait(f"{field}.value === '10'")
    assert crowd.store.function_and_override(NAME)[1] is None
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    page.wait("document.getElementById('sp-detail').hidden")


def test_a_function_that_goes_while_it_is_shown(page: Browser, crowd: Crowd):
    client, functions = crowd.store.client, crowd.store.keys.functions
    page.run(f"document.querySelector('.sp-row[data-name=\"{NAME}\"]').click()")
    page.wait(DETAIL)
    sealed = client.hget(functions, NAME)
    client.hdel(functions, NAME)
    page.wait("document.getElementById('sp-d-trouble').textContent.includes('is not registered any more')")
    client.hset(functions, NAME, sealed)
    page.wait("!document.getElementById('sp-d-trouble').textContent")
    del page.errors[:]  # Chromium tells of the status 404


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_it_fits_a_window_and_a_theme(page: Browser, tmp_path: Path, theme: str, width: int, phone: bool):
    page.theme(theme)
    page.size(width, 844, phone=phone)
    for opened in (False, True):
        if opened:
            page.run(f"location.hash = '{NAME}'")
            page.wait(DETAIL)
        page.wait("document.documentElement.scrollWidth <= window.innerWidth")
        cut = page.run("""[...document.querySelectorAll('.sp-cards p, .sp-row .n, .sp-detail button, .sp-detail input')]
            .filter(e => e.offsetParent && getComputedStyle(e).overflow === 'hidden')
            .filter(e => e.scrollWidth > e.clientWidth + 1)
            .map(e => e.outerHTML)""")
        assert cut == []
        light = page.run("""(() => { const [r, g, b] = getComputedStyle(document.querySelector('.sp-list, .sp-detail'))
            .backgroundColor.match(/\\d+/g).map(Number); return r + g + b > 382 })()""")
        assert light == (theme == "light")
        page.picture(tmp_path / f"{opened}.png")
    assert (tmp_path / "True.png").stat().st_size > 10_000


def test_it_costs_little(page: Browser, flower: Flower, crowd: Crowd):
    """In short; benchmarks/flower_page.py measures what the documentation says."""
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(1.0):
            crowd.step()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        page.open("about:blank")
        began = time.monotonic()
        page.open(flower.url + "/autoscaler")
        page.wait(READY)
        assert time.monotonic() - began < 5, "the first view"
        process = psutil.Process(flower.process.pid)
        before, used, began = process.cpu_times(), page.processor_seconds(), time.monotonic()
        stop.wait(5)
        seconds = time.monotonic() - began
        spent = process.cpu_times()
        assert (spent.user + spent.system - before.user - before.system) / seconds < 0.25, "Flower"
        assert (page.processor_seconds() - used) / seconds < 0.5, "the browser"
    finally:
        stop.set()
        thread.join()
