"""Between jaxrnn and torch.nn: layers, cells and whole models, both ways.

Parameters have the same names and shapes on both sides (``layout``), so each is copied, bit for
bit. Usage::

    twin = to_torch(jaxrnn.LSTM(10, 20, rngs=nnx.Rngs(0)))     # torch.nn.LSTM
    lstm = from_torch(torch.nn.LSTM(10, 20))                   # jaxrnn.LSTM
    state_dict = torch.load("model.pt", map_location="cpu", weights_only=True)
    rnn = from_state_dict(state_dict, prefix="encoder.rnn")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn

from jaxrnn.errors import InputError
from torch_compat import exported, layout, min_modules, modules, normed_modules
from torch_compat.parts import LAYERS, MIN, NORMED, arrays_of, build, describe


def to_torch(module: nnx.Module, **carried: Any) -> nn.Module:
    """The torch module of a jaxrnn layer, cell or model.

    It is on the CPU, in evaluation mode, in the dtype of the parameters. ``carried`` is what a
    model has besides them, as its constructor in ``modules`` takes it (``vocabulary``, ``scaler``,
    ``strokes``).

    Raises TypeError for another module, InputError for parameters that are not finite.
    """
    name, arguments = describe(module)
    arrays = arrays_of(module)
    target = modules.MODELS.get(name) or getattr(_home(name), name)
    with torch.device("meta"):
        twin = target(**arguments, **carried)
    return exported.fill(twin, {key: as_tensor(array) for key, array in arrays.items()})


def from_torch(
    source: nn.Module | Mapping[str, Any], *, rngs: nnx.Rngs | None = None
) -> nnx.Module:
    """The jaxrnn module of a torch one, or of a layer's state dict, in evaluation mode.

    Takes ``torch.nn.LSTM``, ``GRU``, ``RNN``, their cells, the layers of ``normed_modules`` and
    ``min_modules``, and the models of ``modules``; a state dict as ``from_state_dict`` does.
    ``rngs`` is the source of dropout masks.

    Raises TypeError for another module, InputError for parameters that are not exactly such a
    module's, and ValueError for float64 where JAX has it off.
    """
    if isinstance(source, Mapping):
        return from_state_dict(source, rngs=rngs)
    name, known = type(source).__name__, LAYERS | NORMED | MIN
    if type(source) is modules.MODELS.get(name):
        twin: Any = source
        arguments = dict(twin.arguments)
    elif name in known and type(source) is getattr(_home(name), name):
        arguments = {key: getattr(source, key) for key in known[name]}
    else:
        raise TypeError(
            f"can't convert {type(source)}, expected torch.nn's {', '.join(LAYERS)}, or "
            f"torch_compat's {', '.join([*modules.MODELS, *NORMED, *MIN])}; for a layer within it, "
            "from_state_dict takes a prefix"
        )
    return build(name, arguments, as_arrays(source.state_dict()), rngs)


def _home(name: str) -> Any:
    """Where the torch class of a layer is."""
    return normed_modules if name in NORMED else min_modules if name in MIN else nn


def from_state_dict(
    state_dict: Mapping[str, Any],
    prefix: str = "",
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    dropout: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> nnx.Module:
    """The jaxrnn layer or cell whose parameters a state dict has under ``prefix``.

    Its kind, sizes, directions, projection and biases are read from names and shapes; the rest
    are arguments, since a state dict does not tell: ``nonlinearity`` (of an RNN), ``batch_first``,
    ``dropout`` (between the layers, in training). Values may be tensors or NumPy arrays.

    Raises InputError where there is no layer (it names those that there are), or where something
    is missing, too much, of another shape or dtype than the rest, or not finite: all is named.
    """
    _check_flat(state_dict)
    inner = layout.within(state_dict, prefix)
    if not inner or not {"weight_hh", "weight_hh_l0"} & set(inner):
        found = find_layers(state_dict)
        there = ", ".join(f"{where!r} ({name})" for where, (name, _) in found.items())
        raise InputError(
            f"there is no recurrent layer at prefix {prefix!r}; "
            + (f"the state dict has {there}" if found else "the state dict has none at all")
        )
    try:
        arrays = as_arrays(inner)
        name, sizes = layout.read({key: array.shape for key, array in arrays.items()})
        options = {"nonlinearity": nonlinearity, "batch_first": batch_first, "dropout": dropout}
        arguments = sizes | {key: options[key] for key in LAYERS[name] if key in options}
        return build(name, arguments, arrays, rngs)
    except InputError as error:
        raise InputError(f"{prefix}: {error}" if prefix else str(error)) from None


def find_layers(state_dict: Mapping[str, Any]) -> dict[str, layout.Layer]:
    """Every recurrent layer and cell in a state dict by its prefix: class name and sizes.

    Raises InputError for one whose sizes can't be read.
    """
    _check_flat(state_dict)
    return layout.find({key: tuple(np.shape(value)) for key, value in state_dict.items()})


def _check_flat(state_dict: Mapping[str, Any]) -> None:
    """Raise InputError for a checkpoint that has its state dict under a key."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(k, str) for k in state_dict):
        raise InputError(
            f"the state dict is a {type(state_dict).__name__}, expected a mapping from names to "
            "tensors or arrays, as module.state_dict() gives it"
        )
    nested = [key for key, value in state_dict.items() if isinstance(value, Mapping)]
    if nested:
        raise InputError(
            f"the state dict has mappings, at {', '.join(map(repr, nested))}: give the one that "
            f"holds the tensors, as in checkpoint[{nested[0]!r}]"
        )


def as_tensor(array: np.ndarray) -> Tensor:
    """A copy of the same bits."""
    array = np.array(array)  # JAX's can't be written to, torch's can
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(tensor: Tensor) -> np.ndarray:
    """The same bits, maybe in the same memory."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _is_dense(tensor: Tensor) -> bool:
    """Whether it holds numbers that NumPy and JAX have, each at its own place."""
    held = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    counts = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    return plain and tensor.dtype in (*held, *counts) and not tensor.is_neg()


def as_arrays(state_dict: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """As NumPy; raises InputError, all together, for what is no dense tensor and no array."""
    arrays, wrong = {}, []
    for name, value in state_dict.items():
        if not isinstance(name, str):
            wrong.append(f"a name is a {type(name).__name__}")
        elif isinstance(value, Tensor) and not _is_dense(value):
            wrong.append(f"{name} is no dense tensor of real numbers")
        elif isinstance(value, Tensor):
            arrays[name] = as_array(value)
        elif isinstance(value, np.ndarray | np.generic | jnp.ndarray):
            arrays[name] = np.asarray(value)
        else:
            wrong.append(f"{name} is a {type(value).__name__}")
    if wrong:
        shown = "; ".join(wrong[:10]) + ("; ..." if len(wrong) > 10 else "")
        raise InputError(f"expected dense tensors by name: {shown}")
    return arrays
