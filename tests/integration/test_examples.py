"""The examples run as their users run them, and print what they should."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from tests.commands import ROOT, scaleplug, told

EXAMPLES = ROOT / "examples"


def test_every_example_is_listed():
    listed = re.findall(r"\[(\w+\.py)\]\(\1\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize(("options", "printed"), [((), "285\n"), (("--upto", "100"), "328350\n")])
def test_hello(tmp_path: Path, options: tuple[str, ...], printed: str):
    done = scaleplug("run", str(EXAMPLES / "hello.py"), *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, printed), told(done)


def test_hello_needs_nothing_but_the_package():
    text = (EXAMPLES / "hello.py").read_text()
    assert re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE) == ["scaleplug"]


def test_grid_search(tmp_path: Path):
    if importlib.util.find_spec("sklearn") is None:
        if os.environ.get("CI"):
            pytest.fail("scikit-learn is missing: install scaleplug[examples]")
        pytest.skip("scikit-learn is missing")
    options = ("--steps", "2", "--folds", "3", "--finalists", "1", "--rounds", "2")
    done = scaleplug("run", str(EXAMPLES / "grid_search.py"), *options, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, told(done)
    lines = done.stdout.splitlines()
    assert "12 candidates: 36 models to train" in lines, told(done)
    assert "3 finalists: 18 models more" in lines, told(done)
    row = re.compile(r"^ *(\d) +(svc|random forest|extra trees) .* ([\d.]+)% +[\d.]+% +9 *$", re.MULTILINE)
    rows = row.findall(done.stdout)
    assert [rank for rank, _, _ in rows] == ["1", "2", "3"], told(done)
    assert {kind for _, kind, _ in rows} == {"svc", "random forest", "extra trees"}
    accuracies = [float(accuracy) for _, _, accuracy in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 97
    assert re.fullmatch(r"the winner, in 30 folds: 9[89]\.\d\d%", lines[-2]), told(done)
    end = re.fullmatch(r"84 models, (\d+) containers, \d+ s", lines[-1])
    assert end, told(done)
    assert 1 < int(end[1]) <= 30


def test_the_grid_grows_as_it_says():
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("grid_search_example", EXAMPLES / "grid_search.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [len(module.make_grid(steps)) for steps in (1, 2, 4)] == [3, 12, 48]
    assert all(kind in module.KINDS for kind, _ in module.make_grid(2))
