"""The task ``series``: forecasts of the columns of a file, many steps ahead.

Rows are split by time; the scaler, the season's errors and every choice that is left to the data
come from the rows trained on. A window of a later part may read the rows before that part, as the
ETT protocol has it. Of a value that is missing in the file a window reads the last before it, and
no error counts it. Usage::

    task, data = SeriesTask.load(SeriesConfig(data="ETTh1.csv", split="8640,2880,2880"))
    windows = task.part(data.train.rows, "test", data.held_out.truth)
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float64

from jaxrnn import files, plots
from jaxrnn.config import SeriesConfig
from jaxrnn.data.date_text import show_date
from jaxrnn.data.dates import Frequency, calendar, calendar_names
from jaxrnn.data.forecast_windows import HeldOutWindows, WindowBatches, origins_of
from jaxrnn.data.scaler import Scaler
from jaxrnn.data.series import ReadOptions, Series, made_series, read_series, split_rows
from jaxrnn.data.series_grid import interpolated
from jaxrnn.distributions import Distribution
from jaxrnn.errors import InputError, shown
from jaxrnn.forecast_errors import ForecastErrors, mase_scale, naive
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.horizon import HEADS, HorizonModel
from jaxrnn.tasks.series_choices import chosen
from jaxrnn.tasks.series_facts import read_facts
from jaxrnn.tasks.series_forecasts import backtest, note_of, panels, predictor
from jaxrnn.tasks.task import Data, check_pinned, digest_of, dtypes, pin

EVAL_BATCH = 128  # windows


@dataclasses.dataclass(frozen=True)
class SeriesTask:
    """Forecasts of C targets, N steps ahead."""

    config: SeriesConfig  # with every choice made
    targets: tuple[str, ...]
    scalers: tuple[Scaler, ...]  # of targets, covariates, known, in this order
    calendar: tuple[str, ...]
    frequency: Frequency | None
    season: int
    mase_scale: tuple[float, ...]  # of each target
    ends: tuple[int, int, int]  # of the rows to train on, to validate, to test
    start: str | None  # the first date
    is_day_first: bool | None = None  # as the dates of the file showed

    name: ClassVar[str] = "series"

    @property
    def monitor(self) -> str:
        """The loss, by its name."""
        return self.distribution.loss_name

    @property
    def distribution(self) -> Distribution:
        """What is forecast for each value."""
        config = self.config
        return Distribution(config.distribution, config.levels, config.loss)

    @property
    def num_known(self) -> int:
        """F: known columns, and two for each calendar feature."""
        return len(self.config.known) + 2 * len(self.calendar)

    @property
    def draws_paths(self) -> bool:
        """Whether quantiles are those of drawn paths."""
        return self.config.head == "recursive" and self.config.distribution == "student_t"

    @property
    def carried(self) -> dict[str, Any]:
        """What an export needs beside the parameters, as JSON can hold it."""
        config = self.config
        return {
            **self.facts,
            "covariates": list(config.covariates),
            "known": list(config.known),
            "input_len": config.input_len,
            "num_samples": config.num_samples,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """What a run pins besides a digest."""
        return {
            "targets": list(self.targets),
            "scalers": [scaler.to_dict() for scaler in self.scalers],
            "calendar": list(self.calendar),
            "frequency": None if self.frequency is None else self.frequency.to_dict(),
            "season": self.season,
            "mase_scale": list(self.mase_scale),
            "ends": list(self.ends),
            "start": self.start,
            **({} if self.is_day_first is None else {"day_first": self.is_day_first}),
        }

    @classmethod
    def from_facts(cls, config: SeriesConfig, facts: dict[str, Any]) -> SeriesTask:
        """The task of an existing run."""
        return cls(config=config, **read_facts(config, facts))

    @classmethod
    def load(
        cls, config: SeriesConfig, facts: dict[str, Any] | None = None
    ) -> tuple[SeriesTask, Data]:
        """See ``Task``; the task's ``config`` has a value for every option that was 0."""
        check_pinned(facts)
        if not config.data:
            _refuse_file_options(config)
        series = made_series() if not config.data else read_series(config.data, _options(config))
        ends = split_rows(config.split, series)
        if facts is None:
            config = chosen(config, series, ends)
            trained, missing = series.values[: ends[0]], series.missing[: ends[0]]
            measured = np.where(missing, np.nan, trained)[:, : len(series.targets)]
            pairs = list(zip(series.names, trained.T, missing.T, strict=True))
            for name, _, gone in pairs:
                if gone.all():
                    raise InputError(
                        f"{series.path} has no value of {name!r} in the {ends[0]:,} rows to train "
                        "on; let --split give more to training, or leave the column out"
                    )
            season = config.season or series.season
            names = calendar_names(series.frequency, ends[0])
            task = cls(
                config=config,
                targets=series.targets,
                scalers=tuple(
                    Scaler.of(column[~gone] if gone.any() else column) for _, column, gone in pairs
                ),
                calendar=names if config.calendar == "auto" else (),
                frequency=series.frequency,
                season=season,
                mase_scale=tuple(mase_scale(measured, season)),
                ends=ends,
                start=None if series.dates is None else str(series.dates[0]),
                is_day_first=series.is_day_first,
            )
        else:
            task = cls.from_facts(config, facts)
            config = task.config
        interpolates = config.gaps == "interpolate" and series.missing.any()
        more = [series.missing] if interpolates else []
        found = {**task.facts, "digest": digest_of(series.values, np.array(ends), *more)}
        pin(found, facts, config)
        if task.targets != series.targets or task.ends[2] > len(series.values):
            raise InputError(
                f"run.json's targets are {shown([*task.targets])} and its ends {list(task.ends)}, "
                f"its data have {shown([*series.targets])} and {len(series.values)} rows: it is "
                "damaged; put a copy of it back, or start a new run"
            )
        rows = task.rows(series)
        truth, learnt = task.truth(series, rows), None
        if interpolates:
            num_targets = len(task.targets)
            gone = series.missing[:, :num_targets]
            learnt = interpolated(rows[:, :num_targets], gone, ends[0])
        sizes = {
            "num_targets": len(task.targets),
            "num_known": task.num_known,
            "input_len": config.input_len,
            "horizon": config.horizon,
        }
        origins = origins_of(0, ends[0], config.input_len, config.horizon)
        if not len(origins):
            raise InputError(
                f"{series.path} has {ends[0]:,} rows to train on, a window needs --input-len "
                f"{config.input_len} and --horizon {config.horizon}; lower them, or let --split "
                "give more to training"
            )
        batches = {"batch_size": config.batch_size, "seed": config.seed}
        train = WindowBatches(rows=rows, origins=origins, truth=learnt, **sizes, **batches)
        held_out = task.part(rows, "validation", truth)
        return task, Data(train, held_out, found, task.summary(series))

    def summary(self, series: Series) -> str:
        """What was read, for people."""
        ends = self.ends
        parts = f"{ends[0]:,} rows to train on, {ends[1] - ends[0]:,} to validate, "
        parts += f"{ends[2] - ends[1]:,} to test"
        if left := len(series.values) - ends[2]:
            parts += f", {left:,} not used"
        names = ", ".join(self.targets[:8]) + (", ..." if len(self.targets) > 8 else "")
        when = "rows without dates"
        if series.dates is not None and series.frequency is not None:
            first, last = (show_date(series.dates[k]) for k in (0, -1))
            when = f"{series.frequency.name} from {first} to {last}"
        said = [f"{series.path}: {names}, {when}", parts]
        if self.calendar:
            said.append(f"calendar {', '.join(self.calendar)}")
        said.append(f"{self.config.input_len} steps in, {self.config.horizon} out")
        return "; ".join([*said, *series.remarks])

    def rows(self, series: Series, num_ahead: int = 0) -> Float[np.ndarray, "S I"]:
        """Scaled values of every step, and of ``num_ahead`` after them what is known, else NaN.

        Of a head that gives its horizon at once, whole blocks of it follow: known columns as far as
        the file has them, then their last value. Raises InputError where the file does not have
        what is known of ``num_ahead`` steps, and for values too far from those trained on.
        """
        for name, scaler, column in zip(series.names, self.scalers, series.values.T, strict=True):
            scaler.refuse_far(column, series.path, name, "step")
        for k, name in enumerate(series.known):
            scaler = self.scalers[len(series.names) - len(series.known) + k]
            scaler.refuse_far(series.future[:, k], series.path, name, "step to come")
        columns = zip(self.scalers, series.values.T, strict=True)
        scaled = np.stack([scaler.transform(column) for scaler, column in columns], -1)
        num_more = 0 if self.config.head == "recursive" else -num_ahead % self.config.horizon
        ahead = np.full((num_ahead + num_more, scaled.shape[1]), np.nan)
        if series.known and num_ahead:
            first = scaled.shape[1] - len(series.known)
            given = series.future[:num_ahead]
            if len(given) < num_ahead or np.isnan(given).any():
                whole = int((~np.isnan(given).any(1)).cumprod().sum()) if len(given) else 0
                raise InputError(
                    f"{series.path} has {whole:,} rows of {', '.join(series.known)} after the last "
                    f"with targets, {num_ahead:,} steps are to be forecast; append rows, their "
                    "targets empty, or lower --horizon"
                )
            more = series.future[num_ahead : len(ahead)]
            given = np.pad(given, ((0, num_more), (0, 0)), mode="edge")
            for row, beyond in enumerate(more, num_ahead):
                given[row:] = np.where(np.isnan(beyond), given[row], beyond)
            for k, scaler in enumerate(self.scalers[first:]):
                ahead[:, first + k] = scaler.transform(given[:, k])
        rows = np.concatenate([scaled, ahead])
        if self.calendar and series.dates is not None and series.frequency is not None:
            dates = series.frequency.after(series.dates[0], len(rows), first=0)
            rows = np.concatenate([rows, calendar(dates, self.calendar)], -1)
        return rows.astype(np.float64 if self.config.dtype == "float64" else np.float32)

    def truth(
        self, series: Series, rows: Float[np.ndarray, "S I"]
    ) -> Float[np.ndarray, "S C"] | None:
        """Scaled targets, NaN where the file has none; None where none is missing."""
        missing = series.missing[:, : len(self.targets)]
        if not missing.any():
            return None
        return np.where(missing, rows.dtype.type(np.nan), rows[: len(missing), : len(self.targets)])

    def part(
        self,
        rows: Float[np.ndarray, "S I"],
        name: str,
        truth: Float[np.ndarray, "S C"] | None = None,
    ) -> HeldOutWindows:
        """The windows of a part: 'train', 'validation' or 'test'; ``truth`` as ``self.truth``."""
        places = {"train": (0, self.ends[0]), "validation": self.ends[:2], "test": self.ends[1:]}
        return self.held_out(rows, *places[name], truth)

    def held_out(
        self,
        rows: Float[np.ndarray, "S I"],
        begin: int,
        end: int,
        truth: Float[np.ndarray, "S C"] | None = None,
    ) -> HeldOutWindows:
        """The windows whose targets lie in these rows, and are not all missing."""
        config = self.config
        origins = origins_of(begin, end, config.input_len, config.horizon)
        if truth is not None:
            steps = origins[:, None] + np.arange(config.horizon)
            origins = origins[~np.isnan(truth[steps]).all((1, 2))]
        source: dict[str, Any] = {
            **{"rows": rows, "num_targets": len(self.targets), "num_known": self.num_known},
            **{"origins": origins, "input_len": config.input_len, "horizon": config.horizon},
            "truth": truth,
            "batch_size": max(min(EVAL_BATCH, len(origins)), 1),
        }
        if not len(origins):
            return HeldOutWindows(**source, baseline={})
        whole = HeldOutWindows(**source, baseline={})
        errors = self.errors()
        for places, counted in whole.places():
            last = whole.before(places, 1)[..., : len(self.targets)]
            errors.add(naive(last, config.horizon)[counted], whole.take(places).targets[counted])
        found = errors.metrics()
        names = [name for name in self._shown if name in found]
        return dataclasses.replace(whole, baseline={name: found[name] for name in names})

    @property
    def _shown(self) -> list[str]:
        """The metrics of validation while training: the loss first."""
        return list(dict.fromkeys([self.monitor, "mse", "mae"]))

    def errors(self) -> ForecastErrors:
        """Sums of no windows yet."""
        scales = [(s.mean, s.std) for s in self.scalers[: len(self.targets)]]
        return ForecastErrors(scales, self.mase_scale, self.config.levels)

    def model(self, rngs: nnx.Rngs) -> HorizonModel:
        """See ``Task``."""
        config, more = self.config, {}
        if config.head == "segments":
            more["segment_len"] = config.segment_len
        names = ("horizon", "cell", "hidden_size", "num_layers", "dropout", "normalize")
        return HEADS[config.head](
            len(self.targets),
            len(config.covariates),
            self.num_known,
            **{name: getattr(config, name) for name in (*names, "distribution", "backend")},
            levels=config.levels,
            rngs=rngs,
            **dtypes(config),
            **more,
        )

    def initial_carry(self, model: Any, batch_size: int) -> tuple[()]:
        """Nothing: each window stands alone."""
        return ()

    def loss(self, model: Any, inputs, targets, state, rngs, step) -> tuple[Array, Any]:
        """The mean over windows, steps and targets; see ``Task``."""
        past, known = inputs
        read = targets if self.draws_paths else None
        parameters = model(past, known, read, rngs=rngs)
        return self.distribution.loss(parameters, targets).mean(), state

    def score(self, model: Any, inputs, targets, mask, state) -> tuple[dict[str, Array], Any]:
        """Sums over windows; see ``Task``. Of paths, nats are of one step, errors of all.

        A target that is NaN is read as the last before it, and does not count.
        """
        past, known = inputs
        parameters = model(past, known)
        there = ~jnp.isnan(targets)
        came = jnp.concatenate([past[:, -1:, : len(self.targets)], targets], 1)
        steps = jnp.where(jnp.isnan(came), 0, jnp.arange(came.shape[1])[:, None])
        targets = jnp.take_along_axis(came, jax.lax.cummax(steps, 1), 1)[:, 1:]
        error = self.distribution.point(parameters) - targets
        if self.draws_paths:
            parameters = model(past, known, targets)
        found = {
            self.monitor: self.distribution.loss(parameters, targets),
            "mse": jnp.square(error),
            "mae": jnp.abs(error),
            "known": jnp.ones_like(error),
        }
        means = {name: jnp.where(there, v, 0).mean((1, 2)) for name, v in found.items()}
        return {name: jnp.where(mask, values, 0).sum() for name, values in means.items()}, state

    def metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """The loss, MSE and MAE on scaled values; over the ``count`` windows' known targets."""
        return {name: sums[name] / sums["known"] for name in self._shown}

    def preview(self, skeleton: Skeleton, params: Params, step: int) -> str:
        """Nothing: the picture at the end shows it."""
        return ""

    def illustrate(
        self, skeleton: Skeleton, params: Params, carry: Any, data: Data, path: Path
    ) -> None:
        """``test.json``, errors over the test part, and ``prediction.png``, its last forecast.

        Without a test part they are of the validation part; without both there is nothing.
        """
        train: Any = data.train
        held_out: Any = data.held_out
        truth = held_out.truth
        parts = {name: self.part(train.rows, name, truth) for name in ("test", "validation")}
        name = next((name for name, of in parts.items() if of.num_counted), None)
        if name is None:
            return
        predict, windows = predictor(self, skeleton, params), parts[name]
        found = {
            "part": name,
            "windows": windows.num_counted,
            "rows": {k: of.metrics() for k, of in backtest(self, predict, windows).items()},
            **note_of(self, windows),
        }
        text = json.dumps(_finite(found), indent=1, allow_nan=False) + "\n"
        files.write_atomically(path / "test.json", text.encode())
        past, known, came = windows.take(np.array([windows.num_counted - 1]))
        origin = int(windows.origins[-1])
        first, length = origin - len(past[0]), len(past[0]) + len(known[0])
        x = np.arange(first, first + length)
        if self.frequency is not None and self.start is not None:
            x = self.frequency.after(np.datetime64(self.start), length, first)
        shown = panels(self, x, past[0], predict(past, known)[0], came[0])
        picture = plots.forecasts("png", shown, self.interval, f"{name}, last window")
        files.write_atomically(path / "prediction.png", picture, durably=False)

    @property
    def interval(self) -> str:
        """The name of what lies between the outer quantiles."""
        levels = self.config.levels
        return f"{100 * (levels[-1] - levels[0]):.4g}% interval"

    def unscaled(self, values: np.ndarray, axis: int) -> Float64[np.ndarray, "..."]:
        """Values of the targets, which lie along an axis, in their own unit."""
        scalers = self.scalers[: len(self.targets)]
        shape = [1] * values.ndim
        shape[axis] = -1
        std, mean = (np.array([getattr(s, k) for s in scalers]) for k in ("std", "mean"))
        return values * std.reshape(shape) + mean.reshape(shape)

    def read_evaluation(self, path: str, **given: str) -> HeldOutWindows:
        """See ``Task``: every window of a file; ``given`` as ``read`` has it."""
        series = self.read(path, **given)
        needed = self.config.input_len + self.config.horizon
        if len(series.values) < needed:
            raise InputError(f"{path} has {len(series.values):,} rows, a window needs {needed:,}")
        rows = self.rows(series)
        return self.held_out(rows, 0, len(series.values), self.truth(series, rows))

    def read(self, path: str, **given: str) -> Series:
        """Another file with the columns and the step of the run's.

        ``given``: options of reading (``ReadOptions``) that are not the run's, by their names.
        """
        options = dataclasses.replace(_options(self.config), targets=self.targets, **given)
        series = read_series(path, options, self.frequency, self.is_day_first)
        if self.frequency is not None and series.dates is None:
            raise InputError(
                f"{path} has no column of dates, the run's series is {self.frequency.name}; name "
                "the column as in the run's file"
            )
        return series


def _finite(value: Any) -> Any:
    """None in place of what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _options(config: SeriesConfig) -> ReadOptions:
    names = [field.name for field in dataclasses.fields(ReadOptions)]
    return ReadOptions(**{name: getattr(config, name) for name in names})


def _refuse_file_options(config: SeriesConfig) -> None:
    """Raise InputError for options of a file where there is none."""
    for field in dataclasses.fields(ReadOptions):
        given = getattr(config, field.name)
        if given != getattr(SeriesConfig, field.name):
            flag = field.name.replace("_", "-")
            raise InputError(f"--{flag} is {given!r}: the made series has none; add --data")
