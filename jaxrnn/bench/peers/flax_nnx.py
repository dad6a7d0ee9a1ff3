"""Flax: nnx.RNN over OptimizedLSTMCell, GRUCell or SimpleCell."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.bench.peers import Session, UnsupportedError, in_jax
from jaxrnn.bench.workloads import Workload, operand_dtype, parameters

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}


def session(workload: Workload) -> Session:
    """Layers of nnx.RNN; its bias is ours of the input."""
    if workload.proj_size:
        raise UnsupportedError("its cells have no projection")
    named, layers, params = parameters(workload), [], {}
    dtype = jnp.dtype(operand_dtype(workload.precision))
    bias = "dense_h.bias" if workload.cell == "lstm" else "dense_i.bias"

    def layer_of(k):
        width = workload.hidden_size if k else workload.input_size
        cell = CELLS[workload.cell](
            *(width, workload.hidden_size),
            dtype=dtype,
            kernel_init=nnx.initializers.zeros,  # replaced, and an orthogonal one takes seconds
            recurrent_kernel_init=nnx.initializers.zeros,
            rngs=nnx.Rngs(0),
        )
        graph, state = nnx.split(nnx.RNN(cell))

        def layer(params, x, lengths):
            flat = {
                path: variable.replace(params[name])
                if (name := ".".join(map(str, (k, *path[1:])))) in params
                else variable
                for path, variable in nnx.to_flat_state(state)
            }
            zeros = jnp.zeros((workload.batch_size, workload.hidden_size), dtype)
            carry = (zeros, zeros) if workload.cell == "lstm" else zeros
            rnn = nnx.merge(graph, nnx.from_flat_state(flat))
            return rnn(x, initial_carry=carry, seq_lengths=lengths)

        return layer

    for k in range(workload.num_layers):
        layers.append(layer_of(k))
        params[f"{k}.dense_i.kernel"] = jnp.asarray(named[f"rnn.weight_ih_l{k}"].T)
        params[f"{k}.dense_h.kernel"] = jnp.asarray(named[f"rnn.weight_hh_l{k}"].T)
        params[f"{k}.{bias}"] = jnp.asarray(named[f"rnn.bias_ih_l{k}"])

    def as_torch(grads):
        names = {"weight_ih": "dense_i.kernel", "weight_hh": "dense_h.kernel", "bias_ih": bias}
        return {
            f"rnn.{ours}_l{k}": np.asarray(grads[f"{k}.{theirs}"]).T
            for k in range(workload.num_layers)
            for ours, theirs in names.items()
        }

    return in_jax.session(workload, params, layers, as_torch)
