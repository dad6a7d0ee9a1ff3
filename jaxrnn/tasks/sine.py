"""The task ``sine``: one-step prediction, of the lesson's sine or a column of a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn import losses, plots
from jaxrnn.config import SineConfig
from jaxrnn.data import sine
from jaxrnn.data.scaler import Scaler
from jaxrnn.data.streams import Streams
from jaxrnn.errors import InputError
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.forecaster import Forecaster
from jaxrnn.tasks.facts import fact, is_text
from jaxrnn.tasks.task import Data, HeldOut, body_options, check_pinned, digest_of, pin


@dataclasses.dataclass(frozen=True)
class SineTask:
    """One-step prediction of a series: mean squared error on scaled values."""

    config: SineConfig
    scaler: Scaler
    target: str

    name: ClassVar[str] = "sine"
    monitor: ClassVar[str] = "mse"

    @classmethod
    def from_facts(cls, config: SineConfig, facts: dict[str, Any]) -> SineTask:
        """The task of an existing run."""
        target = fact(facts, "target", is_text, "a column's name")
        return cls(config, Scaler.from_dict(fact(facts, "scaler")), target)

    @classmethod
    def load(cls, config: SineConfig, facts: dict[str, Any] | None = None) -> tuple[SineTask, Data]:
        """See ``Task``."""
        check_pinned(facts)
        if config.data:
            data = sine.load_column(
                config.data,
                config.target,
                config.batch_size,
                config.seq_len,
                config.val_fraction,
                None if facts is None else Scaler.from_dict(fact(facts, "scaler")),
            )
        else:
            if config.batch_size != 1:
                raise InputError(
                    f"--batch-size is {config.batch_size}, expected 1 for the built-in sine: its "
                    "batches are consecutive; give a file with --data for more streams"
                )
            for name in ("target", "val_fraction"):
                given = getattr(config, name)
                if given != getattr(SineConfig, name):
                    flag = name.replace("_", "-")
                    raise InputError(
                        f"--{flag} is {given!r}: the built-in sine has none; add --data"
                    )
            data = sine.sine_data(config.seq_len)
        train = data.train
        trained = (train.inputs, train.targets) if isinstance(train, Streams) else ()
        found = {
            "target": data.target,
            "scaler": data.scaler.to_dict(),
            "digest": digest_of(*trained, data.val_inputs, data.val_targets),
        }
        pin(found, facts, config)
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
        return Forecaster(rngs=rngs, **body_options(self.config))

    def initial_carry(self, model: Any, batch_size: int) -> Any:
        """See ``Task``."""
        return model.rnn.initial_state(batch_size)

    def loss(self, model: Forecaster, inputs, targets, state, rngs, step) -> tuple[Array, Any]:
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
        held_out: Any = data.held_out
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
        _, values = sine.read_column(path, self.target)
        if len(values) < 2:
            raise InputError(f"{path} has {len(values)} values, expected at least 2")
        self.scaler.refuse_far(values, path, self.target)
        scaled = self.scaler.transform(values)[:, None].astype(np.float32)
        return _held_out(scaled[:-1], scaled[1:], 0)


def _held_out(inputs: np.ndarray, targets: np.ndarray, counted_from: int) -> HeldOut:
    """A series beside its last-value forecast."""
    if counted_from == len(inputs):
        return HeldOut(inputs, targets, counted_from)
    baseline = sine.naive_errors(inputs, targets, counted_from)
    return HeldOut(inputs, targets, counted_from, baseline)
