"""A small file of hours with two targets, a covariate and what is known, and runs on it."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.config import SeriesConfig

ROWS, FUTURE = 150, 6


def values_of() -> np.ndarray:
    """x, y, a covariate and a known column, by the hour."""
    hours = np.arange(ROWS + FUTURE)
    rng = np.random.default_rng(7)
    known = (hours % 5 == 0).astype(float)
    x = 20 + 5 * np.sin(2 * np.pi * hours / 24) + 2 * known + rng.normal(0, 0.3, len(hours))
    y = -3 + 0.02 * hours + rng.normal(0, 0.1, len(hours))
    return np.stack([x, y, rng.normal(size=len(hours)), known], -1).round(4)


def write_rows(path: Path, future: int = 0, rows: int = ROWS) -> str:
    """The CSV file; the last ``future`` rows have what is known alone."""
    dates = np.datetime64("2021-03-01T00") + np.arange(ROWS + FUTURE)
    lines = ["date,x,y,c,k"]
    for k, (date, row) in enumerate(zip(dates, values_of(), strict=True)):
        if k >= rows + future:
            break
        given = [f"{v}" for v in row] if k < rows else ["", "", "", f"{row[3]}"]
        lines.append(",".join([str(date).replace("T", " ") + ":00", *given]))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def config_of(rows: str, **options: Any) -> SeriesConfig:
    small: dict[str, Any] = {
        "data": rows,
        **{"targets": ("x", "y"), "input_len": 8, "horizon": 4, "hidden_size": 6},
        **{"split": "100,25,25", "batch_size": 4, "steps": 6, "eval_every": 3, "log_every": 1},
        **{"lr": 0.01},
    }
    return SeriesConfig(**(small | options))
