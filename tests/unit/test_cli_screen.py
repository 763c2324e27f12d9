"""A screen keeps its frame below whatever is written, and loses nothing of it."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

import pytest

from scaleplug.cli.screen import JobStream, Screen, plain
from tests.terminal import Terminal

FRAME = ["", "bar 1/2", "blocks"]


class Pipe(io.StringIO):
    """Hands what is written to a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]
    errors = "strict"  # type: ignore[assignment]

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def write(self, text: str) -> int:
        self.terminal.feed(text)
        return len(text)

    def fileno(self) -> int:
        return 99_999  # nobody's

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(40, 8)


@pytest.fixture
def stream(terminal: Terminal) -> TextIO:
    return Pipe(terminal)


@pytest.fixture
def screen(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setattr(os, "get_terminal_size", lambda _fd: os.terminal_size((40, 8)))
    return Screen(stream)


def test_the_frame_is_below_the_output(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    screen.write("one\ntwo\n")
    screen.draw(FRAME)
    assert terminal.text == ["one", "two", "bar 1/2", "blocks"]


def test_the_frame_is_replaced_by_the_next(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    screen.draw(["", "bar 2/2 done"])
    assert terminal.text == ["bar 2/2 done"]


def test_an_empty_frame_takes_it_away(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    screen.draw([])
    assert terminal.text == []


def test_a_line_without_end_goes_on_where_it_stopped(screen: Screen, terminal: Terminal):
    for _ in range(5):
        screen.write(".")
        screen.draw(FRAME)
    screen.write(" done\n")
    screen.draw(FRAME)
    assert terminal.text == ["..... done", "bar 1/2", "blocks"]


def test_lines_go_above_one_without_end(screen: Screen, terminal: Terminal):
    screen.write("Continue? ")
    screen.draw(FRAME)
    screen.line("f | hi")
    screen.draw(FRAME)
    screen.write("yes\n")
    assert terminal.text[:2] == ["f | hi", "Continue? yes"]


def test_lines_go_above_one_without_end_that_takes_several_rows(screen: Screen, terminal: Terminal):
    screen.write("x" * 100)
    screen.line("f | hi")
    screen.write("!\n")
    assert terminal.text == ["f | hi", "x" * 40, "x" * 40, "x" * 20 + "!"]


def test_a_progress_bar_of_the_job_s_own_replaces_its_line(screen: Screen, terminal: Terminal):
    for percent in (10, 50, 90):
        screen.write(f"\r{percent}%")
        screen.draw(FRAME)
        screen.line("f | hi")
    screen.write("\r100%\n")
    screen.draw(FRAME)
    assert terminal.text == ["f | hi", "f | hi", "f | hi", "100%", "bar 1/2", "blocks"]


def test_it_scrolls_at_the_bottom(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    for number in range(20):
        screen.write(f"{number}\n")
        screen.draw(FRAME)
    assert terminal.text == [*map(str, range(20)), "bar 1/2", "blocks"]


def test_text_at_the_bottom_without_end_keeps_its_column(screen: Screen, terminal: Terminal):
    screen.write("\n" * 7 + "Name? ")
    screen.draw(FRAME)
    terminal.feed("Jo")  # typed
    screen.draw(FRAME)
    assert terminal.text == ["Name? Jo", "bar 1/2", "blocks"]


def test_what_goes_past_the_screen_stays(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    terminal.feed("from a child process\n")
    screen.draw(FRAME)
    terminal.feed("one\ntwo\n")
    screen.draw(FRAME)
    screen.write("three\n")
    assert terminal.text[:4] == ["from a child process", "one", "two", "three"]


def test_a_frame_that_is_too_high_is_cut(screen: Screen, terminal: Terminal):
    screen.draw([str(number) for number in range(20)])
    screen.write("text\n")
    assert screen.height == 6
    assert terminal.text[0] == "text"


def test_a_display_of_the_job_s_own_gets_the_terminal(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    screen.write("mine 1\n")
    screen.write("\x1b[1A\x1b[2Kmine 2\n")
    screen.draw(FRAME)
    assert screen.yielded
    assert terminal.text == ["mine 2"]


def test_closing_leaves_last_lines(screen: Screen, terminal: Terminal):
    screen.write("no end")
    screen.draw(FRAME)
    screen.close("summary\n")
    screen.write("after\n")
    assert terminal.text == ["no end", "summary", "after"]


def test_a_burst_has_its_frame_drawn_later(screen: Screen, terminal: Terminal):
    screen.draw(FRAME)
    for number in range(3):
        screen.write(f"{number}\n")
    assert screen.waiting.is_set()
    screen.draw(FRAME)
    assert not screen.waiting.is_set()
    assert terminal.text == ["0", "1", "2", "bar 1/2", "blocks"]


def test_it_stands_in_for_the_streams_and_goes(screen: Screen, terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    out, err = Pipe(Terminal()), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with screen.standing_in():
        print("hi")  # noqa: T201
        sys.stdout.buffer.write("ü\n".encode()[:1])
        sys.stdout.buffer.write("ü\n".encode()[1:])
        assert sys.stdout.isatty()
        assert sys.stdout.encoding == "utf-8"
        assert sys.stderr is err  # it is no terminal
    assert sys.stdout is out
    assert terminal.text == ["hi", "ü"]


def test_a_stream_takes_text_only(screen: Screen, stream: TextIO):
    with pytest.raises(TypeError, match="must be str, not bytes"):
        JobStream(screen, stream).write(b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("10%\r50%\r100%", "100%"),
        ("100%\r", "100%"),
        ("\x1b[2J\x1b[Hcleared\x07", "cleared"),
        ("\x1b]0;title\x07text", "text"),
        ("a\tb", "a\tb"),
    ],
)
def test_lines_of_containers_can_t_move_the_cursor(raw: str, shown: str):
    assert plain(raw) == shown
