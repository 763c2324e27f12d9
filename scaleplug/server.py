"""The Redis server: its URLs, the clients made for it, and the check before it is relied on."""

from __future__ import annotations

import functools
import re
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import redis
from redis import DriverInfo
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry
from redis.utils import HIREDIS_AVAILABLE

from scaleplug.errors import ConfigurationError, ServerError
from scaleplug.links import Links, Packer
from scaleplug.settings import Config
from scaleplug.silence import Trying

MINIMUM_VERSION = (6, 2)
SCHEMES = ("redis", "rediss", "unix", "redis+socket")
CLIENTS_PER_CONTAINER = 3
OTHER_CLIENTS = 64  # callers, controllers, dashboards
CLOCK_TOLERANCE = 5.0  # seconds
RETRIES = 3
NO_EVICTION = (
    "run 'redis-cli CONFIG SET maxmemory-policy noeviction', and write maxmemory-policy noeviction into its redis.conf"
)
ANSWER_SECONDS = 6.0
"""How long a command may take. A connection that died without a word costs as much, so everything goes on in 10 s."""
DRIVER_INFO = DriverInfo()  # redis-py would read its package's metadata anew for every connection
# Celery's users write CERT_REQUIRED into a URL, redis-py asks for required
CERT_REQS = {"CERT_NONE": "none", "CERT_OPTIONAL": "optional", "CERT_REQUIRED": "required"}


def mask_url(url: str) -> str:
    """Return ``url`` fit for people and logs: each password in it is ``***``.

    Works on broken URLs too, where it would rather hide too much: a password may hold ``/``, ``?`` or ``@`` unquoted.
    """
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    address, query_mark, query = rest.partition("?")
    if "@" in query:
        address, query_mark, query = rest, "", ""
    userinfo, at, place = address.rpartition("@")
    if at:
        user, colon, _ = userinfo.partition(":")
        # without a colon it is a user's name by the book, and a misplaced password in practice
        address = f"{user}:***@{place}" if colon else f"***@{place}"
    masked = re.sub(r"((?:^|&)[^=&]*password=)[^&]*", r"\1***", query)
    return f"{scheme}{mark}{address}{query_mark}{masked}"


def client_url(url: str) -> str:
    """Return ``url`` as ``redis.Redis.from_url`` takes it: ``redis+socket://`` becomes ``unix://``."""
    scheme = _scheme(url)
    if scheme in ("redis", "unix"):
        return url
    return _rebuild(url, "unix" if scheme == "redis+socket" else scheme, {"virtual_host": "db"})


@functools.lru_cache(maxsize=32)  # every call asks for it
def celery_url(url: str) -> str:
    """Return ``url`` as Celery takes it, as broker and as result backend: ``unix://`` becomes ``redis+socket://``."""
    scheme = _scheme(url)
    if scheme == "unix":
        return _rebuild(url, "redis+socket", {"db": "virtual_host"})
    if scheme == "rediss" and "ssl_cert_reqs=" not in url:  # what redis-py takes as given, Celery wants to be told
        return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    return url


def redis_of_broker(broker: object) -> str | None:
    """Return the Redis that Celery's ``broker_url`` names, ``None`` for another broker; of several it is the first."""
    first = broker[0] if isinstance(broker, list | tuple) and broker else broker
    url = first.partition(";")[0] if isinstance(first, str) else ""
    return url if url.partition("://")[0] in SCHEMES and "://" in url else None


def _scheme(url: str) -> str:
    scheme, mark, _ = url.partition("://")
    if not mark or scheme not in SCHEMES:
        raise ConfigurationError(
            f"the Redis URL {mask_url(url)!r} is not one of redis://, rediss://, unix:// and redis+socket://: "
            "write it like redis://:password@localhost:6379/0"
        )
    return scheme


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"the Redis URL {mask_url(url)!r} is not valid: {error}") from None


