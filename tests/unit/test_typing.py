"""Type checkers take what users write for what it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tests.pages import PAGES, ROOT, blocks, scripts, shown_tests

USERS = """
import asyncio
from typing import assert_type

import scaleplug
from scaleplug import AutoscalerSettings, Cls, Function, FunctionCall

app = scaleplug.App("typed")


@app.function(max_containers=3)
def square(x: int) -> int:
    return x * x


@app.function()
async def later(name: str) -> bytes:
    await asyncio.sleep(0)
    return name.encode()


@app.cls(max_containers=2)
class Model:
    size: str = scaleplug.parameter(default="small")

    @scaleplug.enter()
    def prepare(self) -> None:
        self.weights = [1.0]

    @scaleplug.method()
    def predict(self, x: float) -> float:
        return self.weights[0] * x

    @scaleplug.exit()
    async def leave(self) -> None:
        self.weights.clear()


def main() -> None:
    assert_type(square.remote(3), int)
    assert_type(square.local(3), int)
    assert_type(square.spawn(3), FunctionCall[int])
    assert_type(square.spawn(3).get(), int)
    assert_type(later.remote("a"), bytes)
    assert_type(square.update_autoscaler(max_containers=5), AutoscalerSettings)
    assert_type(square.autoscaler.update(max_containers=None), AutoscalerSettings)
    assert_type(square.with_options(timeout=3).remote(3), int)
    obj = Model(size="large")
    assert_type(obj.update_autoscaler(min_containers=1), AutoscalerSettings)
    assert_type(obj.autoscaler.settings(), AutoscalerSettings)
    predicted: float = obj.predict.remote(1.0)
    both: list[float] = list(obj.predict.map([predicted, 2.0]))
    fast: float = Model.with_options(max_containers=9)().predict.remote(both[0])
    assert_type(Function.from_name("typed", "square").update_autoscaler(max_containers=int(fast)), AutoscalerSettings)
    named: float = Cls.from_name("typed", "Model")(size="large").predict.remote(1.0)
    for result in square.map(range(3)):
        print(result + 1, named)
    deployment = app.deploy()
    assert_type(deployment.version, int)


async def main_async() -> None:
    assert_type(await square.remote.aio(3), int)
    assert_type(await later.remote.aio("a"), bytes)
    assert_type(await (await later.spawn.aio("a")).get.aio(), bytes)
    await Model().update_autoscaler.aio(min_containers=1)
"""
WRONG = """
import scaleplug

app = scaleplug.App("typed")


@app.function()
def square(x: int) -> int:
    return x * x


square.remote("a")
square.update_autoscaler(maximum=3)
app.function(max_container=3)
"""


def mypy(*files: Path) -> str:
    """Return what mypy says of files; empty when that is nothing."""
    options = ["--no-error-summary", "--python-version", "3.11", "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *options]
    done = subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_what_users_write_has_the_right_types(tmp_path: Path):
    file = tmp_path / "users.py"
    file.write_text(USERS)
    assert mypy(file) == ""


def test_what_is_wrong_is_told(tmp_path: Path):
    file = tmp_path / "users.py"
    file.write_text(WRONG)
    lines = re.findall(r":(\d+): error", mypy(file))
    assert lines == ["12", "13", "14"]


def test_the_documentation_is_typed(tmp_path: Path):
    """Its functions have no annotations, for the most part: that is all that is allowed to be missing."""
    folders = []
    for page in PAGES:
        if not blocks(page, "python"):
            continue
        texts = [shown_tests(page)] if shown_tests(page) else scripts(page)
        for number, text in enumerate(texts):
            folder = tmp_path / f"{page.stem.lower().replace('-', '_')}_{number}"
            folder.mkdir()
            (folder / f"{folder.name}.py").write_text(text)
            folders.append(folder / f"{folder.name}.py")
    missing = (
        "no-untyped-def",
        "no-untyped-call",
        "untyped-decorator",
        "import-untyped",
        "no-any-return",
        "var-annotated",
    )
    allowed = "|".join((*missing, "no-redef", "misc", "type-arg"))
    said = [line for line in mypy(*folders).splitlines() if not re.search(rf"\[({allowed})\]|: note:", line)]
    if said:
        pytest.fail("\n".join(said), pytrace=False)
