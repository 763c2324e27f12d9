"""The scripts as Redis gets them: each with what it needs of the prelude, and nothing else of it."""

from __future__ import annotations

import re

import pytest

from scaleplug.store.scripts import _script_text
from tests.commands import ROOT

LUA = ROOT / "scaleplug" / "lua"
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua") if path.stem != "prelude")
OWN = {"tonumber", "tostring", "ipairs", "pairs", "unpack", "pcall", "next", "type", "error", "function", "and", "or",
       "if", "return", "not", "elseif", "in", "while", "find"}  # fmt: skip


def whole(name: str) -> str:
    """Return a script as Redis runs it."""
    return _script_text(name, True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_all_that_it_calls(name: str) -> None:
    text = re.sub(r"--.*|'[^'\n]*'", "", whole(name))
    defined = set(re.findall(r"function (\w+)|^(\w+) = function", text, re.MULTILINE))
    called = set(re.findall(r"(?<![\w.:])(\w+)\(", text))
    assert called - OWN <= {name for names in defined for name in names}
    used = set(re.findall(r"\w+", text))
    assert not {"EDGES", "expiring", "drop_cancelled"} & used - set(re.findall(r"local (\w+)", text))


def test_a_script_has_nothing_else() -> None:
    assert "local function" not in whole("grant")
    assert "deliver" not in whole("look")
