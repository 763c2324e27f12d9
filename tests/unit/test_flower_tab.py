"""The Autoscaler tab's own logic, and what it needs of Flower's insides."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import flower.urls
import pytest
from tornado.web import url

from scaleplug.contrib.flower import plug, tab
from scaleplug.contrib.flower.board import COLUMNS, FRESH_SECONDS, Board, told, trend
from scaleplug.contrib.flower.tab import PARTS, with_link
from scaleplug.settings import Config

OLDER = """
      <li class="nav-item">
        <a class="nav-link text-dark" href="{{ reverse_url('tasks') }}">Tasks</a>
      </li>
      <li class="nav-item">
        <a class="nav-link text-dark" href="{{ reverse_url('broker') }}">Broker</a>
      </li>
      <li class="nav-item">
        <a class="nav-link text-dark" href="https://flower.readthedocs.io/">Documentation</a>
      </li>
"""  # of Flower 2.0.1


@pytest.mark.parametrize(("sentence", "holds"), PARTS, ids=[sentence for sentence, _ in PARTS])
def test_flower_is_as_the_tab_needs_it(sentence: str, holds: Any):
    """When one fails after an update of Flower, the bounds in pyproject.toml are too wide."""
    assert holds(), f"this isn't true of Flower any more: {sentence}"


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let what is done to Flower be undone."""
    handlers = list(flower.urls.handlers)
    monkeypatch.setattr(flower.urls, "handlers", handlers)
    monkeypatch.setattr("flower.app.default_handlers", handlers)
    monkeypatch.setattr(flower.urls, "settings", dict(flower.urls.settings))
    return handlers


def test_it_is_put_in_once_and_before_the_page_that_finds_nothing(untouched: list[Any]):
    before = len(untouched)
    assert tab.install()
    assert tab.install()
    assert len(untouched) == before + len(tab.urls())
    assert untouched[-1][0] == r".*"
    page = untouched[-1 - len(tab.urls())]
    assert isinstance(page, url)
    assert page.name == "autoscaler"


def test_a_flower_that_does_not_fit_stays_as_it_is(
    untouched: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    before = list(untouched)
    monkeypatch.setattr(tab, "misfit", lambda: "it has wings")
    with caplog.at_level(logging.WARNING):
        assert not tab.install()
    assert "gets no Autoscaler tab, for it isn't true of it that it has wings: install Flower" in caplog.text
    assert untouched == before
    assert "template_loader" not in flower.urls.settings


def test_what_is_missing_is_named():
    def breaks() -> bool:
        raise AttributeError("no such thing")

    assert tab.misfit((("it is so", lambda: True),)) is None
    assert tab.misfit((("it is so", lambda: False),)) == "it is so"
    assert tab.misfit((("it is so", breaks),)) == "it is so (AttributeError: no such thing)"


def test_the_navigation_of_an_older_flower_gets_the_link():
    made = with_link(OLDER)
    assert made.count("<li") == made.count("</li>") == 4
    assert """href="{{ reverse_url('autoscaler') }}">Autoscaler</a>""" in made
    assert made.index("Broker") < made.index("Autoscaler") < made.index("Documentation")
    assert with_link("<ul></ul>") == "<ul></ul>"


def test_flower_s_command_runs_whatever_becomes_of_the_tab(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    class Command:
        @staticmethod
        def callback(*args: Any) -> Any:
            return args

    def fail() -> None:
        raise RuntimeError("broken")

    command = Command()
    plug.hook(command)
    hooked = command.callback
    plug.hook(command)
    assert command.callback is hooked
    monkeypatch.setattr(tab, "install", fail)
    assert command.callback(1, 2) == (1, 2)
    assert "can't be added to Flower" in caplog.text


def test_a_trend_holds_what_a_point_says_until_the_next_one():
    now = 10_000.0
    made = trend(
        [[now - 400, 3, 1, 1, 0, 1, 0, 2], [now - 100, 0, 5, 0, 1, 4, 0, 5], [now - 50, 0, 0, 0, 0, 0, 0, 0]], now
    )
    containers, inputs = made
    assert len(containers) == len(inputs) == 60
    assert (containers[0], inputs[0]) == (2, 4)
    assert (containers[42], inputs[42]) == (5, 5)
    assert (containers[-1], inputs[-1]) == (0, 0)
    assert trend([[now - 400, 0, 0, 0, 0, 0, 0, 0]], now) == []
    assert trend([[now - 900, 0, 9, 0, 0, 9, 0, 9], [now - 400, 0, 0, 0, 0, 0, 0, 0]], now) == []


def test_a_decision_that_somebody_else_has_written_is_shown_too():
    assert told({"at": "x", "stop": 3, "reason": None})["at"] == 0
    made = told({"at": 1.5, "desired": 2, "start": 1, "stop": ["c"], "give_up": [], "reason": "it -> start 1, stop 1"})
    assert (made["desired"], made["start"], made["stop"], made["reason"]) == (2, 1, 1, "it")


def test_the_page_and_the_board_speak_of_the_same_columns():
    static = Path(tab.FOLDER, "static")
    text = (static / "autoscaler.js").read_text()
    for name in COLUMNS:
        assert name in text, name
    for file in ("uPlot.iife.min.js", "uPlot.min.css", "uPlot-LICENSE.txt"):
        assert (static / file).stat().st_size > 500
    pages = [*static.glob("autoscaler.*"), static / "detail.js", *tab.PAGES.iterdir()]
    for page in pages:  # nothing comes from elsewhere
        assert "http" not in page.read_text().replace("HTTP", ""), page
        assert len(page.read_text().splitlines()) < 400, page


def test_those_who_waited_for_a_look_that_failed_do_not_try_again(monkeypatch: pytest.MonkeyPatch):
    board = Board(Config(redis_url="redis://127.0.0.1:1/0", secret="x" * 32))
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        raise TimeoutError("no answer")

    monkeypatch.setattr(board, "_look", look)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="no answer"):
            board.changes(0)
    assert len(looks) == 1
    board._failed -= FRESH_SECONDS
    monkeypatch.setattr(board, "_look", lambda: None)
    assert board.changes(0)["rows"] == []
