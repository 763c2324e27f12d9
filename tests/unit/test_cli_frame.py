"""The rows of the live display, and the lines that tell of maps and runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scaleplug.cli.frame import bar, blocks, draw, render
from scaleplug.cli.names import Palette
from scaleplug.cli.tally import Tally, map_line, told_rate, told_seconds
from scaleplug.mapping import Progress
from scaleplug.store import Census

NOTHING = Census(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def census(**counts: int) -> Census:
    return Census(**{**dict.fromkeys(Census.__dataclass_fields__, 0), **counts})


def under_way(total: int | None = 100, *, done: int = 45, failed: int = 0) -> Tally:
    """Return a tally of one map that has done its inputs at 10 a second."""
    tally, progress = Tally(), Progress("app.square", total)
    tally.map_began(progress, 0.0)
    for second in range(5):
        progress.done, progress.failed = done * second // 4, failed
        tally.see({"app.square": census(busy=3, idle=1, pending=5, running=3)}, float(second))
    return tally


def rows(tally: Tally, **options: object) -> list[str]:
    return [row.plain.rstrip() for row in draw(tally, Palette(), width=120, **options)]  # type: ignore[arg-type]


def test_a_map_and_its_containers():
    first, second = rows(under_way(failed=2))
    assert first.split() == ["square", "━" * 18 + "─" * 22, "45/100", "11/s", "5", "s", "left", "2", "failed"]
    assert " ".join(second.split()) == "■■■□ 3 busy 1 idle 5 pending 3 running"


def test_a_map_without_length():
    first = rows(under_way(None))[0]
    assert first.split() == ["square", "─" * 40, "45", "11/s"]


def test_a_map_that_waits():
    tally = under_way()
    tally.maps[0].progress.waiting = True
    assert rows(tally)[0].endswith("  waiting")


def test_the_time_left_is_told_once_it_is_known():
    tally, progress = Tally(), Progress("app.square", 100)
    tally.map_began(progress, 0.0)
    for second in range(60):  # nothing is done in the first minute
        tally.see({}, float(second))
    assert tally.maps[0].seconds_left is None
    progress.done = 10
    tally.see({}, 60.0)
    progress.done = 20
    tally.see({}, 61.0)
    assert tally.maps[0].seconds_left == pytest.approx(8.0)


def test_ended_maps_of_a_function_share_a_row():
    tally = Tally()
    for number in range(3):
        progress = Progress("app.square", 100)
        tally.map_began(progress, float(number))
        progress.done, progress.failed = 100, 1
        tally.map_ended(progress, number + 0.5)
    assert rows(tally) == ["square  ✓ 300 inputs in 3 maps, 1.5 s, 200/s, 3 failed"]


def test_a_map_that_was_left_says_so():
    tally, progress = Tally(), Progress("app.square", 100)
    tally.map_began(progress, 0.0)
    progress.done = 40
    record = tally.map_ended(progress, 2.0)
    assert rows(tally) == ["square  ✗ 40 of 100 inputs in 2.0 s, 20/s"]
    assert record is not None
    assert map_line(record, "square") == "map of square: ended after 40 of 100 inputs in 2.0 s, 20/s"


def test_the_line_of_a_map():
    tally = under_way(done=100, failed=2)
    record = tally.map_ended(tally.maps[0].progress, 4.0)
    assert record is not None
    assert map_line(record, "square") == "map of square: 100 inputs in 4.0 s, 25/s, 2 failed, 4 containers at most"


def test_the_summary_of_a_run():
    tally = under_way()
    tally.see({"app.square": census(finished=1_000, failed=2), "app.other": census(finished=1)}, 5.0)
    assert tally.summary(3.21) == "1,001 inputs, 2 failed, 4 containers at most, 3.2 s"
    assert Tally().summary(0.1) == "0 inputs, 0.1 s"


def test_functions_without_anything_to_do_have_no_row():
    tally = Tally()
    tally.see({"app.idle": NOTHING, "app.called": census(pending=3)}, 0.0)
    assert [" ".join(row.split()) for row in rows(tally)] == ["called no containers yet 3 pending"]


def test_functions_of_two_apps_with_one_name_are_told_apart():
    tally = Tally()
    tally.see({"a.f": census(idle=1), "b.f": census(idle=1)}, 0.0)
    assert [row.split()[0] for row in rows(tally)] == ["a.f", "b.f"]


def test_many_containers_share_blocks():
    row = blocks(census(busy=900, idle=99, starting=1), 40)
    assert len(row) == 40
    assert {"■", "□"} <= set(row.plain)


def test_ascii_where_the_terminal_has_nothing_else():
    for row in rows(under_way(failed=1), ascii_only=True):
        assert row.isascii(), row


@pytest.mark.parametrize(
    ("done", "total", "shown"), [(0, 10, "─" * 10), (5, 10, "━" * 5 + "─" * 5), (10, 10, "━" * 10)]
)
def test_a_bar(done: int, total: int, shown: str):
    assert bar(done, total, 10).plain == shown


def test_a_bar_goes_by_halves_and_is_full_when_all_is_done():
    assert bar(1, 20, 10).plain == "╸" + "─" * 9
    assert bar(999, 1000, 10).plain == "━" * 9 + "╸"
    assert bar(0, 0, 10).plain == "━" * 10


def test_rows_fit_the_terminal():
    tally = Tally()
    tally.see({f"app.function_with_a_long_name_{n}": census(busy=50, pending=1_000_000) for n in range(30)}, 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None)
    shown = render(tally, console, Palette(), width=60, height=10)
    assert len(shown) == 10
    assert shown[0] == ""
    assert shown[-1] == "and 22 rows more"
    assert max(map(len, shown)) <= 60


def test_nothing_to_show_is_no_row():
    console = Console(file=io.StringIO(), force_terminal=True)
    assert render(Tally(), console, Palette(), width=60, height=10) == []


def test_rates_and_durations_as_people_say_them():
    assert [told_rate(rate) for rate in (None, 0.0, 3.14159, 47.4, 12345.6)] == [
        "",
        "0.0/s",
        "3.1/s",
        "47/s",
        "12,346/s",
    ]
    assert [told_seconds(s) for s in (0.2, 4.2, 187.0, 7200.0)] == ["1 s", "5 s", "3:07", "2:00:00"]
