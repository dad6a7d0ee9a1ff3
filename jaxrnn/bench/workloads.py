"""What is timed: models, shapes and what is done with them, one row each; NumPy alone.

A training step is forward, loss, backward, clipping of the whole gradient's norm (of a sketch-rnn's
elements) and Adam, of the whole model; ``gradients`` is forward and backward alone, ``forward`` the
model without gradients on a batch; ``generate`` writes text, one symbol after the other. Usage::

    workload = SUITES["train"][0]
    arrays, batch = parameters(workload), data(workload)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import numpy as np

Precision = Literal["float32", "tf32", "bfloat16", "float16"]


def operand_dtype(precision: Precision) -> str:
    """The dtype of what products read; TF32 is of float32 arrays."""
    return "float32" if precision == "tf32" else precision


GATES = {"lstm": 4, "gru": 3, "rnn": 1}

QUICK = 10
"""``--quick`` divides the steps of every longer row by this."""


class Goal(NamedTuple):
    """A peer's time over ours is to be this much at least."""

    peer: str
    least: float
    by: str = ""  # whose time of ours; none: the fastest's


@dataclasses.dataclass(frozen=True)
class Workload:
    """A row: T steps, batch B, I inputs, H units, L layers, and what is above them."""

    name: str
    cell: Literal["lstm", "gru", "rnn"]
    num_steps: int  # T; of generate: symbols written
    batch_size: int  # B
    input_size: int  # I; V of a model of text, whose input is one-hot
    hidden_size: int  # H
    num_layers: int = 1  # L
    proj_size: int = 0  # P
    output_size: int = 0  # of a linear decoder; 0: the loss is on the layer's own output
    is_text: bool = False  # ids in, cross-entropy; else values in, mean squared error
    dropout: float = 0.0
    max_length: int = 0  # lengths uniform in 1..this; 0: all are T
    mode: Literal["train", "gradients", "forward", "generate"] = "train"
    precision: Precision = "float32"  # of what products read; parameters of JAX stay float32
    exact: bool = False  # all are compared with the reference in float64, not with ours
    remat: bool = False  # ours alone: the peers keep everything
    clip: float = 5.0
    lr: float = 1e-3
    goal: float = 0.0  # times torch's speed
    more_goals: tuple[Goal, ...] = ()
    torch_in: tuple[Precision, ...] = ()  # in which torch takes part besides

    @property
    def goals(self) -> tuple[Goal, ...]:
        """All of them."""
        return (*([Goal("torch", self.goal)] if self.goal else []), *self.more_goals)

    @property
    def shape(self) -> str:
        """For people."""
        size = f"{self.hidden_size}" + (f"->{self.proj_size}" if self.proj_size else "")
        return f"T{self.num_steps} B{self.batch_size} I{self.input_size} H{size} L{self.num_layers}"

    @property
    def width(self) -> int:
        """P or H."""
        return self.proj_size or self.hidden_size

    @property
    def columns(self) -> int:
        """What the first layer reads."""
        return self.input_size

    @property
    def mean_steps(self) -> float:
        """Steps of a sequence that count."""
        return lengths(self).mean() if self.max_length else float(self.num_steps)

    @property
    def flops(self) -> float:
        """Of the matrix products that one step needs at least, forward and backward.

        A one-hot input is a lookup, which needs none; no gradient goes to the input.
        """
        rows = GATES[self.cell] * self.hidden_size
        forward = backward = 0
        for layer in range(self.num_layers):
            columns = self.width if layer else (0 if self.is_text else self.input_size)
            recurrent = rows * self.width + self.proj_size * self.hidden_size
            forward += rows * columns + recurrent
            backward += (2 if layer else 1) * rows * columns + 2 * recurrent
        head = self.output_size * self.width
        has_gradient = self.mode in ("train", "gradients")
        total = forward + head + (backward + 2 * head if has_gradient else 0)
        return 2.0 * total * self.mean_steps * self.batch_size