def _rebuild(url: str, scheme: str, renamed: dict[str, str]) -> str:
    parts = _split(url)
    userinfo, at, place = parts.netloc.rpartition("@")
    options = {renamed.get(name, name): value for name, value in parse_qsl(parts.query)}
    if scheme == "redis+socket" and "password" in options:  # kombu reads it in front of the @ only
        user = options.pop("username", "") or userinfo
        userinfo, at = f"{quote(user, safe='%')}:{quote(options.pop('password'), safe='')}", "@"
    if scheme == "rediss" and "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = CERT_REQS.get(options["ssl_cert_reqs"], options["ssl_cert_reqs"])
    query = f"?{urlencode(options)}" if options else ""
    # by hand: urlunsplit drops the // where a scheme it doesn't know has no host
    return f"{scheme}://{userinfo}{at}{place}{parts.path}{query}"


def connect(
    url: str,
    *,
    name: str | None = None,
    timeout: float = ANSWER_SECONDS,
    connect_timeout: float = 5.0,
    retry: bool = True,
    max_connections: int | None = None,
) -> redis.Redis:
    """Return a client for ``url`` that answers in bytes; it connects with its first command.

    A blocking command must ask for less than ``timeout`` seconds. ``retry`` sends a command up to 3 times more
    when its connection breaks or times out: switch it off for one that must not happen twice. ``name`` is what
    CLIENT LIST shows. Options in the query of the URL stand above these.
    """
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout,
        "health_check_interval": 25,
        "client_name": name,
        "retry": Trying(ExponentialBackoff(cap=1.0, base=0.05), RETRIES) if retry else Retry(NoBackoff(), 0),
        "max_connections": max_connections,
        "driver_info": DRIVER_INFO,
        "command_packer": Packer() if HIREDIS_AVAILABLE else None,
    }
    target = client_url(url)
    _check_database(url, target)
    if not target.startswith("unix://"):
        options["socket_keepalive"] = True  # a Unix socket has none, and redis-py refuses the option
    try:
        client = redis.Redis.from_pool(Links.from_url(target, **options))
        pool = client.connection_pool
        if isinstance(options["retry"], Trying):
            options["retry"].silences.pool = weakref.ref(pool)
        pool.connection_class(**pool.connection_kwargs)  # an option it doesn't know fails here, not at a first command
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(f"the Redis URL {mask_url(url)!r} is not valid: {error}") from None
    return client


def alone(client: Any) -> redis.Redis:
    """Return a client like another, of one connection of its own, that tries nothing again."""
    pool = client.connection_pool
    options = pool.connection_kwargs | {"retry": Retry(NoBackoff(), 0)}
    return redis.Redis.from_pool(
        redis.ConnectionPool(connection_class=pool.connection_class, max_connections=1, **options)
    )


