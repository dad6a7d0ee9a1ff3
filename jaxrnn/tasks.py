"""A task is data, a model, a loss, metrics and a preview; ``TASKS`` is the table of them.

The trainer knows no task: it asks for batches, differentiates ``loss``, sums ``score`` over the
validation stream and hands what it made to ``preview``. Usage::

    task, data = TASKS["char"].load(config)
    model = task.model(nnx.Rngs(0))
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn import losses, plots
from jaxrnn.config import CharConfig, SeriesConfig, TrainConfig
from jaxrnn.data import series, text
from jaxrnn.data.streams import Batch, Streams, Window, windows
from jaxrnn.errors import InputError
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.char_lm import CharLM, generate
from jaxrnn.models.forecaster import Forecaster


@runtime_checkable
class Batches(Protocol):
    """Training batches as a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        ...

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, counted over all epochs."""
        ...


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A stream to evaluate on: every position from ``counted_from`` on counts once."""

    inputs: np.ndarray
    targets: np.ndarray
    counted_from: int = 0  # the positions before it warm the state up
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)  # the naive forecast's
    continues: bool = False  # the state at its start is the one that training ends with

    @property
    def num_counted(self) -> int:
        """Positions that count."""
        return len(self.inputs) - self.counted_from

    def windows(self, num_streams: int, chunk_len: int) -> Iterator[Window]:
        """The stream cut into parallel ones, each warmed up on what precedes it."""
        context = self.counted_from if num_streams == 1 else max(self.counted_from, chunk_len)
        return windows(
            self.inputs, self.targets, num_streams, chunk_len, self.counted_from, context
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """What a task has read."""

    train: Batches
    held_out: HeldOut
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

    def loss(self, model: Any, inputs, targets, state, rngs) -> tuple[Array, Any]:
        """The training loss, and the carried state."""
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

    def read_evaluation(self, path: str) -> HeldOut:
        """A whole file as a stream to evaluate on."""
        ...


def _body(config: TrainConfig) -> dict[str, Any]:
    """The options that every model takes; parameters stay float32 where matmuls are bfloat16."""
    names = ("cell", "hidden_size", "num_layers", "dropout", "backend")
    return {
        **{name: getattr(config, name) for name in names},
        "dtype": jnp.dtype(config.dtype),
        "param_dtype": jnp.float64 if config.dtype == "float64" else jnp.float32,
    }


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _fact(facts: dict[str, Any], name: str) -> Any:
    if name not in facts:
        raise InputError(f"run.json has no {name}: it is damaged or of another version")
    return facts[name]


def _check_pinned(pinned: dict[str, Any] | None) -> None:
    """Raise InputError for a run without data: its weights were imported."""
    if pinned is not None and _fact(pinned, "digest") == "":
        raise InputError(
            "the run was imported without data: evaluate it on a file with --data, or import it "
            "again with --data to train on"
        )


def _pin(facts: dict[str, Any], pinned: dict[str, Any] | None, config: TrainConfig) -> None:
    """Raise InputError where the data are not those of the run; a digest of None is any data's."""
    if pinned is not None and _fact(pinned, "digest") not in (None, facts["digest"]):
        source = config.data or "the built-in data"
        raise InputError(
            f"{source} is not what the run was made with: put the same data back, or start "
            "a new run"
        )


@dataclasses.dataclass(frozen=True)
class CharTask:
    """Character language model: next-symbol cross-entropy in nats."""

    config: CharConfig
    vocabulary: text.Vocabulary

    name: ClassVar[str] = "char"
    monitor: ClassVar[str] = "nats"

    @classmethod
    def from_facts(cls, config: CharConfig, facts: dict[str, Any]) -> CharTask:
        """The task of an existing run."""
        return cls(config, text.Vocabulary.from_dict(_fact(facts, "vocabulary")))

    @classmethod
    def load(cls, config: CharConfig, facts: dict[str, Any] | None = None) -> tuple[CharTask, Data]:
        """See ``Task``."""
        _check_pinned(facts)
        data = text.load_text(
            config.data,
            config.tokens,
            config.batches,
            config.batch_size,
            config.seq_len,
            config.val_fraction,
            None if facts is None else text.Vocabulary.from_dict(_fact(facts, "vocabulary")),
        )
        train_size, val_size = data.train.inputs.size, len(data.val_targets)
        found = {
            "vocabulary": data.vocabulary.to_dict(),
            "digest": _digest(data.train.inputs, data.train.targets, data.val_targets),
        }
        _pin(found, facts, config)
        source = config.data or "the language reference in pydoc_data.topics"
        summary = (
            f"{source}: {train_size:,} {config.tokens} to train on, {val_size:,} to validate, "
            f"{data.vocabulary.size} symbols"
        )
        held_out = HeldOut(data.val_inputs, data.val_targets)
        return cls(config, data.vocabulary), Data(data.train, held_out, found, summary)

    def model(self, rngs: nnx.Rngs) -> CharLM:
        """See ``Task``."""
        return CharLM(
            self.vocabulary.size,
            embedding_size=self.config.embedding_size,
            rngs=rngs,
            **_body(self.config),
        )

    def loss(self, model: CharLM, inputs, targets, state, rngs) -> tuple[Array, Any]:
        """See ``Task``."""
        logits, state = model(inputs, state, rngs=rngs)
        return losses.cross_entropy(logits, targets), state

    def score(self, model: CharLM, inputs, targets, mask, state) -> tuple[dict[str, Array], Any]:
        """See ``Task``."""
        logits, state = model(inputs, state)
        return {"nats": losses.cross_entropy(logits, targets, mask)}, state

    def metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """Nats and bits a symbol, and perplexity."""
        nats = sums["nats"] / count
        perplexity = math.exp(min(nats, 700))  # more would not fit a float
        return {"nats": nats, "bits": nats / math.log(2), "perplexity": perplexity}

    def prime(self, start: str) -> np.ndarray:
        """Ids of the text to go on from; of a line break (or the first symbol) where it is empty.

        Raises InputError for unknown characters.
        """
        symbols = self.vocabulary.symbols
        line_break = "\n" if self.vocabulary.kind == "bytes" or "\n" in symbols else symbols[0]
        return self.vocabulary.encode(start or line_break, "--prime")

    def preview(self, skeleton: Skeleton[CharLM], params: Params, step: int) -> str:
        """A sample of text after a line break, at temperature 0.8, the same for the same step."""
        length = self.config.preview_length
        if not length:
            return ""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2**31 + step)
        chunks = generate(
            (skeleton, params), self.prime(""), length=length, key=key, temperature=0.8
        )
        return self.vocabulary.decode(np.concatenate(list(chunks)))

    def illustrate(
        self, skeleton: Skeleton, params: Params, carry: Any, data: Data, path: Path
    ) -> None:
        """Nothing: the samples are text."""

    def read_evaluation(self, path: str) -> HeldOut:
        """See ``Task``."""
        return HeldOut(*text.load_evaluation_text(path, self.vocabulary))


