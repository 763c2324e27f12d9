"""Flask apps: the context around every input, the factory pattern, and ``flask scaleplug``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g

import scaleplug.testing
from scaleplug.contrib.flask import ScalePlug
from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.registry import Source
from scaleplug.settings import process_config, use_defaults
from tests.commands import SECRET, environment, told
from tests.commands import scaleplug as run_scaleplug
from tests.controllers import Controller

SITE = Path(__file__).parent / "flask_site"


def flask(*arguments: str, app: str = "office", cwd: Path = SITE, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Flask's command line to its end."""
    environ = {"PYTHONPATH": f"{environment()['PYTHONPATH']}:{SITE}"} | environ
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", app, *arguments],
        cwd=cwd, env=environment(**environ), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


# -- in containers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the functions have seen."""
    out = tmp_path_factory.mktemp("flask") / "out.json"
    left = out.with_name("left.json")
    done = flask("scaleplug", "run", "flask:office", "--out", str(out), OFFICE_LEFT=str(left))
    assert done.returncode == 0, told(done)
    found: dict[str, Any] = json.loads(out.read_text())
    return found | {"left": json.loads(left.read_text())}


@pytest.mark.parametrize("function", ["solo", "threads", "loop", "alone", "green", "batch", "method"])
def test_each_input_has_a_context_of_its_own_in_every_pool(report: dict[str, Any], function: str):
    assert [each[:2] for each in report[function]] == [["the office", 1]] * 3


def test_each_packed_input_has_one(report: dict[str, Any]):
    assert {tuple(each[:2]) for each in report["packed"]} == {("the office", 1)}
    assert max(Counter(tag for _, _, tag in report["packed"]).values()) > 1, "nothing was packed"


def test_hooks_of_an_object_have_one(report: dict[str, Any]):
    assert report["entered"] == ["the office", 1] * 2
    assert report["left"] == ["the office", 1]


@pytest.mark.parametrize("function", ["items", "async items"])
def test_a_stream_has_one_from_its_begin_to_its_end(report: dict[str, Any], function: str):
    assert report[function] == [["the office", 1], ["the office", 2]]


def test_celerys_own_calls_have_one(report: dict[str, Any]):
    assert report["delay"][:2] == ["the office", 1]


def test_a_traceback_shows_the_users_code_only(report: dict[str, Any]):
    assert report["fails"][0] == "no use"
    assert "around.py" not in report["fails"][1]


def test_the_app_is_made_by_its_factory_before_containers_are_forked(report: dict[str, Any]):
    assert report["made before"] is True
    assert report["source"] == ["flask", "office,office.tasks"]


def test_an_app_in_one_file(tmp_path: Path):
    done = run_scaleplug("run", str(SITE / "single.py"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "one room 0 one room 1 one room 2\n"), told(done)


def test_a_controller_and_callers_find_each_other_by_the_settings(tmp_path: Path, redis_url: str):
    settings = {"OFFICE_REDIS_URL": redis_url, "OFFICE_SECRET": SECRET, "OFFICE_NAMESPACE": "office"}
    controller = Controller(SITE, program=("-m", "flask", "--app", "office", "scaleplug"), **settings)
    try:
        controller.says("registered .*tasks.solo")
        controller.says("ready")
        call = "from office.tasks import solo; print(solo.remote()[:2])"
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "office", "shell"],
            input=call, cwd=SITE, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "['the office', 1]" in done.stdout, told(done)
        done = flask("scaleplug", "deploy", "--wait", **settings)
        assert "deployed tasks, version 1" in done.stdout, told(done)
        done = flask("scaleplug", "ps", **settings)
        assert "tasks.solo" in done.stdout, told(done)
    finally:
        status = controller.end(signal.SIGTERM)
    assert status == 0


# -- in this process -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_settings_left() -> Iterator[None]:
    """Take back what an app has set."""
    yield
    use_defaults({})


def look(number: int) -> tuple[str, int, int]:
    g.used = g.get("used", 0) + 1
    return current_app.name, g.used, number


async def look_async(number: int) -> tuple[str, int, int]:
    return look(number)


def test_the_twin_opens_a_context_around_each_input():
    plug = ScalePlug(Flask("here"), name="twin")
    function, awaited = plug.function()(look), plug.function()(look_async)
    with scaleplug.testing.local():
        assert list(function.map(range(3))) == [("here", 1, number) for number in range(3)]
        assert list(awaited.map(range(3))) == [("here", 1, number) for number in range(3)]
        assert function.delay(7).get() == ("here", 1, 7)