def _check_database(url: str, target: str) -> None:
    """Refuse what redis-py would take for database 0."""
    parts = _split(target)
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    for database in (path, dict(parse_qsl(parts.query)).get("db", "")):
        if database and not database.isdecimal():
            raise ConfigurationError(
                f"the Redis URL {mask_url(url)!r} is not valid: its database is a number, as in redis://localhost:6379/0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the check needs to know of a server; ``None`` is what the server did not let this user read."""

    version: str | None = None
    mode: str | None = None
    """``standalone``, ``cluster`` or ``sentinel``."""
    role: str | None = None
    """``master`` or ``slave``."""
    loading: bool | None = None
    maxmemory: int | None = None
    policy: str | None = None
    persistent: bool | None = None
    maxclients: int | None = None
    clock_offset: float | None = None
    """Seconds that the server's clock is ahead of this machine's."""


def check_server(
    client: redis.Redis,
    *,
    config: Config,
    containers: int | None = None,
    embedded: bool = False,
    cautious: bool = True,
    clock: Callable[[], float] = time.time,
) -> list[str]:
    """Refuse a server that can't be used safely; return a warning for each point that is merely unwise.

    ``containers`` is how many there will be at most: a server without room for their connections is refused.
    ``embedded`` leaves out that nothing is kept on disk, ``cautious=False`` leaves out all warnings. Raises
    ServerError, one sentence with the way out.
    """
    place = _place(client)
    facts = read_facts(client, clock=clock)
    for refusal in refusals(facts, allow_eviction=bool(config.allow_eviction), containers=containers):
        raise ServerError(f"Redis at {place} {refusal}")
    if not cautious:
        return []
    expected = containers if containers is not None else config.max_containers
    return [f"Redis at {place} {warning}" for warning in cautions(facts, containers=expected, embedded=embedded)]


def read_facts(
    client: Any,  # redis.Redis, whose types mix its sync and async results
    *,
    clock: Callable[[], float] = time.time,
) -> ServerFacts:
    """Ask the server; raises ServerError where it can't be reached, ``None`` stands for what it refuses to tell."""
    info = _info(client)

    def known(name: str) -> Any:
        return info[name] if name in info else _setting(client, name.replace("_", "-"))

    maxmemory, maxclients = known("maxmemory"), known("maxclients")
    return ServerFacts(
        version=_text(info.get("redis_version")),
        mode="cluster" if info.get("cluster_enabled") else _text(info.get("redis_mode", info.get("server_mode"))),
        role=_text(info.get("role")),
        loading=bool(info["loading"]) if "loading" in info else None,
        maxmemory=None if maxmemory is None else int(maxmemory),
        policy=_text(known("maxmemory_policy")),
        persistent=_persistent(info, _setting(client, "save")),
        maxclients=None if maxclients is None else int(maxclients),
        clock_offset=_clock_offset(client, clock),
    )


def _info(client: Any) -> dict[str, Any]:
    """Return INFO, empty where it is forbidden; it is the first command, so it tells whether the server is there."""
    try:
        return dict(client.info())
    except (RedisError, OSError) as error:
        # an answer about INFO itself; about another command it is the handshake that failed
        if isinstance(error, ResponseError) and "'info" in str(error).lower():
            return {}
        raise ServerError(f"Redis at {_place(client)} {_trouble(error)}") from error


def _setting(client: Any, name: str) -> str | None:
    try:
        values: dict[str, str] = client.config_get(name)
    except ResponseError:  # no right to it, or a hosted Redis without CONFIG
        return None
    except RedisError as error:
        raise ServerError(f"Redis at {_place(client)} {_trouble(error)}") from error
    return values.get(name)


def _persistent(info: dict[str, Any], save: str | None) -> bool | None:
    if info.get("aof_enabled") or save:
        return True
    return None if save is None or "aof_enabled" not in info else False


def _clock_offset(client: Any, clock: Callable[[], float]) -> float | None:
    before = clock()
    try:
        seconds, micros = client.time()
    except ResponseError:
        return None
    except RedisError as error:
        raise ServerError(f"Redis at {_place(client)} {_trouble(error)}") from error
    return float(seconds + micros / 1e6 - (before + clock()) / 2)


def unusable(client: Any, error: Exception) -> ServerError:
    """Return the error for a server that could not be used, with the way out."""
    return ServerError(f"Redis at {_place(client)} {_trouble(error)}")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _trouble(error: Exception) -> str:
    """Return the rest of a sentence that begins with ``Redis at ...`` for an error of the first command."""
    text = " ".join(str(error).split()).rstrip(".")[:160] or type(error).__name__
    denied = isinstance(error, (AuthenticationError, AuthenticationWrongNumberOfArgsError))
    hung_up = any(sign in text for sign in ("Broken pipe", "reset by peer", "closed by server"))
    cases = (
        (isinstance(error, BusyLoadingError), "is still loading its data: start again when it is done"),
        ("max number of clients" in text, "has no connection left: raise its maxclients or stop some of its clients"),
        (denied, f"refused the user or the password ({text}): correct SCALEPLUG_REDIS_URL"),
        # the handshake; servers before 6.0 don't know it
        ("HELLO" in text, f"is too old ({text}): upgrade it to {_dotted(MINIMUM_VERSION)} or later"),
        (isinstance(error, ResponseError), f"can't be used ({text}): correct its settings or this user's rights"),
        (
            isinstance(error, redis.exceptions.TimeoutError),
            f"did not answer in time ({text}): check the address in SCALEPLUG_REDIS_URL, the network and its load",
        ),
        (hung_up, f"hung up ({text}): raise its maxclients if all are taken, or write rediss:// if it wants TLS"),
    )
    for applies, sentence in cases:
        if applies:
            return sentence
    return (
        f"can't be reached ({text}): start it, correct SCALEPLUG_REDIS_URL, "
        "or unset that to let `scaleplug run` bring its own"
    )


def refusals(facts: ServerFacts, *, allow_eviction: bool, containers: int | None) -> Iterator[str]:
    """Yield why the server can't be used, the gravest first, each the rest of a sentence with the way out."""
    if facts.version is not None and _numbers(facts.version) < MINIMUM_VERSION:
        yield f"is version {facts.version}: upgrade it to {_dotted(MINIMUM_VERSION)} or later"
    if facts.mode == "cluster":
        yield "is a Redis Cluster, which Celery can't use: take a server with cluster-enabled no"
    if facts.mode == "sentinel":
        yield "is a Sentinel, not a server: put the address of its master into SCALEPLUG_REDIS_URL"
    if facts.role not in (None, "master"):
        yield "is a read-only replica: put the address of its master into SCALEPLUG_REDIS_URL"
    if facts.loading:
        yield "is still loading its data: start again when it is done"
    if _evicts(facts) and not allow_eviction:
        yield (
            f"throws inputs away {_when_it_evicts(facts)} (maxmemory-policy {facts.policy}): {NO_EVICTION}, "
            "or accept it with SCALEPLUG_ALLOW_EVICTION=1"
        )
    if containers is not None and _short_of_clients(facts, containers):
        yield _too_few_clients(facts, containers)


def cautions(facts: ServerFacts, *, containers: int | None, embedded: bool) -> Iterator[str]:
    """Yield what is unwise about a server that may be used, and what could not be checked."""
    if _evicts(facts):
        yield f"throws inputs away {_when_it_evicts(facts)} (maxmemory-policy {facts.policy}): {NO_EVICTION}"
    if facts.persistent is False and not embedded:
        yield "keeps nothing on disk, so inputs are lost when Redis restarts: set appendonly yes"
    if _short_of_clients(facts, containers or 0):
        yield _too_few_clients(facts, containers or 0)
    if facts.clock_offset is not None and abs(facts.clock_offset) > CLOCK_TOLERANCE:
        side = "ahead of" if facts.clock_offset > 0 else "behind"
        yield f"has a clock {abs(facts.clock_offset):.0f} s {side} this machine's: synchronise both with NTP"
    unread = list(_unread(facts))
    if unread:
        yield (
            f"does not let this user read its {', '.join(unread)}, so that could not be checked: "
            "allow INFO, CONFIG GET and TIME (ACL: +info +config|get +time)"
        )


def _unread(facts: ServerFacts) -> Iterator[str]:
    names = {"mode": "cluster mode", "policy": "maxmemory-policy", "persistent": "persistence", "clock_offset": "clock"}
    for field in ("version", "mode", "role", "policy", "persistent", "maxclients", "clock_offset"):
        if getattr(facts, field) is None:
            yield names.get(field, field)


def _evicts(facts: ServerFacts) -> bool:
    return facts.policy not in (None, "noeviction")


def _when_it_evicts(facts: ServerFacts) -> str:
    return "once it has a maxmemory" if facts.maxmemory == 0 else "when its memory is full"


def _clients_needed(containers: int) -> int:
    return containers * CLIENTS_PER_CONTAINER + OTHER_CLIENTS


def _short_of_clients(facts: ServerFacts, containers: int) -> bool:
    return facts.maxclients is not None and facts.maxclients < _clients_needed(containers)


def _too_few_clients(facts: ServerFacts, containers: int) -> str:
    return (
        f"allows {facts.maxclients} clients, too few for {containers} containers with {CLIENTS_PER_CONTAINER} each and "
        f"{OTHER_CLIENTS} others: raise maxclients to {_clients_needed(containers)} or lower SCALEPLUG_MAX_CONTAINERS"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))[:2]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _place(client: Any) -> str:
    """Return the masked URL of ``client``."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    user = f"{options.get('username') or ''}:***@" if options.get("password") else ""
    if "path" in options:
        return f"unix://{user}{options['path']}"
    scheme = "rediss" if issubclass(pool.connection_class, redis.SSLConnection) else "redis"
    return f"{scheme}://{user}{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
