"""``jax.experimental.rnn``: cuDNN's LSTM in JAX, which needs an NVIDIA GPU.

Written where there was none: the layout of the weights is tested, a run is not.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from jaxrnn.bench.peers import Arrays, Session, UnsupportedError, in_jax
from jaxrnn.bench.workloads import Workload, parameters, shapes

PRECISIONS = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}


def names_in_order(workload: Workload) -> list[str]:
    """cuDNN's flat order: W_ih and W_hh of every layer, then b_ih and b_hh of every layer."""
    return [
        f"rnn.{kind}_{side}_l{k}"
        for kind in ("weight", "bias")
        for k in range(workload.num_layers)
        for side in ("ih", "hh")
    ]


def flat(workload: Workload) -> np.ndarray:
    """All parameters of the layers in one vector."""
    named = parameters(workload)
    return np.concatenate([named[name].ravel() for name in names_in_order(workload)])


def unflat(workload: Workload, vector: np.ndarray) -> Arrays:
    """The vector's parts under torch's names."""
    found, start, sizes = {}, 0, shapes(workload)
    for name in names_in_order(workload):
        stop = start + int(np.prod(sizes[name]))
        found[name] = vector[start:stop].reshape(sizes[name])
        start = stop
    return found


def session(workload: Workload) -> Session:
    """All layers in one call; dropout between them is cuDNN's own, so that rows with it are not."""
    if workload.cell != "lstm":
        raise UnsupportedError("it has the LSTM alone")
    if workload.proj_size:
        raise UnsupportedError("it has no projection")
    if workload.dropout:
        raise UnsupportedError("its dropout between layers can't be switched off for the check")
    if jax.default_backend() != "gpu":
        raise UnsupportedError("it needs an NVIDIA GPU")

    def layers(params, x, lengths):
        size = (workload.num_layers, workload.batch_size, workload.hidden_size)
        zeros = jnp.zeros(size, jnp.float32)
        if lengths is None:
            lengths = jnp.full(workload.batch_size, workload.num_steps, jnp.int32)
        found: Any = rnn.lstm(
            *(x, zeros, zeros, params["weights"], lengths),
            input_size=workload.input_size,
            hidden_size=workload.hidden_size,
            num_layers=workload.num_layers,
            dropout=0.0,
            bidirectional=False,
            precision=PRECISIONS[workload.precision],
        )
        return found[0]

    def as_torch(grads):
        return unflat(workload, np.asarray(grads["weights"]))

    return in_jax.session(workload, {"weights": jnp.asarray(flat(workload))}, [layers], as_torch)
