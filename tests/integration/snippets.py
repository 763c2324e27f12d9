"""Take the Python snippets out of a page and make each of them a program that ``scaleplug run`` can start.

A page is Markdown (fenced or indented code) or the text of a web page, in which prose is indented and code is not.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

FENCED = re.compile(r"^```(?:python|py)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}|\t).*\n|^[ \t]*\n)+", re.MULTILINE)
UNINDENTED = re.compile(r"(?:^\S.*\n|^(?: {4}|\t).*\n|^[ \t]*\n)+", re.MULTILINE)
CODE = re.compile(r"^(?:@|def |class |import |async def |\w+ = |\w+\.\w+\()", re.MULTILINE)
CALLED = re.compile(r"\.(?:remote|map|starmap|spawn|for_each)\b")

SHARED = """
import asyncio
import time
from datetime import UTC, datetime

import scaleplug
"""
KNOWN = {
    "evaluate_model": "@app.function()\ndef evaluate_model(x):\n    return x ** 2\n",
    "f": "@app.function()\ndef f(x=1):\n    return x\n",
    "MyClass": (
        "@app.cls()\nclass MyClass:\n    model_version: str = scaleplug.parameter(default='1')\n\n"
        "    @scaleplug.method()\n    def version(self):\n        return self.model_version\n"
    ),
}
"""What snippets use that stands in another one."""
CALLS = """
    plain = [function for function in app.functions.values() if function.schedule is None]
    for function in plain:
        if function.name not in ("f", "evaluate_model"):
            print(function.name, repr(function.remote(*[1] * function.raw.__code__.co_argcount)))
    # a clock that is moved through one day of summer
    midnight = datetime(2025, 7, 1, 4, tzinfo=UTC)
    scheduled = [function for function in app.functions.values() if function.schedule is not None]
    for when, function in sorted(((f.schedule.next_after(midnight), f) for f in scheduled), key=lambda due: due[0]):
        function.remote()
        print(when.isoformat(), function.name, "min_containers", plain[0].autoscaler.settings().min_containers)
"""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One snippet of a page: its place among them, and its text."""

    number: int
    text: str

    def program(self) -> str:
        """Return the program: what the snippet defines stands at the top level, what it does in an entrypoint."""
        text = re.sub(r"\bmodal\b", "scaleplug", self.text)
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        defined = {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assigned = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        wanted = [KNOWN[name] for name in KNOWN if name in names | assigned and name not in defined]
        head = SHARED + ("" if "scaleplug.App(" in text else "app = scaleplug.App('my-app')\n") + "\n".join(wanted)
        if "@app." not in text:
            inside = "    inputs = [1, 2]\n" + textwrap.indent(text, "    ")
            return f"{head}\n@app.local_entrypoint()\ndef main():\n{inside}\n"
        body = _with_something_to_do(text)
        if "local_entrypoint" in body:
            return head + body
        return f"{head}{body}\n@app.local_entrypoint()\ndef main():{CALLS}"


def _with_something_to_do(text: str) -> str:
    """Let functions whose body is left out return something."""
    lines, out = text.splitlines(), []
    for number, line in enumerate(lines):
        before = next((earlier for earlier in reversed(lines[:number]) if earlier.strip()), "")
        comment = before.strip().startswith("#")
        opens = re.match(r"\s*(?:async )?def ", before) or (comment and line.startswith("    ..."))
        out.append(line.replace("...", "return 'done'") if line.strip() == "..." and opens else line)
    return "\n".join(out) + "\n"


def snippets(page: str) -> Iterator[Snippet]:
    """Return the snippets of a page, in their order."""
    number = 0
    for found in _texts(page):
        text = textwrap.dedent(found).strip("\n") + "\n"
        if CODE.search(text) and _parses(text):
            number += 1
            yield Snippet(number, text)


def _texts(page: str) -> list[str]:
    fenced = FENCED.findall(page)
    if fenced:
        return [text if _parses(text) else _indented_again(text) for text in fenced]
    unindented = [text for text in UNINDENTED.findall(page) if text.strip()]
    if any(re.search(r"^@app\.", text, re.MULTILINE) for text in unindented):
        return unindented
    return [text for text in INDENTED.findall(page) if text.strip()]


def _indented_again(text: str) -> str:
    """Return code whose indentation a page has lost, as far as what it ends its lines with tells."""
    level, out, opened = 0, [], [""]
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("@", "def ", "async def ", "class ", "# DON'T", "# DO ")):
            level, opened = 0, [""]
        out.append("    " * level + bare)
        code = bare.partition("#")[0].rstrip()
        if code.endswith(":") or (code.endswith("(") and code.startswith("@")):
            level += 1
            opened.append(bare)
        elif bare == ")" or (bare.startswith(("raise ", "return ")) and opened[-1].startswith("if ")):
            level = max(0, level - 1)
            opened.pop()
            if bare == ")":
                out[-1] = bare
    return "\n".join(out) + "\n"


def _parses(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False
