"""Every option of training, as frozen dataclasses that the command line and a run share.

A field, its flag and its key in a run's ``config.toml`` carry the same word: ``seq_len``,
``--seq-len``, ``seq_len = 100``. The comment behind a field is its help text.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import re
import typing
from pathlib import Path
from typing import Any, Literal

from jaxrnn.errors import InputError

BACKENDS = ("scan", "reference")  # of jaxrnn.recurrence, on any device; importing it starts JAX
GPU_BACKENDS = ("cudnn", "persistent", "persistent-cluster")  # of it, too, for what they support
MESH = re.compile("data=(?P<data>[1-9][0-9]{0,5})(,hidden=(?P<hidden>[1-9][0-9]{0,5}))?")
MIN_CELLS = ("mingru", "minlstm")  # of jaxrnn.min_layers, whose backends have one more
MOST = {  # far more than anybody trains with; beyond, memory, a compiler or int32 gives out
    **dict.fromkeys(("epochs", "steps", "warmup_steps"), 2**31 - 1),
    **dict.fromkeys(("hidden_size", "embedding_size", "encoder_size", "latent_size"), 2**16),
    **dict.fromkeys(("class_size", "num_mixtures"), 2**16),
    **dict.fromkeys(("batch_size", "eval_streams"), 2**20),
    **dict.fromkeys(("seq_len", "max_len", "input_len", "horizon", "segment_len"), 10**6),
    **dict.fromkeys(("num_samples", "preview_length"), 10**5),
    "season": 10**6,
    "steps_per_dispatch": 10**4,
    **dict.fromkeys(("num_buckets", "preview_count"), 1000),
    "num_layers": 256,
}


@dataclasses.dataclass(frozen=True)
class TrainConfig(abc.ABC):
    """Options of every task."""

    data: str | tuple[str, ...] = ""  # to train on; empty: what the task has built in
    run: str = ""  # directory for all that the run writes; empty: runs/TASK-DATE-TIME

    hidden_size: int = 256  # H, units of a layer; 32 to 2048
    batch_size: int = 32  # B, rows of a batch

    epochs: int = 10  # passes over the training part
    steps: int = 0  # optimizer steps; above 0 it takes the place of epochs
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # torch's defaults but for lr
    lr: float = 1e-3  # peak learning rate; 1e-4 to 1e-2
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0  # decoupled in adamw, added to the gradient in adam and sgd
    clip: float = 5.0  # largest norm of the whole gradient; 0: no clipping
    clip_value: float = 0.0  # largest size of an element of the gradient; 0: no clipping
    schedule: Literal["constant", "cosine", "exponential"] = "constant"  # of lr, after the warm-up
    warmup_steps: int = 0  # steps in which the learning rate rises from 0
    lr_decay: float = 0.9999  # of the exponential schedule, at each step; 0.999 to 0.99999
    lr_final: float = 0.0  # learning rate at the end of the cosine, or far along the exponential

    average: Literal["none", "ema", "nt_asgd"] = "none"  # of parameters, evaluated in their place
    ema_decay: float = 0.999  # of the exponential mean, at each step; 0.99 to 0.9999
    asgd_patience: int = 5  # validations without a better one before nt_asgd's mean begins

    eval_every: int = 0  # steps between validations; 0: each epoch
    checkpoint_every: int = 0  # steps between checkpoints; 0: at each validation
    log_every: int = 0  # steps between lines in metrics.jsonl; 0: about 500 lines in all
    patience: int = 0  # validations without a better one before an early stop; 0: never
    min_delta: float = 0.0  # by how much a validation must be better to count
    not_finite: Literal["stop", "skip"] = "stop"  # a loss that is not: end, or leave its step out

    steps_per_dispatch: int = 0  # optimizer steps in one call to the device; 0: by their size
    # of the recurrence: auto, scan, reference; to train on an NVIDIA GPU cudnn, on a Hopper
    # persistent, persistent-cluster; of min* associative
    backend: str = "auto"
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"  # of matmuls; states stay wide
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"  # where to train; auto: the best there is
    mesh: str = "auto"  # data=N,hidden=M: N parts of a batch, M of H (or 1); auto: by their size
    seed: int = 0  # of initial weights and all that is random in training

    def __post_init__(self):
        """Raises InputError for a value of the wrong type or out of range, named as its flag."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), hints[field.name])
        self._check_sizes()
        self._check_least(1, "batch_size")
        self._check_least(
            0,
            *("epochs", "steps", "momentum", "weight_decay", "clip", "clip_value", "warmup_steps"),
            *("lr_final", "eval_every", "checkpoint_every", "log_every", "patience", "min_delta"),
            *("steps_per_dispatch", "seed", "asgd_patience"),
        )
        for name in MOST.keys() & hints.keys():
            self._check(name, getattr(self, name) <= MOST[name], f"at most {MOST[name]}")
        is_minimal = getattr(self, "cell", "") in MIN_CELLS
        more = ("associative",) if is_minimal else GPU_BACKENDS
        backends = ("auto", *BACKENDS, *more)
        self._check("backend", self.backend in backends, f"one of {', '.join(backends)}")
        is_mesh = self.mesh == "auto" or MESH.fullmatch(self.mesh)
        self._check("mesh", is_mesh, "auto, data=N or data=N,hidden=M, as data=2")
        num_data, num_hidden = self.mesh_shape
        for name, number in (("batch_size", num_data), ("hidden_size", num_hidden)):
            value = getattr(self, name)
            divides = f"a number of devices that divides --{name.replace('_', '-')} {value}"
            self._check("mesh", value % number == 0, divides)
        self._check("lr", self.lr > 0, "above 0")
        self._check("ema_decay", 0 < self.ema_decay < 1, "above 0, less than 1")
        self._check("lr_decay", 0 < self.lr_decay <= 1, "above 0, at most 1")
        self._check("seed", self.seed < 2**32, "less than 2**32")

    def _check_sizes(self) -> None:
        """What a task that chooses by its data may leave at 0."""
        self._check_least(1, "hidden_size")
        self._check("steps", self.steps or self.epochs, "above 0 where epochs is 0")

    @property
    def mesh_shape(self) -> tuple[int, int]:
        """N and M of ``mesh``; 1 and 1 where it is auto."""
        found = MESH.fullmatch(self.mesh)
        return (int(found["data"]), int(found["hidden"] or 1)) if found else (1, 1)

    @property
    @abc.abstractmethod
    def unroll_len(self) -> int:
        """T, steps in time of an optimizer step."""

    @property
    @abc.abstractmethod
    def positions_per_step(self) -> int:
        """How much data an optimizer step reads, in the unit that speed is told in."""

    @property
    @abc.abstractmethod
    def body(self) -> str:
        """The recurrent part in a few words."""

    def with_absolute_data(self) -> TrainConfig:
        """The same, its files found from everywhere."""
        if isinstance(self.data, str):
            data = self.data and str(Path(self.data).absolute())
        else:
            data = tuple(str(Path(path).absolute()) for path in self.data)
        return dataclasses.replace(self, data=data)

    def _check(self, name: str, ok: Any, expected: str) -> None:
        if not ok:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {getattr(self, name)}, expected {expected}")

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            self._check(name, getattr(self, name) >= least, f"at least {least}")


