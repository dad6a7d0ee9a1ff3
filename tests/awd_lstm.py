"""A training step of AWD-LSTM (arXiv 1708.02182) in plain torch, by its published code's equations.

Masks are those of ``jaxrnn``: NumPy arrays by what they are of, drawn from the step's key.
"""

from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from jaxrnn import train_step
from jaxrnn.config import CharConfig
from jaxrnn.dropout import keep_mask

LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def key_of(config: CharConfig, step: int) -> jax.Array:
    """Of a training step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 1), step)


def drawn(key: jax.Array, rate: float, *shape: int) -> np.ndarray:
    """A mask, scaled."""
    return np.asarray(keep_mask(key, 1 - rate, shape)) / (1 - rate)


def masks_of(config: CharConfig, step: int, num_symbols: int) -> dict[str, Any]:
    """Of a step: of recurrent weights by layer, and in the order of their use those of locked
    dropout.
    """
    key = key_of(config, step)
    batch, size = config.batch_size, config.hidden_size
    weights, locked = (jax.random.fold_in(key, n) for n in (train_step.WEIGHTS, train_step.LOCKED))
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[config.cell] * size
    masks: dict[str, Any] = {}
    for k in range(config.num_layers):
        if config.weight_drop:
            of_layer = jax.random.fold_in(weights, k)
            masks[f"weights {k}"] = drawn(of_layer, config.weight_drop, gates, size)
    rate = config.dropout if config.locked_dropout else 0.0
    shapes = [
        ("embedding", config.embedding_dropout, (num_symbols, 1)),
        ("input", config.input_dropout, (batch, 1, config.embedding_size)),
        *((f"layer {k}", rate, (batch, 1, size)) for k in range(config.num_layers - 1)),
        ("output", rate, (batch, 1, size)),
    ]
    used = [case for case in shapes if case[1]]
    for count, (name, of, shape) in enumerate(used):
        masks[name] = drawn(jax.random.fold_in(locked, count), of, *shape)
    return masks


def resets_of(config: CharConfig, step: int) -> np.ndarray:
    """1 for the streams whose state a step keeps."""
    key = jax.random.fold_in(key_of(config, step), train_step.RESETS)
    return drawn(key, config.reset_probability, config.batch_size) > 0


def objective(
    params: dict[str, torch.Tensor], ids: Any, targets: Any, state: Any, config: Any, masks: Any
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Nats, what is added to them, and the state (a list of members, each a list of layers)."""

    def masked(x, name):
        return x * torch.tensor(masks[name]) if name in masks else x

    if config.embedding_size:
        table = masked(params["embedding.weight"], "embedding")
        y = masked(functional.embedding(torch.tensor(ids).long(), table), "input")
    else:
        num_symbols = len(params["decoder.bias"])
        y = functional.one_hot(torch.tensor(ids).long(), num_symbols).double()
    last, raw = [], y
    for k in range(config.num_layers):
        rnn = LAYERS[config.cell](y.shape[-1], config.hidden_size, batch_first=True).double()
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        own = {f"{name}_l0": params[f"rnn.{name}_l{k}"] for name in names}
        own["weight_hh_l0"] = masked(own["weight_hh_l0"], f"weights {k}")
        members = [member[k : k + 1] for member in state]
        before = tuple(members) if len(members) > 1 else members[0]
        y, after = torch.func.functional_call(rnn, own, (y, before))
        last.append(after if isinstance(after, tuple) else (after,))
        raw = y
        y = masked(y, "output" if k == config.num_layers - 1 else f"layer {k}")
    weight = params["embedding.weight" if config.tie_embeddings else "decoder.weight"]
    logits = functional.linear(y, weight, params["decoder.bias"]).flatten(0, 1)
    nats = functional.cross_entropy(logits, torch.tensor(targets).long().ravel())
    penalty = config.activation_reg * y.pow(2).mean()
    penalty = penalty + config.temporal_reg * (raw[:, 1:] - raw[:, :-1]).pow(2).mean()
    state = [torch.cat(members).detach() for members in zip(*last, strict=True)]
    return nats, penalty, state
