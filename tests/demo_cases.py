"""What the tests of the drawing page share: a run of a model that draws on for long, its server."""

import contextlib
import json
import socket
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import jax.numpy as jnp
import uvicorn

from jaxrnn import cli
from jaxrnn.config import SketchConfig
from jaxrnn.demo.artist import Artist
from jaxrnn.demo.guard import Guard
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.train_step import initial_state

SCALE, EXTENT = 20.0, 256.0
NUM_POINTS = 40
LINES = [[[100, 50], [140, 50], [140, 90]], [[60, 70]]]
GAIN = 4.0  # by which initial values are multiplied, so that what is read matters
PEN = (2.0, 0.0, -5.0)  # logits: mostly down, lifted now and then, hardly ever at the end


def make_run(
    path: Path, classes: tuple[str, ...] = ("cat", "dog"), gain: float = GAIN, **options
) -> str:
    small: dict[str, Any] = {
        "hidden_size": 8,
        "encoder_size": 4,
        "latent_size": 3,
        "num_mixtures": 2,
    }
    config = SketchConfig(run=str(path), class_size=3, **(small | options))
    facts = {"classes": list(classes), "scale": SCALE, "num_points": NUM_POINTS}
    facts |= {"extent": EXTENT, "digest": ""}
    run = Run.create("sketch", config, facts)
    _, _, state = initial_state(TASKS["sketch"].from_facts(config, facts), config)
    params = {name: gain * value for name, value in state.params.items()}
    params["output.bias"] = params["output.bias"].at[:3].set(jnp.array(PEN, jnp.float32))
    run.save(state._replace(params=params), {"step": 0})
    return str(path)


def open_artist(path: str) -> Artist:
    task, skeleton, params, _ = cli.open_model(path, "auto", "auto")
    return Artist(task, (skeleton, params))


def wish(**changes) -> dict:
    """How to draw, as the page asks for it."""
    return {"count": 1, "temperature": 0.4, "seed": 3, **changes}


@contextlib.contextmanager
def serving(app: Guard):
    """A client of the application behind a socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30, trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def drawings(client, path="/complete", **fields) -> list[list[list[float]]]:
    """Those of an answer, whose form is checked."""
    asked: dict[str, Any] = wish() | ({} if path == "/between" else {"lines": LINES}) | fields
    response = client.post(path, json=asked)
    assert (response.status_code, response.text[-1:]) == (200, "\n"), response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *pieces, end = [json.loads(line) for line in response.text.splitlines()]
    assert end == {"done": True}
    assert {len(piece["points"]) for piece in pieces} == {asked["count"]}
    return [[*chain(*rows)] for rows in zip(*(piece["points"] for piece in pieces), strict=True)]
