"""The table in the terminal, a block a workload, and the plot, of rows that ``results`` gives."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrnn.bench.peers import OURS

Rows = Sequence[dict[str, Any]]

NOT_TO_QUOTE = "--quick: shortened rows and few turns, not to be quoted"

# With a blank after each 80 columns.
COLUMNS = {
    "": 14,
    "ms/step": 7,
    "spread": 6,
    "floor": 5,
    "comp. s": 7,
    "MiB": 6,
    "ratio": 5,
    "quartiles": 11,
    "goal": 11,
}


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    for k, width in enumerate(COLUMNS.values()):
        grid.add_column(justify="right" if k else "left", min_width=width, no_wrap=True)
    return grid


def figure(value: float) -> str:
    """Three digits at least, never an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1e-4 or value == 0 else f"{value:.6f}"


def shape(workload: dict[str, Any]) -> str:
    """For people: what is done, with what."""
    size = f"{workload['hidden_size']}"
    size += f"->{workload['proj_size']}" if workload["proj_size"] else ""
    return (
        f"{workload['cell']} {workload['mode']} T{workload['num_steps']} "
        f"B{workload['batch_size']} I{workload['input_size']} H{size} L{workload['num_layers']}"
        + ("" if (precision := workload["precision"]) == "float32" else f" {precision}")
        + (f" Z{workload['latent_size']}" if workload.get("latent_size") else "")
    )


def header(console: Console) -> None:
    """Above the first block."""
    grid = _grid()
    grid.add_row(*COLUMNS)
    console.print(grid)


def block(console: Console, rows: Rows) -> None:
    """One workload: its name and shape, then a line each that was timed."""
    workload = rows[0]["workload"]
    console.print(f"{workload['name']}: {shape(workload)}", markup=False)
    grid = _grid()
    for row in rows:
        if "skipped" in row:
            continue
        memory = row["peak_memory_mib"]
        cells = [f" {row['peer']}", figure(row["ms"])]
        cells.append(f"{(row['ms_high'] - row['ms_low']) / row['ms']:.0%}")
        cells.append("" if row["share"] is None else f"{row['share']:.0%}")
        cells.append(figure(round(row["compile_s"], 1)))
        cells.append("" if memory is None else figure(memory))
        if "ratio" in row:
            cells.append(figure(row["ratio"]))
            cells.append(f"{figure(row['ratio_low'])}-{figure(row['ratio_high'])}")
        if row.get("goal_met") is not None:
            cells += [""] * (len(COLUMNS) - 1 - len(cells))  # of ours, which has no ratio
            cells.append(f"{row['goal']:g} {'met' if row['goal_met'] else 'missed'}")
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(grid)
    timed = [row for row in rows if "skipped" not in row]
    if workload["exact"] and timed:
        steps = [f"{row['peer']} {figure(row['us_a_time_step'])}" for row in timed]
        if timed[0]["floor_ms"] is not None:
            steps.insert(0, f"floor {figure(1e3 * timed[0]['floor_ms'] / workload['num_steps'])}")
        said = f"us a time step: {', '.join(steps)}"
        console.print(textwrap.fill(said, 79, initial_indent=" ", subsequent_indent="   "))


def footer(
    console: Console, rows: Rows, about: dict[str, Any], absent: Mapping[str, str] | None = None
) -> None:
    """What the columns mean, the machine and its ceilings, and who was left out and why.

    ``absent``: who has no rows at all, and why.
    """
    console.print(
        "spread: between the quartiles, over the median; ratio: a peer's time over ours,\n"
        "turn by turn, above 1 ours is faster; floor: the share of a step that its matrix\n"
        "products take at the rate measured here (of generate: reading the weights; on a\n"
        "GPU also the steps, which wait for each other);\n"
        "MiB: the most that arguments, results and temporaries take, where it is counted",
        markup=False,
    )
    versions = about["versions"]
    named = [f"{name} {versions[name]}" for name in ("jaxrnn", "jax", "torch") if name in versions]
    console.print(
        f"{about['device']}, {about['threads']} threads\n"
        f"{', '.join(named)}, {about['date']};\nfloat32 where a row says nothing else",
        markup=False,
    )
    limits = [row["ceilings"] for row in rows if row.get("ceilings")]
    limits = [limit for limit in limits if "error" not in limit]
    if limits:
        rates = [limit["matmul_gflop_per_s"] for limit in limits]
        reads = [limit["read_gb_per_s"] for limit in limits]
        console.print(
            f"ceilings: matmul {figure(min(rates))}-{figure(max(rates))} GFLOP/s by shape, "
            f"reading weights {figure(min(reads))}-{figure(max(reads))} GB/s,\n"
            f"copy {figure(limits[0]['copy_gb_per_s'])} GB/s",
            markup=False,
        )
    for line in (
        *of_float64(rows),
        *goals_by_others(rows),
        *left_out(rows),
        *(f"left out: {name}: {reason}" for name, reason in (absent or {}).items()),
    ):
        console.print(line, markup=False)
    if is_busy(about):
        console.print(
            f"others were at work when this began (load {about['load']:.1f} on {about['threads']} "
            "threads):\nlibraries suffer from that unequally, not to be quoted",
            markup=False,
        )
    if about["quick"]:
        console.print(NOT_TO_QUOTE, markup=False)


