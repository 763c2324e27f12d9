"""Count words in texts, from a FastAPI app: calls are awaited, so one process serves many at once.

scaleplug run examples/fastapi_words.py, then open http://127.0.0.1:8080/docs
"""

import re
from collections import Counter

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import scaleplug
from scaleplug.errors import InputCancelledError, OutputExpiredError

app = scaleplug.App("words")
web = FastAPI(title="Words")


@app.function(max_containers=4)
def count_words(text: str) -> dict[str, int]:
    """Return the ten most frequent words of a text."""
    return dict(Counter(re.findall(r"\w+", text.lower())).most_common(10))


class Text(BaseModel):
    """One text."""

    text: str


class Texts(BaseModel):
    """Several texts."""

    texts: list[str]


@web.post("/count")
async def count(one: Text) -> dict[str, int]:
    """Wait for the result; the event loop serves others meanwhile."""
    return await count_words.remote.aio(one.text)


@web.post("/count-all")
async def count_all(many: Texts) -> StreamingResponse:
    """Stream a line for each text, in their order, as they come."""

    async def lines():
        async for found in count_words.map(many.texts):
            yield f"{', '.join(found)}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@web.post("/jobs", status_code=202)
async def start(one: Text) -> dict[str, str]:
    """Start a job and answer at once."""
    call = await count_words.spawn.aio(one.text)
    return {"job": call.object_id}


@web.get("/jobs/{job}")
async def look(job: str) -> dict[str, object]:
    """Tell what has become of a job."""
    try:
        return {"state": "done", "words": await scaleplug.FunctionCall.from_id(job).get.aio(timeout=0)}
    except TimeoutError:
        return {"state": "under way"}
    except InputCancelledError:
        return {"state": "cancelled"}
    except OutputExpiredError as error:
        raise HTTPException(404, "there is no such job") from error


@web.delete("/jobs/{job}")
async def cancel(job: str) -> None:
    """Cancel a job."""
    await scaleplug.FunctionCall.from_id(job).cancel.aio()


@app.local_entrypoint()
def serve(port: int = 8080):
    """Serve the API, with all it needs around it."""
    uvicorn.run(web, host="127.0.0.1", port=port, log_level="warning")
