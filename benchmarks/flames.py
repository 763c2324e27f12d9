"""Where the time of the hot paths goes: ``python -m benchmarks.flames [--seconds 4] [map unpacked remote spawn]``.

py-spy looks at caller, container and controller while a path is under way, which costs them some of their speed. Its
pictures go to ``build/flames``, and the functions with the most time of their own are printed. What counts is what
Python computes; with ``--all`` also what the kernel does for it, such as sending, and some of the waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import psutil

from benchmarks import functions
from benchmarks.surroundings import Surroundings, surroundings

FOLDER = Path(__file__).parents[1] / "build" / "flames"
SECONDS, RATE = 4.0, 200
"""How long each path is looked at, and how often in a second."""
SHOWN = 10
WARM_CALLS, WARM_MAP = 20, 2_000
CONTROLLER = "scaleplug.runtime"
FORBIDDEN = "as root it is allowed, or with kernel.yama.ptrace_scope=0, or in a container with --cap-add SYS_PTRACE"
NOTHING_SEEN = "No stack counts found"
_TITLE = re.compile(r'(<text id="title"[^>]*>).*?(</text>)', re.DOTALL)
_SAMPLES = re.compile(r" \([\d,]+ samples?, [\d.]+%\)$")
_FG = "{http://github.com/jonhoo/inferno}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HotPath:
    """A hot path: what one round of it does, with how many inputs, and what the environment holds meanwhile."""

    what: str
    inputs: int
    round: Callable[[], object]
    environ: tuple[tuple[str, str], ...] = ()


def _map(inputs: int) -> Callable[[], object]:
    def run() -> None:
        if list(functions.warm.map(range(inputs))) != list(range(inputs)):
            raise RuntimeError("the results are not what was sent")

    return run


PATHS = {
    "map": HotPath(what="a map of short inputs, packed", inputs=20_000, round=_map(20_000)),
    "unpacked": HotPath(
        what="a map whose inputs go one by one",
        inputs=5_000,
        round=_map(5_000),
        environ=(("SCALEPLUG_PACKING", "0"),),
    ),
    "remote": HotPath(
        what="remote() on a warm container", inputs=100, round=lambda: [functions.warm.remote(n) for n in range(100)]
    ),
    "spawn": HotPath(
        what="spawn() from one thread", inputs=500, round=lambda: [functions.warm.spawn(n) for n in range(500)]
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flame:
    """What was seen of one process; ``own`` counts the samples in which a function was the innermost one."""

    who: str
    path: Path
    samples: int
    own: Counter[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was seen of one path; ``cores`` tells how much of a core each process has used."""

    per_second: float
    flames: tuple[Flame, ...]
    cores: dict[str, float]