def of_float64(rows: Rows) -> list[str]:
    """How far each peer was from the reference, over all rows that were compared with it."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["workload"]["exact"] and row.get("difference") is not None:
            found.setdefault((row["peer"], row["workload"]["precision"]), []).append(
                row["difference"]
            )
    lines = [
        f"from float64: {peer}{'' if peer.startswith('torch-') else f' in {precision}'}, "
        f"{min(sizes):.2g} to {max(sizes):.2g} of a tensor's largest value"
        for (peer, precision), sizes in found.items()
    ]
    unsteady = [
        f"not the same bits a second time: {row['peer']} of {row['workload']['name']}"
        for row in rows
        if row.get("same_bits") is False
    ]
    return lines + unsteady


def goals_by_others(rows: Rows) -> list[str]:
    """Goals that are not of a peer's time over ours, which the table shows, or were not judged."""
    lines = []
    for row in rows:
        what = f"goal of {row['workload']['name']}, {row.get('goal', 0):g}"
        if row.get("goal_reason"):
            lines.append(f"{what}: not judged, {row['goal_reason']}")
        elif row.get("goal_by", OURS) != OURS:
            met = "met" if row["goal_met"] else "missed"
            ratio = figure(row["goal_ratio"])
            lines.append(f"{what}: {row['peer']} over {row['goal_by']} {ratio}, {met}")
    return lines


def is_busy(about: dict[str, Any]) -> bool:
    """Whether others used the machine: threads that wait for each other then lose far more."""
    return bool(about["load"]) and about["load"] > 0.5 * about["threads"]


def left_out(rows: Rows) -> list[str]:
    """A line for each peer and reason, with the workloads it holds for."""
    num_workloads = len({row["workload"]["name"] for row in rows})
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "skipped" in row:
            found.setdefault((row["peer"], row["skipped"]), []).append(row["workload"]["name"])
    return [
        f"left out: {peer}"
        + (f" of {', '.join(names)}" if len(names) < num_workloads else "")
        + f": {reason}"
        for (peer, reason), names in found.items()
    ]


def plot(path: Path, rows: Rows, about: dict[str, Any]) -> None:
    """Each peer's time over ours with its quartiles, a row a workload, on a logarithmic axis."""
    compared = [row for row in rows if "ratio" in row]
    names = list(dict.fromkeys(row["workload"]["name"] for row in rows))
    peers = list(dict.fromkeys(row["peer"] for row in compared))
    drawn = Figure(figsize=(9, 1.8 + 0.55 * len(names)), layout="constrained")
    FigureCanvasAgg(drawn)
    axes: Any = drawn.add_subplot()
    for number, peer in enumerate(peers):
        own = [row for row in compared if row["peer"] == peer]
        shift = 0.7 * ((number + 0.5) / len(peers) - 0.5)
        axes.errorbar(
            [row["ratio"] for row in own],
            [names.index(row["workload"]["name"]) + shift for row in own],
            xerr=[
                [row["ratio"] - row["ratio_low"] for row in own],
                [row["ratio_high"] - row["ratio"] for row in own],
            ],
            fmt="o",
            markersize=5,
            capsize=2,
            label=peer,
        )
    axes.axvline(1, color="black", linewidth=1, label=OURS)
    for k in range(1, len(names)):
        axes.axhline(k - 0.5, color="lightgray", linewidth=0.8)
    title = f"{about['device']}, {about['threads']} threads, jax {about['versions']['jax']}"
    axes.set_title(title + (f"\n{NOT_TO_QUOTE}" if about["quick"] else ""), parse_math=False)
    axes.set_xscale("log")
    ends = [row[end] for row in compared for end in ("ratio_low", "ratio_high")] or [1.0]
    axes.set_xlim(min(0.5, 0.8 * min(ends)), max(2.0, 1.25 * max(ends)))
    ticks = [s * 10.0**e for e in range(-3, 5) for s in (1, 2, 5)]
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("time over jaxrnn's (right of the line: jaxrnn is faster), with quartiles")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    drawn.savefig(path, dpi=110)
