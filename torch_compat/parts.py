"""jaxrnn modules as a class name, the arguments that construct it, and arrays; torch is not needed.

Usage::

    name, arguments = describe(jaxrnn.LSTM(10, 20, rngs=nnx.Rngs(0)))      # "LSTM", {...}
    module = build(name, arguments, arrays)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from jaxrnn.arguments import check_rngs
from jaxrnn.dropout import Dropout
from jaxrnn.models import skeleton_of, split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.forecaster import Forecaster
from jaxrnn.models.horizon import (
    HEADS,
    DirectForecaster,
    HorizonModel,
    RecursiveForecaster,
    SegmentForecaster,
)
from jaxrnn.models.min_blocks import MinCharLM
from jaxrnn.models.sketch_rnn import DECODERS, SketchRNN
from torch_compat import layout

_SIZES = ("input_size", "hidden_size", "bias")
_LAYER = (*_SIZES, "num_layers", "batch_first", "dropout", "bidirectional")
LAYERS: dict[str, tuple[str, ...]] = {
    "LSTM": (*_LAYER, "proj_size"),
    "GRU": _LAYER,
    "RNN": (*_LAYER, "nonlinearity"),
    "LSTMCell": _SIZES,
    "GRUCell": _SIZES,
    "RNNCell": (*_SIZES, "nonlinearity"),
}
"""Layers and cells that both libraries have, with the arguments that both constructors take."""

_NORMED = ("input_size", "hidden_size", "batch_first", "recurrent_dropout")
NORMED: dict[str, tuple[str, ...]] = {
    "LayerNormLSTM": _NORMED,
    "HyperLSTM": (*_NORMED, "hyper_size", "embedding_size"),
}
"""Layers whose twins are in ``normed_modules``, with their arguments."""

_MIN = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
MIN: dict[str, tuple[str, ...]] = {"MinGRU": _MIN, "MinLSTM": _MIN}
"""Layers whose twins are in ``min_modules``, with their arguments."""

MODELS: dict[str, type[nnx.Module]] = {
    "CharLM": CharLM,
    "MinCharLM": MinCharLM,
    "Forecaster": Forecaster,
    "DirectForecaster": DirectForecaster,
    "RecursiveForecaster": RecursiveForecaster,
    "SegmentForecaster": SegmentForecaster,
    "SketchRNN": SketchRNN,
}
"""jaxrnn's models by the names of their twins in ``modules``."""


def arrays_of(module: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters under torch's names, in torch's order; raises as ``describe`` does.

    Raises InputError for what is not finite.
    """
    _, params = split(module)
    arrays = {key: np.asarray(value) for key, value in params.items()}
    name, arguments = describe(module)
    if arguments.get("tie_embeddings"):
        arrays[layout.TIED[1]] = arrays[layout.TIED[0]]
    return layout.parameters(name, arguments, arrays)


def build(
    name: str,
    arguments: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    rngs: nnx.Rngs | None = None,
) -> nnx.Module:
    """The jaxrnn module of a class ``describe`` names, with copies of these parameters.

    It is in evaluation mode; ``rngs`` is the source of its dropout masks.

    Raises InputError for parameters that are not exactly its own.
    """
    arrays = layout.parameters(name, arguments, arrays)
    if arguments.get("tie_embeddings"):
        del arrays[layout.TIED[1]]
    dtype = next(iter(arrays.values())).dtype
    target: Any = MODELS.get(name) or getattr(jaxrnn, name)
    # Of shapes alone: nothing is drawn, and nothing compiled.
    module = nnx.eval_shape(lambda: target(**arguments, rngs=nnx.Rngs(0), param_dtype=dtype))
    rngs = nnx.Rngs(0) if rngs is None else rngs
    for _, part in nnx.iter_modules(module):
        if isinstance(part, Dropout):
            check_rngs(rngs, "dropout")
            part.rngs = Dropout(part.rate, rngs=rngs).rngs
    module.eval()
    return skeleton_of(module).merge({key: jnp.array(array) for key, array in arrays.items()})


def describe(module: nnx.Module) -> tuple[str, dict[str, Any]]:
    """The class of a module's torch twin, by name, and the arguments that construct it.

    Raises TypeError for any other class, a subclass among them: it may compute something else.
    """
    if type(module) is SketchRNN:
        return "SketchRNN", _sketch_arguments(module)
    if isinstance(module, HorizonModel) and type(module) in HEADS.values():
        return type(module).__name__, _horizon_arguments(module)
    if type(module) is CharLM or type(module) is MinCharLM:
        embedding_size = 0 if module.embedding is None else module.embedding.weight.shape[1]
        own = {"num_symbols": module.num_symbols, "embedding_size": embedding_size}
        if module.tie_embeddings:
            own["tie_embeddings"] = True
    elif type(module) is Forecaster:
        output_size = module.decoder.weight.shape[0]
        own = {"input_size": module.rnn.input_size, "output_size": output_size}
    else:
        name, known = type(module).__name__, LAYERS | NORMED | MIN
        if name not in known or type(module) is not getattr(jaxrnn, name):
            names = ", ".join([*known, *MODELS])
            raise TypeError(f"can't convert {type(module)}, expected jaxrnn's {names}")
        return name, {key: getattr(module, key) for key in known[name]}
    return type(module).__name__, {
        **own,
        "cell": next(cell for cell, of in module.layers.items() if type(module.rnn) is of),
        "hidden_size": module.rnn.hidden_size,
        "num_layers": module.rnn.num_layers,
        "dropout": 0.0 if module.dropout is None else float(module.dropout.rate),
    }


def _horizon_arguments(model: HorizonModel) -> dict[str, Any]:
    """Those of the constructor that the twin takes too."""
    names = ("num_targets", "num_covariates", "num_known", "horizon", "cell", "hidden_size")
    more = {"segment_len": model.segment_len} if isinstance(model, SegmentForecaster) else {}
    return {
        **{name: getattr(model, name) for name in (*names, "num_layers")},
        "dropout": 0.0 if model.dropout is None else float(model.dropout.rate),
        "normalize": model.normalization.kind,
        "distribution": model.distribution.kind,
        "levels": list(model.distribution.levels),
        **more,
    }


def _sketch_arguments(model: SketchRNN) -> dict[str, Any]:
    """Those of the constructor that the twin takes too; of parts that it lacks, the defaults."""
    return {
        "decoder": next(name for name, of in DECODERS.items() if type(model.decoder) is of),
        "hidden_size": model.decoder.hidden_size,
        "encoder_size": 256 if model.encoder is None else model.encoder.hidden_size,
        "latent_size": model.latent_size or 128,
        "num_mixtures": model.num_mixtures,
        "num_classes": model.num_classes,
        "class_size": 32 if model.classes is None else model.classes.weight.shape[1],
        "conditional": model.conditional,
    }
