"""A short-lived process that imports users' programs and registers their functions, so that a controller need not.

It reads the configuration and the targets as JSON from standard input, and writes the names of the functions as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields

from scaleplug.cli.program import Program, Target
from scaleplug.errors import Error, InvalidError
from scaleplug.settings import Config, use_config


def register_programs(targets: Sequence[str], config: Config) -> list[str]:
    """Let such a process register the functions of files and modules; return their names, or raise InvalidError."""
    options = {"config": {f.name: getattr(config, f.name) for f in fields(config)}, "targets": list(targets)}
    command = [sys.executable, "-m", "scaleplug.cli.registrar"]
    done = subprocess.run(command, input=json.dumps(options), stdout=subprocess.PIPE, text=True, check=False)
    said = done.stdout.rpartition("\n")[2]  # what the programs print while they are imported stands before it
    if done.returncode == 0:
        names: list[str] = json.loads(said)
        return names
    if done.returncode == 2 and said:
        raise InvalidError(said)
    raise InvalidError(f"{' '.join(targets)} can't be registered: importing ended with status {done.returncode}")


def main() -> None:
    """Be that process."""
    options = json.loads(sys.stdin.read())
    use_config(Config(**options["config"]))
    names: list[str] = []
    try:
        programs = [Program.load(Target.parse(target)) for target in options["targets"]]
        for program in programs:
            names += program.register()
    except Error as exc:
        sys.stdout.write("\n" + " ".join(str(exc).splitlines()))
        sys.exit(2)
    sys.stdout.write("\n" + json.dumps(names))


if __name__ == "__main__":
    main()
