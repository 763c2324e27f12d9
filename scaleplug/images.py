"""Images with a user's code and what it requires, built on a worker image by a Docker engine."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleplug.errors import ConfigurationError, Error, InvalidError, NotFoundError

try:
    import docker
    import requests
    from docker.errors import APIError, DockerException, ImageNotFound
    from docker.utils.build import exclude_paths
except ImportError as missing:
    raise ConfigurationError("building images needs the docker SDK: pip install 'scaleplug[docker]'") from missing

DOCKERFILE = """\
FROM {base} AS requirements
{arguments}
USER root
COPY .scaleplug/requirements.txt /tmp/requirements/
RUN scaleplug-install /tmp/requirements

FROM {base}
COPY --from=requirements /opt/app /opt/app
COPY app/ /app/
{paths}
"""
"""Two stages: the build's arguments, which may hold a password, are in no layer of the image."""
LEFT_OUT = (
    ".git", ".hg", ".svn", ".venv", "venv", "**/node_modules", "**/__pycache__", "**/*.py[co]",
    ".env", ".env.*", "**/.pytest_cache", "**/.mypy_cache", "**/.ruff_cache",
)  # fmt: skip
"""What no image needs, and must not have in the case of ``.env``; a project's .dockerignore names more."""
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_FIND_LINKS", "PIP_NO_INDEX")
TAG = re.compile(r"[a-z0-9]+(?:[._/:-]+[A-Za-z0-9]+)*(?::[A-Za-z0-9_.-]+)?")
TOLD_LINES = 25
CREATED = 0
"""The time of all files in the context: a build then finds in its cache what it has built before."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an image is made of: files by their path below /app, and the lines of a requirements.txt."""

    name: str
    files: Mapping[str, Path]
    requirements: str
    paths: Sequence[str] = ("/app",)
    """Folders that modules are imported from."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an image is built."""

    tag: str
    base: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Of the build: pip's variables, above all."""
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """An image as it was built; ``added`` is how many bytes it has on top of its base."""

    tag: str
    id: str
    size: int
    added: int


def plan(path: Path) -> Plan:
    """Return what the image of a file or a project's folder is made of; raises Error with the way out."""
    path = path.absolute()
    if path.is_dir():
        files, folder = _files(path), path
        if not any(name.endswith(".py") for name in files):
            raise NotFoundError(f"there is no Python file in {path} (or its .dockerignore leaves them out)")
    elif path.is_file() and path.suffix == ".py":
        files, folder = {path.name: path}, path.parent
    elif path.exists():
        raise InvalidError(f"{path.name} is neither a Python file nor a folder: name the one with your App")
    else:
        raise NotFoundError(f"there is no file and no folder {path}")
    name = re.sub(r"[^a-z0-9]+", "-", (path.stem if path.is_file() else path.name).lower()).strip("-") or "app"
    sources = ("/app/src", "/app") if any(file.startswith("src/") for file in files) else ("/app",)
    return Plan(name=name, files=files, requirements=_requirements(folder), paths=sources)


def _files(folder: Path) -> dict[str, Path]:
    ignored = list(LEFT_OUT)
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / ".dockerignore").read_text().splitlines()
        ignored += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    found = sorted(exclude_paths(str(folder), ignored))
    return {name: folder / name for name in found if name != ".dockerignore" and (folder / name).is_file()}


def _requirements(folder: Path) -> str:
    """Return what a folder's requirements.txt says, else the dependencies in its pyproject.toml."""
    listed = folder / "requirements.txt"
    if listed.is_file():
        text = listed.read_text()
        beside = re.search(
            r"^\s*(?:-r|-c|--requirement|--constraint|-e|--editable)\b.*|^\s*\.{1,2}(?:/.*)?$", text, re.MULTILINE
        )
        if beside:
            raise InvalidError(
                f"{listed} says {beside[0].strip()!r}, and other files aren't there when the image installs it: "
                "write what it needs into this one file (pip freeze, uv pip compile)"
            )
        return text
    project = folder / "pyproject.toml"
    if not project.is_file():
        return ""
    try:
        table = tomllib.loads(project.read_text()).get("project", {})
    except tomllib.TOMLDecodeError as exc:
        raise InvalidError(f"{project} is no valid TOML: {exc}") from None
    if "dependencies" in table.get("dynamic", ()):
        raise InvalidError(
            f"{project} has its dependencies from elsewhere (dynamic): write a requirements.txt beside it"
        )
    return "".join(f"{line}\n" for line in table.get("dependencies", ()))


def build(made_of: Plan, options: Options) -> Iterator[str | Built]:
    """Build an image: yield the lines that the engine tells, at the end the image; raises Error with the way out."""
    if not TAG.fullmatch(options.tag):
        raise InvalidError(f"--tag {options.tag!r} is no name of an image: write NAME or NAME:TAG in small letters")
    with _engine() as client:
        try:
            base = client.images.get(options.base)
        except ImageNotFound:
            raise NotFoundError(
                f"the engine has no image {options.base}: name one that it has with --base, or build the worker "
                f"image in a checkout: docker build --file worker_images/base/Dockerfile --tag {options.base} ."
            ) from None
        yield from _lines(client, _context(made_of, options), options)
        image = client.images.get(options.tag)
        size = int(image.attrs["Size"])
        yield Built(options.tag, str(image.short_id).removeprefix("sha256:"), size, size - int(base.attrs["Size"]))


@contextlib.contextmanager
def _engine() -> Iterator[Any]:
    try:
        with contextlib.closing(docker.from_env()) as client:
            yield client
    except APIError as exc:
        raise Error(f"the Docker engine refused: {exc.explanation}") from None
    except (DockerException, requests.RequestException) as exc:
        where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise ConfigurationError(
            f"no Docker engine answers at {where}: start one, or name it in DOCKER_HOST. It said: {exc}"
        ) from None


def _lines(client: Any, context: io.BytesIO, options: Options) -> Iterator[str]:
    told: list[str] = []
    for event in client.api.build(
        fileobj=context, custom_context=True, tag=options.tag, buildargs=dict(options.arguments),
        network_mode=options.network, rm=True, forcerm=True, decode=True,
    ):  # fmt: skip
        if "error" in event:
            last = "\n".join(f"  {line}" for line in told[-TOLD_LINES:])
            raise Error(f"the image could not be built: {event['error'].strip()}. Its last lines were:\n{last}")
        for line in event.get("stream", "").splitlines():
            if line.strip():
                told.append(line)
                yield line


def _context(made_of: Plan, options: Options) -> io.BytesIO:
    """Return what is sent to the engine, packed."""
    arguments = [f"ARG {name}" for name in dict.fromkeys([*PIP_VARIABLES, *options.arguments])]
    dockerfile = DOCKERFILE.format(
        base=options.base,
        arguments="\n".join(arguments),
        paths=f"ENV PYTHONPATH={':'.join(made_of.paths)}:/opt/app/packages",
    )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in (("Dockerfile", dockerfile), (".scaleplug/requirements.txt", made_of.requirements)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text.encode()), CREATED
            archive.addfile(entry, io.BytesIO(text.encode()))
        for name, path in made_of.files.items():
            archive.add(path, f"app/{name}", recursive=False, filter=_plain)
    packed.seek(0)
    return packed


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a file as the container's user may read it, whoever owns it here."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    entry.mtime = CREATED
    return entry
