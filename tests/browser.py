"""A headless Chromium, driven over its own protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket

from tests.helpers import wait_until

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip


def find_chromium() -> str:
    """Return the program; without one a test is skipped, but where CI is set."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium here: apt install chromium")
        pytest.skip("needs Chromium: apt install chromium")
    return found


class Browser:
    """One browser with one page."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="scaleplug-browser-"))
        command = [find_chromium(), *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            place = self.folder / "DevToolsActivePort"
            port = wait_until(
                lambda: place.exists() and place.read_text().count("\n") and place.read_text(), 30
            ).split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                page = next(target for target in json.load(answer) if target["type"] == "page")
            self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=30)
        except BaseException:
            self.close()
            raise
        self._number = 0
        self.errors: list[str] = []
        """What the pages have complained of."""
        for domain in ("Page", "Runtime", "Network", "Log", "Performance"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and return the answer."""
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            heard = json.loads(self.socket.recv())
            self._note(heard)
            if heard.get("id") == self._number:
                if "error" in heard:
                    raise AssertionError(f"{method}: {heard['error']}")
                result: dict[str, Any] = heard["result"]
                return result

    def _note(self, heard: dict[str, Any]) -> None:
        params = heard.get("params", {})
        if heard.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif heard.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def login(self, user: str) -> None:
        """Send ``user:password`` with every request."""
        word = base64.b64encode(user.encode()).decode()
        self.ask("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {word}"})

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Be a window of that size."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip

    def theme(self, name: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, url: str) -> None:
        """Show a page."""
        self.ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise's when it has one."""
        done = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return done["result"].get("value")

    def wait(self, script: str, timeout: float = 15.0) -> Any:
        """Return the value of an expression as soon as it is true."""

        def look() -> Any:
            with contextlib.suppress(AssertionError):  # the page may be another one in a moment
                return self.run(script)
            return None

        return wait_until(look, timeout, script)

    def picture(self, path: Path) -> None:
        """Keep what is to be seen."""
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def processor_seconds(self) -> float:
        """Return what all its processes have used so far."""
        total = 0.0
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """End it and all that it has started."""
        with contextlib.suppress(Exception):
            self.socket.close()
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            for process in family:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + 5
        while self.folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(self.folder, ignore_errors=True)
