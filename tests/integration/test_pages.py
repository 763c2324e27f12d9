"""Every snippet of some pages, each a program of its own, run for real with ``scaleplug`` in the place of ``modal``.

``SCALEPLUG_PAGES`` names a folder with more pages.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands import scaleplug, told
from tests.integration.snippets import Snippet, snippets

FOLDERS = [Path(__file__).parent / "pages", *map(Path, filter(None, [os.environ.get("SCALEPLUG_PAGES")]))]
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.*"))
CASES = [
    pytest.param(snippet, id=f"{page.stem}-{snippet.number}")
    for page in PAGES
    for snippet in snippets(page.read_text())
]
MISTAKE = "evaluate_model(inputs)"
"""What calls a function as if it were a plain one."""


@pytest.mark.parametrize("snippet", CASES)
def test_a_snippet_runs(tmp_path: Path, snippet: Snippet) -> None:
    (tmp_path / "snippet.py").write_text(snippet.program())
    done = scaleplug("run", "snippet.py", cwd=tmp_path, PYTHONWARNINGS="ignore")
    if MISTAKE in snippet.text:
        assert done.returncode != 0
        assert ".map(...) for many inputs" in done.stderr
        return
    assert done.returncode == 0, f"{told(done)}\n{snippet.program()}"
    if "schedule=" in snippet.text:
        said = [line for line in done.stdout.splitlines() if "min_containers" in line]
        assert [line.split()[0][11:] for line in said] == ["06:00:00-04:00", "22:00:00-04:00"]
        assert [line.split()[-1] for line in said] == ["4", "0"]
