"""What a trained forecaster is used for: windows, a backtest, the steps after the last.

Usage::

    predict = predictor(task, skeleton, params)
    predict(past, known)                                     # (B, N, C, K), scaled
    rows = backtest(task, predict, task.part(rows, "test", truth))  # {"model": ForecastErrors, ...}
    ahead(task, predict, rows, origin, 48)                   # (48, C, K), beyond what was trained
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from jaxrnn.data.forecast_windows import HeldOutWindows
from jaxrnn.errors import InputError
from jaxrnn.forecast_errors import ForecastErrors, naive
from jaxrnn.models import Params, Skeleton
from jaxrnn.plots import ForecastPanel

SHOWN = 4  # targets in a picture, at most

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(past (B, T, I), known (B, N, F)) -> quantiles (B, N, C, K) of scaled values."""


def path_uniforms(task: Any, num_rows: int, num_steps: int) -> Float[Array, "2 S B N C"]:
    """What the paths of a recursive Student t are drawn with: numbers in (0, 1), both excluded.

    Those of a step depend on the task's seed and the step, not on how many steps there are.
    """
    dtype = jnp.result_type(float)
    key = jax.random.fold_in(jax.random.key(task.config.seed), 2**31)
    shape = (2, task.config.num_samples, num_rows, len(task.targets))

    def of_step(step: Array) -> Array:
        step_key = jax.random.fold_in(key, step)
        return jax.random.uniform(step_key, shape, dtype, minval=jnp.finfo(dtype).tiny, maxval=1.0)

    return jax.vmap(of_step, out_axes=3)(jnp.arange(num_steps))


def predictor(task: Any, skeleton: Skeleton[Any], params: Params) -> Predictor:
    """Forecasts of windows: a quantile at each level, of a point it alone.

    Those of a recursive Student t are of paths, drawn alike at each call.
    """

    @jax.jit
    def run(params, past, known):
        model = skeleton.merge(params)
        if not task.draws_paths:
            return task.distribution.quantiles(model(past, known))
        paths = model.sample(past, known, path_uniforms(task, *known.shape[:2]))
        levels = jnp.asarray(task.config.levels, paths.dtype)
        return jnp.moveaxis(jnp.quantile(paths, levels, axis=0), 0, -1)

    return lambda past, known: np.asarray(run(params, past, known), np.float64)


def backtest(
    task: Any, predict: Predictor, windows: HeldOutWindows, stride: int = 1
) -> dict[str, ForecastErrors]:
    """The errors of the model and of the naive forecasts, by the name of each row.

    From every ``stride``-th origin; the naive forecasts read the rows before an origin.
    """
    num_targets, horizon, season = len(task.targets), windows.horizon, task.season
    lags = {"model": 0, "last value": 1}
    if 1 < season <= windows.origins[0]:
        lags[f"last season of {season}"] = season
    rows = {name: task.errors() for name in lags}
    for places, counted in windows.places(stride):
        past, known, targets = windows.take(places)
        for name, lag in lags.items():
            if lag:
                before = windows.before(places, lag)[..., :num_targets]
                found = naive(before, horizon, lag)
            else:
                found = predict(past, known)
            rows[name].add(found[counted], targets[counted])
    return rows


def note_of(task: Any, windows: HeldOutWindows) -> dict[str, str]:
    """Why there is no row of the last season, unless it was set to 1, under the name 'note'."""
    first = int(windows.origins[0])
    if task.season == 1 and task.config.season != 1:
        return {
            "note": "no row of the last season: the data's step suggests none; train with "
            "--season N where there is a cycle of N steps"
        }
    if task.season <= max(first, 1):
        return {}
    return {
        "note": f"no row of the last season: it is {task.season} steps, the first window has "
        f"{first} before it"
    }


def ahead(
    task: Any, predict: Predictor, rows: Float[np.ndarray, "S I"], origin: int, num_steps: int
) -> Float64[np.ndarray, "M C K"]:
    """Scaled quantiles of the ``num_steps`` steps from row ``origin`` on.

    ``rows`` are as ``task.rows`` has them for as many steps, whole blocks of the horizon. Beyond
    the horizon the head 'recursive' goes on; the others read their own medians as the past, so
    that intervals there leave out what is not known of it.

    Raises InputError where past-only covariates would have to be known then.
    """
    config, num_targets = task.config, len(task.targets)
    if config.head == "recursive":
        known = rows[origin : origin + num_steps, rows.shape[1] - task.num_known :]
        return predict(rows[None, origin - config.input_len : origin], known[None])[0]
    if num_steps > config.horizon and config.covariates:
        raise InputError(
            f"--horizon is {num_steps}, the model's is {config.horizon}: to go on it would have to "
            f"read {', '.join(config.covariates)}, which are known of the past alone; lower it, "
            "or train with a longer --horizon"
        )
    rows, found = rows.copy(), []
    for first in range(origin, origin + num_steps, config.horizon):
        here = rows[first : first + config.horizon]
        known = here[None, :, rows.shape[1] - task.num_known :]
        block = predict(rows[None, first - config.input_len : first], known)[0]
        here[:, :num_targets] = block[..., block.shape[-1] // 2]
        found.append(block)
    return np.concatenate(found)[:num_steps]


def panels(
    task: Any,
    x: np.ndarray,
    past: Float[np.ndarray, "T I"],
    quantiles: Float64[np.ndarray, "N C K"],
    came: Float[np.ndarray, "N C"] | None = None,
) -> list[ForecastPanel]:
    """A picture's, of scaled values; ``x`` is of past and forecast, as much of both is shown."""
    num_steps = len(quantiles)
    length = min(len(past), max(4 * num_steps, 48))
    shown = task.unscaled(past[-length:, : len(task.targets)], 1)
    forecast = task.unscaled(quantiles, 1)
    truth = None if came is None else task.unscaled(came, 1)
    return [
        ForecastPanel(
            title=name,
            past_x=x[-num_steps - length : -num_steps],
            past=shown[:, k],
            x=x[-num_steps:],
            quantiles=forecast[:, k],
            came=None if truth is None else truth[:, k],
        )
        for k, name in enumerate(task.targets[:SHOWN])
    ]
