"""A Flower of its own, started as people start it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.cookies import SimpleCookie
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.commands import ROOT, environment
from tests.helpers import wait_until

TAB = "[celery.commands]\nscaleplug-flower = scaleplug.contrib.flower.plug:command\n"
USER = "ann:a password"


def entry_points(folder: Path) -> str:
    """Return a PYTHONPATH with which Celery finds the tab, also where scaleplug was installed before it had one."""
    if any(point.name == "scaleplug-flower" for point in metadata.entry_points(group="celery.commands")):
        return str(ROOT)
    made = folder / "scaleplug_tab-0.dist-info"
    made.mkdir(exist_ok=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: scaleplug-tab\nVersion: 0\n")
    (made / "entry_points.txt").write_text(TAB)
    return f"{ROOT}:{folder}"


class Flower:
    """A Flower under way."""

    def __init__(self, command: list[str], folder: Path, **environ: str) -> None:
        paths = {"PYTHONPATH": f"{entry_points(folder)}:{folder}"}
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment(**{**paths, **environ}), text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = wait_until(lambda: re.search(r"Visit me at (http\S+?)/?\n", "\n".join([*self.said, ""])), 30, "Flower")
        self.url = found.group(1)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.said.append(line.rstrip("\n"))

    def ask(
        self, path: str, body: object = None, *, user: str = USER, headers: Mapping[str, str] = {}
    ) -> tuple[int, str, dict[str, str]]:
        """Return the status, the text and the cookies of an answer."""
        request = urllib.request.Request(self.url + path, headers=dict(headers))
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=10) as answer:
                cookies = SimpleCookie(answer.headers.get("Set-Cookie", ""))
                return answer.status, answer.read().decode(), {name: each.value for name, each in cookies.items()}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), {}

    def json(self, path: str) -> Any:
        """Return what is answered as JSON."""
        status, text, _ = self.ask(path)
        assert status == 200, text
        return json.loads(text)

    def token(self) -> dict[str, str]:
        """Return the headers with which a page of this Flower may change something."""
        _, text, cookies = self.ask("/autoscaler")
        return {"X-XSRFToken": first(text)["token"], "Cookie": f"_xsrf={cookies['_xsrf']}"}

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        self._reader.join(5)


def first(page: str) -> Any:
    """Return the data that came with the page."""
    found = re.search(r'<script type="application/json" id="sp-first">(.+?)</script>', page, re.DOTALL)
    assert found, page
    return json.loads(found.group(1))