@dataclasses.dataclass(frozen=True)
class SeriesTask:
    """One-step prediction of a series: mean squared error on scaled values."""

    config: SeriesConfig
    scaler: series.Scaler
    target: str

    name: ClassVar[str] = "series"
    monitor: ClassVar[str] = "mse"

    @classmethod
    def from_facts(cls, config: SeriesConfig, facts: dict[str, Any]) -> SeriesTask:
        """The task of an existing run."""
        return cls(config, series.Scaler.from_dict(_fact(facts, "scaler")), _fact(facts, "target"))

    @classmethod
    def load(
        cls, config: SeriesConfig, facts: dict[str, Any] | None = None
    ) -> tuple[SeriesTask, Data]:
        """See ``Task``."""
        _check_pinned(facts)
        if config.data:
            data = series.load_series(
                config.data,
                config.target,
                config.batch_size,
                config.seq_len,
                config.val_fraction,
                None if facts is None else series.Scaler.from_dict(_fact(facts, "scaler")),
            )
        else:
            if config.batch_size != 1:
                raise InputError(
                    f"--batch-size is {config.batch_size}, expected 1 for the built-in sine: its "
                    "batches are consecutive; give a file with --data for more streams"
                )
            for name in ("target", "val_fraction"):
                given = getattr(config, name)
                if given != getattr(SeriesConfig, name):
                    flag = name.replace("_", "-")
                    raise InputError(
                        f"--{flag} is {given!r}: the built-in sine has none; add --data"
                    )
            data = series.sine_data(config.seq_len)
        train = data.train
        trained = (train.inputs, train.targets) if isinstance(train, Streams) else ()
        found = {
            "target": data.target,
            "scaler": data.scaler.to_dict(),
            "digest": _digest(*trained, data.val_inputs, data.val_targets),
        }
        _pin(found, facts, config)
        held_out = _held_out(data.val_inputs, data.val_targets, data.counted_from)
        if not config.data:
            after = slice(data.counted_from, None)
            held_out = _held_out(data.val_inputs[after], data.val_targets[after], 0)
            held_out = dataclasses.replace(held_out, continues=True)
        source = f"{data.target} of {config.data}" if config.data else "the lesson's sine"
        summary = (
            f"{source}: {data.train.steps_per_epoch} batches of {config.batch_size} x "
            f"{config.seq_len} an epoch, {held_out.num_counted:,} values to validate"
        )
        task = cls(config, data.scaler, data.target)
        return task, Data(data.train, held_out, found, summary)

    def model(self, rngs: nnx.Rngs) -> Forecaster:
        """See ``Task``."""
        return Forecaster(rngs=rngs, **_body(self.config))

    def loss(self, model: Forecaster, inputs, targets, state, rngs) -> tuple[Array, Any]:
        """See ``Task``."""
        prediction, state = model(inputs, state, rngs=rngs)
        return losses.squared_error(prediction, targets), state

    def score(
        self, model: Forecaster, inputs, targets, mask, state
    ) -> tuple[dict[str, Array], Any]:
        """See ``Task``."""
        prediction, state = model(inputs, state)
        sums = {
            "mse": losses.squared_error(prediction, targets, mask),
            "mae": losses.absolute_error(prediction, targets, mask),
        }
        return sums, state

    def metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """MSE and MAE on scaled values."""
        return {name: sums[name] / count for name in ("mse", "mae")}

    def preview(self, skeleton: Skeleton[Forecaster], params: Params, step: int) -> str:
        """Nothing: the picture at the end shows it."""
        return ""

    def illustrate(
        self, skeleton: Skeleton, params: Params, carry: Any, data: Data, path: Path
    ) -> None:
        """``prediction.png``: one-step predictions beside the series' last part, in its units."""
        held_out = data.held_out
        if not held_out.num_counted:
            return
        shown = slice(-min(len(held_out.inputs), 400), None)
        state = carry if held_out.continues else None
        prediction, _ = jax.jit(lambda params, x, state: skeleton.merge(params)(x, state))(
            params, held_out.inputs[None], state
        )
        plots.prediction(
            path / "prediction.png",
            self.scaler.inverse(held_out.targets[shown, 0]),
            self.scaler.inverse(np.asarray(prediction)[0, shown, 0]),
            num_validated=held_out.num_counted,
            title=self.target,
        )

    def read_evaluation(self, path: str) -> HeldOut:
        """See ``Task``."""
        _, values = series.read_column(path, self.target)
        if len(values) < 2:
            raise InputError(f"{path} has {len(values)} values, expected at least 2")
        scaled = self.scaler.transform(values)[:, None].astype(np.float32)
        return _held_out(scaled[:-1], scaled[1:], 0)


def _held_out(inputs: np.ndarray, targets: np.ndarray, counted_from: int) -> HeldOut:
    """A series beside its last-value forecast."""
    if counted_from == len(inputs):
        return HeldOut(inputs, targets, counted_from)
    baseline = series.naive_errors(inputs, targets, counted_from)
    return HeldOut(inputs, targets, counted_from, baseline)


TASKS: dict[str, Any] = {"char": CharTask, "series": SeriesTask}
"""Every task by its name; options in ``jaxrnn.config.CONFIGS`` under the same one."""
