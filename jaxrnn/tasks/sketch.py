"""The task ``sketch``: drawings, by sketch-rnn.

The reconstruction's cost is a mean over B * Nmax, Nmax being the points of the longest drawing, as
in the paper's equations 9 and 10, however short a batch's own drawings are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn.config import SketchConfig
from jaxrnn.data.drawings import Part, read_drawings
from jaxrnn.data.sketch_batches import SketchBatches, held_out_batches
from jaxrnn.data.sketch_output import to_svg
from jaxrnn.data.strokes import Drawing, mean_start, scale_factor, typical_extent
from jaxrnn.errors import InputError
from jaxrnn.files import write_atomically
from jaxrnn.mixture import kl_nats, offset_nats, pen_nats, split_outputs
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.sketch_drawing import Pen
from jaxrnn.models.sketch_rnn import SketchRNN
from jaxrnn.tasks.facts import LARGEST, fact, is_count, is_list, is_names, is_number, is_size
from jaxrnn.tasks.task import Data, Validation, check_pinned, digest_of, dtypes, pin

TEMPERATURE = 0.4  # of the drawings that are shown


@dataclasses.dataclass(frozen=True)
class HeldOutDrawings:
    """Drawings to evaluate on, each once; no state is carried between them."""

    part: Part
    batch_size: int
    scale: float
    max_len: int
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)
    continues: bool = False

    @property
    def num_counted(self) -> int:
        """How many there are."""
        return len(self.part.drawings)

    @property
    def left_out(self) -> int:
        """How many have no point, or more than the model knows."""
        return self.part.left_out

    def windows(self, num_streams: int, chunk_len: int) -> Iterator[Any]:
        """Batches of drawings, each padded to Nmax: the pen's cost goes on there."""
        for batch in held_out_batches(
            self.part.drawings, self.part.classes, self.batch_size, self.scale, self.max_len
        ):
            inputs = (batch.strokes, batch.lengths, batch.classes, batch.places)
            yield inputs, (), batch.counted


@dataclasses.dataclass(frozen=True)
class DrawingBatches:
    """``SketchBatches`` as the trainer takes them."""

    batches: SketchBatches
    num_steps: int = 0  # T of every batch, where above 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the drawings."""
        return self.batches.steps_per_epoch

    def batch_at(self, step: int, rows: slice = slice(None)) -> Any:
        """See ``Batches``."""
        strokes, lengths, classes = (part[rows] for part in self.batches.batch_at(step))
        if self.num_steps:
            missing = max(self.num_steps + 1 - strokes.shape[1], 0)
            strokes = np.pad(strokes, ((0, 0), (0, missing), (0, 0)), mode="edge")
            strokes = strokes[:, : self.num_steps + 1]
        return (strokes, lengths, classes), (), np.bool_(False)

    def num_alike(self, step: int, count: int) -> int:
        """See ``Batches``."""
        if self.num_steps:
            return count
        bounds = [self.batches.bound_at(step + k) for k in range(count)]
        return next((k for k, bound in enumerate(bounds) if bound != bounds[0]), count)


