"""`scaleplug ps`, `why`, `logs` and `version` against a run that is under way."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from scaleplug.cli.main import cli
from scaleplug.embedded import EmbeddedRedis, find_instances
from tests.commands import SECRET, environment
from tests.helpers import wait_until
from tests.integration import talk
from tests.integration.conftest import SOURCE, Surroundings

RUN = str(os.getpid())


@pytest.fixture(scope="module", autouse=True)
def called(surroundings: Surroundings) -> None:
    """Have something to look at."""
    talk.app.set_source(replace(SOURCE, where="tests.integration.talk"))
    talk.app.register()
    assert list(talk.loud.map(range(5))) == list(range(5))
    wait_until(lambda: surroundings.store.client.xlen(surroundings.store.keys.logs) >= 5)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--run", RUN])


def test_ps_shows_functions_settings_inputs_and_containers():
    shown = ask("ps")
    assert shown.exit_code == 0, shown.output
    head, names, *rows = shown.output.splitlines()
    assert re.fullmatch(rf"scaleplug run tests \(process {RUN}\); the controller \S+ acts", head)
    columns = "function min max buffer window pending running containers finished failed service start"
    assert " ".join(names.split()) == columns
    (row,) = [row.split() for row in rows if row.startswith("talk.loud ")]
    assert row[1:7] == ["0", "2", "0", "60", "s", "0"]
    assert re.search(r" 5 0( (-|[\d.]+ m?s)){2}$", " ".join(row))  # what was learned is saved now and then


def test_ps_as_json():
    shown = json.loads(ask("ps", "--json").output)
    assert shown["controller"]
    (loud,) = [f for f in shown["functions"] if f["function"] == "talk.loud"]
    assert loud["settings"]["scaledown_window"] == 60.0
    assert (loud["pending"], loud["running"], loud["finished"], loud["failed"]) == (0, 0, 5, 0)
    assert loud["idle"] + loud["busy"] + loud["starting"] >= 1


def test_ps_watches():
    command = [sys.executable, "-m", "scaleplug.cli.main", "ps", "--watch", "--json", "--run", RUN]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
        watching.terminate()
    assert first.keys() == second.keys() == {"controller", "functions"}


@pytest.mark.parametrize("name", ["loud", "talk.loud"])
def test_why_tells_decisions_and_their_reasons(name: str):
    shown = ask("why", name, "-n", "1000")
    assert shown.exit_code == 0, shown.output
    first, reason, *_ = shown.output.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  desired 1, start 1", first)
    assert re.match(r" +need 1 of 5: service unknown", reason)


def test_why_as_json():
    decisions = json.loads(ask("why", "loud", "--json", "-n", "1").output)
    assert len(decisions) == 1
    assert {"at", "desired", "start", "stop", "reason", "pending", "running"} <= decisions[0].keys()


def test_why_tells_what_is_known_where_no_decision_was_made():
    shown = ask("why", "talk.never_called")
    assert shown.exit_code == 0, shown.output
    assert re.match(r"no decision about talk\.never_called has been made yet: the controller \S+ acts\n", shown.output)
    assert "0 pending, 0 running, 0 delayed, 0 finished\n0 containers\n" in shown.output


@pytest.mark.parametrize("command", ["why", "logs"])
def test_an_unknown_function_gets_near_misses(command: str):
    shown = ask(command, "never_caled")
    assert (shown.exit_code, shown.output) == (
        2,
        "scaleplug: there is no function 'never_caled': did you mean never_called?\n",
    )


def test_logs_shows_the_last_lines():
    shown = ask("logs", "loud", "-n", "3")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"loud \| loud \d", line) for line in lines)
    assert len(ask("logs").output.splitlines()) >= 5
    assert ask("logs", "talk.never_called").output == ""


def test_logs_follows():
    command = [sys.executable, "-m", "scaleplug.cli.main", "logs", "loud", "-f", "-n", "1", "--run", RUN]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("loud | loud ")
        talk.loud.remote(77)
        assert following.stdout.readline() == "loud | loud 77\n"
        following.terminate()


def test_version_tells_the_server_too():
    shown = ask("version")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^scaleplug  \d.*\nPython     3\..*\ncelery     5\..*\n", shown.output)
    assert re.search(r"^server     \w+ \d+\.\d+\.\d+ at ", shown.output, re.MULTILINE)


# -- where they look ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def another_run() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        server.announce(secret=SECRET, namespace="default", title="/somewhere/other.py")
        yield server


def test_the_newest_run_is_shown_and_the_others_are_named():
    with another_run():
        shown = CliRunner().invoke(cli, ["ps"])
    assert shown.exit_code == 0, shown.output
    assert re.search(rf"^scaleplug: showing /somewhere/other.py \(process {RUN}\), the newest run; ", shown.stderr)
    assert f"tests (process {RUN})" in shown.stderr
    assert "no controller acts, so nothing starts: scaleplug controller" in shown.stdout
    assert "no function is registered" in shown.stdout


@pytest.mark.parametrize("title", ["other.py", "/somewhere/other.py"])
def test_a_run_is_chosen_by_its_title(title: str):
    with another_run():
        shown = CliRunner().invoke(cli, ["ps", "--run", title])
    assert shown.output.startswith("scaleplug run /somewhere/other.py")


def test_whoever_follows_a_run_sees_its_end():
    with another_run():
        command = [sys.executable, "-m", "scaleplug.cli.main", "ps", "--watch", "--json", "--run", "other.py"]
        watching = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline()) == {"controller": None, "functions": []}
    _, said = watching.communicate(timeout=20)
    assert (watching.returncode, said) == (
        0,
        f"scaleplug: scaleplug run /somewhere/other.py (process {RUN}) has ended\n",
    )


def test_a_run_that_is_not_there():
    shown = CliRunner().invoke(cli, ["ps", "--run", "test"])
    assert (shown.exit_code, shown.output.startswith("scaleplug: no run 'test' is under way")) == (2, True)


def test_a_url_stands_above_runs(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALEPLUG_SECRET", SECRET)
    for arguments, environ in ((["--redis-url", redis_url], {}), ([], {"SCALEPLUG_REDIS_URL": redis_url})):
        shown = CliRunner().invoke(cli, ["ps", *arguments], env=environ)
        assert shown.exit_code == 0, shown.output
        assert shown.output.startswith("Redis at unix://:***@")


def test_ps_needs_the_secret(redis_url: str):
    shown = CliRunner().invoke(cli, ["ps", "--redis-url", redis_url])
    assert (shown.exit_code, "SCALEPLUG_SECRET is not set" in shown.output) == (2, True)


def test_another_secret_hides_the_settings(redis_url: str, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch):
    assert surroundings.run.redis is not None
    monkeypatch.setenv("SCALEPLUG_SECRET", SECRET)
    shown = CliRunner().invoke(cli, ["ps", "--redis-url", surroundings.run.redis.url])
    assert shown.exit_code == 0, shown.output
    (row,) = [line.split() for line in shown.output.splitlines() if line.startswith("talk.loud ")]
    assert row[1:5] == ["?"] * 4


@pytest.mark.parametrize("command", [["ps"], ["why", "f"], ["logs"]])
def test_nothing_to_look_at_is_told_with_the_way_out(command: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scaleplug.cli.place.find_instances", lambda _environ: [])
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 2
    assert re.fullmatch(
        r"scaleplug: there is nothing to look at: .* unset: start one, or name .* with --redis-url\n", shown.output
    )
    assert find_instances()  # but there is one


def test_a_server_that_is_not_there_is_told_in_one_line():
    shown = CliRunner().invoke(cli, ["logs", "--redis-url", "redis://localhost:1"])
    assert shown.exit_code == 2
    assert shown.output.startswith("scaleplug: Redis at redis://localhost:1/0 can't be reached")
    assert shown.output.count("\n") == 1
