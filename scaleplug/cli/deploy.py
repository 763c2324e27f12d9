"""``scaleplug deploy``: register apps as they are now, for a controller that runs already."""

from __future__ import annotations

import os
import time
from typing import Any

import click
from rich.console import Console

from scaleplug.cli.names import counted
from scaleplug.cli.place import Place, find_place, make_console
from scaleplug.cli.ps import settings_table
from scaleplug.cli.registrar import deploy_programs
from scaleplug.errors import Error, listed
from scaleplug.registry import Registration, registrations
from scaleplug.serializer import Keyring
from scaleplug.settings import Config

POLL_SECONDS = 0.1


class FailedError(Error):
    """A deployment has not come into force."""


@click.command()
@click.argument("programs", nargs=-1, required=True, metavar="FILE|MODULE...")
@click.option(
    "--redis-url", metavar="URL", help="The Redis that callers and containers share; else SCALEPLUG_REDIS_URL."
)
@click.option("--wait", is_flag=True, help="Wait until the new version is in force, and fail if it can't start.")
def command(programs: tuple[str, ...], redis_url: str | None, wait: bool) -> None:
    """Register the Apps of each FILE or MODULE as they are now, as a new version.

    A running controller picks it up at once. Containers of the version before finish what they run and make way when
    one of the new version is ready; a version that can't start replaces nothing. Settings changed with 'scaleplug
    scale' or update_autoscaler are the decorators' again. Functions that are gone finish their inputs and go.
    """
    config = Config.from_environ(os.environ, redis_url=redis_url)
    if config.redis_url is None:
        raise click.UsageError(
            "no Redis is configured: set SCALEPLUG_REDIS_URL, or give --redis-url redis://HOST:6379/0"
        )
    keyring = Keyring(config.secret)  # or the error that tells how to make one
    deployed = deploy_programs(programs, config)
    console = make_console()
    for deployment in deployed:
        place = find_place(deployment["redis_url"], None)
        with place.asking():
            _show(console, place, keyring, deployment)
            leader = place.leader()
            if leader is None:
                click.echo("no controller acts, so nothing starts yet: start one with 'scaleplug controller'", err=True)
            elif wait:
                wait_until_in_force(place, keyring, deployment)
                click.echo(f"version {deployment['version']} of {deployment['app']} is in force")


def _show(console: Console, place: Place, keyring: Keyring, deployment: dict[str, Any]) -> None:
    app, source = deployment["app"], deployment["source"]
    console.print(f"deployed {app}, version {deployment['version']}" + (f", from {source}" if source else ""))
    known = registrations(place.store.functions(), keyring)
    made = [known[f"{app}.{name}"] for name in deployment["functions"] if f"{app}.{name}" in known]
    console.print(settings_table({_told(r): (r.settings, ()) for r in made}))
    if deployment["gone"]:
        console.print(f"no longer there: {listed(deployment['gone'])}; what they have is still run")


def _told(registration: Registration) -> str:
    methods = [name for name in registration.callables if name]
    return registration.name + (f" (class: {listed(methods)})" if methods else "")


def wait_until_in_force(place: Place, keyring: Keyring, deployment: dict[str, Any]) -> None:
    """Return when only the new version's containers are left, and its code can be imported; raises FailedError."""
    app, version, since = deployment["app"], deployment["version"], deployment["at"]
    settled = 0
    while True:
        ours = {n: r for n, r in registrations(place.store.functions(), keyring).items() if r.app == app and r.deployed}
        for function, trouble in place.store.troubles(list(ours)).items():
            if trouble["version"] == ours[function].version and trouble["at"] >= since:
                raise FailedError(_failure(ours[function].shown, version, trouble))
        prepared, retiring = place.store.prepared(), place.store.retiring()
        current = {n: r for n, r in ours.items() if n not in retiring}
        if any(r.version != str(version) and not r.serialized and not r.base for r in current.values()):
            raise FailedError(f"another deployment of {app} came after version {version}")
        ready = all(prepared.get(n) == r.version or r.template for n, r in current.items())
        settled = settled + 1 if ready and not _moving(place, ours, current) else 0
        if settled > 1:  # a start that has just failed is told a moment later
            return
        time.sleep(POLL_SECONDS)


def _moving(place: Place, ours: dict[str, Registration], current: dict[str, Registration]) -> bool:
    """Return whether containers of older code are left, or may come back, or any are starting."""
    for function in ours:
        now = current.get(function)
        version = now.version if now else None
        records = place.store.containers(function).values()
        if any(record.get("version", "") != version or record.get("state") == "starting" for record in records):
            return True
        wanted = records or (now and now.settings.min_containers and not now.template)
        if wanted and not any("ready" in record for record in records):
            return True  # the old ones made room for one that may fail
    return False


def _failure(shown: str, version: int, trouble: dict[str, Any]) -> str:
    said = "".join(f"\n  {line}" for line in trouble["lines"][-10:])
    return f"version {version} does not start: {shown}: {trouble['reason']}{said}"


def told_trouble(shown: str, trouble: dict[str, Any], now: float) -> str:
    """Return in one line why a function's containers don't start; ``now`` is Redis's time, as that in ``trouble``."""
    lines, ago = trouble["lines"], counted(max(0, round(now - trouble["at"])), "second")
    last = f": {lines[-1].strip()}" if lines else ""
    version = f" of version {trouble['version']}" if trouble["version"] else ""
    return f"{shown}: the last start{version} failed, {ago} ago ({trouble['reason']}{last})"
