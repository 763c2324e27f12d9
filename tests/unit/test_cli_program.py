"""The user's program: how it is found, what can be started in it, and what is said when it can't."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from scaleplug.cli.program import Program, Target
from scaleplug.errors import InvalidError, NotFoundError
from scaleplug.registry import Source

TWO = """
import scaleplug
app, other = scaleplug.App("shop"), scaleplug.App("blog")
@app.function()
def double(x: int, y: float = 2.0, flag: bool = False): ...
@app.function()
def untyped(x, z=None): ...
@app.local_entrypoint()
def train(n: int): ...
@other.local_entrypoint()
def write(): ...
"""
ONE = """
import scaleplug
app = scaleplug.App("shop")
@app.local_entrypoint()
def main(): ...
"""
NO_ENTRYPOINT = """
import scaleplug
app = scaleplug.App("shop")
@app.function()
def double(x): ...
"""

Load = Callable[..., Program]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, and forget what was imported from it."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(text: str, name: str = "job.py", target: str = "") -> Program:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return Program.load(Target.parse(target or name))

    return write_and_load


# -- what FILE[::ENTRYPOINT] names -------------------------------------------------------------------------------------


def test_a_file_is_named_with_its_whole_path(tmp_path: Path):
    (tmp_path / "job.py").touch()
    target = Target.parse("job.py::train")
    assert (target.where, target.name) == ("job.py", "train")
    assert target.source == Source("file", str(tmp_path / "job.py"))


def test_a_module_is_named_with_its_dots(tmp_path: Path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "job.py").touch()
    assert Target.parse("shop.job").source == Source("module", "shop.job", str(tmp_path))
    assert Target.parse("json.tool").source == Source("module", "json.tool", "")


@pytest.mark.parametrize(
    ("text", "kind", "where", "name"),
    [
        ("django:shop.settings", "django", "shop.settings", ""),
        ("django:shop.settings::serve", "django", "shop.settings", "serve"),
        ("flask:shop:create_app('test')::serve", "flask", "shop:create_app('test')", "serve"),
    ],
)
def test_a_project_is_named_with_its_framework(tmp_path: Path, text: str, kind: str, where: str, name: str):
    target = Target.parse(text)
    assert (target.source, target.name) == (Source(kind, where, str(tmp_path)), name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jbo.py", r"there is no file jbo\.py: did you mean job\.py\?"),
        ("sub/job.py", r"there is no file sub/job\.py"),
        ("no-such-thing", "there is no file 'no-such-thing', and a module can't have that name"),
        ("shop.nothing", r"there is no file and no module 'shop\.nothing' here"),
    ],
)
def test_what_is_not_there(tmp_path: Path, text: str, message: str):
    (tmp_path / "job.py").touch()
    with pytest.raises(NotFoundError, match=message):
        Target.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notes.txt", "notes.txt is not a Python file: its name must end in .py"),
        ("folder", "folder is a folder: name a Python file in it"),
        ("job.py::", "'job.py::' names no entrypoint after '::'"),
        ("django:", "'django:' names no project: write django:mysite.settings, say"),
        ("flask:", "'flask:' names no project: write flask:mysite, say"),
    ],
)
def test_what_can_t_be_run(tmp_path: Path, text: str, message: str):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidError, match=message):
        Target.parse(text)


# -- importing it ------------------------------------------------------------------------------------------------------


def test_all_apps_of_a_file_are_found(load: Load):
    program = load(TWO)
    assert [app.name for app in program.apps] == ["shop", "blog"]
    assert list(program.entrypoints) == ["shop.train", "blog.write"]
    assert list(program.functions) == ["shop.double", "shop.untyped"]
    assert all(app.source() == program.source for app in program.apps)


@pytest.mark.parametrize(
    ("text", "message", "shown"),
    [
        ("def f(:\n  pass\n", r"job\.py can't be imported: invalid syntax \(job\.py, line 1\)", "SyntaxError"),
        (
            "import nosuch\n",
            "job.py can't be imported: there is no module 'nosuch' for .*: install its package",
            "line 1",
        ),
        ("def g():\n  1/0\ng()\n", "job.py can't be imported: ZeroDivisionError: division by zero", "line 2, in g"),
        ("from . import x\n", "ImportError: .*Name it as a module.*: scaleplug run job", "line 1"),
        ("import sys\nsys.exit('bye')\n", r"job\.py ended itself while it was imported \(job\.py, line 2: bye\)", ""),
        (
            ONE.replace("main", "main", 1) + "app.function(scaledown_window=1)\n",
            "job.py, line 6: scaledown_window must be",
            "",
        ),
    ],
)
def test_a_failed_import_is_told_in_one_line(
    load: Load, text: str, message: str, shown: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(InvalidError, match=message) as raised:
        load(text)
    assert "\n" not in str(raised.value)
    traceback = capsys.readouterr().err
    assert shown in traceback
    assert bool(traceback) == bool(shown)
    assert "importlib" not in traceback
    assert "program.py" not in traceback


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def one(): ...\nclass Two: ...\n", r"job\.py has no App \(it defines one and Two\): add app = "),
        ("", r"job\.py has no App \(it defines nothing\)"),
        (
            "from celery import Celery\ncelery_app = Celery()\n",
            r"has a Celery app \(celery_app\) and no App: add app = scaleplug.App\('celery_app', celery=celery_app\)",
        ),
    ],
)
def test_a_file_without_app(load: Load, text: str, message: str):
    with pytest.raises(InvalidError, match=message):
        load(text)


def test_apps_may_name_one_redis(load: Load):
    assert load(ONE).redis_url() is None
    one = "import scaleplug\na = scaleplug.App('a', redis_url='redis://x')\n"
    assert load(one, "one.py").redis_url() == "redis://x"
    with pytest.raises(InvalidError, match="2 different redis_url: one run has one Redis"):
        load(one + "b = scaleplug.App('b', redis_url='redis://y')\n", "two.py").redis_url()


# -- choosing what to start --------------------------------------------------------------------------------------------


def test_the_only_entrypoint_need_not_be_named(load: Load):
    assert load(ONE).command("").name == "main"


@pytest.mark.parametrize("wanted", ["train", "shop.train"])
def test_an_entrypoint_is_chosen_by_name(load: Load, wanted: str):
    assert load(TWO).command(wanted).name == "train"


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        (TWO, "", "has 2 local entrypoints, train and write: choose one, as in: scaleplug run job.py::train"),
        (NO_ENTRYPOINT, "", r"has no local entrypoint: .* or run one function \(double\), as in: .* job.py::double"),
        (TWO, "trian", "has no entrypoint and no function 'trian': did you mean train"),
        (TWO.replace("write", "train"), "train", "could be shop.train or blog.train: write the app's name too"),
    ],
)
def test_a_choice_that_is_not_clear_is_told(load: Load, text: str, wanted: str, message: str):
    with pytest.raises(InvalidError, match=message):
        load(text).command(wanted)


def options(command: click.Command, *arguments: str) -> dict[str, object]:
    return command.make_context("job", list(arguments)).params


def test_an_entrypoint_s_arguments_are_options(load: Load):
    command = load(TWO).command("train")
    assert options(command, "--n", "3") == {"n": 3}
    for wrong in ([], ["--n", "x"], ["--m", "3"]):
        with pytest.raises(click.UsageError):
            options(command, *wrong)


def test_a_function_s_arguments_are_options(load: Load):
    program = load(TWO)
    assert options(program.command("double"), "--x", "3", "--flag") == {"x": 3, "y": 2.0, "flag": True}
    untyped = program.command("untyped")
    assert options(untyped, "--x", "[1, 2]", "--z", "word") == {"x": [1, 2], "z": "word"}
    assert options(untyped, "--x", "3") == {"x": 3, "z": None}
    with pytest.raises(click.MissingParameter):
        options(untyped)


def test_types_that_only_type_checkers_know_are_no_obstacle(load: Load):
    text = (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nimport scaleplug\n"
        "if TYPE_CHECKING:\n    from pandas import DataFrame\n"
        "app = scaleplug.App('a')\n@app.function()\ndef f(frame: DataFrame): ...\n"
    )
    assert options(load(text).command("f"), "--frame", "1.5") == {"frame": 1.5}
