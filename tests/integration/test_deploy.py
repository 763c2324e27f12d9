"""Deployed apps for real: versions that roll, what goes, what is refused, and the commands around it."""

from __future__ import annotations

import itertools
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from scaleplug import Cls, Function
from scaleplug.cli.main import cli
from scaleplug.errors import NotFoundError
from scaleplug.here import forget_callers
from scaleplug.registry import load_file
from scaleplug.settings import Config, use_config
from scaleplug.store import Store
from tests.commands import SECRET, scaleplug, told
from tests.controllers import Controller
from tests.helpers import wait_until

SOON = 20.0
NOWHERE = "redis://localhost:1"
PROGRAM = """
import os, sys, time
from pathlib import Path
import scaleplug

VERSION = {version!r}
app = scaleplug.App("shop")

def wait_for(file):
    while not Path(file).exists():
        time.sleep(0.005)

@app.function(max_containers=3, scaledown_window=2)
def work(x, seconds=0.0):
    began = VERSION
    time.sleep(seconds)
    return x, began, VERSION, os.getpid()

@app.function(max_containers=1)
def outer(file):
    Path(file + "-begun").touch()
    wait_for(file)
    return inner.remote(1)

@app.function()
def inner(x):
    return x + 1

@app.cls(max_containers=2)
class Model:
    size: str = scaleplug.parameter(default="small")

    @scaleplug.enter()
    def prepare(self):
        self.version = VERSION

    @scaleplug.method()
    def predict(self, x):
        return self.size, self.version, x

@app.cls(max_containers=2)
class Needy:
    size: int = scaleplug.parameter()

    @scaleplug.method()
    def get(self):
        return self.size
"""
BROKEN_IMPORT = 'if "scaleplug.worker.zygote" in " ".join(sys.orig_argv): raise RuntimeError("no such library")\n'
HANGING_ENTER = "        time.sleep(600)\n"
BROKEN_ENTER = "        raise RuntimeError('no weights')\n"


class Site:
    """A folder with a program, a Redis, a controller, and this process as a caller."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.file = folder, folder / f"shop_{uuid4().hex[:8]}.py"  # one module for each test
        self.environ = {"SCALEPLUG_REDIS_URL": redis_url, "SCALEPLUG_SECRET": SECRET}
        self.config = Config.from_environ(self.environ)
        self.controllers: list[Controller] = []

    def controller(self) -> Controller:
        """Start a controller."""
        self.controllers.append(Controller(self.folder, **self.environ))
        self.controllers[-1].says("acts now")
        return self.controllers[-1]

    def write(self, version: str, change: Callable[[str], str] = lambda text: text) -> None:
        """Write a version of the program."""
        self.file.write_text(change(PROGRAM.replace("{version!r}", repr(version))))

    def deploy(self, version: str, *options: str, change: Callable[[str], str] = lambda text: text) -> str:
        """Deploy a version of the program; return what was printed."""
        self.write(version, change)
        done = scaleplug("deploy", str(self.file), *options, cwd=self.folder, **self.environ)
        assert done.returncode == 0, told(done)
        return done.stdout

    def ask(self, *arguments: str) -> Result:
        """Run another command, in this process."""
        return CliRunner().invoke(cli, [*arguments], env=self.environ)

    @property
    def store(self) -> Store:
        """What is in Redis."""
        found = Function.from_name("shop", "work").app.store
        assert isinstance(found, Store)
        return found

    def versions(self, function: str) -> set[str]:
        """Return the versions of a function's containers."""
        return {record["version"] for record in self.store.containers(function).values()}

    def app(self) -> dict[str, Any]:
        """Return what `scaleplug apps` says of the app."""
        done = self.ask("apps", "--json")
        assert done.exit_code == 0, done.output
        (row,) = [row for row in json.loads(done.stdout) if row["app"] == "shop"]
        return dict(row)


@pytest.fixture
def site(tmp_path: Path, redis_url: str) -> Iterator[Site]:
    """Give a site."""
    made = Site(tmp_path, redis_url)
    use_config(made.config)
    yield made
    for controller in made.controllers:
        if controller.process.poll() is None:
            controller.process.send_signal(signal.SIGTERM)
            controller.process.send_signal(signal.SIGTERM)
            controller.kill()
    forget_callers(redis_url)
    use_config(None)


@pytest.fixture
def work() -> Function[..., Any]:
    """Give the function as others know it."""
    return Function.from_name("shop", "work")


# -- deploy --------------------------------------------------------------------------------------------------------