@dataclasses.dataclass(frozen=True)
class Drawing(Workload):
    """A training step of sketch-rnn: T points of B drawings, H units that draw."""

    input_size: int = 5  # numbers of a point
    hidden_size: int = 512
    encoder_size: int = 256  # of each direction
    latent_size: int = 128  # Z; 0: the decoder alone
    num_mixtures: int = 20
    clip: float = 1.0  # of each element of the gradient

    @property
    def columns(self) -> int:
        """What the decoder reads: a point and the latent vector."""
        return self.input_size + self.latent_size

    @property
    def width_out(self) -> int:
        """Numbers of an output."""
        return 3 + 6 * self.num_mixtures

    @property
    def flops(self) -> float:
        """As of every row; the latent vector's projection is needed once a drawing."""
        rows = 4 * self.hidden_size
        once = 3 * rows * self.latent_size / self.num_steps
        decoder = 2 * rows * self.input_size + 3 * rows * self.hidden_size
        head = 3 * self.width_out * self.hidden_size
        encoder = 0
        if self.latent_size:
            own = 4 * self.encoder_size
            encoder = 2 * (2 * own * self.input_size + 3 * own * self.encoder_size)
        return 2.0 * (once + decoder + head + encoder) * self.num_steps * self.batch_size


_LESSON = Workload(
    *("lesson-char-rnn", "lstm", 100, 128, 83, 512, 2),
    output_size=83, dropout=0.5, goal=1.15, is_text=True,
)  # fmt: skip
_SMALL = Workload("char-small", "lstm", 50, 64, 65, 256, 2, output_size=65, goal=1.3, is_text=True)

GPU_SIZES = {  # T, B, H, L
    "T1024-B16-H768": (1024, 16, 768, 1),
    "T512-B64-H512": (512, 64, 512, 1),
    "T512-B64-H1024": (512, 64, 1024, 1),
    "lesson": (100, 128, 512, 2),
    "T256-B256-H1024": (256, 256, 1024, 1),
}
GPU_GOALS = {  # of forward and backward in bfloat16
    "lstm-T1024-B16-H768": (Goal("torch", 2.0), Goal("torch-float16", 1.0)),
    "lstm-T512-B64-H512": (
        *(Goal("torch", 2.0), Goal("torch-float16", 1.0)),
        Goal("flax", 2.5, by="jaxrnn"),  # without a kernel of our own
    ),
    "gru-T512-B64-H1024": (Goal("torch", 2.0), Goal("jaxrnn", 6.0, by="jaxrnn-kernel")),
}


def _on_gpu() -> tuple[Workload, ...]:
    """Shapes that a GPU is bought for, in the precisions that it has; rows with a goal first.

    Of the others those of one shape stand together, which share what they are compared with. Rows
    in bfloat16 have torch in its other precisions too.
    """

    def row(cell: Any, size: str, mode: Any, precision: Precision, max_length: int) -> Workload:
        num_steps, batch_size, hidden_size, num_layers = GPU_SIZES[size]
        name = f"{cell}-{size}" + ("-lengths" if max_length else "")
        is_main = precision == "bfloat16"
        return Workload(
            *(f"{name}-{mode}-{precision}", cell, num_steps, batch_size),
            *(hidden_size, hidden_size, num_layers),
            max_length=max_length,
            mode=mode,
            precision=precision,
            exact=True,
            more_goals=GPU_GOALS.get(name, ()) if is_main and mode == "gradients" else (),
            torch_in=("float16", "tf32", "float32") if is_main else (),
        )

    def rows(cell: str, size: str, *others: Precision, max_length: int = 0) -> list[Workload]:
        return [
            row(cell, size, "gradients", "bfloat16", max_length),
            row(cell, size, "forward", "bfloat16", max_length),
            *(row(cell, size, "gradients", precision, max_length) for precision in others),
        ]

    every: tuple[Precision, ...] = ("float16", "tf32", "float32")
    lesson = (
        dataclasses.replace(_LESSON, name=f"lesson-char-rnn-{p}", precision=p, exact=True, goal=1.5)
        for p in ("bfloat16", "tf32")
    )
    found = (
        *rows("lstm", "T512-B64-H512", *every),
        *rows("lstm", "T1024-B16-H768", "float16"),
        *rows("gru", "T512-B64-H1024", "float16"),
        *lesson,
        *rows("lstm", "T512-B64-H512", max_length=512),
        *rows("lstm", "lesson", "tf32", "float32"),
        *rows("lstm", "T512-B64-H1024"),
        *rows("lstm", "T256-B256-H1024"),
        *rows("gru", "T512-B64-H512"),
        *rows("gru", "T1024-B16-H768"),
        *rows("gru", "lesson"),
        *rows("gru", "T256-B256-H1024"),
        *rows("gru", "T512-B64-H512", max_length=512),
    )
    return tuple(sorted(found, key=lambda row: not row.goals))


