"""Tables and closing words of the command lines."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrnn.config import TrainConfig
from jaxrnn.runs import Run
from jaxrnn.tasks import Data, Task
from jaxrnn.tasks.task import Validation
from jaxrnn.train_step import initial_state, make_step, steps_per_dispatch
from jaxrnn.training import Outcome, stack_batches, total_steps

UNITS = {"char": "symbols", "series": "windows", "sine": "values", "sketch": "drawings"}
"""What one position of a task's data is called."""

NOTES = {"char": "", "series": "scaled values", "sine": "scaled values", "sketch": "nats"}
"""What a task's metrics are of, where their names don't say it."""


def metrics_table(rows: dict[str, dict[str, float]], note: str = "") -> Table:
    """A row each of the same metrics: ``{"model": {"mse": ...}, "last value": {...}}``.

    ``note`` says what they are of. Rows after the first may lack some.
    """
    table = Table()
    table.add_column(note)
    names = list(next(iter(rows.values())))
    for name in names:
        table.add_column(name, justify="right")
    for label, metrics in rows.items():
        shown = (f"{metrics[name]:.5g}" if name in metrics else "" for name in names)
        table.add_row(Text(label), *shown)
    return table


MEASURES = {
    "mse": "MSE, scaled",
    "mae": "MAE, scaled",
    "pinball": "pinball, scaled",
    "unit_mae": "MAE",
    "rmse": "RMSE",
    "smape": "sMAPE, %",
    "mase": "MASE",
    "coverage": "coverage",
}
"""A forecaster's errors (``forecast_errors``) as a table has them."""


def forecast_errors(out: Console, part: str, found: dict[str, Any]) -> None:
    """A forecaster's errors beside those of the naive forecasts."""
    rows = found["rows"]
    table = Table(f"{part}, {found['windows']:,} windows")
    for name in rows:
        table.add_column(name, justify="right")
    for name, label in MEASURES.items():
        if any(name in row for row in rows.values()):
            values = [row.get(name) for row in rows.values()]  # of no finite number it is None
            table.add_row(label, *("" if v is None else f"{v:.5g}" for v in values))
    out.print(table)
    if "note" in found:
        out.print(f"note    {found['note']}", markup=False)


def parameter_table(params: dict[str, jax.Array]) -> Table:
    """Name, shape and number of every parameter."""
    table = Table("parameter", "shape", title="parameters")
    table.add_column("number", justify="right")
    for name, value in params.items():
        table.add_row(name, str(tuple(value.shape)), f"{value.size:,}")
    table.add_section()
    table.add_row("all", "", f"{sum(v.size for v in params.values()):,}")
    return table


def dry_run(console: Console, task: Task, data: Data, config: TrainConfig, device: str) -> None:
    """Show data, shapes, parameters and memory, and take one step; nothing is written."""
    total = total_steps(config, data)
    skeleton, _, state = initial_state(task, config)
    capacity = min(steps_per_dispatch(config, state.params), total)
    batches = stack_batches(data, 0, 1, capacity)
    console.print(f"data    {data.summary}", markup=False)
    console.print(f"device  {device}, {config.dtype}", markup=False)
    console.print(
        f"steps   {total:,} ({data.train.steps_per_epoch:,} an epoch), {capacity} in a dispatch"
    )
    named = zip(("inputs", "targets"), batches, strict=False)
    shapes = [
        f"{name} {' '.join(f'{a.dtype}{a.shape[1:]}' for a in jax.tree.leaves(part))}"
        for name, part in named
        if jax.tree.leaves(part)
    ]
    console.print(f"batch   {', '.join(shapes)}", markup=False)
    console.print(parameter_table(state.params))

    started = time.perf_counter()
    compiled = (
        make_step(task.loss, skeleton, config, total).lower(state, *batches, np.int32(1)).compile()
    )
    compile_s = time.perf_counter() - started
    memory = compiled.memory_analysis()
    sizes = {"parameters": state.params, "optimizer": state.moments, "carried state": state.carry}
    if state.average is not None:
        sizes["average"] = state.average
    lines: dict[str, float] = {
        name: sum(x.nbytes for x in jax.tree.leaves(tree)) for name, tree in sizes.items()
    }
    lines["activations and gradients"] = getattr(memory, "temp_size_in_bytes", math.nan)
    for name, size in lines.items():
        console.print(f"memory  {size / 2**20:10.2f} MiB  {name}")

    started = time.perf_counter()
    _, metrics = compiled(state, *batches, np.int32(1))
    loss, norm = float(metrics.loss[0]), float(metrics.grad_norm[0])
    step_ms = 1e3 * (time.perf_counter() - started)
    console.print(
        f"step    loss {loss:.4f}, gradient norm {norm:.4f}, {step_ms:.1f} ms, compiled in "
        f"{compile_s:.1f} s; nothing was written"
    )


