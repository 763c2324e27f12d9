"""Take the picture of the README: run the example in tmux, and draw what its terminal shows at some moment as an SVG.

    python docs/images/record.py [--share 0.6] [--width 92]

Needs tmux, and `scaleplug` with its examples' packages on PATH.
"""  # noqa: INP001  # a script

from __future__ import annotations

import argparse
import re
import subprocess
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
COMMAND = "scaleplug run examples/grid_search.py"
SESSION = "scaleplug-picture"
ROWS = 40
SECONDS = 120


def tmux(*arguments: str) -> str:
    """Run one tmux command on a server of its own; return what it prints."""
    command = ["tmux", "-L", SESSION, "-f", "/dev/null", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def share_done(screen: str) -> float:
    """Return how far the first map is, by its count."""
    counts = re.search(r"(\d+)/(\d+) ", re.sub(r"\x1b\[[\d;]*m", "", screen))
    return int(counts[1]) / int(counts[2]) if counts else 0.0


def screen_at(share: float, width: int) -> str:
    """Run the command until the map has come this far; return the screen, colours and all."""
    shell = "PS1='$ ' bash --norc --noprofile"
    tmux("new-session", "-d", "-x", str(width), "-y", str(ROWS), "-s", SESSION, "-c", str(ROOT), shell)
    try:
        tmux("send-keys", "-t", SESSION, COMMAND, "Enter")
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            screen = tmux("capture-pane", "-e", "-p", "-t", SESSION)
            if share_done(screen) >= share:
                return screen
            time.sleep(0.1)
        raise SystemExit(f"{COMMAND} did not come that far within {SECONDS} s:\n{screen}")
    finally:
        tmux("kill-server")


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.6, help="how much of the first map is done by then")
    parser.add_argument("--width", type=int, default=92, help="columns of the terminal")
    options = parser.parse_args()
    screen = screen_at(options.share, options.width).rstrip("\n")
    console = Console(record=True, width=options.width, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen), soft_wrap=True)
    console.save_svg(str(Path(__file__).with_name("run.svg")), title=COMMAND)


if __name__ == "__main__":
    main()