def test_the_twin_opens_one_around_hooks():
    plug = ScalePlug(Flask("here"), name="twin")
    assert plug.surround_hook(look)(1) == ("here", 1, 1)


def test_of_two_apps_the_one_that_calls_is_taken():
    plug = ScalePlug(name="shared")
    apps = [Flask("first"), Flask("second")]
    for app in apps:
        plug.init_app(app)
    for app in apps:
        with app.app_context():
            g.used = 5
            assert plug.surround(look)(1) == (app.name, 1, 1)
    assert plug.surround(look)(1) == ("second", 1, 1)


def test_init_app_takes_the_apps_settings():
    plug, app = ScalePlug(name="settings"), Flask("here")
    app.config.update(SCALEPLUG_NAMESPACE="flask", SCALEPLUG_SPARES=4, SCALEPLUG_SHOW_ARGUMENTS=False)
    plug.init_app(app)
    assert app.extensions["scaleplug"] is plug
    config = process_config()
    assert (config.namespace, config.spares, config.show_arguments) == ("flask", 4, 0)
    plug.init_app(app)  # twice does no harm
    assert "scaleplug" in app.cli.commands


def test_an_app_has_one_scaleplug():
    app = Flask("here")
    ScalePlug(app, name="first")
    with pytest.raises(InvalidError, match="has the ScalePlug 'first' already"):
        ScalePlug(app, name="second")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SCALEPLUG_MAX_PAYLOAD", "abc", "SCALEPLUG_MAX_PAYLOAD must be a whole number, not 'abc'"),
        ("SCALEPLUG_SECRT", "x", "'SCALEPLUG_SECRT'.* is no setting of scaleplug: did you mean SCALEPLUG_SECRET"),
    ],
)
def test_wrong_settings_are_refused_and_leave_nothing(name: str, value: str, message: str):
    app = Flask("here")
    app.config[name] = value
    with pytest.raises(InvalidError, match=message):
        ScalePlug(app, name="wrong")
    assert "scaleplug" not in app.extensions
    ScalePlug(Flask("other"), name="right")


def test_a_factory_beside_the_package_is_found(tmp_path: Path):
    package = tmp_path / "site_of_parts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jobs.py").write_text(
        "from flask import current_app\nfrom scaleplug.contrib.flask import ScalePlug\nplug = ScalePlug(name='parts')\n"
        "@plug.function()\ndef where():\n    return current_app.config['WHERE']\n"
        "@plug.local_entrypoint()\ndef main():\n    print(where.remote())\n"
    )
    (package / "web.py").write_text(
        "from flask import Flask\nfrom site_of_parts.jobs import plug\ndef create_app():\n"
        "    app = Flask('site_of_parts')\n    app.config['WHERE'] = 'web'\n    plug.init_app(app)\n    return app\n"
    )
    done = run_scaleplug("run", "-q", "flask:site_of_parts.web", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "web\n"), told(done)


def test_without_an_app_the_error_tells_the_way_out():
    plug = ScalePlug(name="alone")
    plug.function()(look)
    with pytest.raises(ConfigurationError, match=r"call init_app\(app\)"):
        _ = plug.flask_app


def test_what_is_no_flask_app_is_refused():
    with pytest.raises(InvalidError, match="takes a Flask app first, not 'name'"):
        ScalePlug("name")  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="init_app takes a Flask app, not None"):
        ScalePlug(name="none").init_app(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="factory must be 'MODULE:FACTORY' or a callable"):
        ScalePlug(name="five", factory=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'nothing' must return a Flask app, not None"):
        _ = ScalePlug(name="nothing", factory=lambda: None).flask_app  # type: ignore[arg-type,return-value]


def test_a_factory_may_be_named():
    made = ScalePlug(name="named", factory=lambda: Flask("made"))
    assert made.flask_app.name == "made"
    named = ScalePlug(name="dotted", factory="tests.integration.test_flask:make('x')")
    assert named.flask_app.name == "made x"
    assert named.project_source([]) == Source(
        "flask", "tests.integration.test_flask:make('x')", str(Path(__file__).parents[2])
    )


def make(name: str) -> Flask:
    return Flask(f"made {name}")
