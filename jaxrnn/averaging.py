"""Running means of the parameters, which are evaluated and exported in their place.

After each step from the first that counts, ``average += w_n * (params - average)``, n = 1, 2, ...::

    ema        w_n = (1 - d) / (1 - d^n)     the exponential mean sum d^(n-k) p_k / sum d^(n-k),
                                             its start corrected as Adam's (arXiv 1412.6980)
    nt_asgd    w_n = 1 / n                   the mean of all, from the step at which validations
                                             have stopped to get better (arXiv 1708.02182)

Before that the average is the parameters themselves. Usage::

    average = initial_average(config, params)                  # None where there is none
    average = update(config, average, params, step)            # after each step
    if has_stalled(values, config.asgd_patience): average = begun(average, step)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxrnn.config import TrainConfig
from jaxrnn.models import Params

NEVER = 2**31 - 1


class Average(NamedTuple):
    """What is carried from step to step; part of a checkpoint."""

    params: Params
    start: Int[Array, ""]  # the step after which the mean begins; NEVER: it has not begun


def initial_average(config: TrainConfig, params: Params) -> Average | None:
    """Before the first step; None where ``config`` asks for none."""
    if config.average == "none":
        return None
    start = NEVER if config.average == "nt_asgd" else 0
    return Average(jax.tree.map(jnp.copy, params), jnp.int32(start))


def update(config: TrainConfig, average: Average, params: Params, step: Int[Array, ""]) -> Average:
    """With the parameters that a step gave; ``step`` counts it."""
    # A step before the mean begins is like its first one: the average is what it gave.
    number = jnp.maximum(step - average.start, 1).astype(jnp.result_type(float))
    share = 1 / number
    if config.average == "ema":
        share = (config.ema_decay - 1) / jnp.expm1(number * math.log(config.ema_decay))

    def mean(old, new):
        return jnp.where(number == 1, new, old + share.astype(new.dtype) * (new - old))

    return Average(jax.tree.map(mean, average.params, params), average.start)


def begun(average: Average, step: int) -> Average:
    """The mean begins with the parameters after ``step``."""
    return average._replace(start=jnp.int32(step))


def has_stalled(values: Sequence[float], patience: int) -> bool:
    """Whether the last validation is worse than the best of those ``patience`` and more before it.

    The criterion of NT-ASGD: with fewer than ``patience`` + 2 values it has not.
    """
    *before, last = values
    return len(before) > patience and last > min(before[: len(before) - patience])
