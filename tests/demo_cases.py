"""What the tests of the drawing page share: a run of a model that draws on for long."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxrnn import cli
from jaxrnn.config import SketchConfig
from jaxrnn.demo.artist import Artist
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.train_step import initial_state

SCALE = 20.0
NUM_POINTS = 40
DEAR = 4.0  # by which initial values are multiplied, so that what is read matters
PEN = (2.0, 0.0, -5.0)  # logits: mostly down, lifted now and then, hardly ever at the end


def make_run(path: Path, classes: tuple[str, ...] = ("cat", "dog"), **options) -> str:
    small: dict[str, Any] = {
        "hidden_size": 8,
        "encoder_size": 4,
        "latent_size": 3,
        "num_mixtures": 2,
    }
    config = SketchConfig(run=str(path), class_size=3, **(small | options))
    facts = {"classes": list(classes), "scale": SCALE, "num_points": NUM_POINTS, "digest": ""}
    run = Run.create("sketch", config, facts)
    _, _, state = initial_state(TASKS["sketch"].from_facts(config, facts), config)
    params = {name: DEAR * value for name, value in state.params.items()}
    params["output.bias"] = params["output.bias"].at[:3].set(jnp.array(PEN, jnp.float32))
    run.save(state._replace(params=params), {"step": 0})
    return str(path)


def open_artist(path: str) -> Artist:
    task, skeleton, params, _ = cli.open_model(path, "auto", "auto")
    return Artist(task, (skeleton, params))


def wish(**changes) -> dict:
    """How to draw, as the page asks for it."""
    return {"count": 1, "temperature": 0.4, "seed": 3, **changes}
