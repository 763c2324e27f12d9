"""What is shipped is complete, and what is written about it is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import scaleplug
from scaleplug.settings import Config

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive  # its list of names outlives its file


def test_the_version_is_the_same_everywhere():
    assert scaleplug.__version__ == PROJECT["version"] == metadata.version("scaleplug")


def test_the_changelog_tells_of_the_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:1] == [PROJECT["version"]]


def test_the_wheel_holds_all_of_the_package(wheel: zipfile.ZipFile):
    package = ROOT / "scaleplug"
    kept = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    kept = {name for name in kept if "__pycache__" not in name}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == kept
    assert "scaleplug/py.typed" in shipped
    assert any(name.endswith(".lua") for name in shipped)


def test_no_page_has_marks_of_a_conflict():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("config/**/*")]
    marked = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
    assert pages
    assert not [page for page in pages if page.is_file() and marked.search(page.read_text(errors="replace"))]


def test_every_extra_but_dev_is_in_all():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("scaleplug[").removesuffix("]").split(",")) == extras.keys() - {"all", "dev"}


def test_every_knob_is_documented_with_its_default():
    text = (ROOT / "config" / "scaleplug.env").read_text()
    documented = re.findall(r"^# (.+)\n#(SCALEPLUG_\w+)=(.*)$", text, re.MULTILINE)
    knobs = [(knob.help, knob.variable, shown(knob.default)) for knob in Config.knobs().values()]
    assert documented == knobs
    assert text.count("SCALEPLUG_") == len(knobs)


def test_the_documented_defaults_are_read_as_the_defaults():
    text = (ROOT / "config" / "scaleplug.env").read_text()
    environ = dict(re.findall(r"^#(SCALEPLUG_\w+)=(.*)$", text, re.MULTILINE))
    assert Config.from_environ(environ) == Config()


def shown(default: object) -> str:
    """Return a default as ``config/scaleplug.env`` shows it."""
    if default is None:
        return ""
    return f"{default:.15g}" if isinstance(default, float) else str(default)
