"""The base of the images that tests build: a Debian with the tests' Python, made here since none can be pulled."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BASE_IMAGE = "scaleplug-test-base"
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""The Debian that has this Python: pickled functions want the same minor version on both sides."""
PACKAGES = ("ca-certificates", "python3", "python3-venv", "redis-server")
MIRROR = "http://deb.debian.org/debian"
LEFT_OUT = [
    f"{folder}/*" for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man")
]


def cache() -> Path:
    """Return the folder for what takes long to make, shared by all checkouts of a user."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scaleplug-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base_archive() -> Path:
    """Return the file system of the base image as an archive; the first time it takes most of a minute."""
    suite = SUITES.get(sys.version_info[:2])
    if suite is None:
        known = " or ".join(f"{major}.{minor}" for major, minor in SUITES)
        problem = f"the tests' images have Debian's Python, {known}: run the tests with one of these"
        pytest.fail(problem) if os.environ.get("CI") else pytest.skip(problem)
    made_of = hashlib.sha256(repr((suite, PACKAGES, LEFT_OUT)).encode()).hexdigest()[:12]
    archive = cache() / f"base-{suite}-{made_of}.tar.gz"
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once make it once
        if not archive.exists():
            with tempfile.TemporaryDirectory(prefix="scaleplug-base-") as folder:
                _make(suite, Path(folder), archive)
    return archive


def _make(suite: str, folder: Path, archive: Path) -> None:
    root, log = folder / "root", folder / "log"
    wanted = f"--include={','.join(PACKAGES)}"
    with log.open("wb") as out:
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", wanted, suite, str(root), _mirror(suite)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=300, check=False,
        )  # fmt: skip
    if done.returncode:
        pytest.fail(f"debootstrap ended with {done.returncode}\n{log.read_text()[-3000:]}")
    unfinished = archive.with_suffix(f".{os.getpid()}")
    subprocess.run(
        ["tar", "--use-compress-program=gzip -1", f"--directory={root}", "--create", f"--file={unfinished}"]
        + [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
        + ["."],
        check=True,
    )
    unfinished.replace(archive)


def _mirror(suite: str) -> str:
    """Return where this machine's apt has the suite from, else Debian's own mirror."""
    asked = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    lines = [line.split() for line in told.splitlines()]
    return next((line[1] for line in lines if len(line) == 2 and line[0] == suite), MIRROR)
