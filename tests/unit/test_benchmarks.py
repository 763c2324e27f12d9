"""The arithmetic of the benchmarks: what they print must be what they measured."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
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