SUITES: dict[str, tuple[Workload, ...]] = {
    "lesson": (
        Workload(
            "lesson-simple-rnn", "rnn", 20, 1, 1, 32, output_size=1, clip=0.0, lr=0.01, goal=25.0
        ),
        _LESSON,
    ),
    "train": (
        Workload("series-lstm", "lstm", 96, 32, 7, 64, 2, output_size=7, goal=2.0),
        _SMALL,
        Workload("gru", "gru", 100, 64, 256, 256, goal=1.2),
        Workload("rnn-tanh", "rnn", 100, 64, 256, 256, goal=1.2),
        Workload("lstm-projection", "lstm", 100, 64, 256, 256, proj_size=128, goal=1.3),
    ),
    "infer": (
        dataclasses.replace(_SMALL, name="char-small-forward", mode="forward", goal=1.1),
        dataclasses.replace(_LESSON, name="lesson-forward", mode="forward", dropout=0.0, goal=1.1),
    ),
    "varlen": (Workload("lstm-lengths", "lstm", 100, 64, 256, 256, max_length=100, goal=1.6),),
    "stream": tuple(
        Workload(
            *(f"generate-{size}", "lstm", 1000, 1, 83, size, 2),
            output_size=83, mode="generate", goal=20.0, is_text=True,
        )
        for size in (128, 256, 512)
    ),
    "sketch": (
        Drawing("sketch-rnn", "lstm", 96, 100),
        Drawing("sketch-decoder", "lstm", 96, 100, latent_size=0),
    ),
    "gpu": _on_gpu(),
    "scaling": tuple(
        Workload(f"lstm-T{num_steps}-B{batch_size}", "lstm", num_steps, batch_size, 256, 256)
        for num_steps, batch_size in ((25, 64), (50, 64), (100, 64), (200, 64), (50, 16), (50, 256))
    )
    + tuple(
        dataclasses.replace(
            _SMALL, name=name, num_steps=8192, batch_size=1, remat=remat, goal=0.0
        )
        for name, remat in (("char-T8192", False), ("char-T8192-remat", True))
    ),
}  # fmt: skip
"""Every suite by its name."""


def shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    """The parameters by torch's names: of ``rnn`` and ``decoder``, or of a sketch-rnn."""
    if isinstance(workload, Drawing):
        return _drawing_shapes(workload)
    rows, found = GATES[workload.cell] * workload.hidden_size, {}
    for layer in range(workload.num_layers):
        columns = workload.width if layer else workload.input_size
        found[f"rnn.weight_ih_l{layer}"] = (rows, columns)
        found[f"rnn.weight_hh_l{layer}"] = (rows, workload.width)
        found[f"rnn.bias_ih_l{layer}"] = found[f"rnn.bias_hh_l{layer}"] = (rows,)
        if workload.proj_size:
            found[f"rnn.weight_hr_l{layer}"] = (workload.proj_size, workload.hidden_size)
    if workload.output_size:
        found["decoder.weight"] = (workload.output_size, workload.width)
        found["decoder.bias"] = (workload.output_size,)
    return found


