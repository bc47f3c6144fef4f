"""Serves models that read digits: FastAPI with onnxruntime, on a free port of this machine alone.

It knows nothing of how a model was made. `GET /` is a page to draw on, `GET /models` names the models that
are there, and `POST /answer/NAME` answers {"images": [[784 pixels, 0 to 255], ...]} with the ten
probabilities of each image, and the digits. What can't be answered gets {"error": a sentence} and a code
that begins with 4.
"""

import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from onnxruntime import InferenceSession, SessionOptions
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

PAGE = Path(__file__).with_name("draw.html")
LARGEST = 16_000_000  # bytes of a body: a thousand images take about four million
Pixel = Annotated[float, Field(strict=True, ge=0, le=255, allow_inf_nan=False)]
Image = Annotated[list[Pixel], Field(min_length=784, max_length=784)]


class Digits(BaseModel):
    """What a request has to hold."""

    images: Annotated[list[Image], Field(min_length=1, max_length=1000)]


app = FastAPI(docs_url=None, redoc_url=None)  # whose pages would come from the net
files, sessions = {}, {}  # by the names of the models


def session_of(name):
    """Return the runtime's session for a model, opened when it is first asked for."""
    if name not in sessions:
        if name not in files or not files[name].is_file():
            raise HTTPException(404, f"There is no model {name}. There are: {', '.join(models()) or 'none'}.")
        options = SessionOptions()
        options.intra_op_num_threads = 1  # many requests, one thread each
        try:
            sessions[name] = InferenceSession(files[name].read_bytes(), options)
        except Exception:  # the runtime has many kinds
            raise HTTPException(422, f"The file of the model {name} is none that can be read.") from None
    return sessions[name]


@app.get("/")
def page():
    return FileResponse(PAGE)


@app.get("/models")
def models():
    return [name for name, file in files.items() if file.is_file()]


@app.post("/answer/{name}")
def answer(name: str, digits: Digits):
    session = session_of(name)
    X = np.array(digits.images, "float32") / 255
    (P,) = session.run(None, {session.get_inputs()[0].name: X})
    return JSONResponse({"digits": P.argmax(axis=1).tolist(), "probabilities": P.tolist()})


@app.exception_handler(HTTPException)
def refuse(request: Request, error: HTTPException):
    return JSONResponse({"error": error.detail}, error.status_code)


@app.exception_handler(RequestValidationError)
def explain(request: Request, error: RequestValidationError):
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse({"error": "The body is no JSON."}, 400)
    place = "".join(f"[{part}]" if isinstance(part, int) else part for part in first["loc"][1:])
    said = first["msg"].replace(" after validation", "")
    return JSONResponse({"error": f"{place or 'body'}: {said}."}, 422)


async def limited(scope, receive, send):
    """The app, for bodies of up to LARGEST bytes: of a larger one nothing is kept."""
    if scope["type"] == "http" and scope["method"] == "POST":
        length = int(dict(scope["headers"]).get(b"content-length", -1))
        if not 0 <= length <= LARGEST:
            while (await receive()).get("more_body"):  # who is still sending doesn't listen
                pass
            status, error = 413, f"The body is larger than {LARGEST // 10**6} MB."
            if length < 0:
                status, error = 411, "The request doesn't say how long its body is."
            return await JSONResponse({"error": error}, status)(scope, receive, send)
    await app(scope, receive, send)


def main(arguments):
    """Serve models, each NAME=FILE, until the process is ended; the first line printed is the address."""
    files.update((name, Path(file)) for name, file in (each.split("=", 1) for each in arguments))
    # By its protocol's number asyncio knows that answers are to go at once: they would wait some 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        print("http://{}:{}".format(*listening.getsockname()), flush=True)
        uvicorn.Server(uvicorn.Config(limited, log_level="warning")).run(sockets=[listening])


def recorded():
    """Serve the models that the three notebooks of lesson 10 have recorded, until Ctrl-C; return 0."""
    from helpers import records

    with tempfile.TemporaryDirectory(prefix="three-ways-") as folder:
        for tool, name in records.TOOLS.items():
            file = Path(folder, f"{tool}.onnx")
            file.write_bytes(records.load(f"10_deployment_{tool}")[f"{name}'s file"].tobytes())
            files[name] = file
        main([])
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
