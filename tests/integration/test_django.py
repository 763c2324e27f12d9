"""Django projects: a real one, whose functions run in real containers.

What it does is in ``django_site``: each of its entrypoints writes down what it has seen. It runs in processes of its
own, since a process can be part of one Django project only.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import SECRET, environment, told
from tests.controllers import Controller

SITE = Path(__file__).parent / "django_site"
MANAGE = str(SITE / "manage.py")


def manage(
    data: Path, *arguments: str, cwd: Path = SITE, more: dict[str, Any] | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run manage.py of the project to its end, with more settings."""
    environ |= {"DJANGO_DATA": str(data), "DJANGO_MORE": json.dumps(more or {})}
    return subprocess.run(
        [sys.executable, MANAGE, *arguments],
        cwd=cwd, env=environment(**environ), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_entrypoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Give a function that runs an entrypoint of the project and returns what it has written down."""

    def run(name: str) -> dict[str, Any]:
        data = tmp_path_factory.mktemp("django")
        out = data / "out.json"
        done = manage(data, "scaleplug", "run", f"django:project.settings::{name}", "--out", str(out))
        assert done.returncode == 0, told(done)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return run


# -- functions and the database ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(run_entrypoint: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return what the functions have seen."""
    return run_entrypoint("report")


@pytest.mark.parametrize("function", ["solo", "alone", "threads", "loop", "green", "method"])
def test_connections_are_closed_after_each_input_in_every_pool(report: dict[str, Any], function: str):
    seen = [tuple(each[:2]) for each in report[function]]
    assert seen == [(0, 1)] * len(seen)
    assert len(seen) > 2


def test_connections_are_closed_after_each_packed_input(report: dict[str, Any]):
    assert {tuple(each[:2]) for each in report["packed"]} == {(0, 1)}
    assert max(Counter(tag for _, _, tag in report["packed"]).values()) > 1, "nothing was packed"


def test_connections_are_closed_after_inputs_that_fail(report: dict[str, Any]):
    assert report["breaks"] == ["broken", "[0, 1]"] * 40


def test_connections_are_closed_after_an_objects_hooks(report: dict[str, Any]):
    assert report["entered"] == [[0, 1, 0, 1]] * 2


def test_async_inputs_do_not_close_each_others_connections(report: dict[str, Any]):
    assert report["together"] == [20] * 40


def test_the_twin_leaves_no_connection_open(report: dict[str, Any]):
    assert report["twin"] == [True, 0]


def test_calls_are_sent_on_commit(report: dict[str, Any]):
    assert report["commit"] == {
        "early": "OutputExpiredError",
        "never": "OutputExpiredError",
        "wrong": "refused at once",
        "one": "committed",
        "many": ["committed"] * 3,
    }


def test_containers_set_up_the_project(report: dict[str, Any]):
    assert report["sources"] == ["django", "project.settings"]


# -- Django's tasks ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def queue(run_entrypoint: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return what Django's tasks have seen."""
    return run_entrypoint("queue")


def test_a_task_is_sent_and_gives_its_result(queue: dict[str, Any]):
    assert queue["sent"] == ["READY", [2], {"b": 3}, True]
    assert (queue["result"], queue["times"], queue["attempts"]) == (5, True, [1, 1])
    assert (queue["mail"], queue["queue"]) == ([0, 1, 7], "mail")


def test_a_task_gets_its_context(queue: dict[str, Any]):
    assert queue["context"] == ["word", 1, True, ["word"]]


def test_tasks_may_be_async(queue: dict[str, Any]):
    assert (queue["awaited"], queue["aio"], queue["thread"]) == ("first", 2, 6)


def test_a_failed_task_tells_its_error(queue: dict[str, Any]):
    assert queue["failed"] == ["FAILED", "ValueError", True]


def test_a_task_waits_for_its_time(queue: dict[str, Any]):
    assert queue["later"] == 2
    assert queue["waited"] > 0.9


def test_what_a_task_cannot_have_is_refused(queue: dict[str, Any]):
    refused = ("arguments", "queue name", "unknown", "mismatch", "no JSON", "priority")
    assert [queue.get(name) for name in refused] == [
        "Type", "InvalidTask", "TaskResultDoesNotExist", "TaskResultMismatch", "Type", "InvalidTask",
    ]  # fmt: skip


def test_tasks_run_in_the_twin(queue: dict[str, Any]):
    assert queue["twin"] == [11, "FAILED", 21]


# -- the admin -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits(run_entrypoint: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return what the admin has answered."""
    return run_entrypoint("admin")


def test_the_admin_asks_for_permissions(visits: dict[str, Any]):
    assert visits["nobody"] == [302, 302, 302]  # to the login
    assert visits["clerk"] == [403, 403, 403, 403]
    assert visits["viewer"] == [200, 200, 200, 403]
    assert visits["keeper"] == [200, 200, 200, 302]


def test_the_admin_shows_functions_and_changes_their_settings(visits: dict[str, Any]):
    assert visits["listed"] == [True, True, True]
    assert visits["changed"] == [3, ["max_containers"]]
    assert visits["reset"] == [1, []]
    assert visits["history"] == 2
    assert visits["none"] == 404


def test_the_admin_refuses_settings_that_do_not_fit(visits: dict[str, Any]):
    assert visits["refused"] == [
        "min_containers (4) must not be more than max_containers (3): lower one or raise the other",
        "Ensure this value is greater than or equal to 2.",
        "Enter a whole number.",
    ]


def test_the_admins_recent_actions_lead_to_the_function(visits: dict[str, Any]):
    page = "/admin/scaleplug/pool/shop.label_5Fof/change/"  # as Django quotes it
    assert visits["moved"] == page
    assert visits["recent"] == [[page, 200]]


def test_the_admin_changes_nothing_without_its_token(visits: dict[str, Any]):
    assert (visits["without a token"], visits["with it"]) == (403, 302)
    assert visits["get"] == [3, ["max_containers"]]


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "scaleplug.W001"),
        ({"CELERY_SCALEPLUG_REDIS_URL": "redis://h/0"}, "scaleplug.E002"),
        ({"CELERY_SCALEPLUG_REDISURL": "x"}, "did you mean CELERY_SCALEPLUG_REDIS_URL"),
        ({"CELERY_SCALEPLUG_SPARES": "many"}, "CELERY_SCALEPLUG_SPARES must be a whole number, not 'many'"),
        ({"SHOP_NAME": "stock"}, "two Apps are called 'stock', in shop.tasks and in shop.autoscaled"),
        ({"TASKS": {"default": {"BACKEND": "scaleplug.contrib.django.backend.ScalePlugBackend",
                                "OPTIONS": {"max_container": 3}}}}, "max_container"),
        ({"TASKS": {"default": {"BACKEND": "scaleplug.contrib.django.backend.ScalePlugBackend",
                                "QUEUES": ["default", "mail"], "OPTIONS": {"name": "x", "schedule": 5}}}},
         "E003) OPTIONS of the task backend 'default' can't have name and schedule"),
        ({"CELERY_SCALEPLUG_REDIS_URL": "http://h"},
         "ImproperlyConfigured: CELERY_SCALEPLUG_REDIS_URL: the Redis URL 'http://h' is not one of redis://"),
    ],
)  # fmt: skip
def test_checks_tell_what_is_wrong(tmp_path: Path, more: dict[str, Any], said: str):
    done = manage(tmp_path, "check", more=more)
    assert said in done.stderr, told(done)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("CELERY_BROKER_URL", "redis://h/0"),
        ("CELERY_BROKER_URL", ["redis://h/0", "redis://other/0"]),
        ("CELERY_SCALEPLUG_REDIS_URL", "redis://h/0"),
    ],
)
def test_checks_are_silent_where_all_is_well(tmp_path: Path, name: str, url: Any):
    done = manage(tmp_path, "check", more={name: url, "CELERY_SCALEPLUG_SECRET": SECRET})
    assert done.returncode == 0, told(done)
    assert "scaleplug." not in done.stdout + done.stderr, told(done)


