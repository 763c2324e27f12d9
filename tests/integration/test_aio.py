"""Asynchronous callers beside real containers: what they print, and what they cost."""

from __future__ import annotations

from pathlib import Path

from tests.commands import scaleplug, told

PROGRAM = """
import asyncio, scaleplug, threading

app = scaleplug.App("job")

@app.function()
def square(x):
    return x * x

@app.function()
async def nested(x):
    return square.remote(x)

@app.local_entrypoint()
async def main():
    print("nested", await nested.remote.aio(3))
    for x in range(3):
        y = square.remote(x)
    before = threading.active_count()
    results = await asyncio.gather(*(square.remote.aio(x) for x in range(1000)))
    print("right", results == [x * x for x in range(1000)])
    print("threads", threading.active_count() - before)
"""


def test_what_blocks_is_told_wherever_it_runs_and_a_thousand_calls_need_no_thread(tmp_path: Path):
    (tmp_path / "job.py").write_text(PROGRAM)
    done = scaleplug("run", "job.py", cwd=tmp_path)
    assert done.returncode == 0, told(done)
    assert "nested 9" in done.stdout, told(done)
    assert "right True" in done.stdout, told(done)
    assert "threads 0" in done.stdout, told(done)
    lines = [line for line in done.stderr.splitlines() if "blocks the event loop" in line]
    inside, outside = sorted(lines, key=lambda line: "nested" not in line)
    assert inside.startswith("nested | "), told(done)
    assert inside.endswith("job.py:12 blocks the event loop: write  return await square.remote.aio(x)"), told(done)
    assert outside.endswith("job.py:18 blocks the event loop: write  y = await square.remote.aio(x)"), told(done)
