"""One ``scaleplug run``: the user's program, what is started around it, and what is shown meanwhile."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, replace

import click

from scaleplug.cli.display import QuietDisplay, make_display
from scaleplug.cli.feed import LogFeed, NoteFeed
from scaleplug.cli.interrupts import Interrupts
from scaleplug.cli.names import Labels
from scaleplug.cli.program import Program, Target
from scaleplug.cli.tracebacks import show_exception
from scaleplug.entrypoint import LocalEntrypoint
from scaleplug.keys import Keys
from scaleplug.runtime import Run
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.settings import Config
from scaleplug.store import Store, require_url

KILL_SECONDS = 3.0
"""How long ending everything at once may take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job has ended: the exit code, and what it failed with."""

    code: int
    failure: BaseException | None = None


class _Notes(logging.Handler):
    """Shows scaleplug's own warnings, unless the job has set up logging."""

    def __init__(self, display: QuietDisplay, level: int) -> None:
        super().__init__(level)
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.root.handlers:
            self.display.note(f"scaleplug: {record.getMessage()}")


class Job:
    """One run of a program."""

    def __init__(self, target: Target, arguments: list[str], config: Config, *, quiet: bool) -> None:
        self.target, self.arguments, self.quiet = target, arguments, quiet
        self.log_level = logging.ERROR if quiet else logging.WARNING
        self.display = make_display(quiet=quiet)
        self.notes = NoteFeed(self.display.note)
        self.logs: LogFeed | None = None
        self.surroundings = self._around(config)
        self.interrupts = Interrupts(self._say_stopping, self._end_at_once)

    def run(self) -> int:
        """Do everything from start to end; return the exit code."""
        handler = _Notes(self.display, self.log_level)
        logger = logging.getLogger("scaleplug")
        logger.addHandler(handler)
        try:
            with self.interrupts, self.display:
                outcome = self._run()
        finally:
            logger.removeHandler(handler)
        if isinstance(outcome.failure, click.ClickException):
            outcome.failure.show()
        elif outcome.failure is not None:
            show_exception(outcome.failure)
        return outcome.code

    def _run(self) -> Outcome:
        interrupted = False
        try:
            return self._invoke(self._start())
        except KeyboardInterrupt:
            interrupted = True
            return Outcome(self.interrupts.exit_code)
        finally:
            self.interrupts.ending(interrupted=interrupted)
            self.display.poll(anyway=True)  # while the containers are there
            self.surroundings.stop(self._drain)

    # -- start -----------------------------------------------------------------------------------------------------

    def _around(self, config: Config) -> Run:
        return Run(config, self.target.where, stderr=self.notes.writer, log_level=self.log_level)

    def _start(self) -> click.Context:
        """Start what is around the program, import it, read its options."""
        self.surroundings.start()
        program = Program.load(self.target)
        own_url = program.redis_url()
        if own_url is not None and own_url != self.surroundings.config.redis_url:
            self.surroundings.stop()
            self.surroundings = self._around(replace(self.surroundings.asked, redis_url=own_url))
            self.surroundings.start()
        context = make_context(program, self.target, self.arguments)
        program.register()
        self._begin()
        return context

    def _begin(self) -> None:
        config = self.surroundings.config
        name = f"scaleplug-display-{os.getpid()}"
        client = connect(require_url(config.redis_url), name=name, timeout=4.0, connect_timeout=2.0, retry=False)
        store = Store(client, Keys(config.namespace))
        if not self.quiet:
            self.logs = LogFeed(store, self.display.output, self.display.note)
            self.logs.start()
        self.display.use_labels(Labels(store, Keyring(config.secret)))
        self.display.begin(store.census, store.quiet)

    # -- the job ---------------------------------------------------------------------------------------------------

    def _invoke(self, context: click.Context) -> Outcome:
        try:
            with context:
                result = context.command.invoke(context)
                if result is not None and not isinstance(context.command.callback, LocalEntrypoint):
                    click.echo(str(result))
        except SystemExit as exc:
            return _left(exc)
        except click.exceptions.Exit as exc:
            return Outcome(exc.exit_code)
        except KeyboardInterrupt:
            raise
        except click.ClickException as exc:
            return Outcome(exc.exit_code, exc)
        except BaseException as exc:  # noqa: BLE001  # as below
            if self.interrupts.heard and _is_interrupt(exc):
                raise KeyboardInterrupt from None
            return Outcome(1, exc)  # the job's own, to be shown when all has been stopped
        return Outcome(0)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Show what is still on its way: the containers and the controller have ended, Redis is still there."""
        self.notes.finish()
        if self.logs is not None:
            self.logs.finish()
        self.display.end()

    def _say_stopping(self) -> None:
        self.display.stopping("scaleplug: stopping in good order; once more stops at once")

    def _end_at_once(self) -> None:
        code = self.interrupts.exit_code
        threading.Timer(KILL_SECONDS, os._exit, [code]).start()
        self.surroundings.kill()
        self.display.__exit__()
        os._exit(code)


def make_context(program: Program, target: Target, arguments: list[str]) -> click.Context:
    """Return the context of what is to be started, its options read; raises click.UsageError."""
    name = f"{target.where}::{target.name}" if target.name else target.where
    command = program.command(target.name)
    try:
        return command.make_context(f"scaleplug run {name}", arguments)
    except click.NoSuchOption as exc:
        if exc.option_name in ("-q", "--quiet"):
            hint = f"scaleplug's own options come first: scaleplug run {exc.option_name} {name}"
            raise click.UsageError(f"{exc.message.rstrip('.')}: {hint}", exc.ctx) from None
        raise


def _is_interrupt(exc: BaseException) -> bool:
    """Return whether an exception only wraps Ctrl-C, as Python does where that comes while a class is made."""
    cause = exc.__cause__
    return isinstance(exc, KeyboardInterrupt) or (cause is not None and _is_interrupt(cause))


def _left(exc: SystemExit) -> Outcome:
    """Return the outcome of a job that has called ``sys.exit``."""
    if exc.code is None or isinstance(exc.code, int):
        return Outcome(exc.code or 0)
    return Outcome(1, click.ClickException(str(exc.code)))
