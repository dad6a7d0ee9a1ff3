"""What a forecaster's options become where they are left to the data."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from jaxrnn.config import SeriesConfig
from jaxrnn.data.series import Series
from jaxrnn.errors import InputError

TRAIN_STEPS, MAX_EPOCHS, VALIDATIONS = 3000, 1000, 40  # of a run whose length is left to the data


def chosen(config: SeriesConfig, series: Series, ends: tuple[int, int, int]) -> SeriesConfig:
    """Every option that is 0 with what suits the data.

    The horizon is a season (of days two, without a season 12 steps), the past some seasons, both
    less where the parts are short; epochs are such that there are about ``TRAIN_STEPS`` steps.
    """
    found: dict[str, Any] = {}
    season, num_train = config.season or series.season, ends[0]
    held_out = [b - a for a, b in itertools.pairwise(ends) if b > a]
    horizon = config.horizon
    if not horizon:
        horizon = {1: 12, 5: 10, 7: 14, 52: 13}.get(season, season)
        horizon = max(1, min([horizon, num_train // 4, *held_out]))
        found["horizon"] = horizon
    segment_len = config.segment_len
    if config.head == "segments" and not segment_len:
        segment_len = season if 1 < season <= 60 else min(12, horizon)
        segment_len = found["segment_len"] = max(1, min(segment_len, num_train // 6))
    input_len = config.input_len
    if not input_len:
        wanted = {1: 3 * horizon, 5: 40, 7: 56, 12: 36, 24: 168, 52: 104}.get(season, 2 * season)
        input_len = max(1, min(max(wanted, 2 * horizon), (num_train - horizon) // 2))
        if segment_len:
            input_len = max(input_len // segment_len, 1) * segment_len
        found["input_len"] = input_len
    if segment_len and input_len % segment_len:
        raise InputError(
            f"--input-len is {input_len}, expected a multiple of --segment-len {segment_len}"
        )
    hidden_size = config.hidden_size
    if not hidden_size:
        num_values = num_train * len(series.targets)
        found["hidden_size"] = 32 if num_values < 1000 else 64 if num_values < 20_000 else 128
    elif config.head == "segments" and hidden_size % 2:
        raise InputError(f"--hidden-size is {hidden_size}, expected an even number for segments")
    num_windows = max(num_train - input_len - horizon + 1, 1)
    per_epoch = -(-num_windows // config.batch_size)
    if not (config.epochs or config.steps):
        found["epochs"] = int(np.clip(round(TRAIN_STEPS / per_epoch), 3, MAX_EPOCHS))
    if not config.eval_every:
        total = config.steps or (config.epochs or found["epochs"]) * per_epoch
        found["eval_every"] = max(per_epoch, -(-total // VALIDATIONS))
    return dataclasses.replace(config, **found)
