"""Functions may stand here too."""

from django.db import connection

import scaleplug
from project.celery import celery

connection.ensure_connection()  # as careless code does while it is imported: no container may inherit it

app = scaleplug.App("stock", celery=celery)


@app.function()
def count() -> int:
    return 3
