"""What the documentation says is true, as far as that can be told without running it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

import scaleplug
from scaleplug import errors, policy, starts
from scaleplug.abc import StartRequest
from scaleplug.backends import process
from scaleplug.settings import IN_FILES, Config, FunctionSettings
from scaleplug.store import LEASE_SECONDS
from scaleplug.worker import holding
from tests.pages import PAGES, ROOT, Block, blocks

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
EVERY = [*PAGES, ROOT / "examples" / "README.md", ROOT / "worker_images" / "README.md"]
DOCS = {page.name for page in (ROOT / "docs").glob("*.md")}


def prose(name: str) -> str:
    """Return a page in one line, for finding sentences wherever their lines break."""
    return " ".join((ROOT / name).read_text().split())


def shown(default: object) -> str:
    """Return a default as the table of settings shows it."""
    if default is None:
        return ""
    return f"{default:.15g}" if isinstance(default, float) else str(default)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def python_blocks() -> list[tuple[str, Block]]:
    return [(page.name, block) for page in EVERY for block in blocks(page, "python")]


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}, which isn't there"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}, and {target.name} has no such heading"


def test_the_readme_leads_to_every_page():
    linked = {Path(link).name for link in LINK.findall((ROOT / "README.md").read_text()) if link.startswith("docs/")}
    assert linked >= DOCS


def test_the_readme_shows_the_example_as_it_is():
    assert blocks(ROOT / "README.md", "python")[0].text == (ROOT / "examples" / "hello.py").read_text()


@pytest.mark.parametrize(("page", "block"), python_blocks(), ids=lambda value: getattr(value, "line", value))
def test_python_blocks_are_python(page: str, block: Block):
    try:
        ast.parse(block.text)
    except SyntaxError as error:
        pytest.fail(f"{page}, line {block.line + (error.lineno or 1) - 1}: {error.msg}", pytrace=False)


def test_hardly_a_block_is_skipped():
    skipped = [f"{page}:{block.line} ({block.note})" for page, block in python_blocks() if block.skipped]
    assert len(skipped) <= 2, skipped


def test_names_of_the_package_exist():
    named = {name for page in EVERY for name in re.findall(r"(?<![\w/])scaleplug\.(\w+)", page.read_text())}
    assert {"App", "FunctionCall", "errors"} <= named
    for name in named:
        is_module = (ROOT / "scaleplug" / f"{name}.py").exists() or (ROOT / "scaleplug" / name).is_dir()
        assert is_module or hasattr(scaleplug, name), name


def test_variables_exist():
    named = {name for page in EVERY for name in re.findall(r"\bSCALEPLUG_\w+", page.read_text())}
    files = {f"{knob.variable}_FILE" for name, knob in Config.knobs().items() if name in IN_FILES}
    assert named <= {knob.variable for knob in Config.knobs().values()} | {"SCALEPLUG_REDIS_BIN"} | files


def test_the_table_of_settings_is_complete():
    text = (ROOT / "docs" / "controller.md").read_text()
    rows = re.findall(r"^\| `(SCALEPLUG_\w+)` \| (.*?) ?\| (.+) \|$", text, re.MULTILINE)
    assert rows == [(knob.variable, shown(knob.default), knob.help) for knob in Config.knobs().values()]


OLDER = ("concurrency_limit", "keep_warm", "container_idle_timeout")


def test_the_table_of_decorator_arguments_is_complete():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (ROOT / "docs" / "functions-and-apps.md").read_text(), re.MULTILINE)
    taken = set(inspect.signature(scaleplug.App.function).parameters) - {"self", "raw", *OLDER}
    assert {name for name, _ in rows} == taken
    told = {"none": None, "`timeout`": None, "`False`": False}
    for field in dataclasses.fields(FunctionSettings):
        if field.name in dict(rows):
            default = dict(rows)[field.name]
            assert (told[default] if default in told else float(default)) == field.default, field.name


def test_the_errors_exist():
    for name in re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "calling.md").read_text(), re.MULTILINE):
        assert issubclass(getattr(errors, name), errors.Error)


def test_the_limits_are_as_they_say():
    rows = re.findall(r"\| ([\d,]+) \| `(SCALEPLUG_\w+)` \|", (ROOT / "docs" / "calling.md").read_text())
    defaults = {knob.variable: knob.default for knob in Config.knobs().values()}
    assert len(rows) == 4
    assert all(int(number.replace(",", "")) == defaults[variable] for number, variable in rows)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("docs/autoscaling.md", f"done within {policy.LATENCY_TARGET:g} second"),
        ("docs/autoscaling.md", f"Up to {policy.EARLY_SPARE} spare containers"),
        ("docs/autoscaling.md", f"not before {policy.EARLY_SECONDS:g} seconds"),
        ("docs/autoscaling.md", f"at most {process.CONTAINERS_PER_CORE} containers per core"),
        ("docs/reliability.md", f"After {Config().max_attempts} attempts (`SCALEPLUG_MAX_ATTEMPTS`)"),
        ("docs/reliability.md", f"after {starts.FAILURES_BEFORE_FAILING} failed starts"),
        ("docs/reliability.md", f"`SCALEPLUG_STOP_GRACE` ({Config().stop_grace:g} s"),
        ("docs/reliability.md", f"After {Config().cancel_grace:g} s (`SCALEPLUG_CANCEL_GRACE`)"),
        ("docs/retries.md", f"`SCALEPLUG_CANCEL_GRACE` ({Config().cancel_grace:g} s)"),
        ("docs/reliability.md", f"`SCALEPLUG_CALLER_TTL` ({Config().caller_ttl:g} s)"),
        ("docs/reliability.md", f"`SCALEPLUG_RECONNECT_TIMEOUT` ({Config().reconnect_timeout:g} s)"),
        ("docs/reliability.md", f"`SCALEPLUG_FREEZE_TIMEOUT` ({Config().freeze_timeout:g} s)"),
        ("docs/reliability.md", f"`SCALEPLUG_HOST_TIMEOUT` ({Config().host_timeout:g} s)"),
        ("docs/reliability.md", f"`SCALEPLUG_RUN_GRACE` ({Config().run_grace:g} s)"),
        ("docs/controller.md", f"within {LEASE_SECONDS + 1:g} seconds"),
        ("worker_images/README.md", f"| {holding.EXIT_NO_REDIS} | Redis could not be reached"),
        ("worker_images/README.md", f"| {holding.EXIT_NOT_WANTED} | the controller had given it up"),
    ],
)
def test_numbers_are_as_they_say(page: str, sentence: str):
    assert sentence in prose(page)


def test_the_architecture_names_every_module_and_no_other():
    text, package = (ROOT / "ARCHITECTURE.md").read_text(), ROOT / "scaleplug"
    for path in package.iterdir():
        if path.suffix == ".py" and path.stem not in ("__init__", "testing_plugin", "mypy_plugin"):
            assert f"`{path.stem}`" in text, path.name
        elif path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/`" in text, path.name
    for name in re.findall(r"`([\w/]+\.(?:py|lua))`", text + (ROOT / "docs" / "internals.md").read_text()):
        assert any((package / folder / name).exists() for folder in ("", "lua")), name


def test_a_container_gets_what_the_contract_says():
    assert [field.name for field in dataclasses.fields(StartRequest)] == [
        "container",
        "app",
        "function",
        "slot",
        "version",
    ]


def test_what_is_the_same_as_elsewhere_is_there():
    """The first table of the page for those who come from Modal."""
    table = (ROOT / "docs" / "coming-from-modal.md").read_text().partition("What is a little different")[0]
    methods = re.findall(r"`\.(\w+)`", table)
    assert len(methods) > 8
    function, call = dir(scaleplug.Function), dir(scaleplug.FunctionCall)
    app = scaleplug.App("names")

    @app.function(serialized=True)
    def function_(x: int) -> int:
        return x

    known = {*dir(function_), *function, *call, "aio", "get", "iter", "num_inputs", "cancel", "object_id"}
    assert set(methods) <= known
    parameters = {*inspect.signature(scaleplug.App.function).parameters, *inspect.signature(function_._map).parameters}
    named = re.findall(r"`(\w+)`", table)
    arguments = [name for name in named if name not in ("scaleplug", "kwargs") and not hasattr(scaleplug, name)]
    assert set(arguments) <= parameters | {"concurrency_limit"}