def test_no_migration_is_missing(tmp_path: Path):
    done = manage(tmp_path, "makemigrations", "--check", "--dry-run")
    assert (done.returncode, "No changes" in done.stdout) == (0, True), told(done)


def test_the_environment_stands_above_the_settings(tmp_path: Path):
    more = {"CELERY_SCALEPLUG_NAMESPACE": "settings", "CELERY_SCALEPLUG_SPARES": 3}
    show = "from scaleplug.settings import process_config as c; print(c().namespace, c().spares)"
    done = manage(tmp_path, "shell", "-c", show, more=more, SCALEPLUG_NAMESPACE="environment")
    assert done.stdout.splitlines()[-1] == "environment 3", told(done)


def test_a_controller_and_callers_find_each_other_by_the_settings(tmp_path: Path, redis_url: str):
    """From another folder than the project's, and with nothing in the environment but Django's own variables."""
    more = {
        "CELERY_SCALEPLUG_REDIS_URL": redis_url,
        "CELERY_SCALEPLUG_SECRET": SECRET,
        "CELERY_SCALEPLUG_NAMESPACE": "site",
    }
    assert manage(tmp_path, "migrate", "-v0", more=more).returncode == 0
    environ = {"DJANGO_DATA": str(tmp_path), "DJANGO_MORE": json.dumps(more)}
    controller = Controller(tmp_path, program=(MANAGE, "scaleplug"), **environ)
    try:
        controller.says("registered .*django-tasks.shop-tasks-add.*shop.solo.*stock.count")
        controller.says("ready")
        call = (
            "from shop.tasks import solo; from shop.autoscaled import count; print(solo.remote()[:2], count.remote())"
        )
        done = manage(tmp_path, "shell", "-c", call, cwd=tmp_path, more=more)
        assert done.stdout.splitlines()[-1:] == ["[0, 1] 3"], told(done)
        done = manage(tmp_path, "scaleplug", "deploy", "--wait", cwd=tmp_path, more=more)
        assert done.returncode == 0, told(done)
        assert "deployed shop, version 1" in done.stdout
        done = manage(tmp_path, "scaleplug", "--settings=project.settings", "ps", cwd=tmp_path, more=more)
        assert "stock.count" in done.stdout, told(done)
        done = manage(tmp_path, "shell", "-c", call, cwd=tmp_path, more=more)
        assert done.stdout.splitlines()[-1:] == ["[0, 1] 3"], told(done)
    finally:
        status = controller.end(signal.SIGTERM)
    assert status == 0


