"""What a Docker container is made from: pure functions of a registration and the configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scaleplug.abc import StartRequest
from scaleplug.errors import ConfigurationError, Error
from scaleplug.registry import Registration
from scaleplug.resources import Resources
from scaleplug.settings import Config

COMMAND = ("python3", "-m", "scaleplug.worker.single")
PREFIX = "scaleplug-"
NO_TILDE = ".-."
"""Stands in names of containers for the ``~`` of a variant, which Docker doesn't take there."""
LOG_SIZE, LOG_FILES = "10m", "3"
STOP_EXTRA = 5
"""Seconds that ``docker stop`` waits longer than a container takes to put back what it runs."""
CONTAINER, STANDBY = "container", "standby"

Kind = tuple[Any, ...]
"""What containers have in common that can stand by for each other."""


def site(config: Config) -> str:
    """Return what marks the containers of one namespace on one Redis, on engines that others use too."""
    url = urlsplit(config.redis_url or "")
    where = f"{url.hostname}:{url.port or 6379}{url.path if url.path not in ('', '/') else '/0'}|{config.namespace}"
    return hashlib.sha256(where.encode()).hexdigest()[:12]


def label(config: Config) -> str:
    """Return the label that all these containers bear, and no other."""
    return f"scaleplug.site={site(config)}"


def labels(config: Config, role: str, request: StartRequest | None = None) -> dict[str, str]:
    """Return a container's labels: enough to know it again."""
    found = {"scaleplug.site": site(config), "scaleplug.namespace": config.namespace, "scaleplug.role": role}
    if request is not None:
        found |= {f"scaleplug.{f.name}": str(getattr(request, f.name)) for f in fields(StartRequest)}
    return found


def request_of(labels: Mapping[str, str]) -> StartRequest | None:
    """Return what a container was started as, ``None`` if its labels don't tell."""
    values = {f.name: labels.get(f"scaleplug.{f.name}", "") for f in fields(StartRequest)}
    slot = values.pop("slot")
    if not values["container"] or not values["function"] or not slot.isdecimal():
        return None
    return StartRequest(**values, slot=int(slot))


def engine_name(container: str) -> str:
    """Return the name that an engine knows a container by."""
    return PREFIX + container.replace("~", NO_TILDE)


def container_named(name: str) -> str:
    """Return the container of that name on an engine."""
    return name.removeprefix(PREFIX).replace(NO_TILDE, "~")


def kind_of(registration: Registration) -> Kind:
    """Return what a container of a function has in common with those that can stand by for it."""
    source, settings = registration.source, registration.settings
    version = registration.version if source.kind != "none" else ""
    return source, version, settings.green, settings.memory, settings.resources


def image_name(resources: Resources, config: Config) -> str:
    """Return the image of a function's containers; raises Error."""
    name = resources.image or config.docker_image
    if name is None:
        raise Error("no image is named for it: give image= in its decorator, or set SCALEPLUG_DOCKER_IMAGE")
    return name


def host_options(registration: Registration, config: Config) -> dict[str, Any]:
    """Return limits, mounts, network and the log's limits, as the SDK's host configuration takes them."""
    resources, memory = registration.settings.resources, registration.settings.memory
    options: dict[str, Any] = {
        "binds": binds(resources, config),
        "mounts": mounts(resources),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "log_config": {"type": "local", "config": {"max-size": LOG_SIZE, "max-file": LOG_FILES}},
    }
    if memory is not None:
        options |= {"mem_limit": memory << 20, "memswap_limit": memory << 20}
    if resources.cpu is not None:
        options["nano_cpus"] = int(resources.cpu * 1e9)
    if resources.gpu is not None:
        options["device_requests"] = [_devices(resources.gpu)]
    network = network_of(resources, config)
    if network is not None:
        options["network_mode"] = network
    return options


def network_of(resources: Resources, config: Config) -> str | None:
    """Return the network of a function's containers, ``None`` for the engine's own."""
    return resources.network or config.docker_network


def _devices(gpu: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"driver": "nvidia", "capabilities": [["gpu"]]}
    if gpu.startswith("device="):
        return asked | {"device_ids": gpu.removeprefix("device=").split(",")}
    return asked | {"count": -1 if gpu == "all" else int(gpu)}


def binds(resources: Resources, config: Config) -> list[str]:
    """Return what is mounted: what every container has, and the volumes that the function asks for."""
    common = [part.strip() for part in (config.docker_volumes or "").split(",") if part.strip()]
    for part in common:
        if part.count(":") not in (1, 2) or not part.split(":")[1].startswith("/"):
            raise ConfigurationError(
                f"SCALEPLUG_DOCKER_VOLUMES must be SOURCE:PATH or SOURCE:PATH:ro with commas between them, not {part!r}"
            )
    asked = [
        f"{what.removesuffix(':ro')}:{path}{':ro' if what.endswith(':ro') else ''}"
        for path, what in resources.volumes
        if not what.startswith("/")
    ]
    paths = {path for path, _ in resources.volumes}
    return [part for part in common if part.split(":")[1].rstrip("/") not in paths] + asked


def mounts(resources: Resources) -> list[dict[str, Any]]:
    """Return the host's folders that the function asks for: so mounted, one that is missing is told, and not made."""
    return [
        {"Type": "bind", "Source": what.removesuffix(":ro"), "Target": path, "ReadOnly": what.endswith(":ro")}
        for path, what in resources.volumes
        if what.startswith("/")
    ]


def secrets_of(resources: Resources, folder: Path) -> dict[str, str]:
    """Read the files that a function's secrets name, now; raises Error that names the one that can't be read."""
    found = {}
    for secret in resources.secrets:
        variable, _, file = secret.partition("=")
        path = folder / (file or variable)
        try:
            found[variable] = path.read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is no text"
            raise Error(
                f"the secret {variable} can't be read from {path} where the controller runs ({why}): put it there, or "
                "set SCALEPLUG_SECRETS_FOLDER"
            ) from None
    return found


def containers_config(config: Config) -> dict[str, Any]:
    """Return the configuration of containers, as plain values."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return values | {"redis_url": config.container_redis_url or config.redis_url}


def first_line(registrations: Iterable[Registration], config: Config, order: bytes | None) -> bytes:
    """Return what a container reads first; ``order`` makes it a container at once, without one it stands by."""
    known = list(registrations)
    source, settings = known[0].source, known[0].settings
    told: dict[str, Any] = {
        "config": containers_config(config),
        "secrets": secrets_of(settings.resources, Path(config.secrets_folder)),
        "source": [source.kind, source.where, source.folder],
        "green": settings.green,
        "registrations": [] if order is not None else [registration.to_dict() for registration in known],
        "order": None if order is None else json.loads(order),
    }
    return json.dumps(told).encode() + b"\n"


def order(request: StartRequest, registration: Registration) -> bytes:
    """Return the line that makes a container of one that stands by."""
    return json.dumps({"container": asdict(request), "registration": registration.to_dict()}).encode() + b"\n"


def loopback(url: str | None) -> bool:
    """Return whether a URL leads to the machine it is used on."""
    host = urlsplit(url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