def _drawing_shapes(drawing: Drawing) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def lstm(name: str, suffix: str, columns: int, size: int) -> None:
        found[f"{name}.weight_ih_l0{suffix}"] = (4 * size, columns)
        found[f"{name}.weight_hh_l0{suffix}"] = (4 * size, size)
        found[f"{name}.bias_ih_l0{suffix}"] = found[f"{name}.bias_hh_l0{suffix}"] = (4 * size,)

    def linear(name: str, columns: int, rows: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (rows, columns), (rows,)

    size, latent = drawing.hidden_size, drawing.latent_size
    if latent:
        for suffix in ("", "_reverse"):
            lstm("encoder", suffix, drawing.input_size, drawing.encoder_size)
        for name in ("mu", "presig"):
            linear(name, 2 * drawing.encoder_size, latent)
        linear("initial", latent, 2 * size)
    lstm("decoder", "", drawing.columns, size)
    linear("output", size, drawing.width_out)
    return found


def parameters(workload: Workload) -> dict[str, np.ndarray]:
    """The same for every peer, in float32; bias_hh is zero, since not every peer has it."""
    rng, bound = np.random.default_rng(0), workload.hidden_size**-0.5
    return {
        name: np.zeros(shape, np.float32)
        if "bias_hh" in name
        else rng.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in shapes(workload).items()
    }


def lengths(workload: Workload) -> np.ndarray:
    """Of each sequence, in no order."""
    rng = np.random.default_rng(2)
    return rng.integers(1, workload.max_length + 1, workload.batch_size).astype(np.int32)


def data(workload: Workload, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (count, B, T[, I]) and targets, float32 or int32 ids; drawings and their lengths."""
    rng = np.random.default_rng(1)
    lead = (count, workload.batch_size, workload.num_steps)
    if isinstance(workload, Drawing):
        points = rng.normal(size=(*lead[:2], lead[2] + 1, 5)).astype(np.float32)
        points[..., 2:] = np.eye(3)[(rng.random(points.shape[:3]) < 0.15).astype(int)]
        points[:, :, 0] = (0, 0, 1, 0, 0)
        # Of like lengths, as a batch of training has them. The encoder reads what is after an end
        # too: torch's packed sequences would be several times slower than its plain ones.
        least = -(-3 * workload.num_steps // 4)
        valid = rng.integers(least, workload.num_steps + 1, lead[:2])
        points[np.arange(workload.num_steps + 1) > valid[..., None]] = (0, 0, 0, 0, 1)
        return points, np.full(lead[:2], workload.num_steps, np.int32)
    if workload.is_text:
        ids = rng.integers(workload.input_size, size=(*lead[:2], lead[2] + 1)).astype(np.int32)
        return ids[..., :-1], ids[..., 1:]
    return _values(lead, workload.input_size, workload.output_size or workload.width)


@functools.lru_cache(maxsize=1)  # all peers of a row ask for the same
def _values(lead: tuple[int, ...], columns: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((*lead, columns), np.float32)
    return x, np.float32(0.1) * rng.standard_normal((*lead, width), np.float32)


def quick(workload: Workload) -> Workload:
    """The row that ``--quick`` runs: a tenth of the steps, from 50 on, and no goal to judge."""
    factor = QUICK if workload.num_steps >= 50 else 1
    return dataclasses.replace(
        workload,
        num_steps=workload.num_steps // factor,
        max_length=workload.max_length // factor,
        goal=0.0,
        more_goals=(),
    )


def describe(workload: Workload) -> dict[str, Any]:
    """For a line of JSON: fields, and the operations of a step."""
    return {**dataclasses.asdict(workload), "flops": workload.flops}
