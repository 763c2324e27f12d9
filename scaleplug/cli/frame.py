"""The rows of the live display: for each function its maps, as bars, and its containers, as blocks."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from scaleplug.cli.names import Palette, counted, short_names
from scaleplug.cli.tally import Done, MapRecord, Tally, told_rate, told_seconds
from scaleplug.store import Census

STATES = {
    "busy": ("■", "#", "green"),
    "idle": ("□", "o", "blue"),
    "starting": ("◇", "+", "yellow"),
    "draining": ("◁", "-", "magenta"),
}
"""Of each state of a container its block, the block for terminals that have ASCII only, and its colour."""
WIDEST = 40


def render(tally: Tally, console: Console, palette: Palette, *, width: int, height: int) -> list[str]:
    """Return the frame's rows with their escape sequences: an empty one, then at most ``height - 1``."""
    lines = draw(tally, palette, width=width, ascii_only=console.options.ascii_only)
    if not lines:
        return []
    if len(lines) > height - 1:
        lines = [*lines[: height - 2], Text(f"and {counted(len(lines) - height + 2, 'row')} more", style="dim")]
    with console.capture() as capture:
        for line in lines:
            line.truncate(width, overflow="ellipsis")
            console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
    return ["", *capture.get().rstrip("\n").split("\n")]


def draw(tally: Tally, palette: Palette, *, width: int, ascii_only: bool = False) -> list[Text]:
    """Return the frame's rows: the maps and the containers of every function that has something to do."""
    active = tally.active
    order = dict.fromkeys([*active, *tally.done, *(record.progress.function for record in tally.maps)])
    names = short_names(order, tally.shown)
    margin = min(24, max((len(names[f]) for f in order), default=0)) + 2
    bar_width = max(10, min(WIDEST, (width - margin) * 2 // 5))
    lines: list[Text] = []
    for function in order:
        block: list[Text] = []
        if function in tally.done:
            block.append(done_row(tally.done[function], ascii_only=ascii_only))
        maps = [record for record in tally.maps if record.progress.function == function]
        block += [map_row(record, bar_width, ascii_only=ascii_only) for record in maps]
        if function in active:
            block.append(containers_row(active[function], bar_width, ascii_only=ascii_only))
        for position, row in enumerate(block):
            name = names[function] if position == 0 else ""
            lines.append(Text.assemble((f"{name:{margin}}", palette[function]), row))
    return lines


def map_row(record: MapRecord, width: int, *, ascii_only: bool = False) -> Text:
    """Return a map's bar and what it says: how far, how fast, how long still."""
    progress = record.progress
    row = bar(progress.done, progress.total, width, ascii_only=ascii_only)
    count = f"{progress.done:,}" if progress.total is None else f"{progress.done:,}/{progress.total:,}"
    row.append(f"  {count:>9}", "bold")
    rate, left = record.rate, record.seconds_left
    row.append(f"  {told_rate(rate) if rate else '':>7}")
    if left is not None:
        row.append(f"  {told_seconds(left)} left")
    if progress.failed:
        row.append(f"  {progress.failed:,} failed", "bold red")
    if progress.waiting:
        row.append("  waiting", "yellow")
    return row


def bar(done: int, total: int | None, width: int, *, ascii_only: bool = False) -> Text:
    """Return a progress bar; one without a total is all of one colour."""
    full, half, empty = ("=", ">", "-") if ascii_only else ("━", "╸", "─")
    if total is None:
        return Text(empty * width, "cyan")
    halves = 2 * width if done >= total else int(2 * width * done / max(total, 1))
    whole, odd = divmod(halves, 2)
    filled = full * whole + half * odd
    return Text.assemble(
        (filled, "green" if done >= total else "cyan"), (empty * (width - len(filled)), "bright_black")
    )


def done_row(done: Done, *, ascii_only: bool = False) -> Text:
    """Return what the ended maps of a function came to."""
    if done.missing:
        row = Text.assemble(("stopped  " if ascii_only else "✗ ", "yellow"), f"{done.inputs:,} of ")
        row.append(counted(done.inputs + done.missing, "input"))
    else:
        row = Text.assemble(("done  " if ascii_only else "✓ ", "green"), counted(done.inputs, "input"))
    row.append(f" in {done.seconds:.1f} s" if done.maps == 1 else f" in {done.maps:,} maps, {done.seconds:.1f} s")
    if done.inputs:
        row.append(f", {told_rate(done.inputs / max(done.seconds, 1e-3))}")
    if done.failed:
        row.append(f", {done.failed:,} failed", "bold red")
    return row


def containers_row(census: Census, width: int, *, ascii_only: bool = False) -> Text:
    """Return a function's containers by state, and its inputs."""
    row = blocks(census, width, ascii_only=ascii_only)
    row.append(" " * (width - len(row)))
    states = [(f"{getattr(census, state):,} {state}", STATES[state][2]) for state in STATES if getattr(census, state)]
    for text, colour in states or [("no containers yet" if not census.finished else "no containers", "dim")]:
        row.append("  ").append(text, colour)
    for name in ("pending", "running", "delayed"):
        if getattr(census, name):
            row.append(f"  {getattr(census, name):,} {name}", "" if name == "running" else "bold")
    return row


def blocks(census: Census, most: int, *, ascii_only: bool = False) -> Text:
    """Return one block per container, or, where there are too many, their shares."""
    total = census.containers
    row = Text()
    for state, (block, ascii_block, colour) in STATES.items():
        count = getattr(census, state)
        shown = count if total <= most else -(-count * most // total)  # rounded up: one of many is still seen
        row.append((ascii_block if ascii_only else block) * shown, colour)
    row.truncate(most)
    return row