def outcome(console: Console, task: Any, run: Run, result: Outcome) -> None:
    """How the run ended, what it reached, and what to do next."""
    line, progress, path = result.metrics, result.progress, shlex.quote(str(run.path))
    ended = {"done": "done", "early stop": "stopped early"}.get(result.reason)
    if ended is None:
        console.print(
            f"stopped by {result.reason} after step {result.step}, saved; go on with\n"
            f"  python -m jaxrnn.train --resume {path}",
            markup=False,
        )
        return
    if not line:
        state, option = "complete", "more --steps or --epochs"
        if result.reason == "early stop":
            state, option = "stopped early", "a larger --patience"
        console.print(
            f"{run.path} is {state} at step {result.step}; {option} goes on", markup=False
        )
        return
    if progress.best is not None:
        rows = {
            prefix: {k.removeprefix(start): v for k, v in line.items() if k.startswith(start)}
            for prefix, start in (
                (f"validation, step {line['step']}", "val_"),
                ("last value", "naive_"),
            )
        }
        console.print(
            metrics_table({name: row for name, row in rows.items() if row}, NOTES[task.name])
        )
    if task.name == "series" and (run.path / "test.json").exists():
        found = json.loads((run.path / "test.json").read_text(encoding="utf-8"))
        forecast_errors(console, found["part"], found)
    if progress.best is not None:
        console.print(
            f"{ended} after step {result.step}, {line['time_s']:.0f} s; best {task.monitor} "
            f"{progress.best:.5g} at step {progress.best_step}",
            markup=False,
        )
    else:
        loss = f"; loss {line['loss']:.5g}" if "loss" in line else ""
        console.print(f"{ended} after step {result.step}{loss}", markup=False)
    if progress.validations:
        smaller = " or a smaller --asgd-patience" * (run.config.asgd_patience > 0)
        console.print(
            "the mean of --average nt_asgd never began, as validations kept getting better; what "
            f"is kept are parameters as they were; more epochs{smaller} may begin it",
            markup=False,
        )
    commands = [f"torch_compat export {path} --to exported"]
    if task.name == "sketch":
        commands = [f"jaxrnn.draw {path} --to drawings.png"]
    if task.name == "series":
        commands.insert(0, f"jaxrnn.forecast {path}")
    if "sample" in line:
        sample = re.sub(r"\n{3,}", "\n\n", line["sample"].strip("\n"))
        console.print(f"\n{sample}\n", markup=False)
        known = task.vocabulary.kind == "bytes" or set("The ") <= set(task.vocabulary.symbols)
        prime = ' --prime "The "' if known else ""
        commands.insert(0, f"jaxrnn.sample {path}{prime} --length 500")
    if progress.best is not None:
        commands.insert(0, f"jaxrnn.evaluate {path}")
    for k, command in enumerate(commands):
        console.print(f"{'' if k else 'next':8}python -m {command}", markup=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader, as head(1), has gone: be quiet, but let a run go on to its end."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def console() -> Console:
    """The terminal that all commands write to."""
    return _Console(highlight=False, soft_wrap=True)


def evaluation(
    task: Task, held_out: Validation, rows: dict[str, dict[str, float]], notes: dict[str, float]
) -> None:
    """The table of ``jaxrnn.evaluate``, and numbers to note."""
    out = console()
    out.print(metrics_table(rows, NOTES[task.name]))
    carried = "" if task.name == "sketch" else ", the state carried through"
    unit = "drawings" if task.name == "sketch" else "positions"
    without = f"; {held_out.left_out:,} of other lengths left out" if held_out.left_out else ""
    out.print(f"over {held_out.num_counted:,} {unit}{carried}{without}")
    for name, value in notes.items():
        out.print(f"{name} at the end: {value:.4g}")