def test_a_deployed_app_is_called_by_its_name(site: Site, work: Function[..., Any]):
    site.controller()
    printed = site.deploy("one", "--wait")
    assert re.search(r"deployed shop, version 1, from \S+/shop_\w+\.py", printed)
    assert re.search(r"\n *function +min +max +buffer +window +timeout *\n", printed)
    assert re.search(r"\nwork +0 +3 +0 +2 s +300 s", printed)
    assert re.search(r"\nModel \(class: predict\) +0 +2 +0 +60 s", printed)
    assert "version 1 of shop is in force" in printed
    assert work.remote(1)[:3] == (1, "one", "one")
    assert [x for x, *_ in work.map(range(20))] == list(range(20))
    model = Cls.from_name("shop", "Model")
    assert model(size="large").predict.remote(2) == ("large", "one", 2)
    assert Cls.from_name("shop", "Needy")(size=3).get.remote() == 3
    app = site.app()
    assert (app["state"], app["version"], app["source"]) == ("deployed", 1, str(site.file))
    assert app["functions"] == 5
    table = site.ask("apps").output
    assert re.search(r"\nshop +deployed +1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\S+shop_\w+\.py +5 ", table), table
    shown = site.ask("ps").output
    assert re.search(r"\nshop\.Model\(size='large'\) +0 +2 +0 +60 s", shown), shown
    assert "~" not in shown
    assert site.ask("why", "Model(size='large')").output.count("desired 1") >= 1


def test_callers_with_the_code_leave_a_deployment_alone(site: Site):
    site.deploy("one")
    site.write(
        "two",
        lambda text: (
            text.replace("max_containers=3", "max_containers=9") + "\n@app.function()\ndef more():\n    pass\n"
        ),
    )
    module = load_file(site.file)
    site.controller()
    assert module.work.remote(1)[1] == "two"  # its containers import the file as it is now
    assert module.work.autoscaler.settings().max_containers == 3
    with pytest.raises(NotFoundError, match=r"as it was deployed \(version 1\) has no 'more'.*'scaleplug deploy'"):
        module.more.remote()
    module.app.register()
    assert module.work.autoscaler.settings().max_containers == 3


def test_without_a_controller_it_says_so(site: Site):
    site.write("one")
    done = scaleplug("deploy", site.file.name, cwd=site.folder, **site.environ)
    assert done.returncode == 0, told(done)
    assert "no controller acts, so nothing starts yet: start one with 'scaleplug controller'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["shop.py"], {}, "no Redis is configured: set SCALEPLUG_REDIS_URL, or give --redis-url"),
        (["shop.py", "--redis-url", NOWHERE], {}, "SCALEPLUG_SECRET is not set"),
        (
            ["nosuch.py", "--redis-url", NOWHERE],
            {"SCALEPLUG_SECRET": SECRET},
            "there is no file nosuch.py",
        ),
        (["empty.py", "--redis-url", NOWHERE], {"SCALEPLUG_SECRET": SECRET}, "has nothing to deploy"),
    ],
)
def test_what_is_missing_is_told(tmp_path: Path, arguments: list[str], environ: dict[str, str], message: str):
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "empty.py").write_text("import scaleplug\napp = scaleplug.App('empty')\n")
    done = scaleplug("deploy", *arguments, cwd=tmp_path, **environ)
    assert done.returncode == 2, told(done)
    assert message in done.stderr, told(done)


# -- versions that roll --------------------------------------------------------------------------------------------


def test_a_redeployment_rolls_and_loses_nothing(site: Site, work: Function[..., Any]):
    controller = site.controller()
    site.deploy("one")
    assert work.update_autoscaler(min_containers=2).min_containers == 2
    wait_until(lambda: len(site.store.containers("shop.work")) == 2)
    results: list[Any] = []
    enough = threading.Event()
    inputs = itertools.takewhile(lambda x: x < 100 or not enough.is_set(), itertools.count())
    load = threading.Thread(target=lambda: results.extend(work.map(inputs, kwargs={"seconds": 0.02})))
    load.start()
    wait_until(lambda: site.store.counters("shop.work").get("finished", 0) > 30)
    site.deploy("two", "--wait")
    enough.set()
    load.join(60)
    assert [x for x, *_ in results] == list(range(len(results)))
    assert all(began == ended for _, began, ended, _ in results)
    assert {began for _, began, *_ in results} == {"one", "two"}
    versions = {pid: began for _, began, _, pid in results}
    assert all(began == versions[pid] for _, began, _, pid in results)
    assert work.remote(0)[1] == "two"
    assert site.versions("shop.work") == {"2"}
    assert work.autoscaler.settings().min_containers == 0  # what was changed while it ran is the decorator's again
    assert not [line for line in controller.said if "back to the queue" in line]


