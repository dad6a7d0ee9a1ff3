"""Tables and closing words of the command lines."""

from __future__ import annotations

import math
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrnn.config import TrainConfig
from jaxrnn.runs import Run
from jaxrnn.tasks import Data, Task
from jaxrnn.training import (
    Outcome,
    initial_state,
    make_step,
    stack_batches,
    steps_per_dispatch,
    total_steps,
)

UNITS = {"char": "symbols", "series": "values"}
"""What one position of a task's data is called."""


def metrics_table(rows: dict[str, dict[str, float]]) -> Table:
    """A row each of the same metrics: ``{"model": {"mse": ...}, "last value": {...}}``."""
    table = Table()
    table.add_column("")
    names = list(next(iter(rows.values())))
    for name in names:
        table.add_column(name, justify="right")
    for label, metrics in rows.items():
        table.add_row(Text(label), *(f"{metrics[name]:.5g}" for name in names))
    return table


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
    inputs, targets = batches[0][0], batches[1][0]
    console.print(
        f"batch   inputs {inputs.dtype}{inputs.shape}, targets {targets.dtype}{targets.shape}",
        markup=False,
    )
    console.print(parameter_table(state.params))

    started = time.perf_counter()
    compiled = (
        make_step(task, skeleton, config, total).lower(state, *batches, np.int32(1)).compile()
    )
    compile_s = time.perf_counter() - started
    memory = compiled.memory_analysis()
    sizes = {"parameters": state.params, "optimizer": state.moments, "carried state": state.carry}
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


def outcome(console: Console, task: Task, run: Run, result: Outcome) -> None:
    """How the run ended, what it reached, and what to do next."""
    line, progress = result.metrics, result.progress
    ended = {"done": "done", "early stop": "stopped early"}.get(result.reason)
    if ended is None:
        console.print(
            f"stopped by {result.reason} after step {result.step}, saved; go on with\n"
            f"  python -m jaxrnn.train --resume {run.path}",
            markup=False,
        )
        return
    if not line:
        console.print(
            f"{run.path} is complete at step {result.step}; --steps or --epochs goes on",
            markup=False,
        )
        return
    if progress.best is not None:
        rows = {
            prefix: {k.removeprefix(start): v for k, v in line.items() if k.startswith(start)}
            for prefix, start in (("validation", "val_"), ("last value", "naive_"))
        }
        console.print(metrics_table({name: row for name, row in rows.items() if row}))
        console.print(
            f"{ended} after step {result.step}, {line['time_s']:.0f} s; best {task.monitor} "
            f"{progress.best:.5g} at step {progress.best_step}",
            markup=False,
        )
    else:
        console.print(f"{ended} after step {result.step}; loss {line['loss']:.5g}", markup=False)
    if "sample" in line:
        console.print(f"\n{line['sample']}\n", markup=False)
    commands = [f"torch_compat export {run.path} --to exported"]
    if task.name == "char":
        commands.insert(0, f'jaxrnn.sample {run.path} --prime "The "')
    if progress.best is not None:
        commands.insert(0, f"jaxrnn.evaluate {run.path}")
    for k, command in enumerate(commands):
        console.print(f"{'' if k else 'next':8}python -m {command}", markup=False)


def console() -> Console:
    """The terminal that all commands write to."""
    return Console(highlight=False, soft_wrap=True)


def evaluation(
    name: str, num_counted: int, metrics: dict[str, float], naive: dict[str, float]
) -> None:
    """The table of ``jaxrnn.evaluate``."""
    out = console()
    out.print(metrics_table({name: metrics, **({"last value": naive} if naive else {})}))
    out.print(f"over {num_counted:,} positions, the state carried through")
