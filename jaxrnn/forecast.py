"""Forecast with a trained forecaster: ``python -m jaxrnn.forecast RUN [--data NEW.csv]``.

From the last row of the file on. A CSV file has the dates that follow (or numbers of steps), each
target's median, and its quantiles as ``NAME_q0.1``; a picture shows the last past, the forecast and
its interval.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from jaxrnn import cli, files
from jaxrnn.errors import InputError


@dataclasses.dataclass(frozen=True)
class ForecastOptions:
    """Forecast with a trained forecaster.

    Up to the horizon that was trained a shorter forecast is the beginning of the longer one.
    Beyond it the head recursive goes on; direct and segments read their own medians as if they had
    come, so that intervals there are too narrow.

    examples:
      python -m jaxrnn.forecast runs/series-20250101-120000
      python -m jaxrnn.forecast runs/series-20250101-120000 --data new.csv --horizon 48
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory of the task series"""
    data: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """CSV file to go on from the end of, with the run's columns; empty: the run's own"""
    duplicates: Literal["auto", "error", "first", "last", "mean"] = "auto"
    """of rows with the same date; auto: as the run"""
    gaps: Literal["auto", "error", "interpolate", "previous"] = "auto"
    """what is missing, read as the value before; auto: as the run"""
    date_column: str = ""
    """its name in the file, or none: rows are steps; empty: as the run"""
    date_format: str = ""
    """of strptime, as %d/%m/%Y; empty: as the run"""
    horizon: int = 0
    """steps to forecast; 0: as many as were trained"""
    to: Annotated[str, tyro.conf.arg(metavar="FILE")] = "forecast.csv"
    """CSV file to write"""
    plot: Annotated[str, tyro.conf.arg(metavar="FILE")] = "forecast.png"
    """picture to write; empty: none"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""

    def __post_init__(self):
        is_png = not self.plot or Path(self.plot).suffix.lower() in (".png", ".svg", ".pdf")
        checks = {
            "horizon": (0 <= self.horizon <= 100_000, "from 0 to 100000"),
            "to": (bool(self.to), "a name"),
            "plot": (is_png, "a name in .png, .svg, .pdf"),
        }
        cli.check_flags(self, checks)


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(ForecastOptions, args=argv, prog="python -m jaxrnn.forecast")
    cli.check_outputs(to=options.to, plot=options.plot)
    task, skeleton, params, run = cli.open_model(options.run, options.checkpoint, options.device)
    if task.name != "series":
        raise InputError(f"{options.run} is of the task {task.name!r}, expected 'series'")

    from jaxrnn import plots, report
    from jaxrnn.data.date_text import show_date
    from jaxrnn.data.series import made_series, reading
    from jaxrnn.tasks.series_forecasts import ahead, panels, predictor

    config, path = task.config, options.data or task.config.data
    check_outputs(options, path)
    given = reading(options)
    if given and not path:
        flag = next(iter(given)).replace("_", "-")
        raise InputError(f"--{flag} is of a file, the made series has none; add --data")
    series = task.read(path, **given) if path else made_series()
    num_steps, origin = options.horizon or config.horizon, len(series.values)
    if origin < config.input_len:
        raise InputError(
            f"{path} has {origin:,} rows, the model reads the last {config.input_len:,}; give a "
            "file with more of the past"
        )
    rows = task.rows(series, num_steps)
    quantiles = ahead(task, predictor(task, skeleton, params), rows, origin, num_steps)
    dates = series.future_dates(num_steps)
    zone = "+00:00" if series.is_utc else ""
    text = to_csv(task, series.date_column, dates, zone, origin, task.unscaled(quantiles, 1))
    x = np.arange(origin - config.input_len, origin + num_steps)
    if series.dates is not None and dates is not None:
        x = np.concatenate([series.dates[-config.input_len :], dates])
    past = rows[origin - config.input_len : origin]
    contents = {Path(options.to): text.encode()}
    if options.plot:
        shown = panels(task, x, past, quantiles)
        title = f"{run.path.name}: {num_steps} steps ahead"
        kind = Path(options.plot).suffix[1:].lower()
        contents[Path(options.plot)] = plots.forecasts(kind, shown, task.interval, title)
    try:
        files.write_together(contents)
    except OSError as error:
        raise InputError(
            f"can't write {error.filename or options.to}: {error.strerror or error}"
        ) from error
    out = report.console()
    for remark in series.remarks:
        out.print(f"note    {remark}", markup=False)
    when = f"steps {origin + 1:,} to {origin + num_steps:,}"
    if dates is not None:
        when = f"{show_date(dates[0])} to {show_date(dates[-1])}"
    has_interval = quantiles.shape[-1] > 1
    what = f" with their {task.interval}" if has_interval else ""
    out.print(f"wrote   {options.to}: {', '.join(task.targets[:8])}, {when}{what}", markup=False)
    if options.plot:
        out.print(f"wrote   {options.plot}", markup=False)
    if not has_interval:
        out.print(
            "note    points have no interval: train with --distribution quantiles for one",
            markup=False,
        )
    if num_steps > config.horizon:
        rest = "" if config.head == "recursive" or not has_interval else ", intervals too narrow"
        out.print(
            f"note    from step {config.horizon + 1} on beyond the horizon that was trained{rest}"
            f"; python -m jaxrnn.train series --horizon {num_steps}"
            + (f" --data {shlex.quote(config.data)}" if config.data else ""),
            markup=False,
        )
    return 0


def check_outputs(options: ForecastOptions, data: str) -> None:
    """Raise InputError where one file would take another's place, or can't be made."""
    outputs = {"to": options.to, "plot": options.plot}
    for name, path in outputs.items():
        if path and data and files.is_same(path, data):
            raise InputError(f"--{name} is {path}, which the forecast reads; choose another name")
        if path and not Path(path).absolute().parent.is_dir():
            raise InputError(f"--{name} is {path}, but there is no directory {Path(path).parent}")
    if options.plot and files.is_same(options.to, options.plot):
        raise InputError(f"--to and --plot are both {options.to}; choose two names")


def to_csv(
    task: Any,
    date_column: str,
    dates: np.ndarray | None,
    zone: str,
    origin: int,
    quantiles: np.ndarray,
) -> str:
    """A header, and a row for each step; quantiles (N, C, K) are in the data's unit.

    ``zone`` follows times: their offset from UTC.
    """
    levels, file = task.config.levels, io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = [date_column if dates is not None else "step"]
    for name in task.targets:
        header += [name, *(f"{name}_q{level:g}" for level in levels if level != 0.5)]
    writer.writerow(header)
    stamps = dates
    if dates is not None and (dates == dates.astype("datetime64[D]")).all():
        stamps = dates.astype("datetime64[D]")
    middle = levels.index(0.5)
    order = [middle, *(k for k in range(len(levels)) if k != middle)]
    for k, values in enumerate(quantiles):
        stamp = origin + k + 1 if stamps is None else str(stamps[k]).replace("T", " ") + zone
        writer.writerow([stamp, *(f"{v:.9g}" for v in values[:, order].ravel())])
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
