"""What a container is made of where that is more than a process: image, limits, environment, volumes, network."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from scaleplug.errors import InvalidError

logger = logging.getLogger("scaleplug")

Pairs = tuple[tuple[str, str], ...]
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(=(?!\.{1,2}$)[A-Za-z0-9_.-]+)?")
VOLUME = re.compile(r"(/.*|[A-Za-z0-9][A-Za-z0-9_.-]+)")
IMAGE = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/)?"  # the registry
    r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[A-Za-z0-9]+:[0-9a-f]{32,})?"
)
NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
DEVICES = re.compile(r"all|[1-9][0-9]*|device=[A-Za-z0-9_.:/-]+(,[A-Za-z0-9_.:/-]+)*")
RESERVED = "SCALEPLUG_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one function's containers are made of; the process backend gives them what its host has."""

    image: str | None = None
    cpu: float | None = None
    """Cores that a container may use."""
    gpu: str | None = None
    """A number of devices, ``all``, or ``device=ID,ID``."""
    env: Pairs = ()
    secrets: tuple[str, ...] = ()
    """Names of files in the controller's folder of secrets; ``NAME`` or ``VARIABLE=FILE``."""
    volumes: Pairs = ()
    """What is mounted, by the path in the container: a volume's name or a folder of the host, ``:ro`` after it."""
    network: str | None = None

    def __post_init__(self) -> None:
        _check_text("image", self.image, IMAGE, "the name of a container image, such as 'shop:12'")
        _check_text("network", self.network, NETWORK, "the name of a network of the container engine, or 'host'")
        if self.network == "none":
            raise InvalidError("network must be one on which containers reach Redis, not 'none'")
        # object.__setattr__: the dataclass is frozen, and what people write is made uniform here, once
        object.__setattr__(self, "cpu", _cpu(self.cpu))
        object.__setattr__(self, "gpu", _gpu(self.gpu))
        object.__setattr__(self, "env", _env(self.env))
        object.__setattr__(self, "secrets", _secrets(self.secrets))
        object.__setattr__(self, "volumes", _volumes(self.volumes))
        _check_variables(self.env, self.secrets)

    def __bool__(self) -> bool:
        return self != NO_RESOURCES

    @property
    def given(self) -> dict[str, Any]:
        """Those that differ from the defaults, by name."""
        return {k: v for k, v in asdict(self).items() if v not in (None, ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Resources:
        """Return what ``dataclasses.asdict`` gave; fields this version doesn't know are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})


def as_resources(value: object) -> Resources:
    """Return resources from themselves, or from what was stored of them."""
    if isinstance(value, Resources):
        return value
    if isinstance(value, Mapping):
        return Resources.from_dict(value)
    raise InvalidError(f"resources must be scaleplug's own Resources, not {value!r}")


def as_given(**options: Any) -> Resources | None:
    """Return resources as a decorator was given them, ``None`` for none of them; raises InvalidError."""
    return Resources(**given) if (given := {k: v for k, v in options.items() if v is not None}) else None


def _check_text(name: str, value: object, pattern: re.Pattern[str], what: str) -> None:
    if value is not None and (not isinstance(value, str) or not pattern.fullmatch(value)):
        raise InvalidError(f"{name} must be {what}, not {value!r}")


def _check_variables(env: Pairs, secrets: tuple[str, ...]) -> None:
    """Let each variable have one value."""
    names = [name for name, _ in env] + [secret.partition("=")[0] for secret in secrets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidError(f"env and secrets set the variable {twice} twice: name each only once")


def _cpu(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value < math.inf:
        raise InvalidError(f"cpu must be a number of cores from 0.01 on, such as 0.5 or 2, not {value!r}")
    return float(value)


def _gpu(value: object) -> str | None:
    if value is None:
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not DEVICES.fullmatch(text):
        raise InvalidError(f"gpu must be a number of devices from 1 on, 'all' or 'device=ID,ID', not {value!r}")
    return text


def _env(value: object) -> Pairs:
    found = _pairs("env", value, "{'NAME': 'value'}")
    for name, text in found:
        if not VARIABLE.fullmatch(name) or "\0" in text:
            raise InvalidError(f"env names a variable {name!r}: use letters, digits and '_', and text without zeros")
        if text != text.encode(errors="replace").decode():
            raise InvalidError(f"env sets {name} to {text!r}: use text that is valid UTF-8")
        if name.startswith(RESERVED):
            raise InvalidError(f"env sets {name}: containers get every {RESERVED}* variable from their controller")
    return found


def _volumes(value: object) -> Pairs:
    found = _pairs("volumes", value, "{'/path/in/container': 'volume or /folder'}")
    found = tuple(("/" + path.strip("/") if path.startswith("/") else path, what) for path, what in found)
    for path, what in found:
        if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or ":" in path or path == "/":
            raise InvalidError(f"volumes mounts at {path!r}: use an absolute path in the container, such as '/data'")
        if not VOLUME.fullmatch(what.removesuffix(":ro")) or ":" in what.removesuffix(":ro"):
            raise InvalidError(
                f"volumes mounts {what!r} at {path}: use a volume's name or an absolute folder of the host, "
                "with ':ro' after it where it is only read"
            )
        if [each for each, _ in found].count(path) > 1:
            raise InvalidError(f"volumes mounts at {path!r} twice: name each path only once")
    return found


def _pairs(name: str, value: object, example: str) -> Pairs:
    pairs: Iterable[Any] = (
        value.items() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    read = tuple(tuple(pair) for pair in pairs if isinstance(pair, list | tuple))
    plain = isinstance(value, Mapping | list | tuple) and len(read) == len(value)
    if not plain or any(len(p) != 2 or not all(isinstance(each, str) for each in p) for p in read):
        raise InvalidError(f"{name} must be a dict of strings such as {example}, not {value!r}")
    return tuple(sorted((key, text) for key, text in read))


def _secrets(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise InvalidError(f"secrets must be a list of names such as ['DB_PASSWORD'], not {value!r}")
    for name in value:
        if not SECRET.fullmatch(name) or name.startswith(RESERVED):
            raise InvalidError(
                f"secrets names {name!r}: use 'NAME' for the file NAME of the controller's folder of secrets, which "
                "becomes the variable NAME, or 'NAME=FILE'"
            )
    return tuple(value)


NO_RESOURCES = Resources()


class Ignored:
    """Tells of each resource once that it has no effect where containers are no containers of an engine."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._told: set[str] = set()

    def tell(self, function: str, resources: Resources) -> None:
        """Tell of those of a function that were not told before."""
        news = [name for name in resources.given if name not in self._told]
        if news:
            self._told.update(news)
            names = " and ".join(f"{name}=" for name in news)
            logger.warning("%s of %s, and wherever else, has no effect %s", names, function, self.where)
