"""Read the documentation's pages, and make of each a file that `scaleplug run` can run."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTE = r"(?:<!-- (?P<note>[^\n]+?) -->\n+)?"
FENCE = re.compile(NOTE + r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
ENTRYPOINT = "the_whole_page"


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; ``line`` is where its text begins, ``note`` an HTML comment just above it."""

    language: str
    text: str
    line: int
    note: str

    @property
    def skipped(self) -> bool:
        return self.note.startswith("skip: ")


def blocks(page: Path, language: str) -> list[Block]:
    """Return the page's blocks in a language."""
    text = page.read_text()
    found = [
        Block(match["language"], match["text"], text.count("\n", 0, match.start("text")) + 1, match["note"] or "")
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if block.language == language]


def scripts(page: Path) -> list[str]:
    """Return the page's Python blocks as files: one, and another for each block under `<!-- new file -->`.

    What defines something stays as it is; the rest becomes the body of an entrypoint, which also calls the page's own
    entrypoints, each where it stands.
    """
    files: list[tuple[list[str], list[str]]] = []
    for block in blocks(page, "python"):
        if block.skipped:
            continue
        if not files or block.note == "new file":
            files.append(([], []))
        top, body = files[-1]
        for node in ast.parse(block.text).body:
            (top if _defines(node) else body).append(_source(block, node))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "local_entrypoint" in _decorators(node):
                body.append(f"{node.name}()")
    return [_file(top, body) for top, body in files]


def promises(page: Path) -> list[str]:
    """Return what the page says that its `print(...)  # this` lines print, in order; `...` stands for anything."""
    kept = [block.text for block in blocks(page, "python") if not block.skipped]
    return [promise for text in kept for promise in PROMISE.findall(text)]


def first_broken(promised: list[str], printed: str) -> str | None:
    """Return the first promise that was not printed after those before it."""
    lines = iter(printed.splitlines())
    for promise in promised:
        pattern = ".*".join(re.escape(part) for part in promise.split("..."))
        if not any(re.fullmatch(pattern, line) for line in lines):
            return promise
    return None


def shown_tests(page: Path) -> str:
    """Return the page's Python blocks as a file for pytest; empty if it shows no tests."""
    text = "\n\n".join(block.text for block in blocks(page, "python") if not block.skipped)
    return text if re.search(r"^def test_", text, re.MULTILINE) else ""


def _file(top: list[str], body: list[str]) -> str:
    if not any(line.startswith("app = ") for line in top):
        top = [*top, "import scaleplug", 'app = scaleplug.App("page")']
    indented = "\n".join(body or ["pass"]).replace("\n", "\n    ")
    return "\n".join([*top, "@app.local_entrypoint()", f"def {ENTRYPOINT}():", f"    {indented}"]) + "\n"


def _defines(node: ast.stmt) -> bool:
    """Tell whether a statement belongs to the module: a definition, an import, an App or a Celery app."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func) in ("scaleplug.App", "App", "Celery", "ScalePlug")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return " ".join(ast.unparse(decorator) for decorator in node.decorator_list)


def _source(block: Block, node: ast.stmt) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return "\n".join(block.text.splitlines()[first - 1 : node.end_lineno])
