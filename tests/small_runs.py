"""Small runs, and what they leave, for the tests of training."""

import io
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxrnn import checkpoint, mesh, train_step, training
from jaxrnn.config import CharConfig, TrainConfig
from jaxrnn.progress import Display
from jaxrnn.runs import VOLATILE, Run
from jaxrnn.tasks import TASKS

TEXT = "the cat sat on the mat; a dog ate the hat. " * 8


def quiet() -> Display:
    return Display(Console(file=io.StringIO(), soft_wrap=True))


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def char_config(text_file: str, **options) -> CharConfig:
    small: dict[str, Any] = {
        **{"cell": "rnn", "hidden_size": 5, "batch_size": 3, "seq_len": 4, "log_every": 1},
        **{"data": text_file, "preview_length": 0, "lr": 0.05},
        **{"embedding_size": 0, "schedule": "constant", "warmup_steps": 0},
    }
    return CharConfig(**(small | options))


def train(config: TrainConfig, task_name: str = "char", **options):
    task, data = TASKS[task_name].load(config)
    run = Run.create(task_name, config, data.facts)
    return run, training.train(task, data, run, display=quiet(), **options)


def steps_of(config, count=3):
    """Losses, gradient norms and the state after some steps."""
    task, data = TASKS["char"].load(config)
    skeleton, _, state = train_step.initial_state(task, config)
    state = mesh.place(state, mesh.state_shardings(state, mesh.device_mesh(config)))
    step = train_step.make_step(task.loss, skeleton, config, count)
    state, metrics = step(state, *training.stack_batches(data, 0, count, count), count)
    return state, metrics


def go_on(run: Run, config: TrainConfig | None = None, display: Display | None = None, **options):
    task, data = TASKS[run.task].load(config or run.config, run.facts)
    run = Run(run.path, run.task, config or run.config, run.facts, run.about)
    return run, training.train(task, data, run, display=display or quiet(), **options)


def last_of(run: Run, name: str = "last"):
    arrays, meta = checkpoint.read(run.checkpoint_path(name))
    meta["progress"].pop("time_s")
    meta.pop("run", None)
    return arrays, meta


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in run.metrics()]