@dataclasses.dataclass(frozen=True)
class StreamConfig(TrainConfig):
    """Options of the tasks that read long sequences."""

    data: str = ""  # a file to train on; empty: what the task has built in
    cell: str = "lstm"  # kind of recurrent cell
    num_layers: int = 1  # L, stacked layers; 1 to 4
    dropout: float = 0.0  # probability after every layer in training; 0 to 0.7
    batch_size: int = 32  # B, parallel streams
    seq_len: int = 64  # T, steps of truncated backpropagation; 20 to 500
    val_fraction: float = 0.1  # share of the data, at its end, kept for validation; 0: none
    eval_streams: int = 32  # parallel streams in validation while training
    remat: bool = False  # keep sqrt(T) states, compute the rest again: less memory, more time

    def __post_init__(self):
        super().__post_init__()
        self._check_least(1, "num_layers", "seq_len", "eval_streams")
        self._check("dropout", 0 <= self.dropout <= 1, "a probability in 0..1")
        self._check("val_fraction", 0 <= self.val_fraction < 1, "in 0..1, less than 1")

    @property
    def unroll_len(self) -> int:
        """See ``TrainConfig``."""
        return self.seq_len

    @property
    def positions_per_step(self) -> int:
        """See ``TrainConfig``."""
        return self.batch_size * self.seq_len

    @property
    def body(self) -> str:
        """See ``TrainConfig``."""
        return f"{self.cell}, {self.num_layers} x {self.hidden_size}"


