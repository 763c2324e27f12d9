"""Tracebacks show the user's frames, and scaleplug's own only where it is they that failed."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import click
import pytest
from tblib import pickling_support

from scaleplug.cli.tracebacks import format_exception, last_place, show_exception
from scaleplug.entrypoint import LocalEntrypoint
from scaleplug.settings import check_count


def fails() -> None:
    raise ValueError("bad")


def caught(call: object) -> BaseException:
    try:
        call()  # type: ignore[operator]
    except Exception as exc:  # noqa: BLE001
        return exc
    raise AssertionError("it raised nothing")


def names(exc: BaseException) -> list[str]:
    lines = format_exception(exc).splitlines()
    return [line.rpartition(" in ")[2] for line in lines if line.startswith("  File ")]


def test_the_frames_between_the_users_are_left_out():
    entrypoint = LocalEntrypoint(fails, "fails")
    exc = caught(lambda: click.Command("x", callback=entrypoint).main([], standalone_mode=False))
    assert names(exc) == ["caught", "<lambda>", "fails"]


def test_the_frames_that_have_failed_stay():
    exc = caught(lambda: LocalEntrypoint(fails, "fails")("one argument too many"))
    assert names(exc) == ["caught", "<lambda>", "__call__"]


def test_errors_of_scaleplug_need_no_frames_of_its_own():
    exc = caught(lambda: check_count("n", -1, 0))
    assert names(exc) == ["caught", "<lambda>"]
    assert last_place(exc.__traceback__).startswith(f"{Path(__file__).name}, line ")


def test_causes_are_cleared_too():
    def wrapped() -> None:
        try:
            LocalEntrypoint(fails, "fails")()
        except ValueError as exc:
            raise RuntimeError("wrapped") from exc

    text = format_exception(caught(wrapped))
    assert "entrypoint.py" not in text
    assert "The above exception was the direct cause" in text


def test_groups_are_cleared_too():
    group = ExceptionGroup("two", [caught(LocalEntrypoint(fails, "fails")), ValueError("other")])
    text = format_exception(group)
    assert "entrypoint.py" not in text
    assert "bad" in text
    assert "other" in text


def test_frames_from_a_container_underline_nothing():
    exc = caught(fails)
    pickling_support.install(exc)
    copy = pickle.loads(pickle.dumps(exc))
    assert names(copy) == ["caught", "fails"]
    assert "^" not in format_exception(copy)


def test_the_job_s_own_hook_is_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    show_exception(caught(fails))
    assert capsys.readouterr().err.endswith("ValueError: bad\n")
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: sys.stdout.write(f"hooked {kind.__name__}"))
    show_exception(caught(fails))
    assert capsys.readouterr().out == "hooked ValueError"
