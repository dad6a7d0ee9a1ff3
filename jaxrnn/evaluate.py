"""Measure a trained model: ``python -m jaxrnn.evaluate RUN [--data FILE]``.

The whole stream is run with carried state and dropout off: nats, bits and perplexity of a text,
MSE and MAE (of scaled values) of one-step predictions beside those of the last value. Of a text
also, where asked for, beside them and under names of their own: the figures at a temperature found
while reading (``jaxrnn.temperature``), and of a model that learns while it reads
(``jaxrnn.dynamic_evaluation``). A forecaster is measured from every origin of its test part, beside
the naive forecasts of ``forecast_errors``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxrnn import cli
from jaxrnn.errors import InputError

if TYPE_CHECKING:
    from jaxrnn.runs import Run


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained model.

    examples:
      python -m jaxrnn.evaluate runs/char-20250101-120000
      python -m jaxrnn.evaluate runs/char-20250101-120000 --data other.txt --streams 64
      python -m jaxrnn.evaluate runs/char-20250101-120000 --tune-temperature --dynamic
      python -m jaxrnn.evaluate runs/series-20250101-120000 --part validation
      python -m jaxrnn.evaluate runs/series-20250101-120000 --backtest > errors.json
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory"""
    data: str = ""
    """file to measure on, all of it; empty: the run's own part"""
    duplicates: Literal["auto", "error", "first", "last", "mean"] = "auto"
    """of a forecaster's --data: of rows with the same date; auto: as the run"""
    gaps: Literal["auto", "error", "interpolate", "previous"] = "auto"
    """of a forecaster's --data: what is missing, read as the value before; auto: as the run"""
    date_column: str = ""
    """of a forecaster's --data: its name in the file, or none: rows are steps; empty: as the run"""
    date_format: str = ""
    """of a forecaster's --data: of strptime, as %d/%m/%Y; empty: as the run"""
    part: Literal["auto", "train", "validation", "test"] = "auto"
    """which part of a forecaster's own data; auto: test; other tasks have validation alone"""
    stride: int = 1
    """of a forecaster: every so many steps an origin; 1: all, as papers have it"""
    backtest: bool = False
    """of a forecaster: print JSON with the errors of each step ahead and of each target, too"""
    streams: int = 1
    """cut the stream into so many that run side by side, each warmed up on what precedes it:
    faster, and nearly the same; 1 is exact"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    tune_temperature: bool = False
    """of a text: its figures too at the temperature that was best over what came before"""
    dynamic: bool = False
    """of a text: its figures too of a model that learns from each segment once it is scored"""
    dynamic_rule: Literal["rms", "sgd"] = "rms"
    """rms: steps by the size of the training text's gradients, which takes a pass over it"""
    dynamic_len: int = 20
    """symbols of a segment; 5 to 50"""
    dynamic_lr: float | None = None
    """of a step; None: 2e-4 of rms, 0.2 of sgd"""
    dynamic_decay: float | None = None
    """share of the way back to the trained parameters, at each step; None: 8e-3 of rms, 0 of sgd"""
    json: bool = False
    """print one JSON object instead of a table"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(
        EvaluateOptions,
        args=argv,
        prog="python -m jaxrnn.evaluate",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    _check(options)
    task, skeleton, params, run = cli.open_model(options.run, options.checkpoint, options.device)
    if task.name == "series":
        return measure_forecasts(options, task, skeleton, params, run)
    own = {
        "stride": options.stride != 1,
        "backtest": options.backtest,
        "part": options.part in ("train", "test"),
        **{k: getattr(options, k) != "auto" for k in ("duplicates", "gaps")},
        **{k: getattr(options, k) != "" for k in ("date_column", "date_format")},
    }
    if given := [name for name, is_given in own.items() if is_given]:
        flag = given[0].replace("_", "-")
        raise InputError(f"--{flag} is of forecasters, {run.path} is of the task {task.name!r}")

    from jaxrnn import report
    from jaxrnn.training import evaluate, load_carry

    for name in ("tune_temperature", "dynamic"):
        if getattr(options, name) and task.name != "char":
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is of texts alone, {run.path} is of the task {task.name!r}")
    carry = None
    if options.data:
        held_out, name = task.read_evaluation(options.data), options.data
    else:
        _, data = type(task).load(run.config, run.facts)
        held_out, name = data.held_out, "validation"
        if not held_out.num_counted:
            raise InputError(
                f"{run.path} has no validation part (--val-fraction is 0); name a file with --data"
            )
        if held_out.continues:
            carry = load_carry(task, run, options.checkpoint)
    metrics = evaluate(task, skeleton, params, held_out, options.streams, carry=carry)
    more: dict[str, dict[str, float]] = {}
    notes: dict[str, float] = {}
    if options.tune_temperature:
        from jaxrnn.temperature import evaluate_tuned

        more["tuned"], notes["temperature"] = evaluate_tuned(
            task, skeleton, params, held_out, options.streams
        )
    if options.dynamic:
        more["dynamic"] = _dynamic(options, task, skeleton, params, run, held_out)
    if options.json:
        naive = {f"naive_{k}": v for k, v in held_out.baseline.items()}
        others = {f"{of}_{k}": v for of, values in more.items() for k, v in values.items()}
        found = {"data": name, "positions": held_out.num_counted, **metrics, **naive}
        left_out = {"left_out": held_out.left_out} if held_out.left_out else {}
        print(json.dumps(found | others | notes | left_out))
    else:
        labels = {"tuned": "tuned temperature", "dynamic": "dynamic evaluation"}
        rows = {name: metrics}
        rows |= {"last value": held_out.baseline} if held_out.baseline else {}
        rows |= {labels[of]: values for of, values in more.items()}
        report.evaluation(task, held_out, rows, notes)
    return 0


def _check(options: EvaluateOptions) -> None:
    """Raise InputError for a value out of range, or one that would do nothing."""
    checks = {
        "streams": (options.streams >= 1, "at least 1"),
        "stride": (options.stride >= 1, "at least 1"),
        "dynamic_len": (options.dynamic_len >= 1, "at least 1"),
    }
    for name, value in (
        ("dynamic_lr", options.dynamic_lr),
        ("dynamic_decay", options.dynamic_decay),
    ):
        checks[name] = (value is None or 0 <= value <= 1, "in 0..1")
    cli.check_flags(options, checks)
    unused = {
        name: (options.dynamic or getattr(options, name) == default, "with --dynamic alone")
        for name, default in (
            *(("dynamic_rule", "rms"), ("dynamic_len", 20)),
            *(("dynamic_lr", None), ("dynamic_decay", None)),
        )
    }
    unused["streams"] = (
        options.streams == 1 or not options.dynamic,
        "1 with --dynamic, which reads and learns in order",
    )
    cli.check_flags(options, unused)


def _dynamic(options: EvaluateOptions, task: Any, skeleton, params, run, held_out: Any) -> Any:
    """The metrics of dynamic evaluation."""
    from jaxrnn import dynamic_evaluation

    scales = None
    if options.dynamic_rule == "rms":
        _, data = type(task).load(run.config, run.facts)
        scales = dynamic_evaluation.gradient_scales(
            skeleton, params, data.train, options.dynamic_len
        )
    lr, decay = dynamic_evaluation.DEFAULTS[options.dynamic_rule]
    how = dynamic_evaluation.Dynamic(
        options.dynamic_len,
        lr if options.dynamic_lr is None else options.dynamic_lr,
        decay if options.dynamic_decay is None else options.dynamic_decay,
    )
    return dynamic_evaluation.evaluate(task, skeleton, params, held_out, how, scales)


def measure_forecasts(
    options: EvaluateOptions, task: Any, skeleton: Any, params: Any, run: Run
) -> int:
    """Of a run of the task ``series``."""
    from jaxrnn import report
    from jaxrnn.data.series import reading
    from jaxrnn.tasks.series_forecasts import backtest, note_of, predictor

    given = reading(options)
    if given and not options.data:
        flag = next(iter(given)).replace("_", "-")
        raise InputError(f"--{flag} is of a file that --data names; add it")
    if options.streams != 1:
        raise InputError(f"--streams is {options.streams}, expected 1: windows are no streams")
    for name in ("tune_temperature", "dynamic"):
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is of texts alone, {run.path} is of the task 'series'")
    if options.data:
        windows, name = task.read_evaluation(options.data, **given), options.data
        if options.part != "auto":
            raise InputError(f"--part is {options.part}, expected without --data: all is measured")
    else:
        _, data = type(task).load(run.config, run.facts)
        name = "test" if options.part == "auto" else options.part
        windows = task.part(data.train.rows, name, data.held_out.truth)
        if not windows.num_counted:
            raise InputError(
                f"the {name} part of {run.path} is shorter than --horizon "
                f"{task.config.horizon}; choose another --part, or name a file with --data"
            )
    rows = backtest(task, predictor(task, skeleton, params), windows, options.stride)
    found: dict[str, Any] = {"data": name, "windows": next(iter(rows.values())).count}
    found |= note_of(task, windows)
    found["rows"] = {label: errors.metrics() for label, errors in rows.items()}
    if options.backtest:
        found["targets"] = list(task.targets)
        found["by_step"] = {label: errors.by_step() for label, errors in rows.items()}
        found["by_target"] = {label: errors.by_target() for label, errors in rows.items()}
    if options.json or options.backtest:
        print(json.dumps(found))
    else:
        report.forecast_errors(report.console(), name, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
