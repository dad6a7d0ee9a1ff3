"""What the trainer asks of a task, and what the tasks share.

The trainer knows no task: it asks for batches, differentiates ``loss``, sums ``score`` over what
is held out and hands what it made to ``preview``. Usage::

    task, data = TASKS["char"].load(config)
    model = task.model(nnx.Rngs(0))
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn.config import StreamConfig, TrainConfig
from jaxrnn.data.streams import Window, windows
from jaxrnn.errors import InputError
from jaxrnn.models import Params, Skeleton
from jaxrnn.tasks.facts import fact


@runtime_checkable
class Batches(Protocol):
    """Training batches as a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        ...

    def batch_at(self, step: int, rows: slice = slice(None)) -> Any:
        """(inputs, targets, starts) of a step, counted over all epochs: trees of arrays.

        Of a batch's rows those of ``rows`` alone.

        The carried state is zeroed before it where ``starts``.
        """
        ...

    def num_alike(self, step: int, count: int) -> int:
        """How many of ``count`` batches from ``step`` on have the same shapes, before another."""
        ...


@runtime_checkable
class Validation(Protocol):
    """What is evaluated on, in windows of equal shape."""

    @property
    def baseline(self) -> dict[str, float]:
        """Metrics of a forecast without a model; empty: there is none."""
        ...

    @property
    def continues(self) -> bool:
        """Whether the state before the first window is the one that training ends with."""
        ...

    @property
    def num_counted(self) -> int:
        """Positions that count; 0: there is nothing to evaluate on."""
        ...

    @property
    def left_out(self) -> int:
        """Drawings of the data that are not counted: of a length that the model does not know."""
        ...

    def windows(self, num_streams: int, chunk_len: int) -> Iterator[Any]:
        """(inputs, targets, mask) in order, the state carried from one to the next."""
        ...


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A stream to evaluate on: every position from ``counted_from`` on counts once."""

    inputs: np.ndarray
    targets: np.ndarray
    counted_from: int = 0  # the positions before it warm the state up
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)  # the naive forecast's
    continues: bool = False  # the state at its start is the one that training ends with
    left_out: int = 0

    @property
    def num_counted(self) -> int:
        """Positions that count."""
        return len(self.inputs) - self.counted_from

    def windows(self, num_streams: int, chunk_len: int) -> Iterator[Window]:
        """The stream cut into parallel ones, each warmed up on what precedes it."""
        num_streams = max(1, min(num_streams, self.num_counted // (2 * chunk_len)))
        if self.continues:  # the carried state is that of one stream
            num_streams = 1
        chunk_len = min(chunk_len, -(-len(self.inputs) // num_streams))
        context = self.counted_from if num_streams == 1 else max(self.counted_from, chunk_len)
        return windows(
            self.inputs, self.targets, num_streams, chunk_len, self.counted_from, context
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """What a task has read."""

    train: Batches
    held_out: Validation
    facts: dict[str, Any]  # what a run pins: the vocabulary or the scaler, and a digest
    summary: str  # one line for people


@runtime_checkable
class Task(Protocol):
    """What the trainer, the sampler and the evaluator need of a task."""

    name: ClassVar[str]
    monitor: ClassVar[str]  # the metric, less is better, by which the best checkpoint is chosen

    @classmethod
    def load(cls, config: Any, facts: dict[str, Any] | None = None) -> tuple[Task, Data]:
        """Read the data that ``config`` names; with a run's ``facts``, exactly that run's."""
        ...

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """A fresh model."""
        ...

    def initial_carry(self, model: Any, batch_size: int) -> Any:
        """The state before the first batch or window; empty where none is carried."""
        ...

    def loss(self, model: Any, inputs, targets, state, rngs, step) -> tuple[Array, Any]:
        """The training loss of a step, and the carried state."""
        ...

    def score(self, model: Any, inputs, targets, mask, state) -> tuple[dict[str, Array], Any]:
        """Sums over the masked positions, and the carried state."""
        ...

    def metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """Metrics from sums over ``count`` positions."""
        ...

    def preview(self, skeleton: Skeleton[Any], params: Params, step: int) -> str:
        """A text that shows what the model has learnt; may be empty."""
        ...

    def illustrate(
        self, skeleton: Skeleton[Any], params: Params, carry: Any, data: Data, path: Path
    ) -> None:
        """Pictures for the end of a run, into its directory."""
        ...

    def read_evaluation(self, path: str) -> Validation:
        """A file to evaluate on, all of it."""
        ...


def body_options(config: StreamConfig) -> dict[str, Any]:
    """The options that every model of streams takes."""
    names = ("cell", "hidden_size", "num_layers", "dropout", "backend")
    return {**{name: getattr(config, name) for name in names}, **dtypes(config)}


def dtypes(config: TrainConfig) -> dict[str, Any]:
    """A model's options: parameters stay float32 where matmuls are bfloat16."""
    return {
        "dtype": jnp.dtype(config.dtype),
        "param_dtype": jnp.float64 if config.dtype == "float64" else jnp.float32,
    }


def digest_of(*arrays: np.ndarray) -> str:
    """SHA-256 of the arrays' content."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def check_pinned(pinned: dict[str, Any] | None) -> None:
    """Raise InputError for a run without data: its weights were imported."""
    if pinned is not None and fact(pinned, "digest") == "":
        raise InputError(
            "the run was imported without data: evaluate it on a file with --data, or import it "
            "again with --data to train on"
        )


def pin(facts: dict[str, Any], pinned: dict[str, Any] | None, config: TrainConfig) -> None:
    """Raise InputError where the data are not those of the run; a digest of None is any data's."""
    if pinned is not None and fact(pinned, "digest") not in (None, facts["digest"]):
        source = config.data or "the built-in data"
        raise InputError(
            f"{source} is not what the run was made with: put the same data back, or start "
            "a new run"
        )