def why_not() -> str | None:
    """Return why nothing can be recorded here; ``None`` if it can."""
    program = shutil.which("py-spy", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        return "py-spy is not installed: pip install py-spy"
    looked = subprocess.run(_py_spy("dump", os.getpid()), check=False, capture_output=True, text=True)
    if looked.returncode:
        said = (looked.stderr.strip().splitlines() or ["no reason"])[0]
        return f"py-spy may not look at other processes ({said}): {FORBIDDEN}"
    return None


def record(name: str, seconds: float = SECONDS, folder: Path = FOLDER, *, kernel: bool = False) -> Found:
    """Run a path for a while, and record the processes that take part; ``kernel``: in system calls too."""
    path = PATHS[name]
    folder.mkdir(parents=True, exist_ok=True)
    with _environ(path), surroundings(functions.app, functions.warm) as around:
        for number in range(WARM_CALLS):
            functions.warm.remote(number)
        _map(WARM_MAP)()  # how short the inputs are is known then
        processes = _processes(around)
        files = {who: folder / f"{name}-{who}.svg" for who in processes if who != "Redis"}
        used, began, rounds = _cpu(processes), time.monotonic(), 0
        options = ("--duration", str(max(1, round(seconds))), *(() if kernel else ("--gil",)))
        with _recorders({files[who]: processes[who].pid for who in files}, options) as recorders:
            while any(recorder.poll() is None for recorder in recorders):
                path.round()
                rounds += 1
        took = time.monotonic() - began
        cores = {who: (spent - used[who]) / took for who, spent in _cpu(processes).items()}
    return Found(
        per_second=rounds * path.inputs / took,
        flames=tuple(_flame(who, file, f"{path.what}: the {who}") for who, file in files.items()),
        cores=cores,
    )


def read(svg: Path) -> Counter[str]:
    """Return the samples of each function's own in a picture of py-spy's: those that nothing above it has."""
    own: Counter[str] = Counter()
    above: dict[int, list[tuple[int, int]]] = {}
    frames = []
    for group in ElementTree.fromstring(svg.read_bytes()).iter("{http://www.w3.org/2000/svg}g"):
        title, box = group.find("{*}title"), group.find("{*}rect")
        if title is not None and title.text and box is not None:
            begin, width, depth = int(box.attrib[_FG + "x"]), int(box.attrib[_FG + "w"]), int(float(box.attrib["y"]))
            frames.append((depth, begin, width, _SAMPLES.sub("", title.text)))
            above.setdefault(depth, []).append((begin, width))
    depths = sorted(above)
    following = dict(itertools.pairwise(depths))
    for depth, begin, width, name in frames:
        children = above.get(following.get(depth, -1), ())
        own[name] += width - sum(wide for start, wide in children if begin <= start < begin + width)
    return +own


def tell(name: str, found: Found) -> None:
    """Print what was found of a path."""
    print(f"\n{name}: {PATHS[name].what}, {found.per_second:,.0f} a second while it is looked at")
    print("  cores used: " + ", ".join(f"{who} {cores:.2f}" for who, cores in found.cores.items()))
    for flame in found.flames:
        print(f"  {flame.who}, {flame.samples} samples: {flame.path}")
        for function, samples in flame.own.most_common(SHOWN):
            print(f"    {samples / flame.samples:6.1%}  {function}")


def _py_spy(command: str, pid: int, *options: str) -> list[str]:
    program = Path(sys.executable).with_name("py-spy")
    return [str(program) if program.exists() else "py-spy", command, "--pid", str(pid), *options]


@contextlib.contextmanager
def _environ(path: HotPath) -> Iterator[None]:
    before = dict(os.environ)
    for variable in [name for name in before if name.startswith("SCALEPLUG_") and name != "SCALEPLUG_REDIS_BIN"]:
        del os.environ[variable]  # ours is looked at as it is by default
    os.environ.update(path.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _processes(around: Surroundings) -> dict[str, psutil.Process]:
    (record,) = around.containers(functions.warm).values()
    family = psutil.Process().children(recursive=True)
    (controller,) = (process for process in family if CONTROLLER in " ".join(process.cmdline()))
    found = {"caller": psutil.Process(), "container": psutil.Process(int(record["pid"])), "controller": controller}
    servers = [process for process in family if process.name() in ("redis-server", "valkey-server")]
    return {**found, **({"Redis": servers[0]} if servers else {})}


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    return {who: sum(process.cpu_times()[:2]) for who, process in processes.items()}


@contextlib.contextmanager
def _recorders(files: dict[Path, int], options: tuple[str, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """Record processes into files, one py-spy for each; all have ended when the block has."""
    for file in files:
        file.unlink(missing_ok=True)
    always = ("--format", "flamegraph", "--function", "--rate", str(RATE))
    started = [
        subprocess.Popen(
            _py_spy("record", pid, *always, *options, "--output", str(file)),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for file, pid in files.items()
    ]  # fmt: skip
    try:
        yield started
        for recorder in started:
            _, said = recorder.communicate()
            if recorder.returncode and NOTHING_SEEN not in said:
                raise RuntimeError(f"py-spy has ended with {recorder.returncode}: {said.strip()}")
    finally:
        for recorder in started:
            recorder.kill()
            recorder.wait()
            assert recorder.stderr is not None
            recorder.stderr.close()


def _flame(who: str, file: Path, title: str) -> Flame:
    file.write_text(_TITLE.sub(rf"\g<1>{title}\g<2>", file.read_text(), count=1))
    own = read(file)
    return Flame(who=who, path=file, samples=own.total(), own=own)


def main() -> int:
    """Record; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flames", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PATH", help=f"some of {', '.join(PATHS)}; all by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each is looked at")
    parser.add_argument("--all", action="store_true", help="also what the kernel does, and some of the waiting")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PATHS]:
        parser.error(f"there is no path {unknown[0]!r}: it is one of {', '.join(PATHS)}")
    if (problem := why_not()) is not None:
        print(problem, file=sys.stderr)
        return 2
    for name in options.names or PATHS:
        tell(name, record(name, options.seconds, options.folder, kernel=options.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
