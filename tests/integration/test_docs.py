"""The code in the documentation runs, and prints what it says."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from scaleplug.embedded import EmbeddedRedis, find_server
from scaleplug.errors import ConfigurationError
from scaleplug.server import check_server, connect
from scaleplug.settings import Config
from tests.commands import SECRET, environment, python, scaleplug, told
from tests.helpers import wait_until
from tests.pages import ENTRYPOINT, PAGES, ROOT, blocks, first_broken, promises, scripts, shown_tests

URL = "redis://localhost:6379/0"  # in the pages
PLUGIN = "scaleplug.testing_plugin"
PLAIN = "controller.md"  # its code runs in a process of its own, beside a controller
WITH_CODE = [page for page in PAGES if any(not block.skipped for block in blocks(page, "python"))]
RUN = [page for page in WITH_CODE if page.name != PLAIN and not shown_tests(page)]


@pytest.fixture(scope="module")
def shared_redis(redis_server: EmbeddedRedis) -> Iterator[str]:
    """Start a Redis from the sample configuration, with the user that it shows; return its URL."""
    if not Path(find_server({}).path).name.startswith("redis"):
        pytest.skip("the sample is for Redis itself")
    text = (ROOT / "config" / "redis.conf").read_text()
    (user,) = re.findall(r"^#\s+user scaleplug on #HASH (.+)$", text, re.MULTILINE)
    kept = re.findall(r"^(maxmemory-policy|appendonly|appendfsync|maxclients) (.+)$", text, re.MULTILINE)
    options = {**dict(kept), "user": f"scaleplug on #{hashlib.sha256(SECRET.encode()).hexdigest()} {user}"}
    with EmbeddedRedis(tcp=True, options=options) as server:
        place = server.url.partition("@")[2]
        yield f"redis://scaleplug:{SECRET.replace(' ', '%20')}@{place}"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_s_code_runs(page: Path, tmp_path: Path, request: pytest.FixtureRequest):
    printed = ""
    for number, text in enumerate(scripts(page)):
        if URL in text:
            text = text.replace(URL, request.getfixturevalue("shared_redis"))  # noqa: PLW2901
        file = tmp_path / f"{page.stem.lower().replace('-', '_')}_{number}.py"
        file.write_text(text)
        done = scaleplug("run", f"{file}::{ENTRYPOINT}", cwd=tmp_path)
        assert done.returncode == 0, told(done)
        printed += done.stdout
    broken = first_broken(promises(page), printed)
    assert broken is None, f"{page.name} promises {broken!r}\n{printed}"


@pytest.mark.parametrize("page", [page for page in WITH_CODE if shown_tests(page)], ids=lambda page: page.name)
def test_the_tests_in_a_page_pass(page: Path, tmp_path: Path):
    (tmp_path / "test_page.py").write_text(shown_tests(page))
    options = ["-q", "-p", "no:cacheprovider"]
    if not any(point.value == PLUGIN for point in metadata.entry_points(group="pytest11")):
        options += ["-p", PLUGIN]  # this checkout was installed before it was an entry point
    done = python("-m", "pytest", *options, "test_page.py", cwd=tmp_path)
    assert done.returncode == 0, told(done)


def test_the_controller_page_s_code_runs_beside_a_controller(tmp_path: Path, shared_redis: str):
    page = ROOT / "docs" / PLAIN
    (block,) = blocks(page, "python")
    (tmp_path / "shop.py").write_text(block.text)
    (command,) = [line for line in shell_lines(page) if line.startswith("scaleplug controller")]
    environ = {"SCALEPLUG_REDIS_URL": shared_redis, "SCALEPLUG_SECRET": SECRET, "SCALEPLUG_NAMESPACE": "page"}
    arguments = [sys.executable, "-m", "scaleplug.cli.main", *command.split()[1:]]
    with (tmp_path / "log").open("wb") as log:
        controller = subprocess.Popen(arguments, cwd=tmp_path, env=environment(**environ), stderr=log)
    try:
        wait_until(lambda: controller.poll() is not None or b"ready" in (tmp_path / "log").read_bytes(), 30)
        done = python("shop.py", cwd=tmp_path, **environ)
        assert done.returncode == 0, told(done)
        assert first_broken(promises(page), done.stdout) is None, done.stdout
        shown = scaleplug("ps", cwd=tmp_path, **environ)
        assert "shop.resize" in shown.stdout, told(shown)
    finally:
        controller.send_signal(signal.SIGTERM)
        status = controller.wait(30)
    assert status == 0, (tmp_path / "log").read_text()


def test_commands_in_the_pages_exist():
    pages = [*PAGES, ROOT / "examples" / "README.md"]
    lines = {line for page in pages for line in shell_lines(page)}
    used: dict[str, set[str]] = {}
    for line in lines:
        name, _, rest = line.partition("scaleplug ")[2].partition(" ")
        # Options behind a file are the entrypoint's.
        used.setdefault(name, set()).update(re.findall(r"(?<!\S)--?[a-z][\w-]*", re.split(r"\.py|\n", rest)[0]))
    assert {"run", "controller", "deploy", "stop", "apps", "scale", "ps", "why", "logs"} <= used.keys()
    for name, options in used.items():
        done = scaleplug(name, "--help", cwd=ROOT)
        assert done.returncode == 0, told(done)
        missing = {option for option in options if not re.search(rf"(?<!\S){option}\b", done.stdout)}
        assert not missing, f"scaleplug {name} has no {missing}"


def test_targets_of_make_exist():
    made = {name for page in PAGES for name in re.findall(r"^ +make ([a-z]+)", page.read_text(), re.MULTILINE)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= made <= targets


def test_the_sample_redis_has_nothing_to_warn_of(shared_redis: str):
    with contextlib.closing(connect(shared_redis)) as client:
        assert check_server(client, config=Config()) == []


def test_the_sample_redis_starts_as_it_is(tmp_path: Path):
    """The whole file; only the port gives way to a socket."""
    try:
        program = find_server({}).path
    except ConfigurationError as error:
        pytest.skip(str(error))
    text = (ROOT / "config" / "redis.conf").read_text()
    (tmp_path / "redis.conf").write_text(text.replace("port 6379", f"port 0\nunixsocket {tmp_path}/redis.sock"))
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([program, "redis.conf"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_until(lambda: server.poll() is not None or (tmp_path / "redis.sock").exists(), 10)
        with contextlib.closing(connect(f"unix://{tmp_path}/redis.sock")) as client:
            assert check_server(client, config=Config()) == []
    finally:
        server.terminate()
        server.wait(10)


def test_the_compose_file_makes_a_configuration_that_redis_takes(tmp_path: Path):
    """Its shell lines, with the container's paths replaced by this test's."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server")
    text = (ROOT / "docker-compose.yml").read_text()
    (lines,) = re.findall(r"^      - \|\n((?:        .*\n)+)", text, re.MULTILINE)
    (tmp_path / "password").write_text(SECRET)
    replaced = (
        ("$$", "$"),
        ("/etc/redis/redis.conf", str(ROOT / "config" / "redis.conf")),
        ("/run/secrets/redis_password", "password"),
        ("/tmp/redis.conf", "made.conf"),
        ("dir /data", f"dir {tmp_path}"),
        ("bind * -::*", f"port 0\nunixsocket {tmp_path}/redis.sock"),
    )
    for old, new in replaced:
        assert old in lines
        lines = lines.replace(old, new)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["sh", "-euc", lines], cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_until(lambda: server.poll() is not None or (tmp_path / "redis.sock").exists(), 10)
        with contextlib.closing(connect(f"unix://:{SECRET.replace(' ', '%20')}@{tmp_path}/redis.sock")) as client:
            assert check_server(client, config=Config()) == []
        assert (tmp_path / "made.conf").stat().st_mode & 0o077 == 0
    finally:
        server.terminate()
        server.wait(10)


def shell_lines(page: Path) -> list[str]:
    """Return the lines of a page that call scaleplug, of its blocks without a language and of its indented ones."""
    fenced = [line for block in blocks(page, "") for line in block.text.splitlines()]
    indented = re.findall(r"^    (\S.*)$", page.read_text(), re.MULTILINE)
    commands = (re.sub(r"\s+#.*", "", line).strip() for line in [*fenced, *indented])
    return [command for command in commands if re.match(r"([A-Z_]+=\S+ )*scaleplug [a-z]", command)]
