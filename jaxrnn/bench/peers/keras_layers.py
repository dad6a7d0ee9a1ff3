"""Keras 3 on JAX: its layers, called without their own state; lengths are a mask."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax.numpy as jnp
import keras
import numpy as np

from jaxrnn.bench.peers import Session, UnsupportedError, in_jax
from jaxrnn.bench.workloads import Workload, parameters

CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}
GATES = {"lstm": [0, 1, 2, 3], "gru": [1, 0, 2], "rnn": [0]}  # torch's r, z, n are z, r, n


def session(workload: Workload) -> Session:
    """A layer each; its bias is ours of the input, and its GRU's second row zero."""
    if keras.backend.backend() != "jax":
        raise UnsupportedError(f"it runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")
    if workload.proj_size:
        raise UnsupportedError("its layers have no projection")
    named, layers, params = parameters(workload), [], {}
    order = GATES[workload.cell]

    def turned(matrix):  # rows by gate in torch's order -> in Keras's, or back
        gates = np.split(np.asarray(matrix), len(order))
        return np.concatenate([gates[place] for place in order])

    def layer_of(k):
        width = workload.hidden_size if k else workload.input_size
        layer = getattr(keras.layers, CLASSES[workload.cell])(
            workload.hidden_size,
            return_sequences=True,
            kernel_initializer="zeros",  # replaced, and an orthogonal one takes seconds
            recurrent_initializer="zeros",
        )
        layer.build((workload.batch_size, workload.num_steps, width))

        def run(params, x, lengths):
            own = [params[f"{k}.{v.name}"] for v in layer.trainable_variables]
            fixed = [v.value for v in layer.non_trainable_variables]
            masked = {}
            if lengths is not None:
                masked["mask"] = jnp.arange(workload.num_steps)[None] < lengths[:, None]
            return layer.stateless_call(own, fixed, x, **masked)[0]

        return run

    for k in range(workload.num_layers):
        layers.append(layer_of(k))
        params[f"{k}.kernel"] = jnp.asarray(turned(named[f"rnn.weight_ih_l{k}"]).T)
        params[f"{k}.recurrent_kernel"] = jnp.asarray(turned(named[f"rnn.weight_hh_l{k}"]).T)
        bias = turned(named[f"rnn.bias_ih_l{k}"])
        if workload.cell == "gru":
            bias = np.stack([bias, np.zeros_like(bias)])
        params[f"{k}.bias"] = jnp.asarray(bias)

    def as_torch(grads):
        found = {}
        for k in range(workload.num_layers):
            found[f"rnn.weight_ih_l{k}"] = turned(np.asarray(grads[f"{k}.kernel"]).T)
            found[f"rnn.weight_hh_l{k}"] = turned(np.asarray(grads[f"{k}.recurrent_kernel"]).T)
            bias = np.asarray(grads[f"{k}.bias"])
            found[f"rnn.bias_ih_l{k}"] = turned(bias[0] if bias.ndim == 2 else bias)
        return found

    return in_jax.session(workload, params, layers, as_torch)
