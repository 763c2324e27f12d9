"""Flames of the hot paths: which functions a recording names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import flames
from tests.commands import ROOT

SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:fg="http://github.com/jonhoo/inferno"><svg id="frames">
<g><title>all (10 samples, 100%)</title><rect y="52" fg:x="0" fg:w="10"/></g>
<g><title>main (a.py:1) (9 samples, 90.00%)</title><rect y="68" fg:x="0" fg:w="9"/></g>
<g><title>work (a.py:2) (4 samples, 40.00%)</title><rect y="84" fg:x="1" fg:w="4"/></g>
<g><title>work (a.py:2) (3 samples, 30.00%)</title><rect y="84" fg:x="5" fg:w="3"/></g>
<g><title>rest (a.py:3) (1 samples, 10.00%)</title><rect y="68" fg:x="9" fg:w="1"/></g>
</svg></svg>"""


def test_the_time_of_its_own_is_what_no_frame_above_has(tmp_path: Path):
    (tmp_path / "a.svg").write_text(SVG)
    assert flames.read(tmp_path / "a.svg") == {"work (a.py:2)": 7, "main (a.py:1)": 2, "rest (a.py:3)": 1}


def test_a_recording_shows_caller_container_and_controller(tmp_path: Path):
    if problem := flames.why_not():
        pytest.skip(problem)
    command = [sys.executable, "-m", "benchmarks.flames", "remote", "--seconds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for who in ("caller", "container", "controller"):
        svg = (tmp_path / f"remote-{who}.svg").read_text()
        assert svg.startswith("<?xml"), who
        assert f"  {who}, " in done.stdout
    assert "remote() on a warm container: the caller" in (tmp_path / "remote-caller.svg").read_text()
    assert re.search(r"% +.+\(scaleplug/\w+", done.stdout), "functions of ours are named"
