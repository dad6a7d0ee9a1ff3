"""Equinox: its LSTMCell or GRUCell under lax.scan and vmap, as its documentation has them."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.bench.peers import Session, UnsupportedError, in_jax
from jaxrnn.bench.workloads import Workload, parameters


def session(workload: Workload) -> Session:
    """A cell each layer; its bias is ours of the input, and its GRU's ``bias_n`` zero."""
    if workload.cell == "rnn":
        raise UnsupportedError("it has no such cell")
    if workload.proj_size:
        raise UnsupportedError("its cells have no projection")
    named, layers, params = parameters(workload), [], {}
    make = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[workload.cell]

    def layer_of(k):
        width = workload.hidden_size if k else workload.input_size
        cell = make(width, workload.hidden_size, key=jax.random.key(0))
        names = ["weight_ih", "weight_hh", "bias"] + ["bias_n"] * (workload.cell == "gru")

        def layer(params, x, lengths):
            filled = eqx.tree_at(
                lambda c: [getattr(c, name) for name in names],
                cell,
                [params[f"{k}.{name}"] for name in names],
            )

            def one(sequence):
                def step(state, x_t):
                    state = filled(x_t, state)
                    return state, state[0] if workload.cell == "lstm" else state

                zeros = jnp.zeros(workload.hidden_size, jnp.float32)
                first = (zeros, zeros) if workload.cell == "lstm" else zeros
                return jax.lax.scan(step, first, sequence)[1]

            return jax.vmap(one)(x)

        return layer

    for k in range(workload.num_layers):
        layers.append(layer_of(k))
        for name in ("weight_ih", "weight_hh"):
            params[f"{k}.{name}"] = jnp.asarray(named[f"rnn.{name}_l{k}"])
        params[f"{k}.bias"] = jnp.asarray(named[f"rnn.bias_ih_l{k}"])
        if workload.cell == "gru":
            params[f"{k}.bias_n"] = jnp.zeros(workload.hidden_size, jnp.float32)

    def as_torch(grads):
        names = {"weight_ih": "weight_ih", "weight_hh": "weight_hh", "bias_ih": "bias"}
        return {
            f"rnn.{ours}_l{k}": np.asarray(grads[f"{k}.{theirs}"])
            for k in range(workload.num_layers)
            for ours, theirs in names.items()
        }

    return in_jax.session(workload, params, layers, as_torch)
