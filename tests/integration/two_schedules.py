"""The two schedules that change a pool of containers, as the seeds have them."""

from __future__ import annotations

import scaleplug

app = scaleplug.App("two-schedules")


@app.function(max_containers=8)
def inference_server() -> str:
    """Be kept warm by day."""
    return "done"


@app.function(schedule=scaleplug.Cron("0 6 * * *", timezone="America/New_York"))
def increase_warm_pool() -> None:
    """Keep containers warm from the morning on."""
    inference_server.update_autoscaler(min_containers=2)


@app.function(schedule=scaleplug.Cron("0 22 * * *", timezone="America/New_York"))
def decrease_warm_pool() -> None:
    """Let them go for the night."""
    inference_server.update_autoscaler(min_containers=0)
