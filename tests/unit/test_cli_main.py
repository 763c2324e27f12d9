"""The command as a whole: help at once, and errors in one line."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from scaleplug import __version__
from scaleplug.cli.main import COMMANDS, cli
from scaleplug.errors import InvalidError

HEAVY = ("celery", "kombu", "redis", "rich", "cloudpickle", "asyncio")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_that_takes_long(arguments: list[str]):
    code = (
        "import sys\nfrom scaleplug.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_importing_the_package_imports_celery_when_an_app_is_wanted():
    code = (
        "import sys, scaleplug\nassert 'celery' not in sys.modules\n"
        "from scaleplug import *\nassert 'celery' in sys.modules\n"
        "print(sorted(n for n in dir(scaleplug) if n in scaleplug.__all__) == sorted(scaleplug.__all__), App, Function)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True <class 'scaleplug.app.App'>")


def test_a_call_that_was_unpickled_first_finds_its_caller():
    code = "from scaleplug.call import _from_id; print(_from_id('fc-1'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fc-1" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_tells_what_it_does(name: str):
    command = import_module(f"scaleplug.cli.{name}").command
    assert isinstance(command, click.Command)
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: cli {name}")
    assert command.help
    assert COMMANDS[name].endswith(".")


def test_the_version_is_shown():
    assert CliRunner().invoke(cli, ["--version"]).output == f"scaleplug {__version__}\n"


def test_an_unknown_command_gets_near_misses():
    shown = CliRunner().invoke(cli, ["rum"])
    assert shown.exit_code == 2
    assert "there is no command 'rum': did you mean run?" in shown.output


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(InvalidError("no such thing"), 2, "scaleplug: no such thing\n"), (KeyboardInterrupt(), 130, "")],
)
def test_errors_are_one_line(raised: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch):
    @click.command()
    def broken() -> None:
        raise raised

    monkeypatch.setattr("scaleplug.cli.version.command", broken)
    shown = CliRunner().invoke(cli, ["version"])
    assert (shown.exit_code, shown.output) == (code, message)
