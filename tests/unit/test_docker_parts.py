"""The parts of the docker backend that need no engine: what a container is made from, images, ends, stand-bys."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from scaleplug.abc import StartRequest
from scaleplug.backends import recipe
from scaleplug.backends.crew import Crews
from scaleplug.backends.docker import DockerBackend, host_name
from scaleplug.backends.ends import Ends, Held
from scaleplug.backends.engine import Engine, NoImageError, Seen, UnreachableError
from scaleplug.backends.images import Images
from scaleplug.backends.output import Output
from scaleplug.backends.standby import Standby, Standbys
from scaleplug.errors import ConfigurationError, Error
from scaleplug.registry import Registration, Source
from scaleplug.resources import Resources
from scaleplug.settings import Config, FunctionSettings

URL = "redis://user:pass-word@redis.example:6379/0"
CONFIG = Config(redis_url=URL, secret="s" * 32, docker_image="shop:1", docker_volumes="/srv:/srv:ro,data:/data")


def registration(name: str = "f", *, version: str = "1", source: str = "module", **settings: Any) -> Registration:
    made = FunctionSettings(**settings)
    return Registration(f"shop.{name}", "shop", Source(source, "shop", "/app"), False, made, version=version)


def request(name: str = "f", slot: int = 1) -> StartRequest:
    return StartRequest(
        container=f"shop.{name}-{slot}-abc", app="shop", function=f"shop.{name}", slot=slot, version="1"
    )


# -- the recipe ----------------------------------------------------------------------------------------------------


def test_labels_tell_what_a_container_is_and_no_secret() -> None:
    labels = recipe.labels(CONFIG, recipe.CONTAINER, request())
    assert recipe.request_of(labels) == request()
    assert recipe.request_of(recipe.labels(CONFIG, recipe.STANDBY)) is None
    assert "pass-word" not in json.dumps(labels)
    assert recipe.label(CONFIG) == f"scaleplug.site={labels['scaleplug.site']}"


def test_a_site_is_a_redis_and_a_namespace_whoever_asks() -> None:
    assert recipe.site(CONFIG) == recipe.site(replace(CONFIG, redis_url="redis://redis.example"))
    assert recipe.site(CONFIG) != recipe.site(replace(CONFIG, namespace="other"))
    assert recipe.site(CONFIG) != recipe.site(replace(CONFIG, redis_url="redis://redis.example/1"))


def test_names_can_be_read_back() -> None:
    name = recipe.engine_name("shop.Cls~1f3a-2-abc")
    assert name == "scaleplug-shop.Cls.-.1f3a-2-abc"
    assert recipe.container_named(name) == "shop.Cls~1f3a-2-abc"


def test_resources_become_what_the_engine_takes() -> None:
    volumes: Any = {"/data": "other:ro", "/models": "/srv/models:ro", "/out": "/srv/out"}
    resources = Resources(cpu=1.5, gpu="device=0,2", volumes=volumes, network="net")
    options = recipe.host_options(registration(memory=64, resources=resources), CONFIG)
    assert (options["mem_limit"], options["memswap_limit"], options["nano_cpus"]) == (64 << 20, 64 << 20, 1_500_000_000)
    assert options["device_requests"][0]["device_ids"] == ["0", "2"]
    assert options["binds"] == ["/srv:/srv:ro", "other:/data:ro"]  # the function's own stands above
    assert [(m["Type"], m["Source"], m["Target"], m["ReadOnly"]) for m in options["mounts"]] == [
        ("bind", "/srv/models", "/models", True), ("bind", "/srv/out", "/out", False),
    ]  # fmt: skip
    assert options["network_mode"] == "net"
    for gpu, count in (("2", 2), ("all", -1)):
        found = recipe.host_options(registration(resources=Resources(gpu=gpu)), CONFIG)
        assert found["device_requests"][0]["count"] == count
    with pytest.raises(ConfigurationError, match="SCALEPLUG_DOCKER_VOLUMES must be SOURCE:PATH"):
        recipe.binds(Resources(), replace(CONFIG, docker_volumes="/srv"))


def test_secrets_are_read_where_the_controller_runs(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("told\n")
    assert recipe.secrets_of(Resources(secrets=("KEY=key.txt",)), tmp_path) == {"KEY": "told"}
    with pytest.raises(Error, match=r"the secret DB can't be read from .*/DB where the controller runs"):
        recipe.secrets_of(Resources(secrets=("DB",)), tmp_path)


def test_the_first_line_has_all_a_container_needs() -> None:
    known = registration()
    config = replace(CONFIG, container_redis_url="redis://inside")
    line = json.loads(recipe.first_line([known], config, recipe.order(request(), known)))
    assert line["config"]["redis_url"] == "redis://inside"
    assert line["order"]["container"]["container"] == request().container
    assert Registration.from_dict(line["order"]["registration"]) == known
    waiting = json.loads(recipe.first_line([known], config, None))
    assert (waiting["order"], len(waiting["registrations"])) == (None, 1)


def test_who_shares_engines_shares_their_name() -> None:
    assert host_name(["tcp://b:2376", "tcp://a:2376"]) == host_name(["tcp://a:2376", "tcp://b:2376"])
    assert host_name([]) == host_name(["unix:///var/run/docker.sock"]) != host_name(["tcp://a:2376"])


# -- images --------------------------------------------------------------------------------------------------------


class FakeEngine:
    """As much of an engine as images and ends need."""

    shown, reachable = "here", True

    def __init__(self, **images: str) -> None:
        self.images, self.registry, self.pulled = images, dict[str, str](), list[str]()
        self.states: dict[str, Mapping[str, Any]] = {}

    def image(self, name: str) -> str | None:
        return self.images.get(name)

    def pull(self, name: str) -> None:
        if name not in self.registry:
            raise NoImageError("nobody has it")
        self.images[name] = self.registry[name]
        self.pulled.append(name)

    def state(self, identity: str) -> Mapping[str, Any]:
        return self.states.get(identity, {})

    def last_lines(self, identity: str, most: int) -> tuple[str, ...]:
        return (f"last of {identity}",)


def test_a_version_keeps_its_image_when_the_tag_moves_on() -> None:
    engine, images = FakeEngine(**{"shop:1": "sha:a"}), Images(CONFIG)
    here = cast("Engine", engine)
    assert images.name(here, registration()) == "shop:1"
    engine.images["shop:1"] = "sha:b"
    assert images.name(here, registration()) == "sha:a"
    assert images.name(here, registration(version="2")) == "shop:1"
    assert images.name(here, registration(version="")) == "shop:1"
    assert images.known(registration())
    assert not images.known(registration(version="3"))
    images.forget_others([registration(version="2")])
    assert not images.known(registration())


@pytest.mark.parametrize(("policy", "pulled"), [("never", 0), ("missing", 0), ("always", 1)])
def test_images_are_pulled_as_the_policy_says(policy: str, pulled: int) -> None:
    engine, images = FakeEngine(**{"shop:1": "sha:a"}), Images(replace(CONFIG, docker_pull=policy))
    engine.registry["shop:1"] = "sha:new"
    for version in ("1", "2"):
        images.name(cast("Engine", engine), registration(version=version))
    assert len(engine.pulled) == pulled


@pytest.mark.parametrize(
    ("policy", "told"), [("never", "SCALEPLUG_DOCKER_PULL=never"), ("missing", "it can't be pulled: nobody has it")]
)
def test_a_missing_image_is_told(policy: str, told: str) -> None:
    images = Images(replace(CONFIG, docker_pull=policy))
    with pytest.raises(NoImageError, match=f"there is no image shop:1 on the Docker engine here.*{told}"):
        images.name(cast("Engine", FakeEngine()), registration())
    with pytest.raises(Error, match="no image is named for it"):
        Images(replace(CONFIG, docker_image=None)).name(cast("Engine", FakeEngine()), registration())


# -- ends ----------------------------------------------------------------------------------------------------------


class Now:
    """Crews that do everything at once."""

    busy = False

    def do(self, _engine: object, job: Callable[..., object], *args: Any) -> None:
        job(*args)


@pytest.mark.parametrize("url", ["foo", "foo://x", "tcp://", "tcp://a:port", "tcp://a:99999", "fd://3"])
def test_an_address_that_can_be_none_is_told(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"SCALEPLUG_DOCKER_HOSTS names the engine '{url}' .*: use unix:///PATH"
    ):
        Engine(url, "label", on_event=lambda *_: None, on_back=lambda _: None)


def test_an_engine_that_hangs_keeps_no_hand_from_the_others() -> None:
    crews, goes_on, done = Crews("test", 2), threading.Event(), threading.Event()
    for _ in range(5):
        crews.do("hangs", goes_on.wait, 30)
    crews.do("answers", done.set)
    assert done.wait(10)
    assert crews.busy
    goes_on.set()
    crews.close()


def held(engine: FakeEngine, *, slot: int = 1, limited: bool = False) -> Held:
    return Held(request(slot=slot), cast("Engine", engine), 0.0, 64, limited=limited, id=f"id{slot}")


@pytest.mark.parametrize(
    ("code", "state", "status", "reason"),
    [
        ("0", {}, 0, "exited with status 0"),
        ("1", {}, 1, "exited with status 1"),
        ("137", {}, -9, "killed by SIGKILL"),
        ("137", {"OOMKilled": True}, -9, "it ran out of memory: it may use 64 MiB"),
        ("139", {}, -11, "killed by SIGSEGV"),
        ("255", {}, 255, "exited with status 255"),
    ],
)
def test_an_end_is_told_once_in_words(code: str, state: dict[str, Any], status: int, reason: str) -> None:
    told: list[str] = []
    ends, engine = Ends(cast("Any", Now()), told.append), FakeEngine()
    engine.states["id1"] = state
    ends.hold(held(engine, limited=bool(state)))
    assert ends.on_event("die", "id1", {"exitCode": code})
    ends.on_event("destroy", "id1", {})
    (exits, gone) = ends.take()
    assert [(e.exit_code, e.reason, e.asked) for e in exits] == [(status, reason, False)]
    assert exits[0].last_lines == (("last of id1",) if status else ())
    assert (told, [identity for _, identity in gone]) == (["shop.f"], ["id1"])
    assert ends.take() == ([], [])
    assert not ends.on_event("die", "somebody else's", {})


def test_what_an_engine_has_no_more_or_has_stopped_is_found() -> None:
    ends, engine = Ends(cast("Any", Now()), lambda _: None), FakeEngine()
    for slot in (1, 2, 3):
        ends.hold(held(engine, slot=slot))
    engine.states["id2"] = {"ExitCode": 3}
    seen = {f"id{n}": Seen(f"id{n}", "", state, {}, "", 0.0) for n, state in ((2, "exited"), (3, "paused"))}
    ends.reconcile(cast("Engine", engine), seen)
    exits, _ = ends.take()
    assert sorted((e.container, e.reason, e.bystander) for e in exits) == [
        ("shop.f-1-abc", "it was removed", True), ("shop.f-2-abc", "exited with status 3", True),
    ]  # fmt: skip
    assert ends.held["shop.f-3-abc"].frozen_since is not None


# -- output --------------------------------------------------------------------------------------------------------


class Said:
    """A line that has said something."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def pieces(self) -> Iterator[bytes]:
        yield from self._pieces

    def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def test_output_comes_in_lines_and_the_marker_is_nobodys() -> None:
    lines: list[tuple[str, str, str]] = []
    marks: list[int] = []
    said = Said(b"one\ntw", b"o\r\nMARK\n", b"x" * 20_000, b"\nend")
    output = Output(said, lines.extend, marker="MARK", on_marker=lambda: marks.append(1)).start("f", "c")
    output.finish(5)
    assert [text[:5] for _, _, text in lines] == ["one", "two", "xxxxx", "", "end"]
    assert len(lines[2][2]) == 16_384
    assert (marks, output.last[-1]) == ([1], "end")