@dataclasses.dataclass(frozen=True)
class SketchTask:
    """sketch-rnn: the cost of drawing what was drawn, and of the latent vector."""

    config: SketchConfig
    classes: tuple[str, ...]
    scale: float  # standard deviation of the training offsets, the model's unit
    num_points: int  # Nmax
    extent: float = 256.0  # the larger side of a typical training drawing; Quick, Draw!'s
    start: tuple[float, float] = (0.0, 0.0)  # mean first offset of training drawings, in units

    name: ClassVar[str] = "sketch"
    monitor: ClassVar[str] = "loss"

    @classmethod
    def from_facts(cls, config: SketchConfig, facts: dict[str, Any]) -> SketchTask:
        """The task of an existing run."""
        is_classes = lambda value: is_names(value) and value != []  # noqa: E731
        classes = tuple(fact(facts, "classes", is_classes, "a list of names, each once"))
        size = f"a number above 0, at most {LARGEST:g}"
        scale, extent = (float(fact(facts, name, is_size, size)) for name in ("scale", "extent"))
        is_points = lambda value: is_count(value, 10**6)  # noqa: E731
        num_points = fact(facts, "num_points", is_points, "a whole number from 1 to 1,000,000")
        older = {"start": [0.0, 0.0]}  # runs of older versions have none
        x, y = fact(older | facts, "start", is_list(is_number, 2), "two numbers")
        return cls(config, classes, scale, num_points, extent, (float(x), float(y)))

    @classmethod
    def load(
        cls, config: SketchConfig, facts: dict[str, Any] | None = None
    ) -> tuple[SketchTask, Data]:
        """See ``Task``."""
        check_pinned(facts)
        read = read_drawings(config.data, config.max_len)
        if facts is None:
            drawings = read.train.drawings
            scale, extent = scale_factor(drawings), typical_extent(drawings)
            x, y = mean_start(drawings) / scale
            start = (float(x), float(y))
            task = cls(config, read.classes, scale, read.longest, extent, start)
        else:
            task = cls.from_facts(config, facts)
        found = {
            "classes": list(task.classes),
            "scale": task.scale,
            "num_points": task.num_points,
            "extent": task.extent,
            "start": list(task.start),
            "digest": digest_of(
                *(*read.train.drawings, read.train.classes),
                *(*read.valid.drawings, read.valid.classes),
            ),
        }
        pin(found, facts, config)
        if len(task.classes) != len(read.classes):
            raise InputError(
                f"run.json has {len(task.classes)} classes, its data have {len(read.classes)}: it "
                "is damaged; put a copy of it back, or start a new run"
            )
        batches = SketchBatches(
            read.train.drawings,
            read.train.classes,
            config.batch_size,
            task.scale,
            config.seed,
            task.num_points,
            config.random_scale,
            config.drop_points,
            config.num_buckets,
        )
        source = ", ".join(config.data) if config.data else "Omniglot's characters"
        left_out = sum(part.left_out for part in (read.train, read.valid))
        others = f" ({left_out:,} others left out)" if left_out else ""
        among = f" of {len(task.classes)} classes" if len(task.classes) > 1 else ""
        summary = (
            f"{source}: {len(read.train.drawings):,} drawings{among} to train on, "
            f"{len(read.valid.drawings):,} to validate, of at most {task.num_points} points"
            f"{others}; scale {task.scale:.4f}"
        )
        train = DrawingBatches(batches, task.num_points if config.loss == "magenta" else 0)
        return task, Data(train, task._held_out(read.valid), found, summary)

    def _held_out(self, part: Part) -> HeldOutDrawings:
        size = min(self.config.batch_size, max(len(part.drawings), 1))
        return HeldOutDrawings(part, size, self.scale, self.num_points)

    def placed(self, drawing: Drawing) -> Drawing:
        """A drawing in the model's unit, begun where the training drawings begin.

        The first offset of a file says where the drawing stands, which means nothing here.
        """
        drawing = drawing.copy()
        drawing[:1, :2] = self.start
        return drawing

    def model(self, rngs: nnx.Rngs) -> SketchRNN:
        """See ``Task``."""
        config = self.config
        names = ("decoder", "hidden_size", "encoder_size", "latent_size", "num_mixtures")
        more = ("class_size", "conditional", "recurrent_dropout", "backend")
        return SketchRNN(
            **{name: getattr(config, name) for name in (*names, *more)},
            num_classes=len(self.classes) if len(self.classes) > 1 else 0,
            rngs=rngs,
            **dtypes(config),
        )

    def initial_carry(self, model: Any, batch_size: int) -> tuple[()]:
        """Nothing: each drawing stands alone."""
        return ()

    def kl_weight(self, step: Any) -> Any:
        """Of the latent vector's cost at a step, as the paper's equation 12 has it."""
        config = self.config
        difference = config.kl_weight - config.kl_weight_start
        return config.kl_weight - difference * jnp.float32(config.kl_decay) ** step

    def loss(self, model: SketchRNN, inputs, targets, state, rngs, step) -> tuple[Array, Any]:
        """Reconstruction, and the latent vector's cost by the step's weight; see ``Task``."""
        strokes, lengths, classes = inputs
        outputs, latent = model(strokes, lengths, classes, rngs=rngs)
        offset, pen, _ = self._costs(outputs, strokes)
        loss = (offset + pen).mean()
        if latent is not None:
            kl = kl_nats(latent.mu, latent.presig).mean()
            loss += self.kl_weight(step) * jnp.maximum(kl, self.config.kl_floor)
        return loss, state

    def _costs(self, outputs, strokes) -> tuple[Array, Array, Array]:
        """Of each drawing, over Nmax: offsets, pen, pen up to the end alone."""
        mixture, points = split_outputs(outputs), strokes[:, 1:]
        drawn = points[..., 4] == 0
        offset = offset_nats(mixture, points[..., :2], self.config.loss == "magenta")
        pen = pen_nats(mixture, points[..., 2:])
        offset, masked = (jnp.where(drawn, cost, 0) for cost in (offset, pen))
        return tuple(cost.sum(-1) / self.num_points for cost in (offset, pen, masked))  # type: ignore[return-value]

    def score(self, model: SketchRNN, inputs, targets, mask, state) -> tuple[dict[str, Array], Any]:
        """Sums over drawings, the latent vector of each always drawn alike; see ``Task``."""
        strokes, lengths, classes, places = inputs
        noise = None
        if model.conditional:
            key, shape = jax.random.key(0), (model.latent_size,)
            noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(key, k), shape))(places)
        outputs, latent = model(strokes, lengths, classes, noise=noise)
        offset, pen, masked = self._costs(outputs, strokes)
        costs = {"offset": offset, "pen": pen, "pen_masked": masked}
        if latent is not None:
            costs["kl"] = kl_nats(latent.mu, latent.presig)
        return {name: jnp.where(mask, cost, 0).sum() for name, cost in costs.items()}, state

    def metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """``loss`` at the final KL weight; the reconstruction as Magenta evaluates it, and as it
        trains: without the pen's cost after the end, and with it.
        """
        means = {name: total / count for name, total in sums.items()}
        found = {
            "reconstruction": means["offset"] + means["pen_masked"],
            "unmasked": means["offset"] + means["pen"],
        }
        loss = found["unmasked"]
        if "kl" in means:
            found["kl"] = means["kl"]
            loss += self.config.kl_weight * max(means["kl"], self.config.kl_floor)
        return {"loss": loss, **found}

    def preview(self, skeleton: Skeleton[SketchRNN], params: Params, step: int) -> str:
        """Nothing: the picture at the end shows it."""
        return ""

    def illustrate(
        self, skeleton: Skeleton, params: Params, carry: Any, data: Data, path: Path
    ) -> None:
        """``drawings.svg``: drawings of the model, class by class."""
        count = self.config.preview_count
        if not count:
            return
        classes = np.arange(count, dtype=np.int32) % len(self.classes)
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2**31)
        drawn = Pen((skeleton, params)).drawings(
            key,
            count=count,
            length=self.num_points,
            temperature=TEMPERATURE,
            classes=classes,
        )
        svg = to_svg([drawing * (self.scale, self.scale, 1) for drawing in drawn])
        write_atomically(path / "drawings.svg", svg.encode(), durably=False)

    def read_evaluation(self, path: str) -> Validation:
        """The test part of a file of drawings, or all of it where it has none."""
        read = read_drawings((path,), self.num_points)
        parts = (read.test,) if read.test.drawings else (read.train, read.valid)
        drawings = [drawing for part in parts for drawing in part.drawings]
        classes = np.concatenate([part.classes for part in parts])
        left_out = sum(part.left_out for part in parts)
        if len(self.classes) == 1:
            return self._held_out(Part(drawings, np.zeros_like(classes), left_out))
        unknown = [name for name in read.classes if name not in self.classes]
        if unknown:
            raise InputError(
                f"{path} has the class {unknown[0]!r}, the run knows {', '.join(self.classes)}"
            )
        places = np.array([self.classes.index(name) for name in read.classes], np.int32)
        return self._held_out(Part(drawings, places[classes], left_out))
