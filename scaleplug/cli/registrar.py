"""A short-lived process that imports users' programs and registers or deploys their functions.

So a controller, and whoever prints what was done, need not. It reads the configuration and the targets as JSON from
standard input, and writes the names of the functions, or the deployments, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from redis.exceptions import RedisError

from scaleplug.cli.program import Program, Target
from scaleplug.errors import Error, InvalidError
from scaleplug.server import mask_url
from scaleplug.settings import Config, use_config


def register_programs(targets: Sequence[str], config: Config) -> list[str]:
    """Let such a process register the functions of files and modules; return their names, or raise InvalidError."""
    names: list[str] = _ask("register", targets, config)
    return names


def deploy_programs(targets: Sequence[str], config: Config) -> list[dict[str, Any]]:
    """Let such a process deploy the apps of files and modules; return their deployments, or raise InvalidError."""
    deployments: list[dict[str, Any]] = _ask("deploy", targets, config)
    return deployments


def _ask(what: str, targets: Sequence[str], config: Config) -> Any:
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    options = {"what": what, "config": values, "targets": list(targets)}
    command = [sys.executable, "-m", "scaleplug.cli.registrar"]
    done = subprocess.run(command, input=json.dumps(options), stdout=subprocess.PIPE, text=True, check=False)
    said = done.stdout.rpartition("\n")[2]  # what the programs print while they are imported stands before it
    if done.returncode == 0:
        return json.loads(said)
    if done.returncode == 2 and said:
        raise InvalidError(said)
    raise InvalidError(f"{' '.join(targets)} can't be imported: that ended with status {done.returncode}")


def main() -> None:
    """Be that process."""
    options = json.loads(sys.stdin.read())
    use_config(Config(**options["config"]))
    made: list[Any] = []
    try:
        programs = [Program.load(Target.parse(target)) for target in options["targets"]]
        for program in programs:
            made += program.register() if options["what"] == "register" else program.deploy()
    except Error as exc:
        sys.stdout.write("\n" + " ".join(str(exc).splitlines()))
        sys.exit(2)
    except RedisError as exc:
        url = mask_url(str(options["config"]["redis_url"]))
        why = " ".join(str(exc).split())
        sys.stdout.write(f"\nRedis at {url} can't be used ({why}): start it, correct its URL or its user's rights")
        sys.exit(2)
    sys.stdout.write("\n" + json.dumps(made))


if __name__ == "__main__":
    main()
