"""The arithmetic of the benchmarks: what they print must be what they measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from benchmarks import contest as contest_module
from benchmarks import entrants, map_at_size, memory, picture, report, starting
from benchmarks.entrants import Entrant
from benchmarks.harness import Result, Row, Summary, time_limit, wait_until

FASTER = Row(what="a call", unit="ms", ours=20.0, peer=1_500.0, peer_is="celery", most=80, least_ratio=15)
RESULT = Result(name="cold", rows=(FASTER,), samples={"ours": Summary.of([1.0, 2.0, 3.0], "ms")}, unfair=("a start",))


def test_a_summary_tells_median_tail_and_spread():
    summary = Summary.of([float(n) for n in range(1, 102)], "ms")
    assert (summary.count, summary.p50, summary.low, summary.high) == (101, 51, 1, 101)
    assert summary.p95 == pytest.approx(96)
    assert summary.p99 == pytest.approx(100)
    assert summary.spread == pytest.approx(50 / 51)


def test_a_summary_of_one_sample_is_that_sample():
    summary = Summary.of([4.0], "s")
    assert (summary.p50, summary.p99, summary.spread) == (4, 4, 0)


@pytest.mark.parametrize(
    ("bounds", "met"),
    [
        ({}, None),
        ({"most": 20}, True),
        ({"most": 19}, False),
        ({"least": 20}, True),
        ({"least": 21}, False),
        ({"most": 80, "least_ratio": 75}, True),
        ({"most": 80, "least_ratio": 76}, False),
    ],
)
def test_every_bound_of_a_row_must_be_kept(bounds, met):
    assert Row(what="", unit="ms", ours=20, peer=1_500, peer_is="", **bounds).met is met


def test_the_ratio_says_how_many_times_better_ours_is():
    assert FASTER.ratio == 75
    assert Row(what="", unit="/s", ours=3_000, peer=1_000, peer_is="", more_is_better=True).ratio == 3
    assert Row(what="", unit="", ours=3, peer=None, peer_is="").ratio is None


def test_a_row_in_words():
    assert report.cells(FASTER)[1:] == ("20 ms", "1,500 ms", "celery", "75 x", "at most 80 ms, at least 15 x", "yes")
    unfinished = Row(what="", unit="ms", ours=2_000, peer=20_000, peer_is="", most=1_000, peer_least=True)
    assert report.cells(unfinished)[2:] == ("at least 20 s", "", "> 10 x", "at most 1,000 ms", "NO")


def test_the_page_has_every_row_and_what_is_unfair():
    text = report.page([RESULT], {"cores": "2", "memory": "4 GiB", "date": "2030-01-31"}, 3.2)
    assert "| a call | 20 ms | 1,500 ms | celery | 75 x | at most 80 ms, at least 15 x | yes |" in text
    assert "- Unfair: a start" in text
    assert "| cold | ours | 3 | 2 ms |" in text
    assert "2 cores with 4 GiB (2030-01-31)" in text


def test_the_figures_can_be_read_again(tmp_path):
    report.write_json([RESULT], {"cores": "2"}, tmp_path / "new" / "figures.json")
    [found] = json.loads((tmp_path / "new" / "figures.json").read_text())["results"]
    assert found["rows"][0]["met"] is True
    assert found["samples"]["ours"]["p50"] == 2


def test_waiting_ends_with_the_condition_or_with_what_was_missing():
    assert wait_until(lambda: "there", "it is there") == "there"
    with pytest.raises(TimeoutError, match="it is there"):
        wait_until(lambda: "", "it is there", timeout=0, pause=0)


def test_a_measurement_that_hangs_is_ended():
    with pytest.raises(TimeoutError, match="longer than"), time_limit(0.01):
        wait_until(lambda: False, "never")


def test_written_figures_become_results_again(tmp_path):
    report.write_json([RESULT], {"cores": "2"}, tmp_path / "figures.json")
    assert report.read_json(tmp_path / "figures.json") == ([RESULT], {"cores": "2"})


def test_the_tenths_of_a_map_are_told_by_its_marks():
    steady = [(n * 1_000, n * 0.5) for n in range(21)]
    assert map_at_size.tenths(steady) == pytest.approx([2_000] * 10)
    slowing = [(0, 0.0), (5_000, 1.0), (10_000, 3.0)]
    assert map_at_size.tenths(slowing) == pytest.approx([5_000] * 5 + [2_500] * 5)


def test_the_parts_of_a_start_add_up_and_a_spare_takes_no_fork():
    asked, *marks = 100.0, 100.001, 100.003, 100.004, 100.012
    parts = starting._between([asked, *marks, 99.0, 100.015, 100.016, 100.020])
    assert sum(parts.values()) == pytest.approx(0.020)
    assert parts["fork"] == 0
    assert parts["connect"] == pytest.approx(0.008)


def test_the_marks_of_a_start_are_those_of_its_own_function():
    seen = [
        (1.0, "submit_one", "1 p app.other x"), (2.0, "submit_one", "1 p app.mine x"), (2.5, "woken", ""),
        (3.0, "started", "1 p t c app.other 0"), (3.5, "started", "1 p t c app.mine 0"),
        (4.0, "connect", "1 p c app.mine"),
    ]  # fmt: skip
    assert starting._first(seen, "app.mine", 0.5) == [2.0, 2.5, 3.5, 4.0]
    assert starting._first(seen, "app.none", 0.5) is None


def test_a_peer_that_can_not_be_installed_is_told_and_left_out(monkeypatch, tmp_path):
    absent = Entrant(name="absent", module="x", how="", requires=("./no such folder",), licence="MIT")
    monkeypatch.setattr(entrants, "RIVALS", tmp_path)
    monkeypatch.setattr(entrants, "PEERS", (absent,))
    monkeypatch.setattr(entrants, "_install", lambda _peer: subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit('no such package')"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ))  # fmt: skip
    assert entrants.ready_peers() == ([], ["absent is left out, it could not be installed: no such package"])


def test_every_entrant_is_described_and_pinned():
    told = entrants.descriptions([peer.name for peer in (*entrants.EVERYBODY, *entrants.PEERS)])
    assert len(told) == len(entrants.EVERYBODY) + len(entrants.PEERS)
    assert all(peer.licence and all("==" in r for r in peer.requires) for peer in entrants.PEERS)


def test_an_entrant_that_fails_is_out_and_told(monkeypatch, tmp_path):
    shutil.copytree(contest_module.HERE / "rivals", tmp_path / "rivals")
    failing = "class Caller:\n    def call(self, number):\n        raise ValueError('not today')\n"
    (tmp_path / "rivals" / "failing_app.py").write_text(failing)
    monkeypatch.setattr(contest_module, "HERE", tmp_path)
    entrant = Entrant(name="failing", module="failing_app", how="")
    with contest_module.contest([entrant], "redis://127.0.0.1:1") as found:
        assert found.names == []
        assert "failing is left out" in found.missing[0]
        assert "not today" in found.missing[0]


def test_the_picture_is_drawn_also_where_something_is_missing(tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw([RESULT], {"cores": "2", "memory": "4 GiB", "date": "2030-01-31"}, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_memory_finds_its_samples():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    one = Summary.of([8.5], "MiB")
    found = {memory.sample(memory.ALONE, count): one for count in memory.COUNTS}
    axes = pyplot.figure().add_subplot()
    try:
        picture._memory(axes, {"memory": {**found, "celery worker": one}})
        assert [text.get_text() for text in axes.texts].count("8.5") == len(memory.COUNTS) + 1
    finally:
        pyplot.close("all")