@dataclasses.dataclass(frozen=True)
class CharConfig(StreamConfig):
    """Character language model."""

    epochs: int = 10  # passes over the training part
    lr: float = 4e-3  # peak learning rate; 1e-4 to 1e-2
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"  # of lr, after the warm-up
    warmup_steps: int = 50  # steps in which the learning rate rises from 0

    cell: Literal["lstm", "gru", "rnn", "mingru", "minlstm"] = "lstm"  # min*: of arXiv 2410.01201
    tokens: Literal["characters", "bytes"] = "characters"  # UTF-8 text, or any file at all
    embedding_size: int = 64  # width of a learned embedding, 16 to 512; 0: one-hot
    tie_embeddings: bool = False  # one weight for the embedding and the decoder
    weight_drop: float = 0.0  # probability on weights from state to state in training; 0 to 0.5
    locked_dropout: bool = False  # one mask of --dropout for all steps of a sequence
    input_dropout: float = 0.0  # probability on what is read of embeddings, locked; 0 to 0.5
    embedding_dropout: float = 0.0  # probability that a symbol's whole embedding is 0; 0 to 0.2
    activation_reg: float = 0.0  # alpha * mean(h^2) of the last layer, in the gradient; 0 to 2
    temporal_reg: float = 0.0  # beta * mean((h_t - h_{t-1})^2), likewise; 0 to 1
    reset_probability: float = 0.0  # that a stream's state is zeroed before a step; 0 to 0.05
    batches: Literal["next", "lesson"] = "next"  # lesson: a row's last target wraps to its first
    preview_length: int = 300  # characters of sample text after each validation; 0: none

    def __post_init__(self):
        super().__post_init__()
        self._check_least(0, "embedding_size", "preview_length", "activation_reg", "temporal_reg")
        for name in ("weight_drop", "input_dropout", "embedding_dropout", "reset_probability"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability in 0..1")
        has_matrix = self.cell not in MIN_CELLS
        reason = f"0 with --cell {self.cell}, which has no weights from state to state"
        self._check("weight_drop", has_matrix or not self.weight_drop, reason)
        for name in ("input_dropout", "embedding_dropout"):
            reason = "0 with --embedding-size 0: one-hot input has no embedding to drop"
            self._check(name, self.embedding_size or not getattr(self, name), reason)
        reason = "False without --dropout, of which it is the kind"
        self._check("locked_dropout", self.dropout or not self.locked_dropout, reason)
        reason = "0 with --remat, whose chunks would lose the changes between them"
        self._check("temporal_reg", not (self.remat and self.temporal_reg), reason)
        reason = "0 with --seq-len 1, in which nothing changes"
        self._check("temporal_reg", self.seq_len > 1 or not self.temporal_reg, reason)
        sizes = f"--embedding-size {self.embedding_size} and --hidden-size {self.hidden_size}"
        fits = self.embedding_size == self.hidden_size or not self.tie_embeddings
        self._check("tie_embeddings", fits, f"False with {sizes}, which must then be equal")


@dataclasses.dataclass(frozen=True)
class SineConfig(StreamConfig):
    """The lesson's net, one step ahead: of its sine, in its exact batches, or of a CSV column."""

    target: str = ""  # column of the CSV file; may be left out where it has one numeric column

    cell: Literal["lstm", "gru", "rnn"] = "rnn"  # kind of recurrent cell
    hidden_size: int = 32  # H, units of a layer; 32 to 2048
    batch_size: int = 1  # B, parallel streams
    seq_len: int = 20  # T, steps of truncated backpropagation; 20 to 500
    epochs: int = 1  # passes over the training part
    steps: int = 0  # optimizer steps; above 0 it takes the place of epochs
    lr: float = 0.01  # peak learning rate; 1e-4 to 1e-2
    clip: float = 0.0  # largest norm of the whole gradient; 0: no clipping


@dataclasses.dataclass(frozen=True)
class SeriesConfig(TrainConfig):
    """Forecasts of the columns of a CSV file, many steps ahead; 0 chooses by the data."""

    data: str = ""  # CSV file with a header, a row a step; empty: a small series made by a formula
    targets: tuple[str, ...] = ()  # columns to forecast; none: every column of numbers
    covariates: tuple[str, ...] = ()  # columns that are read, of the past alone
    known: tuple[str, ...] = ()  # columns known of the future, too: from rows without targets
    date_column: str = ""  # its name, or none: rows are steps; empty: found by its content
    date_format: str = ""  # of strptime, as %d/%m/%Y; empty: ISO, or what a column shows
    duplicates: Literal["error", "first", "last", "mean"] = "error"  # of rows with the same date
    gaps: Literal["error", "interpolate", "previous"] = "error"  # both read the value before
    calendar: Literal["auto", "none"] = "auto"  # hour, weekday, ... as waves, where data show them
    split: str = "0.7,0.1,0.2"  # train, validation, test: shares, rows, or the latter two's dates
    input_len: int = 0  # T, steps that are read; 0: some seasons
    horizon: int = 0  # N, steps that are forecast; 0: a season or two
    season: int = 0  # steps of a cycle, for the seasonal-naive row and MASE; 0: by the frequency

    head: Literal["direct", "recursive", "segments"] = "direct"  # all steps at once, or one by one
    segment_len: int = 0  # steps of a segment, of the head segments (SegRNN); 0: a season
    cell: Literal["lstm", "gru", "rnn"] = "gru"  # kind of recurrent cell
    hidden_size: int = 0  # H, units of a layer; 16 to 512; 0: by the number of values
    num_layers: int = 1  # L, stacked layers; 1 to 4
    dropout: float = 0.1  # probability between layers and before the last in training; 0 to 0.5
    normalize: Literal["none", "last", "revin"] = "revin"  # each window by its own past
    distribution: Literal["point", "quantiles", "student_t"] = "quantiles"  # what is forecast
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)  # levels; the outer two are the interval
    loss: Literal["mse", "mae", "huber"] = "mse"  # of a point
    num_samples: int = 200  # paths of a recursive student_t, of which its quantiles are made

    batch_size: int = 32  # B, windows of a batch
    epochs: int = 0  # passes over the training windows; 0: by their number
    clip: float = 1.0  # largest norm of the whole gradient; 0: no clipping
    patience: int = 10  # validations without a better one before an early stop; 0: never

    def __post_init__(self):
        super().__post_init__()
        self._check_least(1, "num_layers", "num_samples")
        self._check_least(0, "input_len", "horizon", "season", "segment_len")
        self._check("dropout", 0 <= self.dropout <= 1, "a probability in 0..1")
        levels = self.quantiles
        is_interval = (
            len(levels) >= 3
            and 0.5 in levels
            and all(0 < a < b < 1 for a, b in itertools.pairwise(levels))
            and all(abs(a + b - 1) < 1e-9 for a, b in zip(levels, levels[::-1], strict=True))
        )
        expected = "ascending levels around 0.5 as far from 0 as from 1, as 0.1 0.5 0.9"
        self._check("quantiles", is_interval, expected)
        self._check_use("segment_len", self.head == "segments", "--head segments")
        self._check_use("loss", self.distribution == "point", "--distribution point")
        self._check_use("quantiles", self.distribution != "point", "quantiles or student_t")
        draws = self.head == "recursive" and self.distribution == "student_t"
        self._check_use("num_samples", draws, "--head recursive and student_t")
        self._check_use("covariates", self.head != "segments", "a head that reads them, as direct")

    def _check_sizes(self) -> None:
        self._check_least(0, "hidden_size")

    def _check_use(self, name: str, is_used: bool, where: str) -> None:
        """Refuse an option that would do nothing."""
        if not is_used and getattr(self, name) != getattr(type(self), name):
            flag = name.replace("_", "-")
            raise InputError(
                f"--{flag} is {getattr(self, name)!r}, expected with {where} alone; leave it out"
            )

    @property
    def levels(self) -> tuple[float, ...]:
        """Of the quantiles that are forecast; of a point 0.5."""
        return (0.5,) if self.distribution == "point" else self.quantiles

    @property
    def unroll_len(self) -> int:
        """See ``TrainConfig``."""
        return max(self.input_len + self.horizon, 1)

    @property
    def positions_per_step(self) -> int:
        """See ``TrainConfig``."""
        return self.batch_size

    @property
    def body(self) -> str:
        """See ``TrainConfig``."""
        return f"{self.head}, {self.cell}, {self.num_layers} x {self.hidden_size}"


