"""The pictures of a run, as PNG files made by matplotlib without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    return figure, axes


def loss(path: Path, lines: list[dict[str, Any]], monitor: str, title: str) -> None:
    """Training loss and validation metric by step, from the lines of ``metrics.jsonl``."""
    figure, axes = _figure(title)
    trained = [line for line in lines if "loss" in line]
    validated = [line for line in lines if f"val_{monitor}" in line]
    axes.plot(
        [line["step"] for line in trained],
        [line["loss"] for line in trained],
        color="tab:blue",
        alpha=0.7,
        label=f"training, {monitor}",
    )
    if validated:
        values = [line[f"val_{monitor}"] for line in validated]
        axes.plot(
            [line["step"] for line in validated],
            values,
            color="tab:orange",
            marker="o",
            markersize=3,
            label=f"validation, {monitor}: best {min(values):.4g}",
        )
        naive = validated[-1].get(f"naive_{monitor}")
        if naive is not None:
            axes.axhline(naive, color="gray", linestyle="--", label=f"last value: {naive:.4g}")
    shown = np.array([line["loss"] for line in trained], float)
    if len(shown) and shown.min() > 0 and shown.max() > 50 * shown.min():
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(monitor)
    axes.legend()
    figure.savefig(path, dpi=110)


def prediction(
    path: Path, values: np.ndarray, predicted: np.ndarray, num_validated: int, title: str
) -> None:
    """A series and its one-step predictions; the part that validation counts is shaded."""
    figure, axes = _figure(f"{title}: one step ahead")
    steps = np.arange(len(values))
    axes.plot(steps, values, color="black", linewidth=1, label="series")
    axes.plot(steps, predicted, color="tab:orange", linewidth=1, label="predicted")
    if num_validated:
        start = max(len(values) - num_validated, 0) - 0.5
        axes.axvspan(start, len(values) - 0.5, color="tab:blue", alpha=0.08, label="validation")
    axes.set_xlabel("step")
    axes.legend()
    figure.savefig(path, dpi=110)