@pytest.mark.parametrize("way", ["import", "enter"])
def test_a_version_that_cannot_start_replaces_nothing(site: Site, way: str):
    controller, model = site.controller(), Cls.from_name("shop", "Model")
    site.deploy("one", change=lambda text: text.replace("max_containers=2", "max_containers=1"))
    assert model().predict.remote(1) == ("small", "one", 1)
    added = BROKEN_IMPORT if way == "import" else BROKEN_ENTER
    mark = "VERSION =" if way == "import" else "        self.version ="
    site.write("two", lambda text: text.replace(mark, f"{added}{mark}"))
    done = scaleplug("deploy", site.file.name, "--wait", cwd=site.folder, **site.environ)
    assert done.returncode == 2, told(done)
    why = "no such library" if way == "import" else "no weights"
    assert re.search(rf"(?s)version 2 does not start: shop\.\w+.*{why}", done.stderr), told(done)
    for x in range(5):
        assert model().predict.remote(x) == ("small", "one", x)
    assert why in " ".join(site.app()["trouble"])
    assert why in site.ask("apps").output
    assert why in site.ask("why", "Model").output
    controller.says(r"(can't be imported|did not start).*; version 1 goes on")
    # It does so after it had nothing to do, too.
    model().update_autoscaler(scaledown_window=2)
    wait_until(lambda: "1" not in site.versions("shop.Model"), 15)
    assert model().predict.remote(9) == ("small", "one", 9)
    site.deploy("three", "--wait")
    assert model().predict.remote(1) == ("small", "three", 1)
    wait_until(lambda: site.app()["trouble"] == [])


def test_a_start_that_hangs_gives_way_to_the_next_version(site: Site):
    site.controller()
    model = Cls.from_name("shop", "Model")

    def alone(limit: int, enter: str = "") -> Callable[[str], str]:
        settings = f"min_containers=1, max_containers=1, startup_timeout={limit}"
        mark = "        self.version ="
        return lambda text: text.replace("max_containers=2", settings).replace(mark, enter + mark)

    site.deploy("one", change=alone(60))
    assert model().predict.remote(1) == ("small", "one", 1)
    site.write("two", alone(1, HANGING_ENTER))
    done = scaleplug("deploy", site.file.name, "--wait", cwd=site.folder, **site.environ)
    assert done.returncode == 2, told(done)  # the old container made room, but that is no success
    assert "not ready within its startup_timeout of 1 s" in done.stderr
    assert model().predict.remote(2) == ("small", "one", 2)
    site.deploy("three", change=alone(60, HANGING_ENTER))
    wait_until(lambda: "3" in site.versions("shop.Model"), SOON)
    waiting = model().predict.spawn(3)
    site.deploy("four", "--wait", change=alone(60))
    assert waiting.get(timeout=SOON) == ("small", "four", 3)


def test_a_version_that_cannot_start_replaces_nothing_when_nothing_runs_either(site: Site):
    controller, model = site.controller(), Cls.from_name("shop", "Model")
    idle = ("max_containers=2", "scaledown_window=2")
    site.deploy("one", "--wait", change=lambda text: text.replace(*idle))
    site.deploy("two", "--wait", change=lambda text: text.replace(*idle))
    assert model().predict.remote(1) == ("small", "two", 1)  # and not the one before
    wait_until(lambda: not site.store.containers("shop.Model"), 15)
    mark = "        self.version ="
    site.deploy("three", "--wait", change=lambda text: text.replace(*idle).replace(mark, f"{BROKEN_ENTER}{mark}"))
    assert model().predict.remote(2) == ("small", "two", 2)
    controller.says(r"shop\.Model did not start .*; version 2 goes on")
    site.deploy("four", "--wait")
    assert model().predict.remote(3) == ("small", "four", 3)