def test_celerys_command_knows_the_project(tmp_path: Path, redis_url: str):
    """``celery -A project scaleplug``: the settings of Django, and its functions."""
    more = {"CELERY_SCALEPLUG_REDIS_URL": redis_url, "CELERY_SCALEPLUG_SECRET": SECRET}
    environ = {"DJANGO_DATA": str(tmp_path), "DJANGO_MORE": json.dumps(more)}
    command = [sys.executable, "-m", "celery", "-A", "project", "scaleplug", "deploy"]
    done = subprocess.run(
        command, cwd=SITE, env=environment(**environ), capture_output=True, text=True, timeout=90, check=False
    )
    assert "deployed shop, version 1" in done.stdout, told(done)


def test_eager_tasks_run_at_once(tmp_path: Path):
    more = {"CELERY_TASK_ALWAYS_EAGER": True, "CELERY_SCALEPLUG_REDIS_URL": "redis://127.0.0.1:1/0"}
    call = """
from datetime import timedelta
from django.utils import timezone
from shop.tasks import add
later = add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1, 2)
later.refresh()
print(add.get_result(add.enqueue(3).id).return_value, later.return_value)
"""
    done = manage(tmp_path, "shell", "-c", call, more=more)
    assert done.stdout.splitlines()[-1:] == ["4 3"], told(done)
