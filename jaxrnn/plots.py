"""The pictures of a run, as PNG files made by matplotlib without a display."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from jaxrnn import files
from jaxrnn.data.strokes import to_lines


def _figure(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    return figure, axes


def _picture(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format=kind)
    return content.getvalue()


def _save(figure: Figure, path: Path) -> None:
    files.write_atomically(path, _picture(figure, path.suffix[1:].lower()), durably=False)


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
    _save(figure, path)


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
    _save(figure, path)


@dataclasses.dataclass(frozen=True)
class ForecastPanel:
    """One series and its forecast; x are dates or numbers of steps."""

    title: str
    past_x: np.ndarray  # (P,)
    past: np.ndarray
    x: np.ndarray  # (N,)
    quantiles: np.ndarray  # (N, K), the median in the middle; K is 1 without an interval
    came: np.ndarray | None = None  # (N,) what came, where it is known


def joined(panel: ForecastPanel) -> tuple[np.ndarray, np.ndarray]:
    """x and quantiles of a forecast, begun at the last value of the past."""
    last = np.repeat(panel.past[-1:, None], panel.quantiles.shape[1], 1)
    x = np.concatenate([panel.past_x[-1:], panel.x])
    return x, np.concatenate([last, panel.quantiles])


def numbered(panel: ForecastPanel) -> ForecastPanel:
    """The same, by steps in place of dates that matplotlib can't show: years 1 to 9999, no more."""
    x = np.concatenate([panel.past_x, panel.x])
    if not np.issubdtype(x.dtype, np.datetime64):
        return panel
    years = x[[0, -1]].astype("datetime64[Y]").astype(int) + 1970
    around = 1 + abs(int(years[1] - years[0])) // 10  # what is left free at both ends, and more
    if years.min() - around >= 1 and years.max() + around <= 9999:
        return panel
    steps = np.arange(len(x)) - len(panel.past_x) + 1
    past_x, x = np.split(steps, [len(panel.past_x)])
    return dataclasses.replace(panel, past_x=past_x, x=x)


def forecasts(kind: str, panels: Sequence[ForecastPanel], interval: str, title: str) -> bytes:
    """A panel below the other for each series: its last part, the forecast and its interval.

    ``kind``: png, svg or pdf; the picture's bytes come back.
    """
    figure = Figure(figsize=(9, 1.2 + 2.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    for k, panel in enumerate(map(numbered, panels)):
        axes = figure.add_subplot(len(panels), 1, k + 1)
        axes.set_title(panel.title, parse_math=False, fontsize="medium", loc="left")
        axes.grid(alpha=0.3)
        axes.plot(panel.past_x, panel.past, color="black", linewidth=1, label="past")
        x, quantiles = joined(panel)
        if panel.came is not None:
            came = np.concatenate([panel.past[-1:], panel.came])
            axes.plot(x, came, color="black", linewidth=1, alpha=0.45, label="what came")
        middle = quantiles[:, quantiles.shape[1] // 2]
        marker = "." if len(x) == 1 else ""
        axes.plot(x, middle, color="tab:orange", marker=marker, label="forecast")
        if quantiles.shape[1] > 1:
            low, high = quantiles[:, 0], quantiles[:, -1]
            shade = {"color": "tab:orange", "alpha": 0.25, "linewidth": 0}
            axes.fill_between(x, low, high, label=interval, **shade)
        if np.issubdtype(panel.x.dtype, np.datetime64):
            locator = AutoDateLocator()
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            axes.set_xlabel("step")
        if k == 0:
            axes.legend()
    return _picture(figure, kind)


def drawings(
    path: Path, shown: Sequence[np.ndarray], *, num_columns: int = 0, num_prefix: int = 0
) -> None:
    """A grid of drawings, stroke-3; their first ``num_prefix`` points in another colour."""
    num_columns = num_columns or max(1, math.ceil(math.sqrt(len(shown))))
    num_rows = math.ceil(len(shown) / num_columns)
    figure = Figure(figsize=(1.6 * num_columns, 1.6 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for k, drawing in enumerate(shown):
        axes = figure.add_subplot(num_rows, num_columns, k + 1)
        axes.set_aspect("equal", adjustable="datalim")
        axes.invert_yaxis()
        axes.axis("off")
        start = 0
        for line in to_lines(drawing):
            split = int(np.clip(num_prefix - start, 0, len(line)))
            parts = {"tab:pink": line[:split], "black": line[max(split - 1, 0) :]}
            if split == len(line):
                del parts["black"]
            for color, part in parts.items():
                marker = "." if len(part) == 1 else ""
                axes.plot(*part.T, color=color, linewidth=1.2, marker=marker)
            start += len(line)
    _save(figure, path)