def test_a_function_renamed_under_load_loses_nothing(site: Site, work: Function[..., Any]):
    site.controller()
    site.deploy("one")
    calls = [work.spawn(x, 0.05) for x in range(60)]
    later = work.apply_async((1000,), countdown=1.0)
    wait_until(lambda: site.store.counters("shop.work").get("finished", 0) > 5)
    printed = site.deploy("two", change=lambda text: text.replace("def work(", "def task("))
    assert "no longer there: work" in printed
    task = Function.from_name("shop", "task")
    assert task.remote(7)[1] == "two"
    with pytest.raises(NotFoundError, match="work"):
        Function.from_name("shop", "work").remote(1)
    with pytest.raises(NotFoundError, match="work"):
        work.delay(1)
    assert [call.get(timeout=SOON)[:3] for call in calls] == [(x, "one", "one") for x in range(60)]
    assert later.get(timeout=SOON)[0] == 1000
    wait_until(lambda: "shop.work" not in site.store.functions(), 15)
    with pytest.raises(NotFoundError, match=r"the app 'shop' has no function or class 'work': there is .*task"):
        Function.from_name("shop", "work").remote(1)


def test_old_code_may_call_what_the_new_has_not(site: Site, tmp_path: Path):
    site.controller()
    site.deploy("one")
    call = Function.from_name("shop", "outer").spawn(str(tmp_path / "go"))
    wait_until((tmp_path / "go-begun").exists)
    renamed = ("def inner(", "def other("), ("inner.remote", "other.remote")
    site.deploy("two", change=lambda text: text.replace(*renamed[0]).replace(*renamed[1]))
    wait_until(lambda: "shop.inner" in site.store.retiring())
    (tmp_path / "go").touch()
    assert call.get(timeout=SOON) == 2
    wait_until(lambda: "shop.inner" not in site.store.functions(), 15)


# -- stop ----------------------------------------------------------------------------------------------------------


def test_stop_lets_everything_finish_and_refuses_what_is_new(site: Site, tmp_path: Path, work: Function[..., Any]):
    site.controller()
    site.deploy("one")
    running = Function.from_name("shop", "outer").spawn(str(tmp_path / "go"))
    calls = [work.spawn(x, 0.05) for x in range(20)]
    assert Cls.from_name("shop", "Model")(size="large").predict.remote(1)
    wait_until((tmp_path / "go-begun").exists)
    stopping = threading.Thread(target=lambda: printed.append(scaleplug("stop", "shop", cwd=tmp_path, **site.environ)))
    printed: list[Any] = []
    stopping.start()
    wait_until(lambda: site.app()["state"] == "stopping")
    for refused in (work.remote, work.spawn, work.delay):
        with pytest.raises(NotFoundError, match="the app 'shop' was stopped: 'scaleplug deploy' brings it back"):
            refused(1)
    with pytest.raises(NotFoundError, match="was stopped"):
        list(work.map([1]))
    assert [call.get(timeout=SOON)[0] for call in calls] == list(range(20))
    (tmp_path / "go").touch()
    assert running.get(timeout=SOON) == 2  # what ran has called another function of the app
    stopping.join(30)
    (done,) = printed
    assert done.returncode == 0, told(done)
    assert done.stdout == "shop is stopped\n"
    assert re.search(r"shop is stopping: .*\d running, \d containers?", done.stderr), told(done)
    assert site.app()["state"] == "stopped"
    assert not site.store.functions()
    assert site.ask("stop", "shop").output == "shop is stopped\n"
    site.deploy("two")
    assert site.app()["version"] == 2
    assert work.remote(1)[1] == "two"


def test_stop_tells_what_it_cannot_do(site: Site):
    site.deploy("one")
    done = site.ask("stop", "shopp")
    assert (done.exit_code, done.output) == (2, "scaleplug: no app 'shopp' is deployed here: did you mean shop?\n")
    done = site.ask("stop", "shop", "--no-wait")
    assert (done.exit_code, "no controller acts: it goes when one does" in done.output) == (0, True)
    site.controller()
    wait_until(lambda: site.app()["state"] == "stopped")


def test_an_app_that_was_only_registered_can_be_stopped_and_comes_back_when_it_is_asked_to(site: Site):
    site.write("one")
    module = load_file(site.file)
    site.controller()
    assert module.work.remote(1)[0] == 1
    assert (site.app()["state"], site.app()["version"]) == ("registered", None)
    assert site.ask("stop", "shop").exit_code == 0
    with pytest.raises(NotFoundError, match="was stopped"):
        module.work.remote(1)
    module.app.register()  # as 'scaleplug controller FILE' does
    assert module.work.remote(1)[0] == 1
    assert site.app()["state"] == "registered"


