"""``scaleplug run``: a file's entrypoint, with everything it needs started around it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from scaleplug.settings import Config


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("target", metavar="FILE[::ENTRYPOINT]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--quiet", "-q", is_flag=True, help="Show nothing but what the job prints.")
def run(target: str, arguments: tuple[str, ...], quiet: bool) -> None:
    """Run a local entrypoint of FILE."""
    from scaleplug.runtime import Run

    file, _, wanted = target.partition("::")
    surroundings = Run(Config.from_environ(os.environ), title=file)
    try:
        surroundings.start()
        _run_entrypoint(Path(file).resolve(), wanted, list(arguments))
    finally:
        surroundings.stop()


def _run_entrypoint(path: Path, wanted: str, arguments: list[str]) -> Any:
    from scaleplug.app import App
    from scaleplug.registry import Source, load_file

    module = load_file(path)
    apps = [value for value in vars(module).values() if isinstance(value, App)]
    for app in apps:
        app.set_source(Source("file", str(path)))
        caller: Any = app.caller()
        app.register(caller.store, caller.keyring)
    entrypoints = {n: e for app in apps for n, e in app.entrypoints.items()}
    entrypoint = entrypoints[wanted] if wanted else next(iter(entrypoints.values()))
    return entrypoint.command().main(arguments, prog_name=f"scaleplug run {path.name}", standalone_mode=False)