class Bare:
    """An engine whose containers end before they have read all."""

    shown = "bare"

    def __init__(self) -> None:
        self.did: list[str] = []
        self.broken: Error | None = None

    def create(self, _making: object) -> str:
        if self.broken is not None:
            raise self.broken
        return "id"

    def attach(self, _identity: str) -> Any:
        return self

    def send(self, data: bytes) -> None:
        if data:
            raise BrokenPipeError

    def start(self, _identity: str) -> None:
        self.did.append("start")

    def remove(self, _identity: str) -> None:
        self.did.append("remove")

    def image(self, _name: str) -> str:
        return "sha256:1"

    def lost(self, _why: object) -> None:
        self.did.append("lost")


def backend_of() -> DockerBackend:
    config = replace(CONFIG, docker_hosts="tcp://127.0.0.1:1")
    return DockerBackend(
        config,
        find=lambda *_: registration(),
        find_record=lambda _: {},
        on_exit=lambda _: None,
        on_lines=lambda _: None,
    )


def test_a_container_that_ends_before_it_has_read_its_line_is_told_by_its_end() -> None:
    backend, engine = backend_of(), Bare()
    try:
        output = object()
        brought = backend._bring_up(
            cast("Engine", engine), cast("Any", None), b"x" * 100_000,
            on_made=lambda _: None, listen=lambda _: cast("Output", output),
        )  # fmt: skip
        assert (brought, engine.did) == (output, ["start"])
    finally:
        backend.close()


