"""How far forecasts are from what came: errors of points and intervals, and naive forecasts.

Over W windows, N steps and C targets; y is what came, f the point (the median), q the quantiles:

    mse, mae          of scaled values, as papers have them
    unit_mae, rmse    in the data's unit, of each target, then their mean
    smape             mean of 200 |y - f| / (|y| + |f|), per cent; 0 where both are 0
    mase              unit_mae over the mean of |y[t] - y[t - season]| in the rows trained on,
                      of each target, then their mean (Hyndman and Koehler 2006)
    pinball           scaled, mean over the levels; of a point, with it as each quantile
    coverage          share of y within the first and the last quantile; points have none

A target that is NaN was missing in the file and does not count: means are over the windows, and
where asked for the steps, that have one, then over the targets.

``ForecastErrors`` adds batches up, so that no forecast need be kept. Usage::

    errors = ForecastErrors(scales, mase_scale, levels)
    errors.add(quantiles, targets)                           # (B, N, C, K), (B, N, C), scaled
    errors.metrics(), errors.by_step()
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

NAMES = ("mse", "mae", "unit_mae", "rmse", "smape", "mase", "pinball", "coverage")


class ForecastErrors:
    """Sums over windows, for each step and target."""

    def __init__(
        self,
        scales: Sequence[tuple[float, float]],
        mase_scale: Sequence[float],
        levels: Sequence[float],
    ):
        """``scales``: mean and standard deviation of each target; ``levels`` of the quantiles."""
        self.mean, self.std = np.array(scales, np.float64).T
        self.mase_scale = np.array(mase_scale, np.float64)
        self.levels = np.array(levels, np.float64)
        self.count = 0
        self.counted: Float64[np.ndarray, "N C"] | int = 0  # targets that are known
        self.sums: dict[str, Float64[np.ndarray, "N C"]] = {}

    def add(
        self, quantiles: Float[np.ndarray, "B N C K"], targets: Float[np.ndarray, "B N C"]
    ) -> None:
        """Count these windows; K is 1, a point, or the number of levels."""
        quantiles, targets = quantiles.astype(np.float64), targets.astype(np.float64)
        point = quantiles[..., quantiles.shape[-1] // 2]
        there = ~np.isnan(targets)
        targets = np.where(there, targets, 0)
        error = targets - point
        y, f = targets * self.std + self.mean, point * self.std + self.mean
        size = np.abs(y) + np.abs(f)
        beyond = targets[..., None] - quantiles
        found = {
            "square": error**2,
            "absolute": np.abs(error),
            "smape": 200 * np.abs(y - f) / np.where(size > 0, size, 1),
            "pinball": np.maximum(self.levels * beyond, (self.levels - 1) * beyond).mean(-1),
        }
        if quantiles.shape[-1] > 1:
            within = (quantiles[..., 0] <= targets) & (targets <= quantiles[..., -1])
            found["covered"] = within.astype(np.float64)
        for name, values in found.items():
            self.sums[name] = self.sums.get(name, 0) + values.sum(0, where=there)
        self.counted = self.counted + there.sum(0).astype(np.float64)
        self.count += len(targets)

    def metrics(self) -> dict[str, float]:
        """Over all steps and targets; ``coverage`` of intervals alone."""
        return {name: float(np.nanmean(v)) for name, v in self._measures(over_steps=True).items()}

    def by_step(self) -> dict[str, list[float | None]]:
        """Over all targets, for each step ahead; None where none was known."""
        found = self._measures(over_steps=False)
        return {name: [_mean(row) for row in v] for name, v in found.items()}

    def by_target(self) -> dict[str, list[float | None]]:
        """Over all steps, for each target; None where none was known."""
        found = self._measures(over_steps=True)
        return {name: [_mean(row) for row in v.T] for name, v in found.items()}

    def _measures(self, over_steps: bool) -> dict[str, Float64[np.ndarray, "n C"]]:
        """All by target, and by step or over all steps; NaN where no target was known."""
        over = (lambda v: np.sum(v, 0, keepdims=True)) if over_steps else np.asarray
        counted = over(self.counted)
        counted = np.where(counted > 0, counted, np.nan)
        means = {name: over(values) / counted for name, values in self.sums.items()}
        unit = means["absolute"] * self.std
        found = {
            "mse": means["square"],
            "mae": means["absolute"],
            "unit_mae": unit,
            "rmse": np.sqrt(means["square"]) * self.std,
            "smape": means["smape"],
            "mase": unit / self.mase_scale,
            "pinball": means["pinball"],
        }
        if "covered" in means:
            found["coverage"] = means["covered"]
        return found


def _mean(values: Float64[np.ndarray, " n"]) -> float | None:
    """Of those that are known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def naive(
    past: Float[np.ndarray, "B T C"], horizon: int, season: int = 1
) -> Float[np.ndarray, "B N C 1"]:
    """The last value, or with a season the last one of the same phase, as a point."""
    steps = np.arange(horizon) % season - season
    return past[:, steps, :, None]


def mase_scale(values: Float64[np.ndarray, "N C"], season: int) -> list[float]:
    """The mean of |y[t] - y[t - season]| for each target; 1 where nothing changes.

    A season longer than the values is one step. Pairs with a NaN do not count.
    """
    lag = season if season < len(values) else 1
    if len(values) < 2:
        return [1.0] * values.shape[1]
    steps = np.abs(values[lag:] - values[:-lag])
    there = ~np.isnan(steps)
    means = steps.sum(0, where=there) / np.maximum(there.sum(0), 1)
    return [float(mean) or 1.0 for mean in means]