@dataclasses.dataclass(frozen=True)
class SketchConfig(TrainConfig):
    """Drawings, by sketch-rnn (arXiv 1704.03477): a model that draws, and goes on from a start."""

    data: tuple[str, ...] = ()  # files of drawings, each a class of its own; none: built in
    hidden_size: int = 512  # H, units of the decoder; 128 to 2048
    batch_size: int = 100  # B, drawings of a batch
    decoder: Literal["lstm", "layer_norm", "hyper"] = "lstm"  # kind of the decoder's cell
    conditional: bool = True  # with an encoder and a latent vector; else the decoder alone
    encoder_size: int = 256  # units of each direction of the encoder
    latent_size: int = 128  # Z, numbers of the latent vector; 32 to 128
    num_mixtures: int = 20  # M, Gaussians of the next point
    class_size: int = 32  # width of the embedding of a class, where there are several
    recurrent_dropout: float = 0.1  # probability on the cells' candidates in training
    max_len: int = 250  # drawings of more points are left out
    num_buckets: int = 6  # lengths to which batches are padded; each is a program to compile
    random_scale: float = 0.15  # each axis is scaled by 1 - this .. 1 + this in training
    drop_points: float = 0.1  # probability that a point within a stroke is left out in training
    kl_weight: float = 0.5  # of the latent vector's cost, at the end; 0.25 to 1
    kl_weight_start: float = 0.01  # the same at the first step
    kl_decay: float = 0.99995  # by which the difference of the two shrinks at each step
    kl_floor: float = 0.2  # nats a dimension below which that cost is not lowered further
    loss: Literal["log_space", "magenta"] = "log_space"  # magenta: its arithmetic and its padding
    preview_count: int = 16  # drawings in the picture after each validation; 0: none

    epochs: int = 20  # passes over the training part
    clip: float = 0.0  # largest norm of the whole gradient; 0: no clipping
    clip_value: float = 1.0  # largest size of an element of the gradient; 0: no clipping
    schedule: Literal["constant", "cosine", "exponential"] = "exponential"  # of lr, after warm-up
    lr_final: float = 1e-5  # learning rate at the end of the cosine, or far along the exponential

    def __post_init__(self):
        super().__post_init__()
        self._check_least(1, "encoder_size", "latent_size", "num_mixtures", "class_size", "max_len")
        self._check_least(1, "num_buckets")
        self._check_least(0, "kl_weight", "kl_weight_start", "kl_floor", "preview_count")
        for name in ("recurrent_dropout", "drop_points"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability in 0..1")
        self._check("random_scale", 0 <= self.random_scale < 1, "in 0..1, less than 1")
        self._check("kl_decay", 0 < self.kl_decay <= 1, "above 0, at most 1")

    @property
    def unroll_len(self) -> int:
        """See ``TrainConfig``."""
        return self.max_len

    @property
    def positions_per_step(self) -> int:
        """See ``TrainConfig``."""
        return self.batch_size

    @property
    def body(self) -> str:
        """See ``TrainConfig``."""
        kind = "conditional" if self.conditional else "unconditional"
        return f"{kind}, {self.decoder} of {self.hidden_size}"


CONFIGS: dict[str, type[TrainConfig]] = {
    "char": CharConfig,
    "series": SeriesConfig,
    "sine": SineConfig,
    "sketch": SketchConfig,
}
"""The options of each task, by its name."""


def _check_type(name: str, value: Any, hint: Any) -> None:
    flag = name.replace("_", "-")
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise InputError(f"--{flag} is {value!r}, expected one of {', '.join(choices)}")
        return
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise InputError(f"--{flag} is {value!r}, expected a list")
        for part in value:
            _check_type(name, part, typing.get_args(hint)[0])
        if "" in value:
            raise InputError(f"--{flag} has an empty name in it, expected names; take it out")
        return
    accepted = (int, float) if hint is float else hint
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, accepted):
        raise InputError(f"--{flag} is {value!r}, expected a value of type {hint.__name__}")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"--{flag} is {value!r}, which is not UTF-8; rename the file"
            ) from None
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"--{flag} is {value!r}, expected no null character in it; take it out")
    is_finite = isinstance(value, int | float) and -3.4e38 < value < 3.4e38  # as float32
    if hint is float and not is_finite:
        raise InputError(f"--{flag} is {value}, expected a finite number, less than 3.4e38")
