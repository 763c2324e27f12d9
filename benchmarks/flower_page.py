"""What the Autoscaler tab costs with 200 functions: ``python -m benchmarks.flower_page [PICTURES]``.

It needs Chromium. With a folder it also takes the pictures of the documentation.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from PIL import Image

from scaleplug.embedded import EmbeddedRedis
from scaleplug.keys import Keys
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.store import Store
from tests.browser import Browser
from tests.commands import SECRET
from tests.crowd import Crowd
from tests.flowers import USER, Flower

FUNCTIONS = 200
SECONDS = 20
SHOWN = "reports.resize_invoices"
READY = f"document.querySelectorAll('.sp-row').length === {FUNCTIONS} && document.body.innerText.includes('live')"
DETAIL = "!!document.querySelector('#sp-decisions li') && document.querySelectorAll('.sp-chart canvas').length === 2"


@contextlib.contextmanager
def surroundings() -> Iterator[tuple[Flower, Browser]]:
    """Give a Flower whose functions live, and a browser."""
    stop = threading.Event()
    with EmbeddedRedis(tcp=True) as server, tempfile.TemporaryDirectory() as folder:
        crowd = Crowd(Store(connect(server.url), Keys("default")), Keyring(SECRET), FUNCTIONS)
        crowd.settle()
        crowd.backfill(1_200)

        def live() -> None:
            while not stop.wait(1.0):
                crowd.step()

        thread = threading.Thread(target=live)
        thread.start()
        environ = {"SCALEPLUG_REDIS_URL": server.url, "SCALEPLUG_SECRET": SECRET, "FLOWER_BASIC_AUTH": USER}
        flower = Flower(["-m", "scaleplug.cli.main", "flower", "--port", "0"], Path(folder), **environ)
        browser = Browser()
        try:
            browser.login(USER)
            yield flower, browser
        finally:
            browser.close()
            flower.end()
            stop.set()
            thread.join()


def show(browser: Browser, url: str) -> float:
    """Show the page; return after how many seconds all functions are in it."""
    browser.open("about:blank")
    began = time.monotonic()
    browser.open(url)
    browser.wait(READY)
    return time.monotonic() - began


def measure(flower: Flower, browser: Browser) -> None:
    """Print what it costs."""
    browser.size(1440, 900)
    views = sorted(show(browser, flower.url + "/autoscaler") for _ in range(7))
    sys.stdout.write(f"first view of {FUNCTIONS} functions: {views[3]:.2f} s (p50), {views[-1]:.2f} s (slowest of 7)\n")
    process = psutil.Process(flower.process.pid)
    for what in ("the list", "one function open"):
        if what != "the list":
            browser.run(f"location.hash = '{SHOWN}'")
            browser.wait(DETAIL)
        time.sleep(2)
        before, used, began = process.cpu_times(), browser.processor_seconds(), time.monotonic()
        time.sleep(SECONDS)
        seconds, spent = time.monotonic() - began, process.cpu_times()
        flowers = (spent.user + spent.system - before.user - before.system) / seconds
        sys.stdout.write(
            f"{what}, updated every second: browser {(browser.processor_seconds() - used) / seconds:.1%} of a core, "
            f"Flower {flowers:.1%}\n"
        )


def take_pictures(flower: Flower, browser: Browser, folder: Path) -> None:
    """Keep pictures of the page."""
    for theme in ("light", "dark"):
        browser.theme(theme)
        for kind, (width, height) in {"list": (1280, 800), "function": (1280, 1180), "phone": (390, 844)}.items():
            browser.size(width, height, phone=kind == "phone")
            show(browser, flower.url + "/autoscaler")
            if kind == "function":
                browser.run(f"location.hash = '{SHOWN}'")
                browser.wait(DETAIL)
            time.sleep(2)
            path = folder / f"flower-{kind}-{theme}.png"
            browser.picture(path)
            with Image.open(path) as picture:
                picture.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)


if __name__ == "__main__":
    with surroundings() as found:
        if len(sys.argv) > 1:
            take_pictures(*found, Path(sys.argv[1]))
        else:
            measure(*found)