def test_a_value_that_was_named_outlives_a_default_that_changes(site: Site):
    site.controller()
    site.deploy("one")
    model = Cls.from_name("shop", "Model")
    plain, named = model(), model(size="small")
    assert (plain.predict.remote(1), named.predict.remote(1)) == (("small", "one", 1), ("small", "one", 1))
    site.deploy("two", change=lambda text: text.replace('default="small"', 'default="large"'))
    wait_until(lambda: plain.predict.remote(2) == ("large", "two", 2))
    wait_until(lambda: named.predict.remote(2) == ("small", "two", 2))


def test_exit_runs_when_the_controller_ends(site: Site, tmp_path: Path):
    controller = site.controller()
    leave = "    @scaleplug.exit()\n    def leave(self):\n        Path(self.size).touch()\n\n"
    method = "    @scaleplug.method()\n    def predict"
    site.deploy("one", change=lambda text: text.replace(method, leave + method))
    file = tmp_path / "left"
    assert Cls.from_name("shop", "Model")(size=str(file)).predict.remote(1)[0] == str(file)
    assert not file.exists()
    assert controller.end(signal.SIGTERM) == 0
    assert file.exists()


# -- settings ------------------------------------------------------------------------------------------------------


def test_scale_shows_and_changes_what_is_in_force(site: Site, work: Function[..., Any]):
    site.controller()
    site.deploy("one")
    assert site.ask("scale", "work").output == "shop.work: min 0, max 3, buffer 0, window 2 s\n"
    done = site.ask("scale", "shop.work", "--min", "2", "--max", "none", "--buffer", "1", "--window", "30")
    assert done.stdout == "shop.work: min 2*, max -*, buffer 1*, window 30 s*\n"
    wait_until(lambda: len(site.store.containers("shop.work")) >= 2)
    assert work.autoscaler.settings().min_containers == 2
    assert re.search(r"\nshop\.work +2\* +-\* +1\* +30 s\*", site.ask("ps").output)
    (row,) = [f for f in json.loads(site.ask("ps", "--json").output)["functions"] if f["function"] == "shop.work"]
    assert row["settings"]["min_containers"] == 2
    assert sorted(row["overridden"]) == ["buffer_containers", "max_containers", "min_containers", "scaledown_window"]
    assert site.ask("scale", "work", "--reset").output == "shop.work: min 0, max 3, buffer 0, window 2 s\n"
    done = site.ask("scale", "work", "--min", "5")
    assert (done.exit_code, "min_containers (5) must not be more than max_containers (3)" in done.output) == (2, True)
    done = site.ask("scale", "wrok")
    assert (done.exit_code, "there is no function 'wrok': did you mean work?" in done.output) == (2, True)
    assert "has parameters without defaults" in site.ask("scale", "Needy").output
    assert "takes no settings beside it" in site.ask("scale", "work", "--reset", "--min", "1").output
    site.ask("scale", "work", "--max", "8")
    site.deploy("two")
    assert site.ask("scale", "work").output == "shop.work: min 0, max 3, buffer 0, window 2 s\n"


def test_a_pool_is_scaled_by_what_people_call_it(site: Site):
    site.controller()
    site.deploy("one")
    Cls.from_name("shop", "Model")(size="large").predict.remote(1)
    done = site.ask("scale", "Model(size='large')", "--max", "1")
    assert done.stdout == "shop.Model(size='large'): min 0, max 1*, buffer 0, window 60 s\n"
    assert site.ask("scale", "Model").output == "shop.Model: min 0, max 2, buffer 0, window 60 s\n"


# -- the registry forgets ------------------------------------------------------------------------------------------


def test_a_call_registers_again_what_the_registry_has_forgotten(site: Site):
    site.write("one")
    module = load_file(site.file)
    site.controller()
    ways: list[Callable[[], Any]] = [
        lambda: module.work.remote(1)[0],
        lambda: next(x for x, *_ in list(module.work.map([1]))),
        lambda: module.work.spawn(1).get(timeout=SOON)[0],
        lambda: module.work.delay(1).get(timeout=SOON)[0],
        lambda: module.work.apply_async((1,), countdown=0.01).get(timeout=SOON)[0],
        lambda: module.Model(size="1").predict.remote(1)[2],
        lambda: module.work.with_options(timeout=20).delay(1).get(timeout=SOON)[0],
    ]
    for way in ways:
        assert way() == 1
        names = list(site.store.functions())
        site.store.client.sadd(site.store.keys.retiring, *names)
        site.store.ring("*")
        assert way() == 1  # while it goes
        site.store.client.sadd(site.store.keys.retiring, *names)
        site.store.ring("*")
        wait_until(lambda: not site.store.functions(), 20, "all is forgotten")
        assert way() == 1
