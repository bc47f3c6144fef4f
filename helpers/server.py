"""Serves models that read digits: FastAPI with onnxruntime, on a free port that this machine alone can reach.

It knows nothing of how a model was made. `GET /` is a page to draw on, `GET /models` names the models, and
`POST /answer/NAME` answers {"images": [[784 pixels, 0 to 255], ...]} with each image's ten probabilities, and
with the digits. What can't be answered gets {"error": a sentence} and a status from 400 to 499.

A file takes n images of 784 pixels in 32 bits and gives ten numbers for each. The pixels are divided by 255
before, or by what the file's own metadata say under "scale".
"""

import asyncio
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import h11
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from onnxruntime import InferenceSession, SessionOptions
from pydantic import BaseModel, FailFast, Field
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

PAGE = Path(__file__).with_name("draw.html")
LARGEST = 16_000_000  # bytes of a body: a thousand images take about four million
SECONDS = 10  # for a request to come
Pixel = Annotated[float, Field(strict=True, ge=0, le=255, allow_inf_nan=False)]
Image = Annotated[list[Pixel], Field(min_length=784, max_length=784)]


class Digits(BaseModel):
    """What a request has to hold.

    It is read up to the first image with a mistake: a list of all would be many times larger than the body.
    """

    images: Annotated[list[Image], Field(min_length=1, max_length=1000), FailFast()]


app = FastAPI(docs_url=None, redoc_url=None)  # whose pages would come from the net
sessions, scales = {}, {}  # by the names of the models


def offer(name, file):
    """Open a model's file; return what is wrong with it, in words, or None.

    Args:
        name: what it will be called in an address.
        file: its path.
    """
    if not file.is_file():
        return "its file isn't there"
    options = SessionOptions()
    options.intra_op_num_threads = 1  # many requests, one thread each
    try:
        session = InferenceSession(file.read_bytes(), options)
        scale = float(session.get_modelmeta().custom_metadata_map.get("scale", 255))
    except Exception:  # the runtime has many kinds
        return "its file can't be read"
    try:
        (P,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 784), "float32")})
    except Exception:
        P = np.empty(0)
    if P.shape != (2, 10) or not 0 < scale < np.inf:
        return "its file doesn't take n images of 784 pixels, in 32 bits, and give ten numbers for each"
    sessions[name], scales[name] = session, np.float32(scale)


@app.get("/")
def page():
    return FileResponse(PAGE)


@app.get("/models")
def models():
    return [*sessions]


@app.post("/answer/{name}")
def answer(name: str, digits: Digits):
    if name not in sessions:
        raise HTTPException(404, f"There is no model {name}. There are: {', '.join(sessions) or 'none'}.")
    X = np.array(digits.images, "float32") / scales[name]
    (P,) = sessions[name].run(None, {sessions[name].get_inputs()[0].name: X})
    return JSONResponse({"digits": P.argmax(axis=1).tolist(), "probabilities": P.tolist()})


@app.exception_handler(HTTPException)
def refuse(request: Request, error: HTTPException):
    return JSONResponse({"error": f"{error.detail.rstrip('.')}."}, error.status_code)


@app.exception_handler(RequestValidationError)
def explain(request: Request, error: RequestValidationError):
    if not request.headers.get("Content-Type", "").startswith("application/json"):
        return JSONResponse({"error": "The request lacks the header Content-Type: application/json."}, 415)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse({"error": "The body isn't JSON."}, 400)
    place = "".join(f"[{part}]" if isinstance(part, int) else part for part in first["loc"][1:])
    said = first["msg"].replace(" after validation", "")
    return JSONResponse({"error": f"{place or 'body'}: {said}."}, 422)


async def limited(scope, receive, send):
    """The app, for bodies of up to LARGEST bytes that come in SECONDS: of a larger one nothing is kept.

    It counts what comes, whatever the header says, and reads on: a client that still sends doesn't listen.
    """
    if scope["type"] != "http":
        return await app(scope, receive, send)
    body, size, more, refusal = bytearray(), 0, True, None
    try:
        async with asyncio.timeout(SECONDS):
            while more:
                message = await receive()
                if message["type"] != "http.request":  # nobody is there any more
                    return
                piece, more = message.get("body", b""), message.get("more_body")
                size += len(piece)
                if size <= LARGEST:
                    body += piece
                else:
                    body.clear()
    except TimeoutError:
        refusal = 408, f"The body didn't come within {SECONDS} seconds."
    if size > LARGEST:
        refusal = 413, f"The body is larger than {LARGEST // 10**6} MB."
    if refusal:
        reply = JSONResponse({"error": refusal[1]}, refusal[0], {"Connection": "close"})
        return await reply(scope, receive, send)
    whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def read():
        return whole.pop() if whole else await receive()

    await app(scope, read, send)


class Patient(H11Protocol):
    """uvicorn's protocol, but whoever sends half a header, or nothing, is waited for SECONDS only."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.wait()

    def data_received(self, data):
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self.wait()

    def wait(self):
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(SECONDS, self.timeout_keep_alive_handler)


def main(arguments):
    """Serve models, each NAME=FILE, until the process is ended; the first line printed is the address."""
    wrong = {}
    for name, file in (each.split("=", 1) for each in arguments):
        if problem := offer(name, Path(file)):
            wrong[name] = problem
    # By its protocol's number asyncio knows that answers are to go at once: they would wait some 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        print("http://{}:{}".format(*listening.getsockname()), flush=True)
        for name, problem in wrong.items():
            print(f"The model {name} is not served: {problem}.", flush=True)
        config = uvicorn.Config(limited, log_level="error", http=Patient)
        uvicorn.Server(config).run(sockets=[listening])


def recorded():
    """Serve the models that the three notebooks of lesson 10 have recorded, until Ctrl-C; return 0."""
    from helpers import records

    with tempfile.TemporaryDirectory(prefix="three-ways-") as folder:
        files = {name: Path(folder, f"{tool}.onnx") for tool, name in records.TOOLS.items()}
        for tool, name in records.TOOLS.items():
            files[name].write_bytes(records.load(f"10_deployment_{tool}")[f"{name}'s file"].tobytes())
        main([f"{name}={file}" for name, file in files.items()])
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