def test_a_stand_by_that_an_engine_may_have_made_is_removed_later_and_blames_no_code() -> None:
    backend, engine = backend_of(), Bare()
    try:
        engine.broken = UnreachableError("no answer")
        known = registration()
        standby = Standby(recipe.kind_of(known), cast("Engine", engine), "scaleplug-standby-1")
        with pytest.raises(UnreachableError):
            backend._make_standby(standby, [known])
        assert (backend._doubtful, standby.dismissed, engine.did) == ({"scaleplug-standby-1"}, True, ["lost"])
    finally:
        backend.close()


# -- stand-bys -----------------------------------------------------------------------------------------------------


class Stage:
    """Stand-bys whose engine is a list."""

    def __init__(self, wanted: int) -> None:
        self.made: list[Standby] = []
        self.removed: list[str] = []
        self.broken = ""
        self.engine = cast("Engine", object())
        self.all = Standbys(
            wanted,
            make=self.make,
            remove=lambda s: self.removed.append(s.id),
            do=lambda job, *args: job(*args),
            told=lambda: None,
        )

    def make(self, standby: Standby, registrations: list[Registration]) -> None:
        if self.broken:
            raise Error(self.broken)
        standby.id = f"id{len(self.made)}"
        self.made.append(standby)


def test_they_are_made_where_there_is_room_used_by_kind_and_replaced() -> None:
    stage = Stage(2)
    stage.all.know(registration("f"))
    stage.all.know(registration("g", resources=Resources(image="other")))
    stage.all.tend({stage.engine: 3})
    assert len(stage.made) == 3
    assert stage.all.take(registration("f"), [stage.engine]) is None  # none is ready
    for standby in stage.made:
        stage.all.on_ready(standby)
    taken = stage.all.take(registration("h"), [stage.engine])  # of the same image and module as f
    assert taken is stage.made[0]
    assert stage.all.take(registration("f", version="2"), [stage.engine]) is None
    assert stage.all.count(stage.engine) == 2
    stage.all.tend({stage.engine: 9})
    assert stage.all.count(stage.engine) == 4
    assert stage.all.make_room(stage.engine)
    stage.all.forget_others([registration("f")])
    assert {s.kind for s in stage.made if not s.dismissed} == {recipe.kind_of(registration("f"))}


def test_one_tells_whether_the_code_can_be_imported_and_goes() -> None:
    stage = Stage(0)
    stage.all.know(registration("f"))
    stage.all.tend({stage.engine: 1})
    assert stage.made == []
    assert stage.all.problem(registration("f")) is None
    stage.all.tend({stage.engine: 0})
    (probe,) = stage.made
    stage.all.on_ready(probe)
    assert (stage.all.problem(registration("f")), probe.dismissed) == ("", True)
    stage.all.know(registration("f", version="1b", memory=8))
    stage.all.problem(registration("f", version="1b", memory=8))
    stage.all.tend({stage.engine: 1})
    stage.all.on_end(stage.made[-1].id, 137)
    assert "does it need more memory" in (stage.all.problem(registration("f", version="1b", memory=8)) or "")
    stage.broken = "there is no image"
    stage.all.know(registration("f", version="2"))
    assert stage.all.problem(registration("f", version="2")) is None
    stage.all.tend({stage.engine: 1})
    assert stage.all.problem(registration("f", version="2")) == "there is no image"
